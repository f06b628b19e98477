"""Fitted-Q evaluation against values known in closed form, its bounds, its units, and that a seed is its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spar_core.critics.stacked import Problem
from spar_core.data.dataset import Dataset
from spar_core.errors import SparError
from spar_core.evaluation.fqe import (
    FQESettings,
    ReturnNetwork,
    evaluate_in_turn,
    evaluate_policies,
    fixed_point,
    in_logged_units,
    start_observations,
    value_bounds,
)
from spar_core.training.context import Context
from tests.fakes import dataset_from

GAMMA = 0.9
QUICK = {"steps": 300, "batch_size": 64, "learning_rate": 1e-3, "hidden": (64, 64), "discount": GAMMA, "ridge": 1e-4}
TINY = QUICK | {"steps": 5, "batch_size": 8, "hidden": (13, 11)}


def line(episodes: int = 60, length: int = 25, ends: bool = False, seed: int = 0) -> Dataset:
    """A point on [-1, 1] that random actions push about; the reward is where it lands.

    With ``ends`` an episode terminates where the point reaches the right end.
    """
    rng = np.random.default_rng(seed)
    observations, actions, rewards, lengths, terminated = [], [], [], [], []
    for _ in range(episodes):
        x, before = rng.uniform(-0.9, 0.9), len(actions)
        observations.append(x)
        for _ in range(length):
            action = rng.uniform(-1, 1)
            x = np.clip(x + 0.5 * action, -1, 1)
            for values, value in ((observations, x), (actions, action), (rewards, x)):
                values.append(value)
            if ends and x == 1:
                break
        lengths.append(len(actions) - before)
        terminated.append(bool(ends and x == 1))
    heldout = np.arange(episodes) < 10
    return dataset_from(
        np.array(observations)[:, None], np.array(actions)[:, None], np.array(rewards), lengths, terminated, heldout
    )


def truth(dataset: Dataset, action: float, ends: bool = False) -> float:
    """Mean discounted return of a constant action from the held-out starts, summed step by step."""
    total = 0.0
    starts = dataset.observations[dataset.observation_index[dataset.starts[dataset.heldout]], 0]
    for x in starts.astype(float):
        for step in range(200):
            x = np.clip(x + 0.5 * action, -1, 1)
            total += GAMMA**step * x
            if ends and x == 1:
                break
    return total / len(starts)


def always(action: float):
    return lambda observations: torch.full((len(observations), 1), action)


def estimate(dataset: Dataset, acts, seeds=(0,), **settings):
    return evaluate_policies(Context.quiet(dataset, seeds), acts, FQESettings(**(QUICK | settings)))


@pytest.fixture(scope="module")
def endless() -> Dataset:
    return line()


def test_values_of_policies_are_those_of_the_chain_and_in_its_order(endless):
    actions = (0.2, -1.0, 0.0)
    found = estimate(endless, [always(action) for action in actions], (0, 1, 2)).values
    known = [truth(endless, action) for action in actions]
    assert found == pytest.approx(known, abs=0.4)
    assert found[0] > found[2] > found[1] and known[0] - known[1] > 10


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_rewards_far_from_zero_leave_the_differences_as_they_are(endless, shift):
    """Values of a thousand where the returns of episodes span some tens."""
    far = dataclasses.replace(endless, rewards=endless.rewards + np.float32(shift))
    actions = (0.2, -1.0)
    found = np.array(estimate(far, [always(action) for action in actions], (0, 1)).values) - shift / (1 - GAMMA)
    assert found == pytest.approx([truth(endless, action) for action in actions], abs=1.0)


def test_values_stop_at_a_termination_and_go_through_a_cut(endless):
    ending = line(ends=True)
    assert ending.terminated.any() and not ending.terminated.all()
    found = estimate(ending, [always(1.0)]).values[0]
    known = truth(ending, 1.0, ends=True)
    # The same policy without terminations is worth several times as much.
    assert found == pytest.approx(known, abs=0.4) and truth(endless, 1.0) > known + 5


@pytest.mark.parametrize("alone", [(0,), (3,), (3, 5)])
def test_a_seed_is_the_same_alone_and_beside_others_to_the_bit(endless, alone):
    acts = {0: always(0.2), 3: always(-1.0), 5: always(0.7)}
    settings = FQESettings(**TINY)

    def run(seeds):
        return evaluate_policies(Context.quiet(endless, seeds), [acts[s] for s in seeds], settings)

    together = run((0, 3, 5))
    assert run((0, 3, 5)) == together
    rows = [(0, 3, 5).index(seed) for seed in alone]
    assert run(alone).values == [together.values[row] for row in rows]
    assert run(alone).clipped == [together.clipped[row] for row in rows]


def test_policies_in_turn_share_their_features_and_are_estimated_as_alone(endless):
    settings, seeds = FQESettings(**TINY), (0, 3)
    policies = [[always(action), always(-action)] for action in (0.2, -1.0, 0.7)]
    together = [lambda s, acts=acts: torch.stack([act(s) for act in acts]) for acts in policies]
    found = list(evaluate_in_turn(Context.quiet(endless, seeds), together, settings))
    assert found == [evaluate_policies(Context.quiet(endless, seeds), acts, settings) for acts in policies]
    assert found[0] != found[1]
    starts = len(start_observations(endless))
    assert all(len(row) == starts for row in found[0].at_starts)
    assert [np.mean(row) for row in found[0].at_starts] == pytest.approx(found[0].values, rel=1e-5)


def test_it_asks_the_policy_at_every_next_observation_and_start_once(endless):
    asked = []

    def act(observations):
        asked.append(observations)
        return torch.zeros(len(observations), 1)

    estimate(endless, [act], **TINY)
    seen = torch.cat(asked)
    assert len(seen) == endless.heldout.sum() + len(endless.train_steps)
    following = endless.observations[endless.observation_index[endless.train_steps] + 1]
    assert np.array_equal(seen[int(endless.heldout.sum()) :].numpy(), following)


def test_a_cut_whose_next_observation_is_unknown_is_never_bootstrapped_from(endless):
    blind = dataclasses.replace(endless, last_known=np.zeros(len(endless.lengths), bool))
    asked = []

    def act(observations):
        asked.append(observations)
        return torch.zeros(len(observations), 1)

    estimate(blind, [act], **TINY)
    training = int((~blind.heldout).sum())
    assert sum(map(len, asked)) == blind.heldout.sum() + len(blind.train_steps) - training


def test_no_held_out_step_is_fitted_to(endless):
    other = endless.rewards.copy()
    other[endless.heldout_steps] += 50.0
    changed = dataclasses.replace(endless, rewards=other)
    assert estimate(changed, [always(0.0)], **TINY) == estimate(endless, [always(0.0)], **TINY)


def test_the_fixed_point_of_a_chain_with_a_feature_for_each_state_is_its_value():
    """Three states in a row, the last one terminal, and a constant that no state needs."""
    phi = torch.eye(4, dtype=torch.float64)[:3].repeat(5, 1)
    after = torch.eye(4, dtype=torch.float64)[[1, 2, 2]].repeat(5, 1)
    after[2::3] = 0.0  # the third state ends
    rewards = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).repeat(5)
    phi[:, 3] = after[:, 3] = 1.0
    after[2::3, 3] = 0.0
    w = fixed_point(phi, after, rewards, FQESettings(discount=0.5, ridge=1e-9))
    assert (phi @ w)[:3].tolist() == pytest.approx([1 + 0.5 * 3.5, 2 + 0.5 * 3, 3], abs=1e-6)


def test_a_ridge_shrinks_all_but_the_constant():
    phi = torch.cat([torch.randn(50, 3, dtype=torch.float64), torch.ones(50, 1, dtype=torch.float64)], 1)
    w = fixed_point(phi, phi, torch.full((50,), 7.0, dtype=torch.float64), FQESettings(discount=0.9, ridge=1e6))
    assert w[:3].abs().max() < 1e-3 and w[3].item() == pytest.approx(70.0, rel=1e-4)


def test_features_are_the_last_hidden_layer_and_a_constant(endless):
    problem = Problem.of(Context.quiet(endless, (0,)), FQESettings(**TINY))
    network = ReturnNetwork.fitted(problem, problem.settings)
    # Two policies, whose actions differ.
    observations, actions = torch.randn(6, 1), torch.rand(2, 6, 1)
    found = network.features(observations, actions)
    assert found.shape == (2, 6, 12) and found.dtype == torch.float64 and (found[..., -1] == 1).all()
    last = {name: network.networks.parameters[f"2.{name}"] for name in ("weight", "bias")}
    with torch.no_grad():
        q = torch.cat([network.networks(torch.cat([observations, one], -1).unsqueeze(0)) for one in actions])
    torch.testing.assert_close((found[..., :-1].float() @ last["weight"] + last["bias"]), q, rtol=1e-5, atol=1e-5)


def test_estimates_stay_within_what_rewards_allow(endless, monkeypatch):
    monkeypatch.setattr("spar_core.evaluation.fqe.fixed_point", lambda phi, *_: torch.full_like(phi[0], 1e6))
    found = estimate(endless, [always(0.0)], **TINY)
    largest = endless.rewards[endless.train_steps].max() / (1 - GAMMA)
    assert found.values == pytest.approx([largest]) and found.clipped[0] > 0.9
    problem = Problem.of(Context.quiet(endless, (0,)), FQESettings(**TINY))
    assert value_bounds(problem)[1] == pytest.approx(problem.scale * largest)


def test_units_are_mapped_back_where_they_can_be():
    assert in_logged_units(-50.0, "iql", 0.99, ends=False) == pytest.approx(50.0)
    assert in_logged_units(-50.0, "iql", 0.99, ends=True) is None
    assert in_logged_units(70.0, "rebrac", 0.99, ends=True) == pytest.approx(0.7)
    assert in_logged_units(3.5, "none", 0.99, ends=True) == 3.5


def test_a_fit_that_diverges_is_one_clear_line(endless):
    with pytest.raises(SparError, match="diverged"):
        estimate(endless, [always(0.0)], **(TINY | {"learning_rate": 1e6, "layer_norm": False}))
