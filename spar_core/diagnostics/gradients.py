r"""Do fitting the data and following the critic pull a rule's network in opposite directions?

Two gradients with respect to the network's parameters :math:`\theta`, at the same training steps (s, a):

* **fitting**, the same for every rule: the gradient of :math:`\mathbb{E} \lVert (\pi_\theta(s) - a) / \rho \rVert^2 /
  A`;
* **improvement**: the gradient of what the critic adds to the rule's own loss, which is that loss minus the same loss
  with a critic that values all actions equally (:meth:`spar_core.improvement.base.Improvement.critic_term`).

======================== ====================================== =====================================================
kind                     own loss                               what the critic adds
======================== ====================================== =====================================================
``spar_mlp``             squared error to the barycentre of     loss at the critic's barycentre minus loss at the
                         the candidates, in units of rho        barycentre of equal weights
``spar_proj``            the same for latents                   the same for latents
``awr``, ``awr_scratch`` squared error to the logged action,    the same with weights :math:`w / \bar w - 1`
                         with weights w                         (times :math:`\bar w`)
``value_gradient``       :math:`-\lambda Q` plus squared error  :math:`-\lambda Q`
======================== ====================================== =====================================================

The critic adds nothing to a rule of equal weights (``uniform``), and a rule that trains no network has no gradients.
Where the anchor is a candidate too, the anchor keeps its prior weight under a critic that values all actions equally.

**A cosine near -1 late in training is no finding by itself.** Where a rule's own loss is stationary and its part
without the critic is the fitting error, the two gradients cancel because training has converged, whatever the rule. A
cosine near -1 is a finding early in training, and beside other rules at the same step.

Source: the "fitting-improvement gradient conflict" of SPAR (arXiv 2605.27877), measured as the cosine of task gradients
(Yu et al. 2020, PCGrad, where negative means conflicting). The split by a critic that values all actions equally is
this project's definition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.improvement.base import Improvement
from spar_core.improvement.split import Probe
from spar_core.training.networks import Stack


def fitting_loss(rule: Improvement, probe: Probe) -> Tensor:
    """Mean squared error of the policy to the logged actions, in units of the radius."""
    policy = probe.base + rule.correction(probe.observations, probe.base)
    return ((policy - probe.actions) / rule.frozen.residual.radius.unsqueeze(1)).square().mean()


def gradient(loss: Tensor, network: Stack) -> Tensor:
    """Gradient [P] of a scalar with respect to a network of one seed, in double precision."""
    found = torch.autograd.grad(loss, list(network.leaves.values()))
    return torch.cat([part.reshape(-1) for part in found]).double()


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors [P]; NaN where one is 0."""
    lengths = float(a.norm()) * float(b.norm())
    return float(a @ b) / lengths if lengths > 0 else float("nan")


def compare(rule: Improvement, probe: Probe, step: int) -> tuple[float, float, float]:
    """Cosine of the two gradients and their lengths (fitting, improvement), for a rule of one seed."""
    network = rule.network
    for leaf in network.leaves.values():
        leaf.requires_grad_()
    with torch.enable_grad():
        fitting = gradient(fitting_loss(rule, probe), network)
        improvement = gradient(rule.critic_term(probe, step), network)
    return cosine(fitting, improvement), float(fitting.norm()), float(improvement.norm())
