"""Episode ends are right: no step sees another episode, and returns stop or continue where they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spar_core.data.device import DeviceData
from spar_core.data.returns import NEGLIGIBLE_TAIL, discounted_returns, far_from_cut, last_observations
from spar_core.evaluation.fqe import reward_level
from tests.fakes import dataset_from

DISCOUNTS = st.sampled_from([0.0, 0.5, 0.9, 0.99])


@st.composite
def layouts(draw):
    """Episodes whose observations say where they are: (episode, step within it)."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    flags = st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))
    rewards = draw(st.lists(st.integers(-5, 5).map(float), min_size=sum(lengths), max_size=sum(lengths)))
    observations = np.array([(e, t) for e, length in enumerate(lengths) for t in range(length + 1)])
    actions = np.zeros((sum(lengths), 1))
    return dataset_from(observations, actions, np.array(rewards), lengths, draw(flags), draw(flags))


def steps_of(dataset):
    """(step, episode, t, length) of every step, counted with plain loops."""
    step = 0
    for episode, length in enumerate(dataset.lengths.tolist()):
        for t in range(length):
            yield step, episode, t, length
            step += 1


@given(layouts())
def test_the_next_observation_of_a_step_is_of_the_same_episode(dataset):
    for step, episode, t, _ in steps_of(dataset):
        row = dataset.observation_index[step]
        assert dataset.observations[row].tolist() == [episode, t]
        assert dataset.observations[row + 1].tolist() == [episode, t + 1]
        assert dataset.episode[step] == episode


@given(layouts())
def test_the_tensors_say_the_same_as_the_arrays(dataset):
    data = DeviceData.of(dataset)
    steps = torch.arange(dataset.n_steps)
    observations, actions = data.at(steps)
    for step, episode, t, length in steps_of(dataset):
        assert observations[step].tolist() == [episode, t]
        assert data.observations[data.index[step] + 1].tolist() == [episode, t + 1]
        ended = dataset.terminated[episode] and t == length - 1
        assert data.alive[step].item() == (0.0 if ended else 1.0)
    assert torch.equal(actions, data.actions)


@given(layouts())
def test_only_the_last_step_of_a_terminated_episode_is_terminated(dataset):
    expected = [dataset.terminated[e] and t == length - 1 for _, e, t, length in steps_of(dataset)]
    assert dataset.step_terminated.tolist() == expected


@given(layouts())
def test_steps_are_split_by_episode_into_training_and_held_out(dataset):
    held = [step for step, episode, _, _ in steps_of(dataset) if dataset.heldout[episode]]
    assert dataset.heldout_steps.tolist() == held
    assert sorted([*dataset.train_steps.tolist(), *held]) == list(range(dataset.n_steps))


@given(layouts())
def test_episode_returns_are_sums_of_rewards(dataset):
    sums = np.zeros(len(dataset.lengths))
    for step, episode, _, _ in steps_of(dataset):
        sums[episode] += dataset.rewards[step]
    np.testing.assert_allclose(dataset.episode_returns, sums)


@given(layouts())
def test_last_observations_are_those_after_the_last_step(dataset):
    rows = dataset.observations[last_observations(dataset)]
    assert rows.tolist() == [[e, length] for e, length in enumerate(dataset.lengths.tolist())]


def brute_force(dataset, discount, tails=None):
    values = []
    for step, episode, t, length in steps_of(dataset):
        rest = length - t
        total = sum(discount**k * float(dataset.rewards[step + k]) for k in range(rest))
        if tails is not None and not dataset.terminated[episode]:
            total += discount**rest * float(tails[episode])
        values.append(total)
    return np.array(values)


@given(layouts(), DISCOUNTS)
def test_discounted_returns_are_the_discounted_sums(dataset, discount):
    ours = discounted_returns(dataset, discount)
    np.testing.assert_allclose(ours, brute_force(dataset, discount), rtol=1e-5, atol=1e-5)


@given(layouts(), DISCOUNTS, st.integers(0, 99))
def test_tails_continue_truncated_episodes_and_no_others(dataset, discount, seed):
    tails = np.random.default_rng(seed).normal(0, 100, len(dataset.lengths))
    ours = discounted_returns(dataset, discount, tails)
    np.testing.assert_allclose(ours, brute_force(dataset, discount, tails), rtol=1e-5, atol=1e-4)
    whole = dataset.terminated[dataset.episode]
    assert np.array_equal(ours[whole], discounted_returns(dataset, discount)[whole])


