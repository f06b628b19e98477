r"""Do fitting the data and following the critic pull a rule's network in opposite directions?

Training records two gradients with respect to the network's parameters :math:`\theta`, at the same logged steps (s, a),
before :data:`POINTS` of its updates:

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

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.split import Probe
from spar_core.training.networks import Stack
from spar_core.training.reporter import Reporter

COSINE, FITTING, IMPROVEMENT = "gradients/cosine", "gradients/fitting_norm", "gradients/improvement_norm"
# Updates before which the gradients are compared, and logged steps that the gradients are means over.
POINTS, STATES = 40, 512


class GradientReporter(Reporter):
    """Adds the comparison of the gradients to the learning curves of a rule, and passes all else on.

    The comparison changes nothing of the training.
    """

    def __init__(
        self, outer: Reporter, member: type[Improvement], settings: Any, frozen: Sequence[Frozen], dataset: Dataset
    ) -> None:
        """Watch a training of ``outer.seeds``, of a rule that follows the critic.

        Args:
            outer: reporter of the training.
            member: class of the rule.
            settings: of the rule.
            frozen: parts of each seed, in the order of the seeds.
            dataset: as training sees it.
        """
        super().__init__(outer.seeds, outer.rows, outer.checkpoints, outer.stopping)
        self.outer, self.member, self.settings, self.frozen = outer, member, settings, frozen
        self.at = frozenset(points(settings.steps))
        data = DeviceData.of(dataset, str(frozen[0].residual.radius.device))
        steps = torch.as_tensor(evenly(dataset.train_steps, STATES)).to(data.index.device)
        self.probes = [probe_at(data, *pair, steps) for pair in zip(frozen, outer.seeds, strict=True)]

    def advance(self, steps: int) -> None:
        self.outer.advance(steps)

    def observe(self, step: int, network: Stack) -> None:
        if step not in self.at:
            return
        tensors = network.state("network", len(self.seeds))
        for row, (seed, frozen, probe) in enumerate(zip(self.seeds, self.frozen, self.probes, strict=True)):
            mine = {name: value[row : row + 1].clone() for name, value in tensors.items()}
            rule = self.member.restore(frozen, self.settings, mine, str(network.flat.device))
            values = compare(rule, probe, step)
            named = zip((COSINE, FITTING, IMPROVEMENT), values, strict=True)
            self.add([(step, seed, metric, value) for metric, value in named if math.isfinite(value)])


def points(steps: int) -> list[int]:
    """Optimiser steps (from 1) before which gradients are compared: the second, the last, and evenly between.

    Before the first update some networks have a last layer of zeros, through which no gradient reaches the others.
    """
    if steps < 2:
        return []
    found = torch.linspace(2, steps, min(POINTS, steps - 1), dtype=torch.float64).round().long()
    return sorted(set(found.tolist()))


@torch.no_grad()
def probe_at(data: DeviceData, frozen: Frozen, seed: int, steps: Tensor) -> Probe:
    """Logged steps [n] as a rule of one seed takes them. An anchor that looks its data up leaves out their episodes."""
    observations, actions = data.at(steps)
    return Probe(observations.unsqueeze(0), actions, frozen.anchor.act_on_steps(data, steps.unsqueeze(0)), seed)


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
