"""The safeguards of latent self-imitation against cases that can be worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from spar_core.improvement.base import Frozen
from spar_core.improvement.safeguards import disagreement_about_advantage
from spar_core.improvement.self_imitation import (
    SelfImitationSettings,
    draw_targets,
    weigh,
)
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.improvement.spar_proj import SparProjSettings
from spar_core.training.context import Context
from tests.fakes import ConstantAnchor, KnownCritic, LinearDecoder, observations_for, tiny_settings, toy_dataset

VALUES = torch.tensor([[[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]]])
ANCHOR_VALUES = torch.tensor([[2.0, 1.0]])
SPREAD = torch.tensor([1.5])


def test_without_safeguards_the_weights_are_a_softmax_to_the_last_bit():
    weights, anchor = weigh(VALUES, ANCHOR_VALUES, None, SPREAD, tau=0.7, anchor_weight=0.0)
    assert torch.equal(weights, torch.softmax(VALUES / (0.7 * SPREAD.view(-1, 1, 1)), dim=-1))
    assert torch.equal(anchor, torch.zeros(1, 2))


def test_the_anchor_weighs_its_prior_where_nothing_is_better_or_worse():
    weights, anchor = weigh(torch.full((1, 2, 3), 5.0), torch.full((1, 2), 5.0), None, SPREAD, 1.0, 0.4)
    torch.testing.assert_close(anchor, torch.full((1, 2), 0.4))
    torch.testing.assert_close(weights, torch.full((1, 2, 3), 0.2))


def test_the_anchors_weight_is_the_one_worked_by_hand():
    weights, anchor = weigh(VALUES, ANCHOR_VALUES, None, SPREAD, tau=1.0, anchor_weight=0.25)
    raw = [0.25 * math.exp(a / 1.5) for a in (-1.0, 0.0, 2.0)]  # prior (1 - p) / K = 0.25 as well
    total = sum(raw) + 0.25
    assert anchor[0, 0].item() == pytest.approx(0.25 / total)
    assert weights[0, 0].tolist() == pytest.approx([value / total for value in raw])


def test_an_anchor_that_beats_every_candidate_takes_all_and_one_that_is_beaten_nothing():
    for anchor_value, weight in ((1e3, 1.0), (-1e3, 0.0)):
        _, anchor = weigh(VALUES, torch.full((1, 2), anchor_value), None, SPREAD, 1.0, 0.1)
        torch.testing.assert_close(anchor, torch.full((1, 2), weight))


def test_networks_that_differ_by_an_offset_of_the_state_agree_about_the_advantage():
    first = torch.randn(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    anchor = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(1))
    offset = torch.tensor([10.0, -3.0, 0.5, 100.0])
    members = torch.cat([first, first + offset.view(1, 1, 4, 1)], dim=1)
    anchor_members = torch.cat([anchor, anchor + offset.view(1, 1, 4)], dim=1)
    assert disagreement_about_advantage(members, anchor_members).abs().max() < 1e-4


def test_disagreement_is_the_standard_deviation_of_advantages():
    # Advantages 1 and 3 of the first candidate, 2 and 2 of the second: deviations 1 and 0.
    members = torch.tensor([[[[1.0, 2.0]], [[3.0, 2.0]]]])
    assert disagreement_about_advantage(members, torch.zeros(1, 2, 1)).item() == pytest.approx(0.5)


def test_weights_flatten_with_disagreement_and_keep_their_order():
    entropy = []
    for doubt in (0.0, 1.0, 10.0, 1e4):
        weights, _ = weigh(VALUES, ANCHOR_VALUES, torch.full((1, 2), doubt), SPREAD, 1.0, 0.0)
        assert weights[0, 0].argsort().tolist() == [0, 1, 2]
        entropy.append(-(weights * weights.log()).sum(-1).mean().item())
    assert entropy == sorted(entropy) and entropy[-1] == pytest.approx(math.log(3), abs=1e-4)
    plain, _ = weigh(VALUES, ANCHOR_VALUES, None, SPREAD, 1.0, 0.0)
    torch.testing.assert_close(weigh(VALUES, ANCHOR_VALUES, torch.zeros(1, 2), SPREAD, 1.0, 0.0)[0], plain)


# --- through the targets, and at deployment ---


class TwoSlopes(KnownCritic):
    """Two networks, linear in the action with slopes of its first coordinate a and b; Q_c is the first."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__(lambda observations, actions: first * actions[..., 0])
        self.second = second

    def members(self, observations, actions):
        return torch.stack([self.function(observations, actions), self.second * actions[..., 0]], dim=1)