@given(layouts(), DISCOUNTS)
def test_far_from_cut_keeps_terminated_episodes_and_drops_tails_that_weigh(dataset, discount):
    far = far_from_cut(dataset, discount)
    for step, episode, t, length in steps_of(dataset):
        if dataset.terminated[episode]:
            assert far[step]
        elif far[step]:
            assert discount ** (length - t) < NEGLIGIBLE_TAIL
        else:
            # Two steps of slack for the rounding of the horizon.
            assert discount ** (length - t) > NEGLIGIBLE_TAIL * discount**2 or length - t <= 1


@settings(max_examples=20)
@given(st.sampled_from([0.5, 0.9, 0.99]))
def test_far_from_cut_of_a_long_truncated_episode_drops_about_one_horizon(discount):
    n = 400
    dataset = dataset_from(np.zeros((n + 1, 1)), np.zeros((n, 1)), np.zeros(n), [n], [False], [False])
    dropped = n - int(far_from_cut(dataset, discount).sum())
    horizon = np.log(NEGLIGIBLE_TAIL) / np.log(discount)
    assert horizon <= dropped <= horizon + 2


@given(layouts(), DISCOUNTS, st.integers(0, 99))
def test_after_a_cut_without_a_last_observation_the_tail_is_the_last_steps_return(dataset, discount, seed):
    """There the row after the last step repeats its own observation: its value already holds the last reward."""
    known = np.random.default_rng(seed).random(len(dataset.lengths)) < 0.5
    tails = np.arange(1.0, len(dataset.lengths) + 1)
    blind = replace(dataset, last_known=known)
    returns = discounted_returns(blind, discount, tails)
    whole = discounted_returns(dataset, discount, tails)
    for step, episode, t, length in steps_of(dataset):
        if known[episode] or dataset.terminated[episode]:
            assert returns[step] == whole[step]
        elif t == length - 1:
            assert returns[step] == tails[episode]
        else:
            onward = dataset.rewards[step] + discount * returns[step + 1]
            np.testing.assert_allclose(returns[step], onward, rtol=1e-5, atol=1e-6)  # Terms may cancel.


@given(layouts(), st.integers(0, 99))
def test_temporal_differences_leave_out_cuts_without_a_last_observation(dataset, seed):
    known = np.random.default_rng(seed).random(len(dataset.lengths)) < 0.5
    blind = replace(dataset, last_known=known)
    usable = [
        step
        for step, episode, t, length in steps_of(dataset)
        if not dataset.heldout[episode] and (t < length - 1 or known[episode] or dataset.terminated[episode])
    ]
    assert blind.bootstrap_steps.tolist() == usable
    assert dataset.bootstrap_steps.tolist() == dataset.train_steps.tolist()
    part = blind.of_episodes(~dataset.heldout)
    assert np.array_equal(part.cut_blind, blind.cut_blind[~dataset.heldout])


@st.composite
def stopping(draw):
    """Episodes that go on after some of their steps, after which no reward counts for a value."""
    dataset = draw(layouts())
    stops = np.array(draw(st.lists(st.booleans(), min_size=dataset.n_steps, max_size=dataset.n_steps)))
    stops[dataset.starts + dataset.lengths - 1] = dataset.terminated
    return replace(dataset, stops=stops)


@given(stopping(), DISCOUNTS)
def test_values_end_at_stops_and_episodes_do_not(dataset, discount):
    tails = np.arange(1.0, len(dataset.lengths) + 1)
    returns, far = discounted_returns(dataset, discount, tails), far_from_cut(dataset, 0.999)
    alive = DeviceData.of(dataset).alive
    for step, episode, t, length in steps_of(dataset):
        assert dataset.observations[dataset.observation_index[step] + 1].tolist() == [episode, t + 1]
        assert alive[step].item() == 1.0 - dataset.stops[step]
        ahead = [k for k in range(length - t) if dataset.stops[step + k]]
        assert dataset.to_termination[step] == (ahead[0] if ahead else dataset.n_steps)
        assert far[step] == bool(ahead)
        counted = ahead[0] + 1 if ahead else length - t
        total = sum(discount**k * float(dataset.rewards[step + k]) for k in range(counted))
        total += 0.0 if ahead else discount**counted * tails[episode]
        np.testing.assert_allclose(returns[step], total, rtol=1e-5, atol=1e-5)
    part = dataset.of_episodes(dataset.heldout)
    assert part.stops.tolist() == dataset.stops[dataset.heldout_steps].tolist()


def test_a_level_of_rewards_is_taken_out_only_where_nothing_stops():
    dataset = dataset_from(np.zeros((5, 1)), np.zeros((4, 1)), np.ones(4), [4], [False], [False])
    assert reward_level(dataset) == 1.0
    assert reward_level(replace(dataset, stops=np.array([False, True, False, False]))) == 0.0
