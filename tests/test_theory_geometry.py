"""The synthetic suite's manifolds, latents and decoders against numerical answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from spar_core.theory.decoders import exact_parts
from spar_core.theory.latents import clipped_grid, clipped_variance, tilted_mean
from spar_core.theory.manifolds import NAMES, Cap, frame, manifold
from spar_core.theory.problem import Problem, states_of
from spar_core.theory.settings import ProblemSettings

SETTINGS = ProblemSettings()
HALF = 0.7
MANIFOLDS = {name: manifold(name, 1.3, HALF, 0.5) for name in NAMES}
every = pytest.mark.parametrize("shape", MANIFOLDS.values(), ids=MANIFOLDS)


def coordinates(shape, n: int = 40, reach: float = 0.9) -> torch.Tensor:
    """Random coordinates well within a manifold, in 64-bit floats."""
    rng = torch.Generator().manual_seed(3)
    t = (torch.rand(n, shape.coordinates, generator=rng, dtype=torch.float64) - 0.5) * 2 * reach * HALF / shape.dim
    if shape.coordinates > shape.dim:
        t[:, -1] = torch.where(t[:, -1] < 0, -1.0, 1.0)
    return t


def moved(t: torch.Tensor, which: int, by: float) -> torch.Tensor:
    out = t.clone()
    out[:, which] += by
    return out


@every
def test_tangents_are_the_derivative_of_points_and_orthonormal(shape):
    t, step = coordinates(shape), 1e-6
    basis = shape.tangents(t)
    gram = torch.einsum("nai,naj->nij", basis, basis)
    assert torch.allclose(gram, torch.eye(shape.dim, dtype=torch.float64).expand_as(gram), atol=1e-12)
    for which in range(shape.dim):
        slope = (shape.point(moved(t, which, step)) - shape.point(moved(t, which, -step))) / (2 * step)
        assert shape.normal_part(t, slope).norm(dim=-1).max() < 1e-8
    if shape.dim == 1:  # the coordinate is arc length, and grows along the tangent
        assert torch.allclose(slope, basis[..., 0], atol=1e-8)


@every
def test_curvature_is_the_second_derivative_towards_the_normal(shape):
    t, step = coordinates(shape), 1e-4
    if shape.dim == 2:  # along a geodesic through the origin
        t[:, 1] = 0.0
    bend = (shape.point(moved(t, 0, step)) - 2 * shape.point(t) + shape.point(moved(t, 0, -step))) / step**2
    normal = shape.normal(t)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(len(t), dtype=torch.float64))
    assert (normal.unsqueeze(-1) * shape.tangents(t)).sum(-2).abs().max() < 1e-12
    assert torch.allclose((bend * normal).sum(-1), shape.curvature(t), atol=1e-6)


@every
def test_a_point_off_the_manifold_projects_back_and_its_distance_is_how_far_it_is_off(shape):
    t = coordinates(shape)
    for off in (0.0, 0.05, -0.05):
        actions = shape.point(t) + off * shape.normal(t)
        assert torch.allclose(shape.project(actions), t, atol=1e-9)
        assert torch.allclose(shape.distance(actions), torch.full((len(t),), abs(off)).double(), atol=1e-12)


@every
def test_projection_is_the_nearest_of_many_points(shape):
    rng = torch.Generator().manual_seed(5)
    actions = (torch.rand(60, shape.ambient, generator=rng, dtype=torch.float64) - 0.5) * 1.2
    half = getattr(shape, "half", HALF)
    axis = torch.linspace(-half, half, 20001 if shape.dim == 1 else 301, dtype=torch.float64)
    sides = [-1.0, 1.0] if shape.coordinates > shape.dim else [None]
    grids = []
    for side in sides:
        grid = torch.cartesian_prod(*[axis] * shape.dim).reshape(-1, shape.dim)
        grid = grid[grid.norm(dim=-1) <= half + 1e-12]
        grids.append(grid if side is None else torch.cat([grid, torch.full((len(grid), 1), side).double()], dim=1))
    points = shape.point(torch.cat(grids))
    nearest = torch.cdist(actions, points).min(dim=1).values
    ours = shape.distance(actions)
    assert (ours <= nearest + 1e-9).all()
    assert torch.allclose(ours, nearest, atol=1e-5 if shape.dim == 1 else 5e-3)


def test_a_flat_cap_is_the_limit_of_a_bent_one_and_the_frame_is_orthonormal():
    t = coordinates(MANIFOLDS["sphere"])
    flat, bent = (Cap(2, bend, HALF, 3).point(t) for bend in (0.0, 1e-6))
    assert torch.allclose(flat, bent, atol=1e-6)
    for size in (2, 3, 6):
        assert torch.allclose(frame(size) @ frame(size).T, torch.eye(size).double(), atol=1e-15)


@pytest.mark.parametrize("clip", [0.3, 1.0, 2.0])
def test_moments_of_clipped_latents_against_draws_and_a_grid(clip):
    draws = np.clip(np.random.default_rng(0).normal(size=1_000_000), -clip, clip)
    grid, weights = clipped_grid(clip)
    assert weights.sum() == pytest.approx(1.0)
    assert clipped_variance(clip) == pytest.approx(draws.var(), rel=5e-3)
    assert clipped_variance(clip) == pytest.approx(np.average(grid**2, weights=weights), rel=1e-3)
    for alpha in (0.1, 1.0, 3.0):
        tilt = np.exp(alpha * grid) * weights
        assert tilted_mean(alpha, clip) == pytest.approx(np.average(grid, weights=tilt), rel=2e-3)
        w = np.exp(alpha * draws)
        assert tilted_mean(alpha, clip) == pytest.approx((w * draws).sum() / w.sum(), rel=2e-2, abs=3e-3)
    assert tilted_mean(1e-4, clip) / 1e-4 == pytest.approx(clipped_variance(clip), rel=1e-4), "to first order"


@every
def test_the_anchor_and_an_exact_decoder_stay_on_the_manifold(shape):
    problem = Problem(shape, SETTINGS, horizon=3, dtype=torch.float64)
    frozen = exact_parts(problem, (0, 1))
    at = states_of(problem, (0, 1))
    base = frozen.anchor.act(at)
    assert shape.distance(base).max() < 1e-12
    z = torch.randn(2, 3, frozen.residual.latent_size, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    assert shape.distance(base + frozen.residual.decode(at, base, z)).max() < 1e-12


@pytest.mark.parametrize(("latents", "rank"), [(1, 1), (2, 2), (3, 3), (6, 6), (9, 6)])
def test_the_jacobian_of_an_exact_decoder_has_the_singular_values_it_says(latents, rank):
    problem = Problem(Cap(2, 1.0, HALF, 6), SETTINGS, dtype=torch.float64)
    frozen = exact_parts(problem, (0,), latents=latents, normal=0.03)
    at = states_of(problem, (0,))
    base = frozen.anchor.act(at)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: frozen.residual.decode(at, base, z)[0, 0], torch.zeros(1, 1, latents, dtype=torch.float64)
    ).reshape(6, latents)
    values = torch.linalg.svdvals(jacobian)
    wanted = [SETTINGS.spread] * min(2, latents) + [0.03] * max(0, min(latents, 6) - 2)
    assert torch.allclose(values[:rank], torch.tensor(wanted).double(), atol=1e-9)
    assert (values[rank:] < 1e-12).all()


@every
def test_the_data_lie_on_the_manifold_around_their_centre_and_inside_the_action_box(shape):
    data = Problem(shape, SETTINGS, horizon=2, shift=0.1).dataset()
    actions = torch.from_numpy(data.actions).double()
    assert data.n_steps == SETTINGS.data_steps and np.abs(data.actions).max() <= 1.0
    if getattr(shape, "half", HALF) > SETTINGS.reach + 0.1 + 2 * SETTINGS.spread:
        assert shape.distance(actions).max() < 1e-6
    if shape.coordinates == shape.dim == 1:
        t = shape.project(actions)[:, 0].numpy()
        first = data.observations[data.observation_index, 0] < 0
        assert t[first].mean() == pytest.approx(0.1 - SETTINGS.reach, abs=0.06)


def test_the_gradient_of_the_value_has_the_normal_part_that_is_set():
    for shape, horizon in itertools.product(MANIFOLDS.values(), (1, 4)):
        problem = Problem(shape, SETTINGS.model_copy(update={"value_normal": 0.7}), horizon, dtype=torch.float64)
        frozen = exact_parts(problem, (0,))
        at = states_of(problem, (0,))
        actions = (frozen.anchor.act(at) + 0.1).requires_grad_()
        (slope,) = torch.autograd.grad(frozen.critic.conservative_q(at, actions).sum(), actions)
        normal = shape.normal_part(problem.at(at), slope)
        assert torch.allclose(normal.norm(dim=-1), torch.full((1, horizon), 0.7).double())
        assert torch.allclose((slope - normal).norm(dim=-1), torch.ones(1, horizon).double())
        assert torch.allclose(frozen.critic.q(at, frozen.anchor.act(at)), frozen.critic.v(at).double())
