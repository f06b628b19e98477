"""Knobs that spoil an anchor on purpose, and the measures that must notice."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spar_core.anchors.knn import KNNAnchor
from spar_core.anchors.knobs import training_data
from spar_core.anchors.linear import LinearAnchor
from spar_core.anchors.mlp import MLPAnchor
from spar_core.anchors.quality import SAMPLES, measure, two_ways
from spar_core.data.device import DeviceData
from spar_core.residual import ResidualSettings, fit_residual, settings_for
from spar_core.training.context import Context
from tests.fakes import ACTION_SIZE, TINY, ConstantAnchor, dataset_from, tiny_settings, toy_dataset


def knobs(data_share=1.0, top_share=1.0, label_noise=0.0):
    return SimpleNamespace(data_share=data_share, top_share=top_share, label_noise=label_noise)


# --- knobs ---


def test_without_knobs_the_dataset_is_the_same_object(toy):
    assert training_data(toy, knobs()) is toy


def test_a_smaller_share_is_a_part_of_a_larger_one_and_heldout_episodes_stay():
    toy = toy_dataset(episodes=40)
    shares = [set(training_data(toy, knobs(data_share=share)).numbers.tolist()) for share in (0.1, 0.5, 0.9)]
    assert shares[0] < shares[1] < shares[2]
    heldout = set(np.flatnonzero(toy.heldout).tolist())
    assert all(heldout <= share for share in shares)
    assert len(shares[1] - heldout) == round(0.5 * (~toy.heldout).sum())


def test_the_top_share_is_the_best_by_return():
    toy = toy_dataset(episodes=40)
    kept = training_data(toy, knobs(top_share=0.25))
    chosen = kept.episode_returns[~kept.heldout]
    left_out = np.setdiff1d(np.flatnonzero(~toy.heldout), kept.numbers)
    assert len(chosen) == 8 and chosen.min() >= toy.episode_returns[left_out].max()


def test_shares_draw_first_and_take_the_best_of_the_drawn_then():
    toy = toy_dataset(episodes=40)
    drawn = training_data(toy, knobs(data_share=0.5))
    both = training_data(toy, knobs(data_share=0.5, top_share=0.5))
    again = training_data(drawn, knobs(top_share=0.5))
    assert both.numbers.tolist() == again.numbers.tolist()


def test_at_least_one_episode_stays():
    kept = training_data(toy_dataset(), knobs(data_share=1e-6, top_share=1e-6))
    assert (~kept.heldout).sum() == 1


def test_kept_episodes_are_whole_and_their_own(toy):
    kept = training_data(toy, knobs(data_share=0.5))
    for local, number in enumerate(kept.numbers):
        ours, whole = kept.episode == local, toy.episode == number
        assert np.array_equal(kept.actions[ours], toy.actions[whole])
        assert np.array_equal(
            kept.observations[kept.observation_index[ours] + 1], toy.observations[toy.observation_index[whole] + 1]
        )
        assert kept.terminated[local] == toy.terminated[number]
        assert set(kept.episode_number[ours]) == {number}


def test_label_noise_has_its_size_stays_in_the_box_and_spares_heldout_episodes():
    toy = toy_dataset(episodes=400)
    calm = dataset_from(toy.observations, toy.actions * 0, toy.rewards, toy.lengths, toy.terminated, toy.heldout)
    noisy = training_data(calm, knobs(label_noise=0.3))
    assert noisy.actions[calm.train_steps].std() == pytest.approx(0.3, rel=0.03)
    assert not noisy.actions[calm.heldout_steps].any()
    assert np.abs(training_data(toy, knobs(label_noise=2.0)).actions).max() <= 1.0
    assert np.array_equal(toy.actions, toy_dataset(episodes=400).actions), "the dataset itself is never written to"


def test_a_spoilt_anchor_is_measured_as_worse():
    rng = np.random.default_rng(0)
    toy = toy_dataset(episodes=60)
    weight = rng.normal(size=(toy.observation_size, ACTION_SIZE))
    actions = np.tanh(toy.observations[toy.observation_index] @ weight)
    learnable = dataset_from(toy.observations, actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout)

    def error(**values):
        settings = tiny_settings(MLPAnchor, **{"steps": 400, "hidden": (32,), "batch_size": 64, **values})
        return MLPAnchor.fit(Context.quiet(learnable, (0,)), settings).metrics["anchor/heldout_mse"][0]

    whole = error()
    assert error(steps=10) > 2 * whole and error(data_share=0.02) > 1.5 * whole and error(label_noise=2.0) > 1.5 * whole


# --- measures ---


class Draws:
    """An anchor whose draws are given by a function of the generators."""

    stochastic, has_density = True, True

    def __init__(self, draw, density=0.0):
        self.draw, self.density = draw, density

    def act_on_all(self, observations, seeds):
        return torch.zeros(seeds, len(observations), ACTION_SIZE)

    def sample(self, observations, generators):
        return torch.stack([self.draw(len(rows), g) for rows, g in zip(observations, generators, strict=True)])

    def log_density(self, observations, actions):
        return torch.full(observations.shape[:2], self.density)


def uniform(n, generator):
    return torch.rand(n, ACTION_SIZE, generator=generator) * 2 - 1


def constant_actions(value):
    toy = toy_dataset()
    actions = np.broadcast_to(np.asarray(value, np.float32), toy.actions.shape)
    return dataset_from(toy.observations, actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout)


def test_errors_and_coverage_of_a_constant_anchor_are_known():
    data = constant_actions([0.6, 0.0, -0.2])
    metrics = measure(ConstantAnchor([0.0, 0.0, -0.2]), Context.quiet(data, (0, 1)), data)
    assert metrics["anchor/heldout_mse"] == pytest.approx([0.36 / 3] * 2)
    assert metrics["anchor/train_mse"] == pytest.approx([0.36 / 3] * 2)
    assert metrics["anchor/coverage_distance"] == pytest.approx([0.6] * 2)
    assert metrics["anchor/bimodal_share"] == [0.0, 0.0] and np.isnan(metrics["anchor/modes_missed"]).all()
    assert "anchor/heldout_log_density" not in metrics


def test_coverage_is_the_distance_to_the_nearest_of_the_draws():
    data = constant_actions(0.5)
    two = Draws(
        lambda n, g: torch.where(torch.arange(n) % SAMPLES == 3, 0.5, -1.0).unsqueeze(1).expand(-1, ACTION_SIZE)
    )
    context = Context.quiet(data, (0,))
    assert measure(two, context, data)["anchor/coverage_distance"] == [0.0]
    assert measure(Draws(uniform, -1.5), context, data)["anchor/heldout_log_density"] == [-1.5]


def test_the_training_error_is_of_what_was_cloned():
    data = constant_actions(0.5)
    seen = training_data(data, knobs(label_noise=0.4))
    metrics = measure(ConstantAnchor([0.5] * ACTION_SIZE), Context.quiet(data, (0,)), seen)
    assert metrics["anchor/heldout_mse"] == [0.0] and metrics["anchor/train_mse"][0] > 0.05


@pytest.mark.parametrize(
    "actions, separate",
    [
        (torch.cat([torch.full((12, 2), -0.5), torch.full((13, 2), 0.5)]), True),
        (torch.cat([torch.full((2, 2), -0.5), torch.full((23, 2), 0.5)]), False),
        (torch.linspace(-1, 1, 25).unsqueeze(1).expand(-1, 2), False),
        (torch.randn(25, 2, generator=torch.Generator().manual_seed(0)), False),
        (torch.zeros(25, 2), False),
    ],
    ids=["two heaps", "a heap and outliers", "uniform", "normal", "one point"],
)
def test_two_ways_of_acting_are_found_where_there_are_two(actions, separate):
    jitter = 1e-3 * torch.randn(25, 2, generator=torch.Generator().manual_seed(1))
    direction, means, found = two_ways((actions + jitter * separate).unsqueeze(0))
    assert found.tolist() == [separate]
    if separate:
        assert direction.abs() == pytest.approx(np.full((1, 2), 0.5**0.5), abs=1e-2)
        assert means.abs() == pytest.approx(np.full((1, 2), 0.5**0.5), abs=1e-2)


def test_a_single_neighbour_shows_one_way_of_acting():
    """A dataset may have one training step."""
    direction, means, found = two_ways(torch.randn(3, 1, 2))
    assert found.tolist() == [False] * 3 and direction.shape == (3, 2) and means.shape == (3, 2)


def bimodal():
    """Every state is met with actions of +0.7 and of -0.7."""
    toy = toy_dataset(episodes=60)
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], size=(len(toy.actions), 1))
    actions = 0.7 * sign + 0.01 * rng.normal(size=toy.actions.shape)
    return dataset_from(toy.observations, actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout)


@pytest.mark.parametrize(
    "anchor, missed",
    [
        (ConstantAnchor([0.0] * ACTION_SIZE), 1.0),
        (ConstantAnchor([0.7] * ACTION_SIZE), 0.5),
        (Draws(lambda n, g: (torch.randint(2, (n, 1), generator=g) * 1.4 - 0.7).expand(-1, ACTION_SIZE)), 0.0),
    ],
    ids=["between the modes", "one mode", "both modes"],
)
def test_modes_missed_by_an_average_by_a_choice_and_by_draws(anchor, missed):
    data = bimodal()
    metrics = measure(anchor, Context.quiet(data, (0, 1)), data)
    assert metrics["anchor/bimodal_share"][0] > 0.95
    assert metrics["anchor/modes_missed"] == pytest.approx([missed] * 2)


# --- nearest neighbours ---


def test_knn_is_the_mean_of_the_nearest_by_brute_force(toy):
    settings = KNNAnchor.Settings(neighbours=3, memory=10_000)
    fitted = KNNAnchor.fit(Context.quiet(toy, (0,)), settings)
    anchor = KNNAnchor.restore(settings, fitted.tensors)
    train = toy.observation_index[toy.train_steps]
    for query in toy.observations[:5]:
        order = np.argsort(np.linalg.norm(toy.observations[train] - query, axis=1))[:3]
        wanted = toy.actions[toy.train_steps[order]].mean(0)
        assert anchor.act(torch.as_tensor(query)[None, None])[0, 0].numpy() == pytest.approx(wanted, abs=1e-5)


def test_knn_leaves_the_steps_own_episode_out_when_residuals_are_formed(toy):
    settings = KNNAnchor.Settings(neighbours=1, memory=10_000)
    anchor = KNNAnchor.restore(settings, KNNAnchor.fit(Context.quiet(toy, (0,)), settings).tensors)
    data, steps = DeviceData.of(toy), torch.as_tensor(toy.train_steps)
    looked_up = anchor.act(data.observations[data.index[steps]].unsqueeze(0))[0]
    assert torch.equal(looked_up, data.actions[steps]), "it knows every answer by heart"
    honest = anchor.act_on_steps(data, steps.unsqueeze(0))[0]
    for step, action in zip(steps[::7], honest[::7], strict=True):
        others = toy.train_steps[toy.episode[toy.train_steps] != toy.episode[step]]
        distance = np.linalg.norm(
            toy.observations[toy.observation_index[others]] - toy.observations[toy.observation_index[step]], axis=1
        )
        assert action.numpy() == pytest.approx(toy.actions[others[distance.argmin()]])
    residual = fit_residual(
        Context.quiet(toy, (0,)), anchor, ResidualSettings(**{k: TINY[k] for k in ("steps", "hidden")})
    )
    assert residual.metrics["residual/norm_train"][0] > 0.5


def test_knn_knows_its_episodes_also_when_it_was_cloned_from_a_share_of_them():
    toy = toy_dataset(episodes=40)
    settings = KNNAnchor.Settings(neighbours=1, data_share=0.5)
    anchor = KNNAnchor.restore(settings, KNNAnchor.fit(Context.quiet(toy, (0,)), settings).tensors)
    kept = training_data(toy, settings).numbers
    data = DeviceData.of(toy)
    steps = torch.as_tensor(toy.train_steps[np.isin(toy.episode[toy.train_steps], kept)])
    assert not (anchor.act_on_steps(data, steps.unsqueeze(0))[0] == data.actions[steps]).all(-1).any()


def test_the_linear_anchor_finds_a_linear_policy(toy):
    weight = np.random.default_rng(0).normal(size=(toy.observation_size, ACTION_SIZE)) * 0.1
    actions = toy.observations[toy.observation_index] @ weight + 0.05
    data = dataset_from(toy.observations, actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout)
    fitted = LinearAnchor.fit(Context.quiet(data, (0, 1)), LinearAnchor.Settings(ridge=1e-9))
    assert fitted.tensors["weight"][1].numpy() == pytest.approx(weight, abs=1e-4)
    assert fitted.metrics["anchor/heldout_mse"][0] < 1e-8


# --- the anchor's own residual settings ---


def test_an_anchor_may_say_how_its_residuals_are_modelled():
    anchors = {"mlp": None, "wide": {"steps": 5, "residual": {"latent_per_action": 1.0}}}
    assert settings_for("wide", {"steps": 7}, anchors).latent_per_action == 1.0
    assert settings_for("wide", {"steps": 7}, anchors).steps == 7
    assert settings_for("mlp", {"steps": 7}, anchors) == ResidualSettings(steps=7)


def test_residuals_may_be_taken_from_a_sample(toy):
    class Spread(ConstantAnchor):
        def sample(self, observations, generators):
            draws = [
                torch.rand(len(rows), ACTION_SIZE, generator=g)
                for rows, g in zip(observations, generators, strict=True)
            ]
            return torch.stack(draws) * 2 - 1

    anchor, small = Spread([0.0] * ACTION_SIZE), {key: TINY[key] for key in ("steps", "hidden")}
    radius = {
        base: fit_residual(Context.quiet(toy, (0, 3)), anchor, ResidualSettings(base=base, **small)).tensors["radius"]
        for base in ("action", "sample")
    }
    assert (radius["sample"] > 1.2 * radius["action"]).all()
