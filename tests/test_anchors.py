"""What every registered anchor must keep, whatever it is."""

from __future__ import annotations

import pytest
import torch

from spar_core.errors import SparError
from spar_core.fitted import WEIGHTS, load_tensors
from spar_core.members import load_member, parse_variant
from spar_core.reporter import Reporter
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


def fit(kind, seeds, dataset=None):
    member = load_member("anchor", kind)
    settings, report = tiny_settings(member), Reporter(seeds)
    return member, settings, member.fit(dataset or toy_dataset(), settings, seeds, report, "cpu")


@pytest.fixture(scope="module")
def fitted():
    return {kind: fit(kind, SEEDS) for kind in kinds("anchor")}


def restored(fitted, kind, rows=slice(None)):
    member, settings, result = fitted[kind]
    return member.restore(settings, {name: value[rows] for name, value in result.tensors.items()})


@every_anchor
def test_actions_have_their_shape_lie_in_the_box_and_repeat(fitted, kind):
    anchor = restored(fitted, kind)
    for scale in (1.0, 1e3):
        observations = observations_for(3, scale=scale)
        actions = anchor.act(observations)
        assert actions.shape == (3, 9, ACTION_SIZE) and actions.isfinite().all()
        assert actions.abs().max() <= 1.0
        assert torch.equal(actions, anchor.act(observations))


@every_anchor
def test_an_action_depends_on_its_own_observation_and_seed_only(fitted, kind):
    anchor, observations = restored(fitted, kind), observations_for(3)
    together = anchor.act(observations)
    for i in (0, 4):
        torch.testing.assert_close(anchor.act(observations[:, i : i + 1])[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    moved = observations.clone()
    moved[1] += 1.0
    assert torch.equal(anchor.act(moved)[[0, 2]], together[[0, 2]])
    assert not torch.equal(together[0], together[1]), "seeds differ"


@every_anchor
def test_acting_on_all_steps_is_acting(fitted, kind):
    anchor, observations = restored(fitted, kind), observations_for(1, 4099)[0]
    everywhere = anchor.act_on_all(observations, 3)
    direct = anchor.act(observations.expand(3, -1, -1))
    torch.testing.assert_close(everywhere, direct, rtol=1e-5, atol=1e-5)


@every_anchor
def test_acting_on_all_steps_gives_a_seed_the_same_bits_alone(fitted, kind):
    # One row more than a chunk, so that the last chunk does not fill a vector register.
    observations = observations_for(1, 4099)[0]
    together = restored(fitted, kind).act_on_all(observations, 3)
    assert torch.equal(restored(fitted, kind, slice(1, 2)).act_on_all(observations, 1)[0], together[1])


@every_anchor
def test_a_restored_anchor_is_frozen(fitted, kind):
    anchor = restored(fitted, kind)
    tensors = list(tensors_within(anchor))
    assert tensors and not any(t.requires_grad or t.grad is not None for t in tensors)
    assert not anchor.act(observations_for(3)).requires_grad


@every_anchor
def test_saving_and_restoring_gives_the_same_policy(fitted, kind, tmp_path):
    member, settings, result = fitted[kind]
    result.write(tmp_path)
    assert set(result.shapes()) == set(result.tensors)
    assert all(value.shape[0] == 3 for value in result.tensors.values())
    again = member.restore(settings, load_tensors(tmp_path / WEIGHTS))
    observations = observations_for(3)
    assert torch.equal(again.act(observations), restored(fitted, kind).act(observations))


@every_anchor
@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(fitted, kind, seeds):
    _, _, part = fit(kind, seeds)
    assert_same_seed(part, seeds.index(3), fitted[kind][2], 1, 3)
    assert not torch.equal(*(next(iter(row_of(fitted[kind][2].tensors, r).values())) for r in (0, 1)))


@every_anchor
def test_fitting_again_gives_the_same_bits(fitted, kind):
    _, _, again = fit(kind, SEEDS)
    for row, seed in enumerate(SEEDS):
        assert_same_seed(again, row, fitted[kind][2], row, seed)


@every_anchor
def test_heldout_episodes_are_never_fitted_to(fitted, kind):
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
    for name, value in fitted[kind][2].tensors.items():
        assert torch.equal(other.tensors[name], value)


@every_anchor
def test_training_reports_every_step_and_curves_of_every_seed(kind):
    member = load_member("anchor", kind)

    class Counting(Reporter):
        steps = 0

        def advance(self, steps):
            self.steps += steps

    report = Counting(SEEDS)
    result = member.fit(toy_dataset(), tiny_settings(member), SEEDS, report, "cpu")
    if "steps" in member.Settings.model_fields:
        assert report.steps == TINY["steps"] * len(SEEDS), "one unit a step and seed"
        assert {row[1] for row in result.curves} == set(SEEDS)
        assert max(row[0] for row in result.curves) == TINY["steps"]
    assert all(len(values) == 3 for values in result.metrics.values())


@every_anchor
def test_training_lowers_the_error_on_training_steps(kind):
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
    for steps in (1, 150):
        settings = tiny_settings(member, **({"steps": steps} if "steps" in member.Settings.model_fields else {}))
        result = member.fit(learnable, settings, (0,), Reporter((0,)), "cpu")
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
