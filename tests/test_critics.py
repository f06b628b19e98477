"""What every registered critic must keep, whatever it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spar_core.errors import SparError
from spar_core.registry import load_member, parse_variant
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors
from tests.fakes import (
    ACTION_SIZE,
    assert_same_seed,
    kinds,
    observations_for,
    tensors_within,
    tiny_settings,
    toy_dataset,
)

SEEDS = (0, 3, 5)
every_critic = pytest.mark.parametrize("kind", kinds("critic"))


def fit(kind, seeds):
    member = load_member("critic", kind)
    settings = tiny_settings(member)
    return member, settings, member.fit(Context.quiet(toy_dataset(), seeds), settings)


@pytest.fixture(scope="module")
def fitted():
    return {kind: fit(kind, SEEDS) for kind in kinds("critic")}


def restored(fitted, kind, rows=slice(None)):
    member, settings, result = fitted[kind]
    return member.restore(settings, {name: value[rows] for name, value in result.tensors.items()})


def actions_for(seeds, batch=9):
    return observations_for(seeds, batch, ACTION_SIZE).tanh()


@every_critic
def test_values_have_their_shape_and_repeat(fitted, kind):
    critic, observations, actions = restored(fitted, kind), observations_for(3), actions_for(3)
    q, v = critic.q(observations, actions), critic.v(observations)
    assert q.shape == (3, 9) and v.shape == (3, 9) and q.isfinite().all() and v.isfinite().all()
    assert torch.equal(q, critic.q(observations, actions)) and torch.equal(v, critic.v(observations))


@every_critic
def test_a_value_depends_on_its_own_state_action_and_seed_only(fitted, kind):
    critic, observations, actions = restored(fitted, kind), observations_for(3), actions_for(3)
    q, v = critic.q(observations, actions), critic.v(observations)
    alone = critic.q(observations[:, 4:5], actions[:, 4:5])[:, 0]
    torch.testing.assert_close(alone, q[:, 4], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(critic.v(observations[:, 4:5])[:, 0], v[:, 4], rtol=1e-5, atol=1e-4)
    moved = actions.clone()
    moved[1] *= -1
    assert torch.equal(critic.q(observations, moved)[[0, 2]], q[[0, 2]])
    assert not torch.equal(critic.q(observations, moved)[1], q[1]), "Q depends on the action"
    assert not torch.equal(q[0], q[1]) and not torch.equal(v[0], v[1]), "seeds differ"


@every_critic
def test_no_gradient_passes_through_a_restored_critic(fitted, kind):
    critic, actions = restored(fitted, kind), actions_for(3).requires_grad_()
    tensors = list(tensors_within(critic))
    assert tensors and not any(t.requires_grad or t.grad is not None for t in tensors)
    assert not critic.q(observations_for(3), actions).requires_grad
    assert not critic.v(observations_for(3).requires_grad_()).requires_grad
    assert not critic.uncertainty(observations_for(3), actions).requires_grad


@every_critic
def test_the_conservative_value_passes_a_gradient_to_the_actions_alone(fitted, kind):
    critic, observations = restored(fitted, kind), observations_for(3)
    actions = actions_for(3).requires_grad_()
    values = critic.conservative_q(observations, actions)
    assert torch.equal(values.detach(), critic.q(observations, actions))
    (gradient,) = torch.autograd.grad(values.sum(), actions)
    assert gradient.isfinite().all() and gradient.any()
    assert not any(t.requires_grad or t.grad is not None for t in tensors_within(critic))
    rows = slice(1, 2)
    alone = actions_for(1).requires_grad_()
    value = restored(fitted, kind, rows).conservative_q(observations[rows], alone)
    assert torch.equal(torch.autograd.grad(value.sum(), alone)[0], gradient[rows])


@every_critic
def test_uncertainty_is_a_spread_and_conservatism_is_named(fitted, kind):
    critic = restored(fitted, kind)
    uncertainty = critic.uncertainty(observations_for(3), actions_for(3))
    assert uncertainty.shape == (3, 9) and (uncertainty >= 0).all()
    alone = restored(fitted, kind, slice(1, 2)).uncertainty(observations_for(1), actions_for(1))
    assert torch.equal(alone[0], uncertainty[1])
    assert isinstance(critic.conservatism, str) and critic.conservatism


@every_critic
def test_saving_and_restoring_gives_the_same_values(fitted, kind, tmp_path):
    member, settings, result = fitted[kind]
    result.write(tmp_path)
    assert all(value.shape[0] == 3 for value in result.tensors.values())
    again, critic = member.restore(settings, load_tensors(tmp_path / WEIGHTS)), restored(fitted, kind)
    observations, actions = observations_for(3), actions_for(3)
    assert torch.equal(again.q(observations, actions), critic.q(observations, actions))
    assert torch.equal(again.v(observations), critic.v(observations))


@every_critic
@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(fitted, kind, seeds):
    assert_same_seed(fit(kind, seeds)[2], seeds.index(3), fitted[kind][2], 1, 3)


@every_critic
def test_a_restored_seed_gives_the_same_bits_alone(fitted, kind):
    together, alone = restored(fitted, kind), restored(fitted, kind, slice(1, 2))
    for batch in (1, 7, 33):
        observations, actions = observations_for(3, batch), actions_for(3, batch)
        assert torch.equal(alone.q(observations[:1], actions[:1])[0], together.q(observations, actions)[1])
        assert torch.equal(alone.v(observations[:1])[0], together.v(observations)[1])


@every_critic
def test_the_calibration_on_heldout_episodes_comes_with_it(fitted, kind):
    metrics = fitted[kind][2].metrics
    wanted = {"critic/gap_best_tenth", "critic/gap_before_termination", "critic/rank_correlation"}
    wanted |= {"critic/uncertainty_heldout", "critic/uncertainty_random"}
    assert wanted <= metrics.keys()
    assert all(len(values) == 3 for values in metrics.values())


@every_critic
def test_values_of_logged_actions_in_chunks_are_the_values(fitted, kind):
    from spar_core.critics.calibration import values_at

    context, critic = Context.quiet(toy_dataset(), SEEDS), restored(fitted, kind)
    steps = torch.arange(20)
    observations, actions = context.data.at(steps)
    direct = critic.q(observations.expand(3, -1, -1), actions.expand(3, -1, -1))
    assert torch.equal(values_at(critic, context, steps), direct)


@every_critic
def test_heldout_episodes_are_never_fitted_to(fitted, kind):
    member, settings, result = fitted[kind]
    spoiled = toy_dataset()
    steps = spoiled.heldout_steps
    spoiled.rewards[steps] = 100.0
    spoiled.actions[steps] *= -1
    spoiled.observations[spoiled.observation_index[steps]] += 5.0
    tensors = member.fit(Context.quiet(spoiled, SEEDS), settings).tensors
    assert all(torch.equal(value, result.tensors[name]) for name, value in tensors.items())


@every_critic
def test_curves_name_the_critic_and_reach_the_last_step(fitted, kind):
    _, settings, result = fitted[kind]
    total = getattr(settings, "warm_start_steps", 0) + settings.steps
    assert all(name.startswith("critic/") for _, _, name, _ in result.curves)
    assert max(step for step, *_ in result.curves) == total
    assert {seed for _, seed, *_ in result.curves} == set(SEEDS)


@every_critic
@pytest.mark.parametrize("budget", [{"warm_start_steps": 0}, {"steps": 0}], ids=str)
def test_either_half_of_the_budget_can_be_left_out(kind, budget):
    member = load_member("critic", kind)
    if not budget.keys() <= member.Settings.model_fields.keys():
        pytest.skip("it has no such half")
    result = member.fit(Context.quiet(toy_dataset(), (0,)), tiny_settings(member, **budget))
    assert all(value.isfinite().all() for value in result.tensors.values())
    assert any(name.startswith("critic/warm_start") for _, _, name, _ in result.curves) == (
        "steps" in budget and kind != "returns"
    )


@every_critic
def test_divergence_is_one_clear_line(kind):
    member = load_member("critic", kind)
    values = {"learning_rate": 1e4, "steps": 50, "hidden": (32,), "layer_norm": False}
    if "warm_start_steps" in member.Settings.model_fields:
        values["warm_start_steps"] = 0
    with pytest.raises(SparError, match=r"the critic diverged: .* beyond what rewards allow; lower its learning_rate"):
        member.fit(Context.quiet(toy_dataset(), SEEDS), tiny_settings(member, **values))


@every_critic
def test_a_diverging_warm_start_is_stopped_too(kind):
    member = load_member("critic", kind)
    values = {"learning_rate": 1e4, "steps": 50, "hidden": (32,), "layer_norm": False}
    if "warm_start_steps" in member.Settings.model_fields:
        values["warm_start_steps"] = 50
    with pytest.raises(SparError, match=r"the critic diverged: its error to observed returns"):
        member.fit(Context.quiet(toy_dataset(), SEEDS), tiny_settings(member, **values))


@every_critic
def test_a_misspelt_setting_is_refused_with_the_nearest(kind):
    member = load_member("critic", kind)
    for field in member.Settings.model_fields:
        with pytest.raises(SparError, match=f"unknown key '{field}x'; did you mean '{field}'"):
            parse_variant("critic", {"mine": {"kind": kind, field + "x": 1}}, "mine")


@every_critic
def test_nothing_is_learnt_from_a_cut_whose_next_observation_is_unknown(kind):
    """There the row after the last step repeats its own observation, and a value would feed on itself."""
    member = load_member("critic", kind)
    settings = tiny_settings(member)
    dataset = toy_dataset()
    blind = ~dataset.terminated & ~dataset.heldout
    # Returns far beyond all others, so that what is changed below changes neither their range nor their bound.
    first, second = np.flatnonzero(dataset.terminated & ~dataset.heldout)[:2]
    dataset.rewards[dataset.starts[first]], dataset.rewards[dataset.starts[second]] = 1e3, -1e3
    dataset = replace(dataset, last_known=~blind)
    other = replace(dataset, rewards=dataset.rewards.copy())
    other.rewards[(dataset.starts + dataset.lengths - 1)[blind]] += 20.0
    one, two = (member.fit(Context.quiet(data, SEEDS), settings) for data in (dataset, other))
    assert blind.any()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name
    known = member.fit(Context.quiet(replace(other, last_known=None), SEEDS), settings)
    assert any(not torch.equal(known.tensors[name], two.tensors[name]) for name in two.tensors)
