"""What every registered anchor must keep, whatever it is."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from spar_core.errors import SparError
from spar_core.registry import load_member, parse_variant
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors
from spar_core.training.randomness import streams
from spar_core.training.reporter import Reporter
from tests.fakes import (
    ACTION_SIZE,
    TINY,
    assert_same_seed,
    dataset_from,
    kinds,
    observations_for,
    row_of,
    tensors_within,
    tiny_settings,
    toy_dataset,
)

SEEDS = (0, 3, 5)
every_anchor = pytest.mark.parametrize("kind", kinds("anchor"))


def fit(kind, seeds, dataset=None, *, group=True):
    member = load_member("anchor", kind)
    settings, context = tiny_settings(member), Context(dataset or toy_dataset(), seeds, Reporter(seeds), "cpu")
    result = member.fit(context, settings)
    return member, settings, member.of_group(result, context, settings) if group else result


@cache
def fitted(kind):
    """The anchor that the tests of a kind share."""
    return fit(kind, SEEDS)


def restored(kind, rows=slice(None)):
    member, settings, result = fitted(kind)
    return member.restore(settings, {name: value[rows] for name, value in result.tensors.items()})


@every_anchor
def test_actions_have_their_shape_lie_in_the_box_and_repeat(kind):
    anchor = restored(kind)
    for scale in (1.0, 1e3):
        observations = observations_for(3, scale=scale)
        actions = anchor.act(observations)
        assert actions.shape == (3, 9, ACTION_SIZE) and actions.isfinite().all()
        assert actions.abs().max() <= 1.0
        assert torch.equal(actions, anchor.act(observations))


@every_anchor
def test_an_action_depends_on_its_own_observation_and_seed_only(kind):
    anchor, observations = restored(kind), observations_for(3)
    together = anchor.act(observations)
    for i in (0, 4):
        torch.testing.assert_close(anchor.act(observations[:, i : i + 1])[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    moved = observations.clone()
    moved[1] += 1.0
    assert torch.equal(anchor.act(moved)[[0, 2]], together[[0, 2]])
    assert torch.equal(together[0], together[1]) != anchor.seeds_differ


@every_anchor
def test_acting_on_all_steps_is_acting(kind):
    anchor, observations = restored(kind), observations_for(1, 4099)[0]
    everywhere = anchor.act_on_all(observations, 3)
    direct = anchor.act(observations.expand(3, -1, -1))
    torch.testing.assert_close(everywhere, direct, rtol=1e-5, atol=1e-5)


@every_anchor
def test_acting_on_all_steps_gives_a_seed_the_same_bits_alone(kind):
    # One row more than a chunk, so that the last chunk does not fill a vector register.
    observations = observations_for(1, 4099)[0]
    together = restored(kind).act_on_all(observations, 3)
    assert torch.equal(restored(kind, slice(1, 2)).act_on_all(observations, 1)[0], together[1])


@every_anchor
def test_samples_have_their_shape_lie_in_the_box_and_repeat(kind):
    anchor = restored(kind)
    for scale in (1.0, 1e3):
        observations = observations_for(3, scale=scale)
        samples = anchor.sample(observations, streams(SEEDS, "test"))
        assert samples.shape == (3, 9, ACTION_SIZE) and samples.isfinite().all()
        assert samples.abs().max() <= 1.0
        assert torch.equal(samples, anchor.sample(observations, streams(SEEDS, "test")))


@every_anchor
def test_samples_differ_where_there_is_chance_and_only_there(kind):
    anchor, observations, generators = restored(kind), observations_for(3), streams(SEEDS, "test")
    first, second = anchor.sample(observations, generators), anchor.sample(observations, generators)
    differ = [not torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert differ == [anchor.stochastic] * 3
    if not anchor.stochastic:
        assert torch.equal(first, anchor.act(observations))


@every_anchor
def test_samples_and_densities_of_a_seed_are_the_same_bits_alone(kind):
    together, alone = restored(kind), restored(kind, slice(1, 2))
    observations = observations_for(3)
    samples = together.sample(observations, streams(SEEDS, "test"))
    assert torch.equal(alone.sample(observations[1:2], streams(SEEDS[1:2], "test"))[0], samples[1])
    if together.has_density:
        density = together.log_density(observations, samples)
        assert torch.equal(alone.log_density(observations[1:2], samples[1:2])[0], density[1])


@every_anchor
def test_log_density_is_finite_or_refused(kind):
    anchor, observations = restored(kind), observations_for(3)
    # The corners of the box, its middle, and actions between.
    actions = torch.linspace(-1.0, 1.0, 9).view(1, 9, 1).expand(3, -1, ACTION_SIZE)
    if not anchor.has_density:
        with pytest.raises(NotImplementedError):
            anchor.log_density(observations, actions)
        return
    density = anchor.log_density(observations, actions)
    assert density.shape == (3, 9) and density.isfinite().all()


@every_anchor
def test_a_restored_anchor_is_frozen(kind):
    anchor = restored(kind)
    tensors = list(tensors_within(anchor))
    assert tensors and not any(t.requires_grad or t.grad is not None for t in tensors)
    observations = observations_for(3).requires_grad_()
    samples = anchor.sample(observations, streams(SEEDS, "test"))
    assert not anchor.act(observations).requires_grad and not samples.requires_grad
    if anchor.has_density:
        assert not anchor.log_density(observations, samples).requires_grad


@every_anchor
def test_saving_and_restoring_gives_the_same_policy(kind, tmp_path):
    member, settings, result = fitted(kind)
    result.write(tmp_path)
    assert set(result.shapes()) == set(result.tensors)
    assert all(value.shape[0] == 3 for value in result.tensors.values())
    again = member.restore(settings, load_tensors(tmp_path / WEIGHTS))
    observations = observations_for(3)
    assert torch.equal(again.act(observations), restored(kind).act(observations))


@every_anchor
@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(kind, seeds):
    # An anchor that a group shares depends on the group; its members do not.
    member, _, part = fit(kind, seeds, group=False)
    assert_same_seed(part, seeds.index(3), fit(kind, SEEDS, group=False)[2] if member.shared else fitted(kind)[2], 1, 3)
    first = (next(iter(row_of(fitted(kind)[2].tensors, r).values())) for r in (0, 1))
    assert torch.equal(*first) != member.seeds_differ


@every_anchor
def test_fitting_again_gives_the_same_bits(kind):
    _, _, again = fit(kind, SEEDS)
    for row, seed in enumerate(SEEDS):
        assert_same_seed(again, row, fitted(kind)[2], row, seed)


@every_anchor
def test_heldout_episodes_are_never_fitted_to(kind):
    toy = toy_dataset()
    held = toy.heldout[toy.episode]
    spoiled = dataset_from(
        toy.observations,
        toy.actions * ~held[:, None],
        toy.rewards,
        toy.lengths,
        toy.terminated,
        toy.heldout,
    )
    _, _, other = fit(kind, SEEDS, spoiled)
    for name, value in fitted(kind)[2].tensors.items():
        assert torch.equal(other.tensors[name], value)


@every_anchor
def test_training_reports_every_step_and_curves_of_every_seed(kind):
    member = load_member("anchor", kind)

    class Counting(Reporter):
        steps = 0

        def advance(self, steps):
            self.steps += steps

    report = Counting(SEEDS)
    result = member.fit(Context(toy_dataset(), SEEDS, report, "cpu"), tiny_settings(member))
    if "steps" in member.Settings.model_fields:
        assert report.steps == TINY["steps"] * len(SEEDS), "one unit a step and seed"
        assert {row[1] for row in result.curves} == set(SEEDS)
        assert max(row[0] for row in result.curves) == TINY["steps"]
    assert all(len(values) == 3 for values in result.metrics.values())


@every_anchor
def test_training_lowers_the_error_on_training_steps(kind):
    if kind == "external":
        pytest.skip("a policy from outside is not trained")
    toy = toy_dataset()
    # Actions that are a function of the observation, which any anchor can learn a part of.
    learnable = dataset_from(
        toy.observations,
        0.8 * (toy.observations[toy.observation_index][:, :ACTION_SIZE] > 0),
        toy.rewards,
        toy.lengths,
        toy.terminated,
        toy.heldout,
    )
    member = load_member("anchor", kind)
    errors = []
    # The chain of a diffusion starts from noise, where an error of the predicted noise counts twelvefold.
    for steps in (1, 2000 if kind == "diffusion" else 150):
        settings = tiny_settings(member, **({"steps": steps} if "steps" in member.Settings.model_fields else {}))
        if kind == "committee":
            settings = member.Settings(member={**settings.member, "steps": steps})
        context = Context.quiet(learnable, (0,))
        result = member.of_group(member.fit(context, settings), context, settings)
        anchor = member.restore(settings, result.tensors)
        train = learnable.train_steps
        observations = torch.as_tensor(learnable.observations[learnable.observation_index[train]])
        target = torch.as_tensor(learnable.actions[train])
        errors.append((anchor.act_on_all(observations, 1)[0] - target).square().mean().item())
    assert errors[1] < 0.7 * max(errors[0], 0.2)


@every_anchor
def test_a_misspelt_setting_is_refused_with_the_nearest(kind):
    member = load_member("anchor", kind)
    for field in member.Settings.model_fields:
        with pytest.raises(SparError, match=f"unknown key '{field}x'; did you mean '{field}'"):
            parse_variant("anchor", {"mine": {"kind": kind, field + "x": 1}}, "mine")
