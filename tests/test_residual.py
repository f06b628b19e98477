"""The residual model: its radius, what it can reconstruct, and that each seed is on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spar_core.residual import ResidualModel, ResidualSettings, fit_residual, learned_radius, residual_loss
from spar_core.training.autoencoder import latent_size
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.randomness import normal, streams
from tests.fakes import (
    ConstantAnchor,
    assert_same_seed,
    dataset_from,
    observations_for,
    row_of,
    tensors_within,
)

TINY = {"steps": 12, "batch_size": 7, "hidden": (13, 11)}


# --- the radius ---


@pytest.mark.parametrize("n", [1, 10, 37, 1000])
@pytest.mark.parametrize(("quantile", "margin"), [(0.99, 1.1), (0.5, 1.0), (1.0, 2.0)])
def test_the_radius_is_the_margin_times_the_quantile_of_absolute_residuals(n, quantile, margin):
    residuals = 0.3 * torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n))
    settings = ResidualSettings(radius_quantile=quantile, radius_margin=margin, radius_floor=1e-9)
    expected = np.quantile(residuals.abs().numpy(), quantile, axis=1, method="closest_observation")
    np.testing.assert_allclose(learned_radius(residuals, settings).numpy(), np.minimum(margin * expected, 2), rtol=1e-6)


def test_the_radius_is_floored_and_capped_per_dimension():
    residuals = torch.zeros(1, 50, 3)
    residuals[..., 1], residuals[..., 2] = 0.5, 1.99
    radius = learned_radius(residuals, ResidualSettings())
    # Two actions in [-1, 1] are never more than 2 apart.
    torch.testing.assert_close(radius, torch.tensor([[0.01, 0.55, 2.0]]))


def test_the_radius_of_a_seed_does_not_depend_on_its_neighbours():
    residuals = torch.randn(3, 37, 3, generator=torch.Generator().manual_seed(0))
    together = learned_radius(residuals, ResidualSettings())
    assert torch.equal(learned_radius(residuals[1:2].clone(), ResidualSettings())[0], together[1])


@pytest.mark.parametrize(("share", "actions", "size"), [(2.0, 6, 12), (0.5, 3, 2), (0.1, 2, 1)])
def test_the_latent_has_its_share_of_the_action_dimensions_and_at_least_one(share, actions, size):
    assert latent_size(share, actions) == size


# --- the loss ---


def test_the_loss_is_scaled_squared_error_plus_beta_times_the_kl():
    encoder = Stack(MLPShape(5, (), 4), 1)
    means, log_stds = [0.5, -1.0], [0.2, -0.3]
    encoder.parameters["0.bias"].copy_(torch.tensor(means + log_stds))
    decoder = Stack(MLPShape(5, (), 2), 1)
    decoder.parameters["0.weight"][0, 3, 0] = 0.7  # G = rho tanh(0.7 z) in the first dimension, 0 in the second
    model = ResidualModel(decoder, torch.tensor([[0.5, 0.2]]), 2)
    residuals = torch.tensor([[[0.1, -0.2], [0.4, 0.0]]])
    observations, base, noise = torch.zeros(1, 2, 1), torch.zeros(1, 2, 2), torch.tensor([[[1.5, 9.0], [-2.0, 9.0]]])
    loss, info = residual_loss(encoder, model, observations, base, residuals, noise, beta=0.05)
    first, second = (np.tanh(0.7 * (0.5 + np.exp(0.2) * eps)) for eps in (1.5, -2.0))
    error = ((first - 0.1 / 0.5) ** 2 + (0.2 / 0.2) ** 2 + (second - 0.4 / 0.5) ** 2) / 2
    kl = sum(0.5 * (m**2 + np.exp(2 * s) - 1 - 2 * s) for m, s in zip(means, log_stds, strict=True))
    assert info["residual/reconstruction"].item() == pytest.approx(error, rel=1e-5)
    assert info["residual/kl"].item() == pytest.approx(kl, rel=1e-5)
    assert loss.item() == pytest.approx(error + 0.05 * kl, rel=1e-5)


def test_decoded_residuals_stay_within_the_radius():
    decoder = Stack(MLPShape(10, (7,), 3), 2).initialise(streams((0, 1), "x"))
    model = ResidualModel(decoder, torch.tensor([[0.1, 0.5, 2.0], [0.01, 1.0, 0.3]]), 2)
    values = model.decode(1e3 * normal(streams((0, 1), "s"), 40, 5), torch.zeros(2, 40, 3), torch.zeros(2, 40, 2))
    assert (values.abs() <= model.radius.unsqueeze(1)).all() and values.abs().max() > 1.0


# --- fits ---


def bimodal(n_episodes: int = 10, length: int = 60):
    """An anchor at 0.1 and actions at 0.1 +- 0.4, either at random: the mean of residuals is no residual."""
    n = n_episodes * length
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], size=n)
    actions = np.stack([0.1 + 0.4 * side, np.full(n, 0.1)], axis=1)
    observations = rng.normal(size=(n + n_episodes, 2))
    heldout = np.arange(n_episodes) % 5 == 0
    return dataset_from(observations, actions, np.zeros(n), [length] * n_episodes, [False] * n_episodes, heldout)


def test_a_bimodal_residual_comes_back_as_two_modes():
    settings = ResidualSettings(steps=500, batch_size=64, hidden=(32,), learning_rate=5e-3)
    fitted = fit_residual(Context.quiet(bimodal(), (0,)), ConstantAnchor([0.1, 0.1]), settings)
    model = ResidualModel.restore(settings, fitted.tensors)
    torch.testing.assert_close(model.radius, torch.tensor([[0.44, 0.01]]), rtol=1e-4, atol=1e-5)
    latents = torch.randn(1, 2000, 4, generator=torch.Generator().manual_seed(1))
    observations = observations_for(1, 2000, 2)
    decoded = model.decode(observations, torch.full((1, 2000, 2), 0.1), latents)[0]
    up, down = (decoded[:, 0] > 0.3).float().mean(), (decoded[:, 0] < -0.3).float().mean()
    between = (decoded[:, 0].abs() < 0.1).float().mean()
    assert up > 0.3 and down > 0.3 and between < 0.1
    assert decoded[:, 1].abs().max() <= 0.01
    assert fitted.metrics["residual/reconstruction"][0] < 0.1
    # Box of half-widths 0.44 and 0.01 against the action box of half-widths 1.
    assert fitted.metrics["residual/box_share"][0] == pytest.approx(0.44 * 0.01, rel=1e-3)
    assert fitted.metrics["residual/norm_train"][0] == pytest.approx(0.4, rel=1e-3)


def test_the_clipped_share_counts_numbers_of_training_steps_beyond_the_radius():
    dataset = bimodal()
    anchor, settings = ConstantAnchor([0.0, 0.0]), ResidualSettings(**TINY, radius_quantile=0.3, radius_margin=1.0)
    fitted = fit_residual(Context.quiet(dataset, (0,)), anchor, settings)
    residuals = np.abs(dataset.actions[dataset.train_steps])
    radius = np.quantile(residuals, 0.3, axis=0, method="closest_observation")
    expected = (residuals > radius).mean()
    assert 0.1 < expected < 0.5
    assert fitted.metrics["residual/clipped_share"][0] == pytest.approx(expected, rel=1e-4)


def test_the_radius_is_of_training_steps_alone():
    dataset = bimodal()
    actions = np.where(dataset.heldout[dataset.episode][:, None], -1.0, dataset.actions)
    spoiled = dataset_from(
        dataset.observations, actions, dataset.rewards, dataset.lengths, dataset.terminated, dataset.heldout
    )
    anchor, settings = ConstantAnchor([0.1, 0.1]), ResidualSettings(**TINY)
    one, other = (fit_residual(Context.quiet(d, (0,)), anchor, settings) for d in (dataset, spoiled))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert one.metrics["residual/norm_heldout"] != other.metrics["residual/norm_heldout"]


@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(parts, toy, seeds):
    settings = parts.settings("residual")
    part = fit_residual(Context.quiet(toy, seeds), parts.frozen(seeds).anchor, settings)
    assert_same_seed(part, seeds.index(3), parts.residual, 1, 3)


def test_a_restored_model_is_frozen_and_decodes_a_seed_to_the_same_bits_alone(parts):
    settings = parts.settings("residual")
    together = ResidualModel.restore(settings, parts.residual.tensors)
    alone = ResidualModel.restore(settings, row_of(parts.residual.tensors, 1))
    assert not any(t.requires_grad for t in tensors_within(together))
    for batch in (1, 7, 33):
        observations, base = observations_for(3, batch), observations_for(3, batch, 3).tanh()
        latents = observations_for(3, batch, together.latent_size)
        first = together.decode(observations, base, latents)
        assert torch.equal(alone.decode(observations[:1], base[:1], latents[:1])[0], first[1])
        assert not torch.equal(first[0], first[1])


def test_every_metric_has_a_value_a_seed(parts):
    assert all(len(values) == 3 for values in parts.residual.metrics.values())
    assert len(parts.residual.curves) == 3 * 2 * 12
