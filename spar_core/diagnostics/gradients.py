r"""Do fitting the data and improving on them pull a rule's network in opposite directions?

Two gradients with respect to the network's parameters :math:`\theta`, at the same training steps (s, a):

* **fitting**, the same for every rule: of :math:`\mathbb{E} \lVert (\pi_\theta(s) - a) / \rho \rVert^2 / A`;
* **improvement**: of the rule's own loss, minus the gradient of that loss with a *flat* critic, so that what remains is
  what the critic adds.

======================== ====================================== =====================================================
kind                     own loss                               what the critic adds
======================== ====================================== =====================================================
``spar_mlp``             squared error to the barycentre of     loss at the critic's barycentre minus loss at that
                         the candidates, in units of rho        of equal weights
``spar_proj``            the same of latents                    the same
``awr``, ``awr_scratch`` squared error to the logged action,    the same with weights :math:`w / \bar w - 1`
                         with weights w                         (times :math:`\bar w`)
``value_gradient``       :math:`-\lambda Q` plus squared error  :math:`-\lambda Q`
======================== ====================================== =====================================================

A rule whose weights are equal (``uniform``) adds nothing, and one that trains no network of its own has no gradients.
Where the anchor is a candidate too, it keeps its prior weight under a flat critic.

**The trap.** Where a rule's own loss is stationary and its flat part is the fitting error, the two gradients cancel:
their cosine is near -1 *because training has converged*, whatever the rule. A cosine near -1 late in training is no
finding by itself; early in training, and beside other rules at the same step, it is one.

Source: the "fitting-improvement gradient conflict" of SPAR (arXiv 2605.27877); measured as the cosine of task gradients
(Yu et al. 2020, PCGrad, where negative means conflicting). The split by a flat critic is our definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spar_core.diagnostics.states import States
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.self_imitation import Candidates, draw_candidates
from spar_core.training.networks import Stack
from spar_core.training.randomness import stream

# Smallest mean |Q_c| that lambda of the value gradient divides by, as in its own code.
SMALLEST_VALUE = 1e-6


@dataclass
class Probe:
    """The fixed training steps of one seed at which gradients are taken, and its frozen parts.

    ``drawn`` keeps the candidates of a rule that draws them about 0: they are the same at every step.
    """

    frozen: Frozen
    states: States
    seed: int
    drawn: Candidates | None = None


# (rule, probe, step): what the critic adds to the loss, a scalar. None where it adds nothing at all.
Added = Callable[[Any, Probe, int], Tensor]


def fitting_loss(rule: Improvement, states: States) -> Tensor:
    """Mean squared error of the policy to the logged actions, in units of the radius."""
    policy = states.base + rule.correction(states.observations, states.base)
    return ((policy - states.actions) / rule.frozen.residual.radius.unsqueeze(1)).square().mean()


def _imitation(rule: Any, probe: Probe, step: int) -> Tensor:
    """Loss at the critic's barycentre minus loss at that of equal weights."""
    settings, states = rule.settings, probe.states
    generators = [stream(probe.seed, "diagnosis/probe_latents")]
    if getattr(settings, "recentre", False) and step > round(settings.steps / settings.refreshes):
        # About the latent of the present policy; training draws about that of the refresh's first step.
        centre = rule.latent(states.observations, states.base).detach()
        drawn = draw_candidates(probe.frozen, settings, states.observations, states.base, generators, centre)
    else:
        if probe.drawn is None:
            probe.drawn = draw_candidates(probe.frozen, settings, states.observations, states.base, generators)
        drawn = probe.drawn
    weighted, flat = (
        rule.loss(states.observations, states.base, *drawn.barycentres(flat))[0] for flat in (False, True)
    )
    return weighted - flat


def _weighted_regression(rule: Any, probe: Probe, step: int) -> Tensor:
    """The loss with weights less their mean."""
    settings, states, critic = rule.settings, probe.states, probe.frozen.critic
    assert critic is not None
    actions = states.actions.unsqueeze(0)
    with torch.no_grad():
        advantage = critic.q(states.observations, actions) - critic.v(states.observations)
        weights = torch.exp(settings.inverse_temperature * advantage).clamp(max=settings.largest_weight)
        targets = rule.targets(states.actions, states.base)
    error = (rule.bounded(states.observations, states.base) - targets).square()
    return ((weights - weights.mean()).unsqueeze(-1) * error).mean()


def _value(rule: Any, probe: Probe, step: int) -> Tensor:
    """-lambda Q."""
    states, critic = probe.states, probe.frozen.critic
    assert critic is not None
    size = critic.q(states.observations, states.actions.unsqueeze(0)).abs().mean().clamp_min(SMALLEST_VALUE)
    chosen = rule.actor.action(states.observations, states.base)
    return -(rule.settings.q_weight / size) * critic.conservative_q(states.observations, chosen).mean()


ADDED: dict[str, Added] = {
    "spar_mlp": _imitation,
    "spar_proj": _imitation,
    "awr": _weighted_regression,
    "awr_scratch": _weighted_regression,
    "value_gradient": _value,
}


def has_improvement(kind: str, settings: Any) -> bool:
    """Whether a rule of this kind and settings has an improvement gradient that is known here."""
    return kind in ADDED and getattr(settings, "weighting", "critic") != "equal"


def network_of(rule: Any) -> Stack:
    """The network that a rule trains."""
    return rule.network if hasattr(rule, "network") else rule.actor.network


def gradient(loss: Tensor, network: Stack) -> Tensor:
    """Of a scalar with respect to a network of one seed, [P], in double precision."""
    found = torch.autograd.grad(loss, list(network.leaves.values()))
    return torch.cat([part.reshape(-1) for part in found]).double()


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors [P]; NaN where one is 0."""
    lengths = float(a.norm()) * float(b.norm())
    return float(a @ b) / lengths if lengths > 0 else float("nan")


def compare(kind: str, rule: Improvement, probe: Probe, step: int) -> tuple[float, float, float]:
    """Cosine of the two gradients and their lengths (fitting, improvement), for a rule of one seed."""
    network = network_of(rule)
    for leaf in network.leaves.values():
        leaf.requires_grad_()
    with torch.enable_grad():
        fitting = gradient(fitting_loss(rule, probe.states), network)
        improvement = gradient(ADDED[kind](rule, probe, step), network)
    return cosine(fitting, improvement), float(fitting.norm()), float(improvement.norm())
