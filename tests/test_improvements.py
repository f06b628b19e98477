"""What every registered improvement rule must keep, and what latent self-imitation computes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from spar_core.data.device import DeviceData
from spar_core.errors import SparError
from spar_core.fitted import WEIGHTS, load_tensors
from spar_core.improvement import imitation
from spar_core.improvement.awr import AWR, AWRSettings, advantage_weights
from spar_core.improvement.base import Frozen
from spar_core.improvement.best_of_n import BestOfN
from spar_core.improvement.candidates import CandidateSettings, weighted_targets
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.improvement.spar_proj import SparProj
from spar_core.members import load_member, parse_variant
from spar_core.randomness import normal, stream
from spar_core.reporter import Reporter
from tests.fakes import (
    ACTION_SIZE,
    ConstantAnchor,
    KnownCritic,
    LinearDecoder,
    assert_same_seed,
    dataset_from,
    kinds,
    observations_for,
    quadratic,
    tensors_within,
    tiny_settings,
    toy_dataset,
)

SEEDS = (0, 3, 5)
every_rule = pytest.mark.parametrize("kind", kinds("improvement"))
every_imitation = pytest.mark.parametrize("member", [SparMLP, SparProj])


def fit(kind, seeds, dataset, frozen, **values):
    member = load_member("improvement", kind) if isinstance(kind, str) else kind
    settings = tiny_settings(member, **values)
    return member, settings, member.fit(dataset, frozen, settings, seeds, Reporter(seeds), "cpu")


@pytest.fixture(scope="module")
def fitted(toy, parts):
    return {kind: fit(kind, SEEDS, toy, parts.frozen(SEEDS)) for kind in kinds("improvement")}


@pytest.fixture
def policy(fitted, parts):
    def restore(kind, seeds=SEEDS):
        member, settings, result = fitted[kind]
        rows = [SEEDS.index(seed) for seed in seeds]
        return member.restore(parts.frozen(seeds), settings, {k: v[rows] for k, v in result.tensors.items()})

    return restore


# --- every rule ---


@every_rule
def test_actions_have_their_shape_lie_in_the_box_and_repeat(policy, kind):
    rule = policy(kind)
    for scale in (1.0, 1e3):
        observations = observations_for(3, scale=scale)
        actions = rule.act(observations)
        assert actions.shape == (3, 9, ACTION_SIZE) and actions.isfinite().all()
        assert actions.abs().max() <= 1.0
        assert torch.equal(actions, rule.act(observations))


@every_rule
def test_an_action_depends_on_its_own_observation_and_seed_only(policy, kind):
    rule, observations = policy(kind), observations_for(3)
    together = rule.act(observations)
    for i in (0, 4):
        torch.testing.assert_close(rule.act(observations[:, i : i + 1])[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    moved = observations.clone()
    moved[1] += 1.0
    assert torch.equal(rule.act(moved)[[0, 2]], together[[0, 2]])
    assert torch.equal(policy(kind, (3,)).act(observations[:1])[0], together[1])


@every_rule
def test_corrections_stay_within_the_radius(policy, parts, kind):
    rule, observations = policy(kind), observations_for(3, 50, scale=5.0)
    base = rule.frozen.anchor.act(observations)
    radius = rule.frozen.residual.radius.unsqueeze(1)
    with torch.no_grad():
        assert (rule.correction(observations, base).abs() <= radius * (1 + 1e-6) + 1e-6).all()
    assert ((rule.act(observations) - base).abs() <= radius * (1 + 1e-6) + 1e-6).all()


@every_rule
def test_frozen_parts_stay_frozen_while_a_rule_is_fitted(toy, parts, kind):
    frozen = parts.frozen(SEEDS)
    before = [t.clone() for t in tensors_within(frozen)]
    fit(kind, SEEDS, toy, frozen)
    after = list(tensors_within(frozen))
    assert len(after) > 10
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) and not new.requires_grad and new.grad is None


@every_rule
def test_a_restored_rule_is_frozen(policy, kind):
    rule = policy(kind)
    assert not any(t.requires_grad or t.grad is not None for t in tensors_within(rule))
    assert not rule.act(observations_for(3).requires_grad_()).requires_grad


@every_rule
def test_saving_and_restoring_gives_the_same_policy(fitted, policy, parts, kind, tmp_path):
    member, settings, result = fitted[kind]
    result.write(tmp_path)
    assert all(value.shape[0] == 3 for value in result.tensors.values())
    again = member.restore(parts.frozen(SEEDS), settings, load_tensors(tmp_path / WEIGHTS))
    observations = observations_for(3)
    assert torch.equal(again.act(observations), policy(kind).act(observations))


@every_rule
@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(toy, parts, fitted, kind, seeds):
    _, _, part = fit(kind, seeds, toy, parts.frozen(seeds))
    assert_same_seed(part, seeds.index(3), fitted[kind][2], 1, 3)


@every_rule
def test_a_rule_that_acts_without_the_critic_never_needs_it_to_act(fitted, parts, kind):
    member, settings, result = fitted[kind]
    frozen = parts.frozen(SEEDS)
    rule = member.restore(Frozen(frozen.anchor, frozen.residual, None), settings, result.tensors)
    if member.acts_with_critic:
        with pytest.raises((AssertionError, AttributeError)):
            rule.act(observations_for(3))
    else:
        assert rule.act(observations_for(3)).shape == (3, 9, ACTION_SIZE)


class Leak(Exception):
    pass


@every_rule
def test_no_value_gradient_reaches_a_policy(toy, parts, kind):
    """The critic is asked without gradients only, and nothing ever flows back into its answers."""
    frozen, asked = parts.frozen(SEEDS), []
    parameter = torch.ones((), requires_grad=True)

    def differentiable(observations, actions):
        asked.append(torch.is_grad_enabled())
        assert not actions.requires_grad and not observations.requires_grad
        real = frozen.critic.q(observations, actions)
        with torch.enable_grad():
            value = parameter * real

        def leak(gradient):
            raise Leak

        value.register_hook(leak)
        return value

    spied = Frozen(frozen.anchor, frozen.residual, KnownCritic(differentiable))
    member, settings, result = fit(kind, SEEDS, toy, spied)
    member.restore(spied, settings, result.tensors).act(observations_for(3))
    assert parameter.grad is None
    assert not any(asked), "the critic was asked with gradients on"
    assert bool(asked) == (kind != "anchor"), "the rule does ask the critic"
    plain = Frozen(frozen.anchor, frozen.residual, KnownCritic(frozen.critic.q))
    _, _, expected = fit(kind, SEEDS, toy, plain)
    for name, value in expected.tensors.items():
        assert torch.equal(result.tensors[name], value), "an attached gradient changes nothing"


@every_rule
def test_a_misspelt_setting_is_refused_with_the_nearest(kind):
    member = load_member("improvement", kind)
    for field in member.Settings.model_fields:
        with pytest.raises(SparError, match=f"unknown key '{field}x'; did you mean '{field}'"):
            parse_variant("improvement", {"mine": {"kind": kind, field + "x": 1}}, "mine")
    with pytest.raises(SparError, match="unknown key 'nothing_like_it'"):
        parse_variant("improvement", {"mine": {"kind": kind, "nothing_like_it": 1}}, "mine")


# --- the anchor and step 0 ---


def test_the_rule_anchor_is_the_anchor_bit_by_bit(policy, parts):
    observations = observations_for(3, 33)
    assert torch.equal(policy("anchor").act(observations), parts.frozen(SEEDS).anchor.act(observations))


def test_spar_mlp_is_the_anchor_at_step_zero_bit_by_bit_also_where_it_saturates(toy, parts):
    frozen = parts.frozen(SEEDS)
    settings = tiny_settings(SparMLP)
    rule = SparMLP.at_step_zero(toy, frozen, settings, SEEDS, "cpu")
    for scale in (1.0, 1e3):
        observations = observations_for(3, 33, scale=scale)
        base = frozen.anchor.act(observations)
        assert torch.equal(rule.act(observations), base)
        assert not rule.correction(observations, base).any()
    assert base.abs().max() == 1.0, "saturated"


def test_the_reported_first_step_norm_is_zero_for_mlp_and_that_of_zero_latent_for_proj(fitted, parts, toy):
    assert fitted["spar_mlp"][2].metrics["improvement/step0_norm"] == [0.0] * 3
    settings, frozen = fitted["spar_proj"][1], parts.frozen(SEEDS)
    targets = weighted_targets(toy, DeviceData.of(toy), frozen, settings, SEEDS, 0)
    zero = torch.zeros(*targets.base.shape[:2], frozen.residual.latent_size)
    moved = (targets.base + frozen.residual.decode(targets.observations, targets.base, zero)).clamp(-1, 1)
    expected = (moved - targets.base).norm(dim=-1).mean(-1)
    reported = fitted["spar_proj"][2].metrics["improvement/step0_norm"]
    assert reported == pytest.approx(expected.tolist(), rel=1e-5) and min(reported) > 0


def test_spar_proj_at_step_zero_decodes_the_zero_latent(toy, parts, monkeypatch):
    frozen, seen = parts.frozen(SEEDS), {}
    observations = observations_for(3, 33)

    def no_training(network, loss_of, correction, *rest):
        base = frozen.anchor.act(observations)
        with torch.no_grad():
            seen["correction"] = correction(observations, base)
        return imitation.Fitted(network.state("network", 3))

    monkeypatch.setattr("spar_core.improvement.spar_proj.imitate", no_training)
    member, settings, result = fit("spar_proj", SEEDS, toy, frozen)
    base = frozen.anchor.act(observations)
    decoded = frozen.residual.decode(observations, base, torch.zeros(3, 33, frozen.residual.latent_size))
    assert decoded.any()
    assert torch.equal(seen["correction"], (base + decoded).clamp(-1, 1) - base)
    rule = member.restore(frozen, settings, result.tensors)
    assert torch.equal(rule.act(observations), (base + ((base + decoded).clamp(-1, 1) - base)).clamp(-1, 1))


# --- candidates, weights, barycentres ---

JACOBIAN = [[0.06, 0.02], [-0.03, 0.05]]


def plane(episodes: int = 4, length: int = 30):
    """Random observations; actions of two dimensions, which the fakes ignore."""
    n = episodes * length
    generator = torch.Generator().manual_seed(2)
    observations = torch.randn(n + episodes, 2, generator=generator).numpy()
    return dataset_from(
        observations,
        torch.zeros(n, 2).numpy(),
        torch.zeros(n).numpy(),
        [length] * episodes,
        [False] * episodes,
        [True] + [False] * (episodes - 1),
    )


def known(critic, seeds: int = 1, jacobian=JACOBIAN, anchor=(0.2, -0.1), radius: float = 0.5) -> Frozen:
    return Frozen(ConstantAnchor(anchor), LinearDecoder(jacobian, seeds, radius), critic)


def targets_of(frozen, seeds=(0,), refresh=0, **values):
    dataset = plane()
    settings = CandidateSettings(**{"candidates": 8, "states": 50, **values})
    return weighted_targets(dataset, DeviceData.of(dataset), frozen, settings, seeds, refresh)


def by_hand(frozen, seed=0, tau=1.0, clip=1.0, k=8, n=50, anchor=(0.2, -0.1)):
    """Corrections [n, k, A], latents, values and sigma, with plain loops."""
    z = normal([stream(seed, "latents/0")], n * k, frozen.residual.latent_size)[0].clamp(-clip, clip)
    base = torch.tensor(anchor)
    d = torch.stack([(base + frozen.residual.jacobian @ row).clamp(-1, 1) - base for row in z]).view(n, k, -1)
    values = frozen.critic.q(torch.zeros(1, n * k, 2), (base + d).view(1, n * k, -1)).view(n, k)
    sigma = sorted(row.std().item() for row in values)[(n - 1) // 2]
    return d, z.view(n, k, -1), values, sigma


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_targets_follow_the_formulas(tau, clip):
    frozen = known(quadratic((0.9, 0.3), 20.0))
    found = targets_of(frozen, tau=tau, latent_clip=clip)
    d, z, values, sigma = by_hand(frozen, clip=clip)
    assert found.spread.item() == pytest.approx(sigma, rel=1e-4)
    effective = 0.0
    for state in range(50):
        logits = [v / (tau * sigma) for v in values[state].tolist()]
        raw = [math.exp(v - max(logits)) for v in logits]
        w = torch.tensor([v / sum(raw) for v in raw])
        torch.testing.assert_close(found.correction[0, state], (w[:, None] * d[state]).sum(0), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.latent[0, state], (w[:, None] * z[state]).sum(0), rtol=1e-3, atol=1e-4)
        effective += 1 / w.square().sum().item() / 50
    assert found.effective.item() == pytest.approx(effective, rel=1e-3)
    assert torch.equal(found.base[0, 0], torch.tensor([0.2, -0.1]))


def test_candidates_are_clipped_to_the_action_box():
    frozen = known(quadratic((5.0, 0.0), 1.0), jacobian=[[0.3, 0.0], [0.0, 0.3]], anchor=(0.95, 0.0))
    found = targets_of(frozen, tau=1e-4)
    assert (found.base + found.correction).max() <= 1.0
    assert found.correction[..., 0].max() == pytest.approx(0.05, abs=1e-6)


def test_equal_weights_give_the_mean_and_never_ask_the_critic():
    frozen = known(quadratic((0.9, 0.3), 20.0))
    d, z, _, _ = by_hand(frozen)

    def never(*_):
        raise AssertionError("asked")

    for critic in (None, KnownCritic(never)):
        found = targets_of(known(critic), weighting="equal")
        torch.testing.assert_close(found.correction[0], d.mean(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.latent[0], z.mean(1), rtol=1e-4, atol=1e-6)
        assert found.effective.item() == pytest.approx(8.0)


def test_the_rule_uniform_does_not_depend_on_the_critic(toy, parts):
    frozen = parts.frozen(SEEDS)
    without = Frozen(frozen.anchor, frozen.residual, None)
    results = [fit("spar_mlp", SEEDS, toy, f, weighting="equal")[2].tensors for f in (frozen, without)]
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    weighted = fit("spar_mlp", SEEDS, toy, frozen)[2].tensors
    assert not torch.equal(weighted["network.0.weight"], results[0]["network.0.weight"])


def test_a_flat_critic_weighs_all_candidates_the_same():
    flat = KnownCritic(lambda observations, actions: torch.full(actions.shape[:2], 3.0))
    found, mean = targets_of(known(flat)), targets_of(known(None), weighting="equal")
    torch.testing.assert_close(found.correction, mean.correction)
    assert found.spread.item() == pytest.approx(1e-3), "the floor"


def test_a_small_tau_picks_the_best_candidate_and_a_smaller_one_is_never_less_greedy():
    frozen = known(quadratic((0.9, 0.3), 20.0))
    d, z, values, _ = by_hand(frozen)
    best = values.argmax(1)
    found = targets_of(frozen, tau=1e-5)
    rows = torch.arange(50)
    torch.testing.assert_close(found.correction[0], d[rows, best], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.latent[0], z[rows, best], rtol=1e-3, atol=1e-4)
    assert found.effective.item() == pytest.approx(1.0, abs=0.02)

    # A critic that is linear, so that the value of a barycentre is the weighted mean of values.
    linear = known(KnownCritic(lambda observations, actions: actions @ torch.tensor([1.0, 2.0])))
    means = [
        targets_of(linear, tau=tau).correction[0] @ torch.tensor([1.0, 2.0]) for tau in (100.0, 3.0, 1.0, 0.3, 0.03)
    ]
    for less, more in itertools.pairwise(means):
        assert (more >= less - 1e-6).all() and more.mean() > less.mean()


def test_a_candidate_of_higher_value_weighs_more():
    # One latent, two candidates: the barycentre says what each weighs.
    linear = KnownCritic(lambda observations, actions: actions[..., 0])
    frozen = known(linear, jacobian=[[0.1], [0.0]])
    found = targets_of(frozen, candidates=2)
    z = normal([stream(0, "latents/0")], 100, 1)[0].clamp(-1, 1).view(50, 2)
    middle, differ = z.mean(1), (z[:, 0] - z[:, 1]).abs() > 1e-3
    assert differ.sum() > 30
    assert (found.latent[0, differ, 0] > middle[differ]).all()


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_sigma_makes_weights_blind_to_the_scale_of_the_critic(factor):
    base = quadratic((0.9, 0.3), 20.0)
    scaled = KnownCritic(lambda observations, actions: factor * base.q(observations, actions) + 5 * factor)
    first = targets_of(known(base), spread_floor=1e-9)
    second = targets_of(known(scaled), spread_floor=1e-9)
    torch.testing.assert_close(first.correction, second.correction, rtol=2e-3, atol=2e-5)
    assert second.spread.item() == pytest.approx(factor * first.spread.item(), rel=1e-2)


def test_sigma_is_of_the_seed_alone():
    function = KnownCritic(
        lambda observations, actions: torch.tensor([1.0, 100.0])[: len(actions), None] * actions[..., 0]
    )
    both = targets_of(known(function, seeds=2), seeds=(0, 3))
    alone = targets_of(known(function), seeds=(0,))
    assert torch.equal(both.correction[0], alone.correction[0]) and torch.equal(both.spread[0], alone.spread[0])
    assert both.spread[1] > 50 * both.spread[0]


def test_a_refresh_draws_new_states_and_new_latents():
    frozen = known(quadratic((0.9, 0.3), 20.0))
    first, second, again = (targets_of(frozen, refresh=r) for r in (0, 1, 0))
    assert torch.equal(first.correction, again.correction)
    assert not torch.equal(first.observations, second.observations)
    assert not torch.equal(first.latent, second.latent)
    assert len({row.numpy().tobytes() for row in first.observations[0]}) == 50, "states without replacement"


def test_states_are_training_states_and_no_more_than_there_are():
    dataset = plane()
    found = targets_of(known(None), weighting="equal", states=10_000)
    rows = dataset.observations[dataset.observation_index[dataset.train_steps]]
    assert {r.tobytes() for r in found.observations[0].numpy()} == {r.tobytes() for r in rows}
    assert found.observations.shape[1] == len(rows)


@every_imitation
@pytest.mark.parametrize("refreshes", [1, 3])
def test_training_refreshes_as_often_as_it_is_told(toy, parts, monkeypatch, member, refreshes):
    drawn = []

    def spy(dataset, data, frozen, settings, seeds, refresh):
        drawn.append(refresh)
        return weighted_targets(dataset, data, frozen, settings, seeds, refresh)

    monkeypatch.setattr(imitation, "weighted_targets", spy)
    fit(member, SEEDS, toy, parts.frozen(SEEDS), refreshes=refreshes)
    assert drawn == list(range(refreshes))


# --- the first-order update ---


def variance_of_clipped_normal(c: float) -> float:
    inside = math.erf(c / math.sqrt(2))
    return inside - 2 * c * math.exp(-c * c / 2) / math.sqrt(2 * math.pi) + c * c * (1 - inside)


@pytest.mark.parametrize("clip", [1.0, 2.0])
def test_to_first_order_the_target_is_the_decoders_metric_times_the_gradient(clip):
    """E[d] + s_z^2 / (tau sigma) J J^T grad Q, where weights are nearly equal."""
    curvature, tau, optimum, anchor = 5.0, 8.0, torch.tensor([0.9, 0.7]), torch.tensor([0.2, -0.1])
    frozen = known(quadratic(optimum.tolist(), curvature), jacobian=[[0.02, 0.004], [-0.01, 0.015]])
    options = {"tau": tau, "candidates": 4000, "states": 80, "latent_clip": clip}
    found = targets_of(frozen, **options)
    mean = targets_of(frozen, **options, weighting="equal")
    jacobian = frozen.residual.jacobian
    gradient = curvature * (optimum - anchor)
    expected = variance_of_clipped_normal(clip) / (tau * found.spread.item()) * (jacobian @ jacobian.T @ gradient)
    update = (found.correction - mean.correction)[0].mean(0)
    torch.testing.assert_close(update, expected, rtol=0.06, atol=0.0)


@every_imitation
def test_a_trained_rule_moves_to_the_optimum_along_the_decoder_only(member):
    # The decoder moves along (1, 1) only; the optimum pulls along (1, 0), whose normal part must vanish.
    frozen = known(quadratic((0.6, 0.0), 10.0), jacobian=[[0.05], [0.05]], anchor=(0.0, 0.0), radius=0.2)
    dataset = plane()
    settings = CandidateSettings(
        steps=250, batch_size=64, hidden=(16,), learning_rate=5e-3, candidates=64, tau=0.5, states=500
    )
    result = member.fit(dataset, frozen, settings, (0,), Reporter((0,)), "cpu")
    rule = member.restore(frozen, settings, result.tensors)
    observations = torch.as_tensor(dataset.observations).unsqueeze(0)
    moved = rule.act(observations)[0]
    target = targets_of(frozen, candidates=64, tau=0.5, states=500).correction[0].mean(0)
    assert target[0] > 0.03
    torch.testing.assert_close(moved.mean(0), target, rtol=0.15, atol=2e-3)
    assert (moved[:, 0] - moved[:, 1]).abs().max() < (1e-2 if member is SparMLP else 1e-5), "no normal drift"
    critic = frozen.critic
    assert (critic.q(observations, moved[None]) > critic.q(observations, torch.zeros_like(moved)[None])).all()


# --- comparators ---


def test_best_of_n_acts_with_the_candidate_that_the_critic_likes_best(fitted, parts, policy):
    observations, frozen = observations_for(3, 6), parts.frozen(SEEDS)
    rule = policy("best_of_n")
    base = frozen.anchor.act(observations)
    actions, picked = rule.act(observations), set()
    for seed in range(3):
        for i in range(6):
            best, chosen = -math.inf, None
            for number, latent in enumerate(rule.latents[seed]):
                z = torch.zeros(3, 1, frozen.residual.latent_size)
                z[seed, 0] = latent
                state = observations[:, i : i + 1]
                action = (base[:, i : i + 1] + frozen.residual.decode(state, base[:, i : i + 1], z)).clamp(-1, 1)
                value = frozen.critic.q(state, action)[seed, 0].item()
                if value > best:
                    best, chosen = value, (number, action[seed, 0])
            torch.testing.assert_close(actions[seed, i], chosen[1], rtol=1e-4, atol=1e-5)
            picked.add(chosen[0])
    assert len(picked) > 1


def test_best_of_n_follows_a_change_of_the_critic():
    for best in (-1.0, 1.0):
        critic = KnownCritic(lambda observations, actions, best=best: best * actions[..., 0])
        frozen = known(critic)
        settings = BestOfN.Settings(candidates=16)
        result = BestOfN.fit(plane(), frozen, settings, (0,), Reporter((0,)), "cpu")
        assert result.tensors["latents"].abs().max() <= 1.0
        moved = BestOfN.restore(frozen, settings, result.tensors).act(torch.zeros(1, 5, 2))[0, :, 0] - 0.2
        assert (best * moved > 0.02).all()


def test_awr_weights_are_clipped_exponential_advantages():
    dataset = toy_dataset()
    data = DeviceData.of(dataset)
    critic = KnownCritic(lambda observations, actions: 2.0 * actions.sum(-1))
    frozen = Frozen(ConstantAnchor([0.0] * 3), LinearDecoder([[0.1]] * 3, 1, 0.5), critic)
    settings = AWRSettings(inverse_temperature=1.5, largest_weight=4.0)
    weights = advantage_weights(frozen, data, settings, 1)[0]
    expected = (1.5 * 2.0 * data.actions.sum(-1)).exp().clamp(max=4.0)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
    assert weights.max() == 4.0 and weights.min() < 0.1


def test_awr_weights_stay_finite_where_advantages_overflow():
    critic = KnownCritic(lambda observations, actions: 1e6 * actions[..., 0])
    frozen = Frozen(ConstantAnchor([0.0] * 3), LinearDecoder([[0.1]] * 3, 1, 0.5), critic)
    weights = advantage_weights(frozen, DeviceData.of(toy_dataset()), AWRSettings(), 1)
    assert weights.isfinite().all() and weights.max() == 100.0 and weights.min() == 0.0


def test_awr_moves_to_the_logged_actions_of_high_advantage():
    toy = toy_dataset()
    anchor, radius = [0.0] * 3, 2.0
    ups = {}
    for sign in (-1.0, 1.0):
        critic = KnownCritic(lambda observations, actions, sign=sign: 2 * sign * actions[..., 1])
        frozen = Frozen(ConstantAnchor(anchor), LinearDecoder([[0.1]] * 3, 1, radius), critic)
        settings = AWRSettings(steps=150, batch_size=64, hidden=(16,), learning_rate=5e-3, inverse_temperature=1.0)
        result = AWR.fit(toy, frozen, settings, (0,), Reporter((0,)), "cpu")
        rule = AWR.restore(frozen, settings, result.tensors)
        ups[sign] = rule.act(torch.as_tensor(toy.observations).unsqueeze(0))[0].mean(0)
    assert ups[1.0][1] > 0.2 and ups[-1.0][1] < -0.2
    assert abs(ups[1.0][0]) < 0.2, "other dimensions are indifferent"


def test_awr_clips_its_targets_to_the_radius():
    # Half of the actions lie 1.0 above the anchor and half 0.1 below: clipped to 0.05 they cancel.
    toy = toy_dataset()
    actions = np.where(np.arange(toy.n_steps)[:, None] % 2 == 0, 1.0, -0.1) * np.ones((1, 3))
    data = dataset_from(toy.observations, actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout)
    critic = KnownCritic(lambda observations, actions: actions[..., 1])
    frozen = Frozen(ConstantAnchor([0.0] * 3), LinearDecoder([[0.1]] * 3, 1, 0.05), critic)
    options = {"steps": 100, "batch_size": 64, "hidden": (16,), "learning_rate": 3e-3}
    means = []
    for inverse_temperature in (0.0, 5.0):
        settings = AWRSettings(**options, inverse_temperature=inverse_temperature)
        result = AWR.fit(data, frozen, settings, (0,), Reporter((0,)), "cpu")
        rule = AWR.restore(frozen, settings, result.tensors)
        moved = rule.act(torch.as_tensor(data.observations).unsqueeze(0))[0]
        assert moved.abs().max() <= 0.05 + 1e-6
        means.append(moved[:, 1].mean().item())
    assert abs(means[0]) < 0.02 and means[1] > 0.03
