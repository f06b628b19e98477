"""What every registered improvement rule must keep, and what latent self-imitation computes."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spar_core.data.device import DeviceData
from spar_core.errors import SparError
from spar_core.improvement import self_imitation
from spar_core.improvement.awr import AWR, AWRFromScratch, AWRSettings, advantage_weights
from spar_core.improvement.base import Frozen
from spar_core.improvement.best_of_n import BestOfN
from spar_core.improvement.self_imitation import SelfImitationSettings, draw_targets
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.improvement.spar_proj import SparProj, SparProjSettings
from spar_core.improvement.value_gradient import ValueGradient, value_gradient_loss
from spar_core.registry import load_member, parse_variant
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors
from spar_core.training.randomness import normal, stream
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
# Every kind with its defaults, and with the settings that change what it is.
RULES: dict[str, tuple[str, dict]] = {kind: (kind, {}) for kind in kinds("improvement")} | {
    "value_gradient in actions": ("value_gradient", {"space": "action"}),
    "value_gradient of the state": ("value_gradient", {"inputs": "state"}),
    "spar_mlp of the state": ("spar_mlp", {"inputs": "state"}),
    "spar_proj of the state": ("spar_proj", {"inputs": "state"}),
    "spar_proj in rounds": ("spar_proj", {"recentre": True}),
    "spar_mlp with safeguards": ("spar_mlp", {"disagreement": 1.0, "anchor_weight": 0.3, "gate": True}),
    "spar_proj with safeguards": ("spar_proj", {"disagreement": 1.0, "anchor_weight": 0.3, "gate": True}),
    "awr of the state": ("awr", {"inputs": "state"}),
}
OWN_POLICIES = ("awr_scratch", "value_gradient in actions", "td3_bc", "rebrac")
# They train critics of their own.
WHOLE = ("td3_bc", "rebrac")
CLIMBERS = [rule for rule, (kind, _) in RULES.items() if load_member("improvement", kind).takes_value_gradient]
every_rule = pytest.mark.parametrize("variant", RULES)
every_imitation = pytest.mark.parametrize("member", [SparMLP, SparProj])


def fit(rule, seeds, dataset, frozen, **values):
    """Fit a member, a kind, or an entry of RULES."""
    member = rule
    if isinstance(rule, str):
        kind, overrides = RULES[rule]
        member, values = load_member("improvement", kind), {**overrides, **values}
    settings = tiny_settings(member, **values)
    return member, settings, member.fit(Context.quiet(dataset, seeds), frozen, settings)


@pytest.fixture(scope="module")
def fitted(toy, parts):
    return {variant: fit(variant, SEEDS, toy, parts.frozen(SEEDS)) for variant in RULES}


@pytest.fixture
def policy(fitted, parts):
    def restore(variant, seeds=SEEDS):
        member, settings, result = fitted[variant]
        rows = [SEEDS.index(seed) for seed in seeds]
        return member.restore(parts.frozen(seeds), settings, {k: v[rows] for k, v in result.tensors.items()})

    return restore


# --- every rule ---


@every_rule
def test_actions_have_their_shape_lie_in_the_box_and_repeat(policy, variant):
    rule = policy(variant)
    for scale in (1.0, 1e3):
        observations = observations_for(3, scale=scale)
        actions = rule.act(observations)
        assert actions.shape == (3, 9, ACTION_SIZE) and actions.isfinite().all()
        assert actions.abs().max() <= 1.0
        assert torch.equal(actions, rule.act(observations))


@every_rule
def test_an_action_depends_on_its_own_observation_and_seed_only(policy, variant):
    rule, observations = policy(variant), observations_for(3)
    together = rule.act(observations)
    for i in (0, 4):
        torch.testing.assert_close(rule.act(observations[:, i : i + 1])[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    moved = observations.clone()
    moved[1] += 1.0
    assert torch.equal(rule.act(moved)[[0, 2]], together[[0, 2]])
    assert torch.equal(policy(variant, (3,)).act(observations[:1])[0], together[1])


@pytest.mark.parametrize("variant", [rule for rule in RULES if rule not in OWN_POLICIES])
def test_corrections_stay_within_the_radius(policy, parts, variant):
    rule, observations = policy(variant), observations_for(3, 50, scale=5.0)
    base = rule.frozen.anchor.act(observations)
    radius = rule.frozen.residual.radius.unsqueeze(1)
    with torch.no_grad():
        assert (rule.correction(observations, base).abs() <= radius * (1 + 1e-6) + 1e-6).all()
    assert ((rule.act(observations) - base).abs() <= radius * (1 + 1e-6) + 1e-6).all()


@every_rule
def test_frozen_parts_stay_frozen_while_a_rule_is_fitted(toy, parts, variant):
    frozen = parts.frozen(SEEDS)
    before = [t.clone() for t in tensors_within(frozen)]
    fit(variant, SEEDS, toy, frozen)
    after = list(tensors_within(frozen))
    assert len(after) > 10
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) and not new.requires_grad and new.grad is None


@every_rule
def test_a_restored_rule_is_frozen(policy, variant):
    rule = policy(variant)
    assert not any(t.requires_grad or t.grad is not None for t in tensors_within(rule))
    assert not rule.act(observations_for(3).requires_grad_()).requires_grad


@every_rule
def test_saving_and_restoring_gives_the_same_policy(fitted, policy, parts, variant, tmp_path):
    member, settings, result = fitted[variant]
    result.write(tmp_path)
    assert all(value.shape[0] == 3 for value in result.tensors.values())
    again = member.restore(parts.frozen(SEEDS), settings, load_tensors(tmp_path / WEIGHTS))
    observations = observations_for(3)
    assert torch.equal(again.act(observations), policy(variant).act(observations))


@every_rule
@pytest.mark.parametrize("seeds", [(3,), (5, 3)], ids=str)
def test_a_seed_is_the_same_to_the_last_bit_alone_and_beside_others(toy, parts, fitted, variant, seeds):
    _, _, part = fit(variant, seeds, toy, parts.frozen(seeds))
    assert_same_seed(part, seeds.index(3), fitted[variant][2], 1, 3)


@every_rule
def test_a_rule_that_acts_without_the_critic_never_needs_it_to_act(fitted, parts, variant):
    member, settings, result = fitted[variant]
    frozen = parts.frozen(SEEDS)
    rule = member.restore(Frozen(frozen.anchor, frozen.residual, None), settings, result.tensors)
    if member.acts_with_critic(settings):
        with pytest.raises((AssertionError, AttributeError)):
            rule.act(observations_for(3))
    else:
        assert rule.act(observations_for(3)).shape == (3, 9, ACTION_SIZE)


class Leak(Exception):
    pass


def test_value_gradients_are_for_comparators_alone():
    assert {RULES[rule][0] for rule in CLIMBERS} == {"value_gradient", *WHOLE}


@pytest.mark.parametrize("variant", [rule for rule in RULES if rule not in CLIMBERS])
def test_no_value_gradient_reaches_a_policy(toy, parts, variant):
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
    member, settings, result = fit(variant, SEEDS, toy, spied)
    member.restore(spied, settings, result.tensors).act(observations_for(3))
    assert parameter.grad is None
    assert not any(asked), "the critic was asked with gradients on"
    assert bool(asked) == (variant != "anchor"), "the rule does ask the critic"
    plain = Frozen(frozen.anchor, frozen.residual, KnownCritic(frozen.critic.q))
    _, _, expected = fit(variant, SEEDS, toy, plain)
    for name, value in expected.tensors.items():
        assert torch.equal(result.tensors[name], value), "an attached gradient changes nothing"


@pytest.mark.parametrize("variant", [rule for rule in CLIMBERS if rule not in WHOLE])
def test_a_value_gradient_reaches_the_action_and_stops_short_of_the_critic(toy, parts, variant):
    frozen, flowed = parts.frozen(SEEDS), []
    parameter = torch.ones((), requires_grad=True)

    def differentiable(observations, actions):
        value = parameter * frozen.critic.conservative_q(observations, actions)
        if torch.is_grad_enabled():
            assert not observations.requires_grad
            actions.register_hook(lambda gradient: flowed.append(gradient.abs().max().item()))
        return value

    spied = Frozen(frozen.anchor, frozen.residual, KnownCritic(differentiable))
    _, settings, result = fit(variant, SEEDS, toy, spied)
    assert len(flowed) == settings.steps and min(flowed) > 0, "every step follows it"
    assert parameter.grad is None
    without = fit(variant, SEEDS, toy, spied, q_weight=0.0)[2].tensors
    assert not torch.equal(result.tensors["network.0.bias"], without["network.0.bias"])


@pytest.mark.parametrize("kind", kinds("improvement"))
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
    rule = SparMLP.at_step_zero(Context.quiet(toy, SEEDS), frozen, settings)
    for scale in (1.0, 1e3):
        observations = observations_for(3, 33, scale=scale)
        base = frozen.anchor.act(observations)
        assert torch.equal(rule.act(observations), base)
        assert not rule.correction(observations, base).any()
    assert base.abs().max() == 1.0, "saturated"


def test_the_reported_first_step_norm_is_zero_for_mlp_and_that_of_zero_latent_for_proj(fitted, parts, toy):
    assert fitted["spar_mlp"][2].metrics["improvement/step0_norm"] == [0.0] * 3
    settings, frozen = fitted["spar_proj"][1], parts.frozen(SEEDS)
    targets, _ = draw_targets(Context.quiet(toy, SEEDS), frozen, settings, 0)
    zero = torch.zeros(*targets.base.shape[:2], frozen.residual.latent_size)
    moved = (targets.base + frozen.residual.decode(targets.observations, targets.base, zero)).clamp(-1, 1)
    expected = (moved - targets.base).norm(dim=-1).mean(-1)
    reported = fitted["spar_proj"][2].metrics["improvement/step0_norm"]
    assert reported == pytest.approx(expected.tolist(), rel=1e-5) and min(reported) > 0


def test_spar_proj_at_step_zero_decodes_the_zero_latent(toy, parts):
    frozen, settings = parts.frozen(SEEDS), tiny_settings(SparProj)
    observations = observations_for(3, 33)
    rule = SparProj.at_step_zero(Context.quiet(toy, SEEDS), frozen, settings)
    base = frozen.anchor.act(observations)
    decoded = frozen.residual.decode(observations, base, torch.zeros(3, 33, frozen.residual.latent_size))
    assert decoded.any()
    with torch.no_grad():
        assert torch.equal(rule.correction(observations, base), (base + decoded).clamp(-1, 1) - base)
    rule = SparProj.restore(frozen, settings, rule.network.state("network", 3))
    assert torch.equal(rule.act(observations), (base + ((base + decoded).clamp(-1, 1) - base)).clamp(-1, 1))


@pytest.mark.parametrize("kind", ["spar_mlp", "spar_proj", "awr", "value_gradient"])
def test_a_network_of_the_state_does_not_see_the_anchor(policy, kind):
    observations, base = observations_for(3), policy(kind).frozen.anchor.act(observations_for(3))
    for variant, sees in ((kind, True), (f"{kind} of the state", False)):
        rule = policy(variant)
        answer = rule.latent if kind == "spar_proj" else rule.correction
        assert torch.equal(answer(observations, base), answer(observations, base + 0.1)) != sees


@pytest.mark.parametrize("variant", OWN_POLICIES)
def test_a_policy_of_its_own_takes_nothing_from_the_anchor(toy, parts, fitted, policy, variant):
    frozen = parts.frozen(SEEDS)
    other = Frozen(ConstantAnchor([0.7, -0.9, 0.2]), LinearDecoder([[0.1]] * 3, 3, 0.01), frozen.critic)
    member, settings, result = fit(variant, SEEDS, toy, other)
    for name, value in fitted[variant][2].tensors.items():
        assert torch.equal(result.tensors[name], value)
    observations = observations_for(3)
    elsewhere = member.restore(other, settings, result.tensors).act(observations)
    torch.testing.assert_close(elsewhere, policy(variant).act(observations), rtol=0, atol=1e-6)
    assert (elsewhere - torch.tensor([0.7, -0.9, 0.2])).abs().max() > 0.1, "no radius holds it"


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
    """The targets of a refresh, with the spread of values and the effective number of candidates of each seed."""
    settings = SelfImitationSettings(**{"candidates": 8, "states": 50, **values})
    targets, info = draw_targets(Context.quiet(plane(), seeds), frozen, settings, refresh)
    spread, effective = (torch.tensor(info[f"improvement/{key}"]) for key in ("value_spread", "effective_candidates"))
    return SimpleNamespace(**vars(targets), spread=spread, effective=effective)


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


def test_a_single_candidate_has_no_spread_and_is_refused():
    with pytest.raises(SparError, match="candidates = 1 is not valid"):
        parse_variant("improvement", {"mine": {"kind": "spar_mlp", "candidates": 1}}, "mine")


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

    def spy(context, frozen, settings, refresh, centre):
        assert centre is None
        drawn.append(refresh)
        return draw_targets(context, frozen, settings, refresh)

    monkeypatch.setattr(self_imitation, "draw_targets", spy)
    fit(member, SEEDS, toy, parts.frozen(SEEDS), refreshes=refreshes)
    assert drawn == list(range(refreshes))


# --- rounds about the policy ---


def test_rounds_draw_latents_within_trust_of_the_policy_and_inside_the_box(monkeypatch):
    frozen, decoded = known(quadratic((0.9, 0.3), 20.0)), []
    decode = LinearDecoder.decode
    monkeypatch.setattr(LinearDecoder, "decode", lambda *args: decoded.append(args[-1]) or decode(*args))
    options = {"candidates": 4, "states": 50, "recentre_std": 0.4, "trust": 0.3, "refreshes": 2}
    settings, dataset = SparProjSettings(**options, recentre=True), plane()
    centre = torch.stack([torch.linspace(0.8, 1.0, 50), torch.full((50,), -0.2)], dim=1)

    def at_centre(observations, base):
        assert observations.shape == base.shape == (1, 50, 2)
        return centre.unsqueeze(0)

    found = draw_targets(Context.quiet(dataset, (0,)), frozen, settings, 1, at_centre)[0].latent[0]
    draws = normal([stream(0, "latents/1")], 200, 2)[0].view(50, 4, 2)
    latents = decoded[0][0].view(50, 4, 2)
    steps = latents - centre.unsqueeze(1)
    torch.testing.assert_close(latents, (centre.unsqueeze(1) + (0.4 * draws).clamp(-0.3, 0.3)).clamp(-1, 1))
    assert steps.abs().max() == pytest.approx(0.3) and latents.max() == 1.0
    assert latents[..., 1].min() == pytest.approx(-0.5) and latents[..., 1].max() == pytest.approx(0.1)
    assert (found - centre).abs().max() <= 0.3


def test_rounds_reach_further_than_single_shots_and_step_no_further_than_trust(monkeypatch):
    # The optimum lies at z = (3, 0), where hardly a draw about 0 falls, and inside the box of 4.
    frozen = known(quadratic((0.3, 0.0), 50.0), jacobian=[[0.1, 0.0], [0.0, 0.1]], anchor=(0.0, 0.0))
    dataset, steps = plane(), []

    def spy(context, frozen, settings, refresh, centre):
        assert (centre is None) == (refresh == 0 or not settings.recentre)
        found, info = draw_targets(context, frozen, settings, refresh, centre)
        if centre is not None:
            steps.append((found.latent - centre(found.observations, found.base)).abs().max().item())
        return found, info

    monkeypatch.setattr(self_imitation, "draw_targets", spy)
    reached = {}
    for recentre in (False, True):
        settings = SparProjSettings(
            **{"steps": 500, "batch_size": 32, "hidden": (16,), "learning_rate": 5e-3, "cosine_decay": False},
            **{"latent_clip": 4.0, "candidates": 16, "states": 100, "refreshes": 10, "tau": 0.3},
            **{"recentre": recentre, "recentre_std": 0.4, "trust": 0.6},
        )
        result = SparProj.fit(Context.quiet(dataset, (0,)), frozen, settings)
        rule = SparProj.restore(frozen, settings, result.tensors)
        observations = torch.as_tensor(dataset.observations).unsqueeze(0)
        reached[recentre] = rule.latent(observations, torch.zeros_like(observations))[0].mean(0)
    assert reached[False][0] < 1.8 and reached[True][0] == pytest.approx(3.0, abs=0.3)
    assert abs(reached[True][1]) < 0.2
    assert len(steps) == 9 and max(steps) <= 0.6 + 1e-6


def test_a_first_round_and_rounds_switched_off_draw_as_ever(toy, parts, fitted):
    frozen, expected = parts.frozen(SEEDS), fitted["spar_proj"][2].tensors
    off = fit("spar_proj", SEEDS, toy, frozen, recentre_std=3.0, trust=0.1)[2].tensors
    assert all(torch.equal(off[name], value) for name, value in expected.items())
    settings = fitted["spar_proj in rounds"][1]
    first, _ = draw_targets(Context.quiet(toy, SEEDS), frozen, settings, 0)
    plain, _ = draw_targets(Context.quiet(toy, SEEDS), frozen, fitted["spar_mlp"][1], 0)
    assert torch.equal(first.latent, plain.latent)
    assert not torch.equal(fitted["spar_proj in rounds"][2].tensors["network.0.weight"], expected["network.0.weight"])


def test_rounds_without_refreshes_are_refused():
    with pytest.raises(SparError, match=r"recentre = True is not valid: .*refreshes of 2 or more"):
        parse_variant("improvement", {"rounds": {"kind": "spar_proj", "recentre": True, "refreshes": 1}}, "rounds")


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
    settings = member.Settings(
        steps=250, batch_size=64, hidden=(16,), learning_rate=5e-3, candidates=64, tau=0.5, states=500
    )
    result = member.fit(Context.quiet(dataset, (0,)), frozen, settings)
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
        result = BestOfN.fit(Context.quiet(plane(), (0,)), frozen, settings)
        assert result.tensors["latents"].abs().max() <= 1.0
        moved = BestOfN.restore(frozen, settings, result.tensors).act(torch.zeros(1, 5, 2))[0, :, 0] - 0.2
        assert (best * moved > 0.02).all()


def test_awr_weights_are_clipped_exponential_advantages():
    dataset = toy_dataset()
    data = DeviceData.of(dataset)
    critic = KnownCritic(lambda observations, actions: 2.0 * actions.sum(-1))
    frozen = Frozen(ConstantAnchor([0.0] * 3), LinearDecoder([[0.1]] * 3, 1, 0.5), critic)
    settings = AWRSettings(inverse_temperature=1.5, largest_weight=4.0)
    weights = advantage_weights(Context.quiet(dataset, (0,)), frozen, settings)[0]
    expected = (1.5 * 2.0 * data.actions.sum(-1)).exp().clamp(max=4.0)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
    assert weights.max() == 4.0 and weights.min() < 0.1


def test_awr_weights_stay_finite_where_advantages_overflow():
    critic = KnownCritic(lambda observations, actions: 1e6 * actions[..., 0])
    frozen = Frozen(ConstantAnchor([0.0] * 3), LinearDecoder([[0.1]] * 3, 1, 0.5), critic)
    weights = advantage_weights(Context.quiet(toy_dataset(), (0,)), frozen, AWRSettings())
    assert weights.isfinite().all() and weights.max() == 100.0 and weights.min() == 0.0


def test_awr_moves_to_the_logged_actions_of_high_advantage():
    toy = toy_dataset()
    anchor, radius = [0.0] * 3, 2.0
    ups = {}
    for sign in (-1.0, 1.0):
        critic = KnownCritic(lambda observations, actions, sign=sign: 2 * sign * actions[..., 1])
        frozen = Frozen(ConstantAnchor(anchor), LinearDecoder([[0.1]] * 3, 1, radius), critic)
        settings = AWRSettings(steps=150, batch_size=64, hidden=(16,), learning_rate=5e-3, inverse_temperature=1.0)
        result = AWR.fit(Context.quiet(toy, (0,)), frozen, settings)
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
        result = AWR.fit(Context.quiet(data, (0,)), frozen, settings)
        rule = AWR.restore(frozen, settings, result.tensors)
        moved = rule.act(torch.as_tensor(data.observations).unsqueeze(0))[0]
        assert moved.abs().max() <= 0.05 + 1e-6
        means.append(moved[:, 1].mean().item())
    assert abs(means[0]) < 0.02 and means[1] > 0.03


def test_awr_from_scratch_with_no_temperature_is_plain_cloning():
    plain, weights = plane(), torch.tensor([[0.8, 0.0], [-0.3, 0.5]]).numpy()
    actions = np.tanh(plain.observations[plain.observation_index] @ weights)
    data = dataset_from(plain.observations, actions, plain.rewards, plain.lengths, plain.terminated, plain.heldout)
    results = {}
    for inverse_temperature, sign in ((0.0, 1.0), (0.0, -1.0), (5.0, 1.0)):
        critic = KnownCritic(lambda observations, actions, sign=sign: sign * actions[..., 0])
        options = {"steps": 300, "batch_size": 64, "hidden": (32,), "learning_rate": 1e-2}
        settings = AWRFromScratch.Settings(**options, inverse_temperature=inverse_temperature)
        result = AWRFromScratch.fit(Context.quiet(data, (0,)), known(critic), settings)
        results[inverse_temperature, sign] = result.tensors["network.0.weight"]
        if inverse_temperature == 0.0:
            moved = AWRFromScratch.restore(known(critic), settings, result.tensors).act(
                torch.as_tensor(data.observations[data.observation_index]).unsqueeze(0)
            )[0]
            trained = data.train_steps
            assert np.abs(moved.numpy() - actions)[trained].mean() < 0.05
            assert result.metrics["improvement/weight_mean"] == [1.0]
    assert torch.equal(results[0.0, 1.0], results[0.0, -1.0]) and not torch.equal(results[0.0, 1.0], results[5.0, 1.0])


def climb(critic, optimum, **values):
    """Mean action that a value gradient settles on, where the logged actions are 0; and its result."""
    frozen = known(critic(optimum), anchor=(0.2, -0.1))
    options = {"steps": 300, "batch_size": 64, "hidden": (16,), "learning_rate": 1e-2}
    settings = ValueGradient.Settings(**options, **values)
    result = ValueGradient.fit(Context.quiet(plane(), (0,)), frozen, settings)
    moved = ValueGradient.restore(frozen, settings, result.tensors).act(torch.as_tensor(plane().observations)[None])[0]
    return moved, result


@pytest.mark.parametrize("space", ["residual", "action"])
@pytest.mark.parametrize("curvature", [0.1, 1000.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_value_gradient_balances_the_critic_and_the_data(space, curvature, share):
    """With Q = -c/2 |a - o|^2 and logged actions 0 in two dimensions, lambda = 2 alpha / (c |o|^2), and the minimum
    of the loss is o lambda c / (lambda c + 1): the logged action for alpha = 0, the optimum for a large one."""
    optimum = torch.tensor([0.5, 0.3])
    q_weight = 0.5 * optimum.square().sum().item() * share / (1 - share)
    moved, result = climb(lambda o: quadratic(o.tolist(), curvature), optimum, space=space, q_weight=q_weight)
    torch.testing.assert_close(moved.mean(0), share * optimum, rtol=0, atol=0.02)
    expected = {"improvement/q": -0.5 * curvature * (1 - share) ** 2, "improvement/bc_loss": 0.5 * share**2}
    for name, value in expected.items():
        slack = 0.02 * (curvature if name.endswith("/q") else 1.0)
        assert result.metrics[name][0] == pytest.approx(value * optimum.square().sum().item(), abs=slack)
    norm = (moved - torch.tensor([0.2, -0.1])).norm(dim=-1).mean().item()
    assert result.metrics["improvement/correction_norm"][0] == pytest.approx(norm, rel=0.05)


def test_a_residual_value_gradient_stops_at_the_radius_and_a_policy_of_its_own_does_not():
    far = torch.tensor([0.9, 0.8])
    held, _ = climb(lambda o: quadratic(o.tolist(), 10.0), far, q_weight=1e3)
    free, _ = climb(lambda o: quadratic(o.tolist(), 10.0), far, q_weight=1e3, space="action")
    assert (held <= torch.tensor([0.7, 0.4]) + 1e-5).all() and (held > torch.tensor([0.6, 0.35])).all()
    torch.testing.assert_close(free.mean(0), far, rtol=0, atol=0.02)


def test_the_value_gradient_loss_is_td3_bcs_for_each_seed():
    chosen = torch.tensor([[[0.5, 0.0]], [[0.0, -1.0]]])
    q, logged = torch.tensor([[3.0], [-8.0]]), torch.tensor([[-2.0], [4.0]])
    loss, info = value_gradient_loss(chosen, q, torch.zeros(2, 1, 2), logged, 2.5)
    assert info["improvement/bc_loss"].tolist() == [0.125, 0.5]
    assert info["improvement/q"].tolist() == [3.0, -8.0]
    assert info["improvement/loss"].tolist() == [0.125 - 2.5 * 3 / 2, 0.5 + 2.5 * 8 / 4]
    assert loss.item() == pytest.approx(sum(info["improvement/loss"].tolist()))