def drawn(critic, **values):
    settings = SelfImitationSettings(**{"states": 50, "candidates": 16, **values})
    frozen = Frozen(ConstantAnchor([0.1, 0.0, -0.1]), LinearDecoder(torch.eye(3).mul(0.3).tolist(), 1, 1.0), critic)
    return draw_targets(Context.quiet(toy_dataset(), (0,)), frozen, settings, 0)


def targets(critic, **values):
    return drawn(critic, **values)[0]


def metric(name, critic, **values):
    return drawn(critic, **values)[1][f"improvement/{name}"][0]


def test_a_critic_that_agrees_with_itself_is_followed_and_one_that_does_not_is_not():
    sure = targets(TwoSlopes(5.0, 5.0), disagreement=3.0, tau=1.0).correction[..., 0].mean()
    plain = targets(TwoSlopes(5.0, -5.0), tau=1.0).correction[..., 0].mean()
    unsure = targets(TwoSlopes(5.0, -5.0), disagreement=10.0, tau=1.0).correction[..., 0].mean()
    flat = targets(TwoSlopes(0.0, 0.0)).correction[..., 0].mean()
    assert sure == pytest.approx(plain.item(), rel=1e-5) and plain > 0.1
    assert abs(unsure - flat) < 0.2 * abs(plain - flat)


def test_with_a_flat_critic_the_target_shrinks_by_the_anchors_weight():
    flat = TwoSlopes(0.0, 0.0)
    plain, shrunk = targets(flat), targets(flat, anchor_weight=0.75)
    torch.testing.assert_close(shrunk.correction, 0.25 * plain.correction)
    assert metric("anchor_weight", flat, anchor_weight=0.75) == pytest.approx(0.75)
    assert metric("anchor_weight", flat) == 0.0


def test_the_anchors_stand_in_among_latents_is_the_candidate_that_moves_least():
    flat = TwoSlopes(0.0, 0.0)
    nearly_all = targets(flat, anchor_weight=0.999999)
    moved = (nearly_all.latent @ torch.eye(3) * 0.3).norm(dim=-1)
    typical = (targets(flat, candidates=2).latent * 0.3).norm(dim=-1)
    assert nearly_all.correction.abs().max() < 1e-5
    assert moved.mean() < typical.mean()


def test_effective_candidates_count_the_anchor():
    flat = TwoSlopes(0.0, 0.0)
    assert metric("effective_candidates", flat) == pytest.approx(16.0)
    assert metric("effective_candidates", flat, anchor_weight=1 / 17) == pytest.approx(17.0, rel=1e-4)


def test_the_gate_lets_through_what_the_critic_prefers_and_nothing_else():
    frozen = Frozen(ConstantAnchor([0.0, 0.0, 0.0]), LinearDecoder(torch.eye(3).tolist(), 1, 1.0), TwoSlopes(1.0, 1.0))
    dataset = toy_dataset()
    settings = {"steps": 40, "states": 100, "candidates": 8}
    for gate in (False, True):
        chosen = tiny_settings(SparMLP, **settings, gate=gate)
        fitted = SparMLP.fit(Context.quiet(dataset, (0,)), frozen, chosen)
        rule = SparMLP.restore(frozen, chosen, fitted.tensors)
        assert SparMLP.acts_with_critic(chosen) is gate
        observations = observations_for(1)
        base = frozen.anchor.act(observations)
        correction = rule.correction(observations, base)
        for slope in (1.0, -1.0):
            rule.frozen = Frozen(frozen.anchor, frozen.residual, TwoSlopes(slope, slope))
            better = slope * correction[..., :1] >= 0
            expected = torch.where(better, correction, 0.0) if gate else correction
            assert torch.equal(rule.act(observations), (base + expected).clamp(-1.0, 1.0))
        if gate:
            assert not torch.equal(expected, correction)


def test_safeguards_out_of_range_are_refused():
    for wrong in ({"disagreement": -1.0}, {"anchor_weight": 1.0}, {"anchor_weight": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SparProjSettings(**wrong)
