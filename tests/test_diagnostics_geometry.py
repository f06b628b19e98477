"""Diagnostics of residuals on clouds, decoders and data whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spar_core.data.device import DeviceData
from spar_core.diagnostics import residuals
from spar_core.diagnostics.dimension import dimensions, neighbour_distances, neighbourly, two_nn
from spar_core.diagnostics.geometry import geometry_of, neighbourhoods
from spar_core.diagnostics.jacobian import contraction, jacobian, spectrum
from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.modality import clusters_of, dips, modality
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.states import similar_steps, states_at
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen
from tests.fakes import ConstantAnchor, LinearDecoder, dataset_from, toy_dataset

BOOTSTRAP = (50, 0.95, 0)


def sphere(n: int, dimension: int, within: int) -> np.ndarray:
    """Points of the unit sphere S^dimension, turned into a space of ``within`` dimensions."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n, dimension + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    turned, _ = np.linalg.qr(rng.normal(size=(within, within)))
    return points @ turned[: dimension + 1]


def blobs(n: int, apart: float, dimensions: int = 3) -> np.ndarray:
    """Two normal clouds of equal size, so many standard deviations apart."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n, dimensions))
    points[: n // 2, 0] += apart
    return points


# --- intervals ---


def test_a_mean_and_its_interval_over_episodes():
    episodes = np.repeat([3, 8, 9], 4)
    over = Episodes(episodes, 200, 0.95)
    measure = over.mean("x", np.repeat([1.0, 2.0, 6.0], 4))
    assert (measure.value, measure.states, measure.episodes) == (3.0, 12, 3)
    assert 1.0 <= measure.low < 3.0 < measure.high <= 6.0


def test_states_of_one_episode_are_no_evidence_of_their_own():
    rng = np.random.default_rng(0)
    level = rng.normal(size=20)
    few, many = (Episodes(np.repeat(np.arange(20), k), 400, 0.95) for k in (1, 50))
    one, fifty = few.mean("x", level), many.mean("x", np.repeat(level, 50))
    assert fifty.high - fifty.low == pytest.approx(one.high - one.low)
    pretended = Episodes(np.arange(1000), 400, 0.95).mean("x", np.repeat(level, 50))
    assert pretended.high - pretended.low < 0.3 * (fifty.high - fifty.low)


def test_a_ratio_is_of_sums_and_a_missing_value_is_left_out():
    over = Episodes(np.array([0, 0, 1, 1]), 100, 0.95)
    assert over.ratio("x", np.array([1.0, 1, 2, 2]), np.array([1.0, 1, 4, 4])).value == 0.6
    assert over.mean("x", np.array([1.0, np.nan, 3.0, np.nan])).value == 2.0
    nothing = over.mean("x", np.full(4, np.nan))
    assert nothing.value is None and nothing.low is None
    alone = Episodes(np.zeros(4), 100, 0.95).mean("x", np.arange(4.0))
    assert alone.value == 1.5 and alone.low is None, "one episode gives no interval"


def test_a_statistic_resamples_whole_episodes():
    over, values = Episodes(np.array([0, 0, 1]), 300, 0.95), np.array([1.0, 1.0, 4.0])
    by_hand, by_index = over.mean("x", values), over.statistic("x", lambda index: float(values[index].mean()))
    assert (by_index.value, by_index.low, by_index.high) == (by_hand.value, by_hand.low, by_hand.high)


# --- dimension ---


@pytest.mark.parametrize(("manifold", "known"), [(sphere(2000, 2, 5), 2), (sphere(2000, 1, 6), 1)])
def test_the_dimension_of_a_sphere_by_both_estimators(manifold, known):
    found = dimensions(neighbourly(manifold, np.arange(len(manifold)), 20), ("a", "b"), BOOTSTRAP)
    for measure in found:
        assert measure.value == pytest.approx(known, rel=0.06)
        assert measure.low < measure.value < measure.high


def test_the_dimension_of_a_full_cloud():
    cloud = np.random.default_rng(0).uniform(size=(3000, 3))
    first, second = dimensions(neighbourly(cloud, np.arange(3000), 20), ("a", "b"), BOOTSTRAP)
    assert first.value == pytest.approx(3, abs=0.25) and second.value == pytest.approx(3, abs=0.35)


def test_neighbours_in_time_do_not_make_a_cloud_a_curve():
    """Short records in a square: each is a curve, the states of all are not."""
    rng = np.random.default_rng(0)
    start, way = rng.uniform(size=(500, 1, 2)), 0.05 * rng.normal(size=(500, 1, 2))
    points = (start + way * np.sort(rng.uniform(size=(500, 6, 1)), axis=1)).reshape(-1, 2)
    blind = neighbourly(points, np.arange(3000), 5)
    assert two_nn(blind.first_two) < 1.3 and 1 / blind.inverse.mean() < 1.3
    apart = neighbourly(points, np.repeat(np.arange(500), 6), 60)
    assert 1 / apart.inverse.mean() == pytest.approx(2, abs=0.15)


def test_neighbour_distances_leave_copies_and_the_own_group_out():
    points = np.array([[0.0], [0.0], [1.0], [3.0], [7.0]])
    distances, rows = neighbour_distances(points, np.array([0, 0, 1, 1, 2]), 2)
    assert rows.tolist() == [0, 2, 3, 4]
    assert distances.tolist() == [[1.0, 3.0], [1.0, 6.0], [3.0, 4.0], [4.0, 6.0]]
    none, _ = neighbour_distances(points[:3], np.array([0, 0, 0]), 2)
    assert len(none) == 0
    assert [m.value for m in dimensions(neighbourly(points[:3], np.zeros(3), 2), ("a", "b"), BOOTSTRAP)] == [None] * 2


# --- modes ---


def test_two_blobs_are_two_modes():
    found = modality(blobs(200, 8.0), 0.1)
    assert found.p < 0.001 and found.clusters == 2
    assert found.fragmentation == pytest.approx(0.5, abs=0.05)


def test_one_cloud_is_one_mode():
    found = modality(blobs(200, 0.0), 0.1)
    assert found.p > 0.3 and found.clusters == 1 and found.fragmentation == 0


def test_the_fragmentation_index_is_what_lies_outside_the_largest_cluster():
    uneven = np.concatenate([blobs(150, 0.0), blobs(50, 0.0) + 20])
    clusters, fragmentation = clusters_of(uneven, 0.1)
    assert clusters == 2 and fragmentation == pytest.approx(0.25, abs=0.05)


def test_the_dip_looks_along_the_widest_directions():
    squeezed = blobs(200, 8.0)
    squeezed[:, 0] *= 0.01  # the split is in the narrowest direction of three
    assert dips(squeezed)[1] > 0.05
    assert dips(blobs(200, 8.0)[:, :1])[1] < 0.001, "one action dimension is enough"


def test_a_cloud_without_spread_or_points_has_no_modes():
    assert modality(np.zeros((50, 2)), 0.1) is None
    assert modality(np.zeros((5, 2)), 0.1) is None


# --- decoder ---


def test_a_linear_decoders_singular_values_are_those_of_its_matrix():
    matrix = np.random.default_rng(0).normal(size=(3, 4))
    model = LinearDecoder(matrix.tolist(), 1, 10.0)
    points = [torch.randn(1, 6, n, generator=torch.Generator().manual_seed(n)) for n in (5, 3, 4)]
    jacobians = jacobian(model, *points)
    np.testing.assert_allclose(jacobians, np.broadcast_to(matrix, (6, 3, 4)), rtol=1e-6)
    found = spectrum(jacobians)
    np.testing.assert_allclose(found.values, np.tile(np.linalg.svd(matrix)[1], (6, 1)), rtol=1e-6)


def test_rank_and_weak_directions_of_known_spectra():
    diagonal = np.stack([np.diag([1.0, 1.0, 1.0]), np.diag([1.0, 0.5, 0.09]), np.diag([2.0, 0.0, 0.0])])
    found = spectrum(diagonal)
    squares = np.array([1, 0.25, 0.0081])
    np.testing.assert_allclose(found.effective_rank, [3, squares.sum() ** 2 / (squares**2).sum(), 1])
    assert found.weak(0.1).sum(axis=1).tolist() == [0, 1, 2]
    thin = spectrum(np.array([[[1.0], [0.0], [0.0]]]))
    assert thin.values.tolist() == [[1.0, 0.0, 0.0]] and thin.weak(0.1).sum() == 2, "fewer latents than actions"
    still = spectrum(np.zeros((1, 2, 2)))
    assert still.weak(0.1).all() and np.isnan(still.effective_rank).all()


def test_the_contraction_of_the_search_space():
    box, reach = contraction(np.array([0.1, 1.5]), np.array([[0.0, 0.0], [0.95, 1.0]]))
    assert box == pytest.approx(-1)
    np.testing.assert_allclose(reach, [np.log10(0.1), np.log10(0.15 / 2 * 0.75)])


# --- residuals, states ---


def test_the_share_at_the_radius_and_the_bins():
    column = np.array([[0.0], [0.49], [0.5], [-0.7], [-0.18]])
    assert residuals.at_radius(column, np.array([0.5]))[:, 0].tolist() == [False, False, True, True, False]
    centres, shares = residuals.histogram(column[:, 0], 0.5)
    assert len(centres) == 22 and shares.sum() == pytest.approx(1)
    assert shares[[0, -1]].tolist() == [0.2, 0.2]
    inside = dict(zip(centres[1:-1].round(2).tolist(), shares[1:-1].tolist(), strict=True))
    assert {at: share for at, share in inside.items() if share} == {-0.35: 0.2, 0.05: 0.2, 0.95: 0.2}


def line_dataset():
    """Two training episodes along a line and a held-out one between them; each action says its step."""
    line = np.concatenate([np.arange(11.0), np.arange(11.0) + 0.2, np.arange(11.0) + 0.1])[:, None]
    actions = np.linspace(-0.9, 0.9, 30)[:, None]
    return dataset_from(line, actions, np.zeros(30), [10, 10, 10], [False] * 3, [False, False, True])


def test_similar_steps_are_the_nearest_of_training_and_lie_apart():
    dataset = line_dataset()
    (found,) = similar_steps(dataset, np.array([25]), 4, 3)
    # The state 5.1 lies between the sixth steps of both; of each episode the next is three steps on.
    assert set(found[:2]) == {5, 15} and set(found[2:]) == {8, 12}
    (near,) = similar_steps(dataset, np.array([25]), 4, 1)
    assert set(near[:2]) == {5, 15} and set(near[2:]) == {6, 14}
    assert not set(near) & set(dataset.heldout_steps)


def test_states_are_evenly_spread_and_residuals_are_from_the_anchor():
    assert evenly(np.arange(10), 4).tolist() == [0, 3, 6, 9] and evenly(np.arange(3), 10).tolist() == [0, 1, 2]
    dataset = line_dataset()
    frozen = Frozen(ConstantAnchor([0.25]), LinearDecoder([[1.0]], 1, 1.0), None)
    states = states_at(dataset, DeviceData.of(dataset), frozen, np.array([3, 7]))
    np.testing.assert_allclose(states.residuals[:, 0], dataset.actions[[3, 7], 0] - 0.25, rtol=1e-6)
    assert states.episodes.tolist() == [0, 0] and states.some(np.array([1])).steps.tolist() == [7]


def test_the_whole_geometry_of_a_known_cell():
    dataset = toy_dataset(episodes=40)
    settings = DiagnosisSettings(states=120, neighbourhoods=6, neighbours=40, spacing=2, resamples=20)
    matrix = np.diag([1.0, 0.5, 0.05])
    frozen = Frozen(ConstantAnchor([0.0, 0.0, 0.0]), LinearDecoder(matrix.tolist(), 1, 0.5), None)
    similar = neighbourhoods(dataset, settings)
    again = [geometry_of(dataset, DeviceData.of(dataset), frozen, settings, 3, similar) for _ in range(2)]
    assert again[0] == again[1], "nothing but the inputs"
    found: Findings = again[0]
    heldout = evenly(dataset.heldout_steps, 120)
    actions = dataset.actions[heldout]
    assert found.value("geometry/norm_heldout") == pytest.approx(np.linalg.norm(actions, axis=1).mean(), rel=1e-6)
    assert found.value("geometry/at_radius_heldout") == pytest.approx((np.abs(actions) >= 0.5).mean())
    assert found.value("geometry/largest_singular_zero") == pytest.approx(1)
    assert found.value("geometry/weak_share_prior") == pytest.approx(1 / 3)
    assert found.value("geometry/log10_box") == pytest.approx(3 * np.log10(0.5))
    assert found.value("geometry/local_split_share") <= 0.5
