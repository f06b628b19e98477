"""Anchors that draw their actions: densities, draws and chains against known answers, and two modes of acting."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from spar_core.anchors.cvae import CVAEAnchor, autoencoding_loss
from spar_core.anchors.diffusion import DiffusionAnchor, variance_preserving
from spar_core.anchors.flow import FlowAnchor
from spar_core.anchors.gaussian import GaussianAnchor
from spar_core.anchors.mixture import MixtureAnchor
from spar_core.anchors.squashed import MARGIN, log_density, unsquash
from spar_core.registry import load_member
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.randomness import normal, streams
from tests.fakes import dataset_from

DRAWS = 20_000


def answering(outputs, inputs=2):
    """A network that gives the same outputs for every input."""
    outputs = torch.as_tensor(outputs, dtype=torch.float32)
    network = Stack(MLPShape(inputs, (4,), len(outputs)), 1)
    network.parameters["1.bias"][0, 0] = outputs
    return network


def gaussian(mean, std):
    return GaussianAnchor(answering([mean, math.log(std)]), GaussianAnchor.Settings())


def mixture(weights, means, stds):
    rest = [value for mean, std in zip(means, stds, strict=True) for value in (mean, math.log(std))]
    settings = MixtureAnchor.Settings(components=len(weights))
    return MixtureAnchor(answering([*map(math.log, weights), *rest]), settings)


KNOWN = {
    "gaussian": gaussian(0.3, 0.5),
    "gaussian, wide": gaussian(0.0, 1.0),
    "gaussian, narrow and off centre": gaussian(-1.0, 0.05),
    "mixture": mixture((0.2, 0.3, 0.5), (-1.0, 0.1, 0.9), (0.2, 0.5, 0.1)),
    "mixture of one": mixture((1.0,), (0.4,), (0.3,)),
}
known = pytest.mark.parametrize("anchor", KNOWN.values(), ids=KNOWN)


def density_on(anchor, low=-1.0, high=1.0, points=20_001):
    grid = torch.linspace(low, high, points)
    log = anchor.log_density(torch.zeros(1, points, 2), grid.view(1, -1, 1))[0]
    return grid.double(), log.double().exp()


def draws_of(anchor, seed=0):
    return anchor.sample(torch.zeros(1, DRAWS, 2), streams((seed,), "test"))[0]


# --- densities ---


@known
def test_a_density_integrates_to_one(anchor):
    grid, density = density_on(anchor)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-3)


@known
@pytest.mark.parametrize(("low", "high"), [(-0.9, -0.7), (-0.2, 0.4), (0.6, 0.8)], ids=str)
def test_draws_fall_where_the_density_says(anchor, low, high):
    grid, density = density_on(anchor, low, high)
    actions = draws_of(anchor)
    share = ((actions > low) & (actions < high)).double().mean().item()
    # Four standard errors of a share of that many draws.
    assert share == pytest.approx(torch.trapezoid(density, grid).item(), abs=2.0 / math.sqrt(DRAWS))


def test_a_squashed_normal_has_the_density_that_torch_gives_it():
    mean, spread, u = normal(streams((0, 1, 2), "test"), 2, 5, 3)
    log_std, actions = 0.5 * spread, torch.tanh(u)
    normals = TransformedDistribution(Normal(mean.double(), log_std.double().exp()), TanhTransform())
    expected = Independent(normals, 1).log_prob(actions.double())
    torch.testing.assert_close(log_density(mean, log_std, actions).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_edge_of_the_box_counts_as_lying_inside():
    edge, inside = torch.tensor([-1.0, 1.0]), torch.tensor([MARGIN - 1.0, 1.0 - MARGIN])
    for at_edge, within in zip(unsquash(edge), unsquash(inside), strict=True):
        assert torch.equal(at_edge, within) and at_edge.isfinite().all()


# --- draws of known models ---


def test_draws_of_a_gaussian_have_its_moments_and_its_median_is_the_action():
    anchor = KNOWN["gaussian"]
    u = torch.atanh(draws_of(anchor).double())
    assert u.mean().item() == pytest.approx(0.3, abs=0.02)
    assert u.std().item() == pytest.approx(0.5, abs=0.02)
    assert anchor.act(torch.zeros(1, 1, 2)).item() == pytest.approx(math.tanh(0.3), abs=1e-6)


def test_draws_of_a_mixture_have_its_weights_and_the_heaviest_component_is_the_action():
    anchor = mixture((0.2, 0.3, 0.5), (-2.0, 0.0, 1.0), (0.05, 0.05, 0.05))
    actions = draws_of(anchor)
    for weight, mean in ((0.2, -2.0), (0.3, 0.0), (0.5, 1.0)):
        assert ((torch.atanh(actions) - mean).abs() < 0.3).double().mean().item() == pytest.approx(weight, abs=0.02)
    assert anchor.act(torch.zeros(1, 1, 2)).item() == pytest.approx(math.tanh(1.0), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_constant_velocity_moves_the_noise_by_itself(steps):
    anchor = FlowAnchor(answering([0.25], inputs=4), FlowAnchor.Settings(flow_steps=steps))
    noise = normal(streams((0,), "test"), DRAWS, 1)[0]
    torch.testing.assert_close(draws_of(anchor), (noise + 0.25).clamp(-1.0, 1.0))
    assert anchor.act(torch.zeros(1, 1, 2)).item() == pytest.approx(0.25)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_a_step_of_the_chain_undoes_a_step_of_the_noise(steps):
    levels = variance_preserving(steps)
    signal, spread = 1.0, 0.0
    for level in levels:
        assert level.signal**2 + level.noise**2 == pytest.approx(1.0)
        assert level.signal < signal
        # x_t = signal x_0 + noise e, put through the posterior, must be distributed as x_{t-1}.
        assert level.from_clean + level.from_here * level.signal == pytest.approx(signal)
        assert (level.from_here * level.noise) ** 2 + level.deviation**2 == pytest.approx(spread**2)
        signal, spread = level.signal, level.noise
    assert levels[0].from_clean == pytest.approx(1.0) and levels[0].deviation == 0.0
    assert len({level.features for level in levels}) == steps
    # What is left of the action at the end must be little, because a sample starts from noise alone.
    assert levels[-1].signal < 0.1


def test_a_chain_that_knows_the_action_ends_there():
    action, levels = 0.6, variance_preserving(10)

    class Oracle:
        """The noise in x_t, were the action known."""

        shape = MLPShape(1, (), 1)

        def __call__(self, inputs):
            level = next(v for v in levels if inputs[0, 0, 3].item() == pytest.approx(v.features[0]))
            return (inputs[..., 2:3] - level.signal * action) / level.noise

    anchor = DiffusionAnchor(Oracle(), DiffusionAnchor.Settings(diffusion_steps=10))
    torch.testing.assert_close(draws_of(anchor), torch.full((DRAWS, 1), action), rtol=0, atol=1e-4)
    assert anchor.act(torch.zeros(1, 1, 2)).item() == pytest.approx(action, abs=1e-4)


def test_the_loss_of_the_autoencoder_is_error_plus_weighted_divergence():
    mean, log_std = torch.tensor([0.3, -1.0]), torch.tensor([0.2, -0.7])
    encoder, decoder = answering([*mean.tolist(), *log_std.tolist()], inputs=3), answering([0.5], inputs=4)
    actions = torch.full((1, 6, 1), -0.2)
    noise = normal(streams((0,), "test"), 6, 2)
    loss, info = autoencoding_loss(encoder, decoder, torch.zeros(1, 6, 2), actions, noise, 0.25)
    kl = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum()
    error = (math.tanh(0.5) + 0.2) ** 2
    torch.testing.assert_close(info["anchor/kl"], kl[None])
    assert loss.item() == pytest.approx(error + 0.25 * kl.item(), rel=1e-5)


# --- two ways of acting in the same state ---

MODE = 0.7


def two_ways():
    """Random states; in each, every action is near 0.7 or near -0.7 in both dimensions, by a coin."""
    rng = np.random.default_rng(0)
    lengths = [40] * 25
    n = sum(lengths)
    side = rng.choice([-MODE, MODE], size=(n, 1))
    actions = np.clip(side + 0.03 * rng.normal(size=(n, 2)), -1.0, 1.0)
    number = np.arange(len(lengths))
    return dataset_from(rng.normal(size=(n + 25, 2)), actions, np.zeros(n), lengths, number < 0, number % 5 == 0)


@cache
def fitted_to_two_ways(kind):
    member = load_member("anchor", kind)
    settings = member.Settings(steps=1000, batch_size=64, hidden=(64, 64), learning_rate=3e-3)
    result = member.clone(Context.quiet(two_ways(), (0,)), settings)
    return member.restore(settings, result.tensors)


@pytest.mark.parametrize("kind", ["mixture", "cvae", "flow", "diffusion"])
def test_draws_reach_both_ways_of_acting(kind):
    anchor = fitted_to_two_ways(kind)
    observations = torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(256, dim=1)
    draws = anchor.sample(observations, streams((0,), "test"))[0].view(8, 256, 2)
    up, down = (((draws - side).abs() < 0.25).all(dim=-1).float().mean(dim=1) for side in (MODE, -MODE))
    assert up.min() > 0.2 and down.min() > 0.2, "in every state"
    assert (up + down).mean() > 0.7, "and seldom between"
    assert torch.equal(anchor.act(observations), anchor.act(observations))


def test_a_regression_acts_between_the_two_ways():
    actions = fitted_to_two_ways("mlp").act(torch.zeros(1, 1, 2))
    assert actions.abs().max() < 0.4


def test_one_normal_spreads_over_both_ways_and_has_the_lower_likelihood():
    dataset = two_ways()
    steps = dataset.heldout_steps
    observations = torch.as_tensor(dataset.observations[dataset.observation_index[steps]])[None]
    actions = torch.as_tensor(dataset.actions[steps])[None]
    gaussian, mixture = (
        fitted_to_two_ways(kind).log_density(observations, actions).mean().item() for kind in ("gaussian", "mixture")
    )
    assert mixture > gaussian + 2.0


def test_every_kind_here_says_what_it_can():
    density, none = (GaussianAnchor, MixtureAnchor), (CVAEAnchor, FlowAnchor, DiffusionAnchor)
    assert all(member.stochastic for member in density + none)
    assert all(member.has_density for member in density) and not any(member.has_density for member in none)
