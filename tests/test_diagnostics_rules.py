"""Diagnostics of rules on data, decoders and critics with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from spar_core import registry
from spar_core.diagnostics import displacement, nearness
from spar_core.diagnostics.diagnosis import add_gradients
from spar_core.diagnostics.jacobian import spectrum
from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.states import States
from spar_core.improvement import gradients
from spar_core.improvement.base import Frozen
from spar_core.improvement.gradients import COSINE, GradientReporter, compare, cosine, fitting_loss, points
from spar_core.improvement.self_imitation import draw_candidates
from spar_core.improvement.split import Probe
from spar_core.registry import load_member
from spar_core.training.context import Context
from spar_core.training.reporter import Reporter
from tests.fakes import ConstantAnchor, KnownCritic, LinearDecoder, fit_parts, quadratic, tiny_settings, toy_dataset

N, D, A = 40, 5, 3
# The last two train critics of their own, to whose gradient the frozen critic adds nothing.
TRAINED = [
    kind
    for kind in registry.IMPROVEMENTS
    if "steps" in load_member("improvement", kind).Settings.model_fields and kind not in ("td3_bc", "rebrac")
]


def states(offset: float = 0.3) -> States:
    """States where the data did the anchor's action, 0, plus ``offset`` in the first dimension."""
    observations = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0))
    actions = torch.zeros(N, A)
    actions[:, 0] = offset
    return States(np.arange(N), np.arange(N) // 10, observations, actions, torch.zeros(1, N, A))


def probe(at: States | None = None) -> Probe:
    """The states as a rule of seed 0 takes them."""
    at = at or states()
    return Probe(at.observations, at.actions, at.base, 0)


def frozen(critic=None) -> Frozen:
    return Frozen(ConstantAnchor([0.0] * A), LinearDecoder(np.eye(A).tolist(), 1, 1.0), critic)


FLAT = KnownCritic(lambda observations, actions: 0.0 * actions.sum(-1) + 2.0)


def untrained(kind: str, parts: Frozen, **values):
    """A rule at its first step, with random networks, and its settings."""
    member = load_member("improvement", kind)
    settings = (
        tiny_settings(member, refreshes=1, candidates=64, **values)
        if "candidates" in member.Settings.model_fields
        else tiny_settings(member, **values)
    )
    fitted = {}
    sizes = {"spar_proj": parts.residual.latent_size}
    inputs = D if kind == "awr_scratch" else D + A
    widths = [inputs, *settings.hidden, sizes.get(kind, A)]
    generator = torch.Generator().manual_seed(1)
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        fitted[f"network.{i}.weight"] = 0.2 * torch.randn(1, a, b, generator=generator)
        fitted[f"network.{i}.bias"] = torch.zeros(1, 1, b)
    return member.restore(parts, settings, fitted), settings


# --- distance to the data ---


def test_an_action_of_the_data_has_distance_zero_and_others_their_mean_to_the_nearest():
    logged = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    actions, similar = np.array([[0.0, 0.0], [0.0, 1.0]]), [np.array([0, 1, 2]), np.array([0, 2])]
    assert nearness.distances(actions, similar, logged, 1).tolist() == [0.0, 1.0]
    assert nearness.distances(actions, similar, logged, 2).tolist() == [0.5, 1.0]
    assert nearness.distances(actions[:1], similar[:1], logged, 9).tolist() == [1.0], "no more than there are"


def test_ratios_and_shares_are_against_the_logged_action():
    found, over = Findings(0), Episodes(np.array([0, 1]), 20, 0.95)
    nearness.describe(found, {"logged": np.array([1.0, 3.0]), "policy": np.array([2.0, 0.0])}, over)
    assert found.value("diagnosis/distance_ratio_policy") == 0.5
    assert found.value("diagnosis/farther_policy") == 0.5


# --- displacement ---


def test_a_move_along_a_weak_direction_is_all_weak():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(A, A)))
    decoder = spectrum(np.tile(turned @ np.diag([1.0, 0.8, 0.02]), (N, 1, 1)))
    weak, strong = np.tile(turned[:, 2], (N, 1)), np.tile(turned[:, 0], (N, 1))
    np.testing.assert_allclose(displacement.weak_part(0.7 * weak, decoder, 0.1), 0.49)
    np.testing.assert_allclose(displacement.weak_part(strong, decoder, 0.1), 0, atol=1e-12)
    found, over = Findings(0), Episodes(np.arange(N) // 10, 20, 0.95)
    displacement.describe(found, 0.3 * strong + 0.4 * weak, 0.4 * weak, decoder, 0.1, over)
    shares = {
        part: found.value(f"diagnosis/{part}_weak_share") for part in ("total", "repair", "improvement", "random")
    }
    assert shares == pytest.approx({"total": 0.64, "repair": 1, "improvement": 0, "random": 1 / 3}, abs=1e-9)
    assert found.value("diagnosis/total_length") == pytest.approx(0.5)
    assert found.value("diagnosis/improvement_length") == pytest.approx(0.3)


def test_the_anchor_alone_goes_nowhere():
    found, over = Findings(0), Episodes(np.arange(N) // 10, 20, 0.95)
    decoder = spectrum(np.tile(np.eye(A), (N, 1, 1)))
    displacement.describe(found, np.zeros((N, A)), np.ones((N, A)), decoder, 0.1, over)
    assert [m.name for m in found.measures] == ["diagnosis/total_length", "diagnosis/random_weak_share"]
    assert found.value("diagnosis/total_length") == 0


def test_the_mean_candidate_of_a_linear_decoder_is_its_mean_latent():
    shifted = LinearDecoder(np.eye(A).tolist(), 1, 10.0)
    plain = shifted.decode
    shifted.decode = lambda o, b, z: plain(o, b, z) * 0.1 + 0.2
    parts = Frozen(ConstantAnchor([0.0] * A), shifted, None)
    found = displacement.mean_candidate(parts, states(), 400, 1.0, 0)
    assert found.shape == (N, A) and found.mean() == pytest.approx(0.2, abs=0.002)
    again = displacement.mean_candidate(parts, states(), 400, 1.0, 0)
    assert np.array_equal(found, again)


# --- candidates ---


def test_a_flat_critic_leaves_all_candidates_effective():
    settings = tiny_settings(load_member("improvement", "spar_mlp"), candidates=7)
    at = states()
    drawn = draw_candidates(frozen(FLAT), settings, at.observations, at.base, [torch.Generator().manual_seed(0)])
    torch.testing.assert_close(drawn.effective, torch.full((1, N), 7.0))
    weighted, equal = drawn.barycentres(), drawn.barycentres(flat=True)
    for ours, flat in zip(weighted, equal, strict=True):
        torch.testing.assert_close(ours, flat)


def test_where_the_anchor_is_a_candidate_a_flat_critic_leaves_its_prior():
    settings = tiny_settings(load_member("improvement", "spar_proj"), candidates=4, anchor_weight=0.5, disagreement=1.0)
    at = states()
    drawn = draw_candidates(frozen(FLAT), settings, at.observations, at.base, [torch.Generator().manual_seed(0)])
    torch.testing.assert_close(drawn.anchor_weights, torch.full((1, N), 0.5))
    torch.testing.assert_close(drawn.effective, torch.full((1, N), 1 / (4 / 64 + 1 / 4)))
    for ours, flat in zip(drawn.barycentres(), drawn.barycentres(flat=True), strict=True):
        torch.testing.assert_close(ours, flat)


def test_a_steep_critic_leaves_one():
    settings = tiny_settings(load_member("improvement", "spar_mlp"), candidates=7, tau=1e-3)
    at = states()
    critic = quadratic([0.9, 0.9, 0.9], 1.0)
    drawn = draw_candidates(frozen(critic), settings, at.observations, at.base, [torch.Generator().manual_seed(0)])
    assert drawn.effective.max() < 1.5 and drawn.effective.median() == pytest.approx(1, abs=1e-3)
    corrections, weights = drawn.corrections[0], drawn.weights[0]
    best = corrections[torch.arange(N), weights.argmax(1)]
    assert ((best - 0.9).square().sum(-1) <= (corrections - 0.9).square().sum(-1).min(1).values + 1e-6).all()


# --- gradients ---


def test_a_vector_and_its_negative_have_cosine_minus_one():
    vector = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert cosine(vector, -vector) == pytest.approx(-1) and cosine(vector, 2 * vector) == pytest.approx(1)
    assert cosine(vector, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)) == 0
    assert math.isnan(cosine(vector, 0 * vector))


@pytest.mark.parametrize(("sign", "known"), [(1.0, 1.0), (-1.0, -1.0)])
def test_an_improvement_that_undoes_the_fit_has_cosine_minus_one(monkeypatch, sign, known):
    rule, _ = untrained("awr", frozen(FLAT))
    monkeypatch.setattr(type(rule), "critic_term", lambda rule, probe, step: sign * 3.0 * fitting_loss(rule, probe))
    found, fitting, improvement = compare(rule, probe(), 2)
    assert found == pytest.approx(known) and improvement == pytest.approx(3 * fitting)


def follows(kind, **values):
    member = load_member("improvement", kind)
    return member.follows_critic(tiny_settings(member, **values))


def test_every_rule_that_trains_a_network_has_a_split():
    follow = [kind for kind in registry.IMPROVEMENTS if follows(kind)]
    assert set(follow) == set(TRAINED)
    assert not follows("spar_mlp", weighting="equal")


@pytest.mark.parametrize("kind", TRAINED)
def test_a_flat_critic_adds_nothing(kind):
    rule, _ = untrained(kind, frozen(FLAT))
    found, fitting, improvement = compare(rule, probe(), 2)
    assert fitting > 1e-3 and improvement < 1e-6 * fitting
    assert math.isnan(found) or improvement > 0


@pytest.mark.parametrize("kind", ["spar_mlp", "spar_proj", "value_gradient"])
@pytest.mark.parametrize(("optimum", "sign"), [(0.9, 1), (-0.9, -1)])
def test_a_critic_beyond_the_data_agrees_with_fitting_and_one_behind_conflicts(kind, optimum, sign):
    critic = quadratic([optimum, 0.0, 0.0], 4.0)
    rule, _ = untrained(kind, frozen(critic))
    # A nearly still network: the fit pulls it towards +0.3 in the first dimension, the critic towards its optimum.
    for leaf in rule.network.leaves.values():
        leaf.mul_(0.3)
    found, _, _ = compare(rule, probe(), 2)
    assert sign * found > 0.5


def test_weights_of_advantage_regression_are_split_by_their_mean():
    """Where good and bad actions are opposite, what the critic adds points to the good ones."""
    at = states()
    at.actions[::2, 0] *= -1
    critic = KnownCritic(lambda observations, actions: actions[..., 0])
    rule, settings = untrained("awr", frozen(critic))
    network = rule.network
    for leaf in network.leaves.values():
        leaf.requires_grad_()
    own = gradients.gradient(rule.critic_term(probe(at), 2), network)
    weights = torch.exp(settings.inverse_temperature * at.actions[:, 0]).clamp(max=settings.largest_weight)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return (w.unsqueeze(-1) * (rule.bounded(at.observations, at.base)[0] - at.actions).square()).mean()

    full, flat = (gradients.gradient(loss(w), network) for w in (weights, weights.mean().expand(N)))
    torch.testing.assert_close(own, full - flat, rtol=1e-4, atol=1e-8)


def test_the_curve_is_condensed_early_and_late():
    found = Findings(1)
    rows = [(step, seed, COSINE, value) for seed in (0, 1) for step, value in enumerate([-1.0, 0.5, 0.5, 0.5, -0.9])]
    rows += [(1, 1, "improvement/loss", 0.1)]
    add_gradients(found, rows)
    assert len(found.curves) == 5 and {row[1] for row in found.curves} == {1}
    assert found.value("diagnosis/conflict_share") == 0.4 and found.value("diagnosis/conflict_early") == 1
    assert (found.value("diagnosis/cosine_early"), found.value("diagnosis/cosine_late")) == (-1, -0.9)


# --- recording gradients during training ---


def test_points_are_spread_from_the_second_step_to_the_last(monkeypatch):
    assert points(4) == [2, 3, 4] and points(1) == []
    assert len(points(5000)) == gradients.POINTS and points(5000)[0] == 2 and points(5000)[-1] == 5000
    monkeypatch.setattr(gradients, "POINTS", 3)
    assert points(100) == [2, 51, 100]


@pytest.fixture(scope="module")
def toy():
    dataset = toy_dataset()
    return dataset, fit_parts(dataset, (0, 1))


@pytest.mark.parametrize("kind", TRAINED)
def test_a_watched_training_gives_the_same_weights_and_a_cosine_at_every_point(toy, kind):
    dataset, parts = toy
    member = load_member("improvement", kind)
    settings = tiny_settings(member)
    plain = member.fit(Context.quiet(dataset, (0, 1)), parts.frozen((0, 1)), settings)

    class Counting(Reporter):
        done = 0

        def advance(self, steps):
            self.done += steps

    outer = Counting((0, 1))
    watcher = GradientReporter(outer, member, settings, [parts.frozen((seed,)) for seed in (0, 1)], dataset)
    watched = member.fit(Context(dataset, (0, 1), watcher, "cpu"), parts.frozen((0, 1)), settings)
    assert all(torch.equal(watched.tensors[name], plain.tensors[name]) for name in plain.tensors)
    assert outer.done == 2 * settings.steps and watched.curves is outer.rows
    own = [row for row in watched.curves if not row[2].startswith("gradients/")]
    assert own == plain.curves
    cosines = [row for row in watched.curves if row[2] == COSINE]
    assert [row[:2] for row in cosines] == [(step, seed) for step in points(settings.steps) for seed in (0, 1)]
    assert all(-1.0000001 <= row[3] <= 1.0000001 for row in cosines)
