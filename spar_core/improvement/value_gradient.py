r"""Value-gradient extraction (DDPG + BC, a comparator): climb the frozen critic, stay near the logged actions.

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \Big[ -\lambda \, Q_c\big(s, \pi_\theta(s)\big)
   + \tfrac{1}{A} \lVert \pi_\theta(s) - a \rVert^2 \Big], \qquad
   \lambda = \frac{\alpha}{\tfrac{1}{B} \sum_{(s, a)} |Q_c(s, a)|}

with :math:`\pi_\theta(s) = \mathrm{clip}(a_b + \rho \tanh(\mathrm{MLP}_\theta(s, a_b)))` in ``space: residual``, and
:math:`\tanh(\mathrm{MLP}_\theta(s))`, from scratch and without the anchor, in ``space: action``. :math:`\lambda` is a
number of the minibatch and of the seed, and no gradient passes through it. Nor does one enter the critic's
parameters; and none passes where the clip acts, so a residual that has left the action box is neither pulled back
nor pushed further at that state.

Source: TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860, eq. 5, with its :math:`\alpha` = 2.5). Deviations: the critic
is frozen and saw no actions of this policy (one-step extraction), it is the conservative :math:`Q_c` in place of the
first of two networks, and :math:`|Q_c|` is of the logged actions, as in the paper's text (its code takes the
policy's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.calibration import values_at
from spar_core.data.device import DeviceData
from spar_core.improvement.actors import OwnActor, ResidualActor, ResidualNetworkSettings
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.on_data import correction_norm, minimise_on_data
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import per_seed_mean

# Smallest mean |Q_c| that lambda divides by, in scaled return units.
SMALLEST_VALUE = 1e-6
CURVES = ("improvement/loss", "improvement/q", "improvement/bc_loss")


class ValueGradientSettings(ResidualNetworkSettings):
    """``inputs`` is for the residual; a policy of its own sees the state."""

    space: Literal["residual", "action"] = "residual"
    q_weight: float = Field(2.5, ge=0)


def value_gradient_loss(
    chosen: Tensor, q: Tensor, actions: Tensor, logged_q: Tensor, q_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-lambda Q_c plus the squared error of ``chosen`` to ``actions`` [S, B, A]; ``q`` and ``logged_q`` are [S, B]."""
    scale = q_weight / per_seed_mean(logged_q.abs()).clamp_min(SMALLEST_VALUE).detach()
    value, error = per_seed_mean(q), per_seed_mean((chosen - actions).square())
    loss = error - scale * value
    info = dict(zip(CURVES, (loss.detach(), value.detach(), error.detach()), strict=True))
    return loss.sum(), info


class ValueGradient(Improvement):
    """A residual on the anchor, or a policy of its own, that follows the critic's gradient."""

    Settings = ValueGradientSettings
    takes_value_gradient = True

    def __init__(self, frozen: Frozen, settings: ValueGradientSettings, actor: ResidualActor) -> None:
        super().__init__(frozen, settings)
        self.actor = actor

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: ValueGradientSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        assert frozen.critic is not None
        critic, actor = frozen.critic, form(settings).at_step_zero(dataset, frozen, settings, seeds, device)
        data = DeviceData.of(dataset, device)
        base = frozen.anchor.act_on_data(data, len(seeds))
        logged_q = values_at(critic, data, torch.arange(len(data.actions), device=device), len(seeds))
        rows = torch.arange(len(seeds), device=device).unsqueeze(1)

        def loss_of(picked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            observations, actions = data.at(picked)
            chosen = actor.action(observations, base[rows, picked])
            q = critic.conservative_q(observations, chosen)
            return value_gradient_loss(chosen, q, actions, logged_q[rows, picked], settings.q_weight)

        minimise_on_data(actor.network, loss_of, dataset, settings, seeds, report, device)
        metrics = {name: report.last(name) for name in CURVES}
        metrics["improvement/correction_norm"] = correction_norm(actor, dataset, data, base)
        return Fitted(actor.network.state("network", len(seeds)), metrics, report.rows)

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: ValueGradientSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> ValueGradient:
        return cls(frozen, settings, form(settings).restore(frozen, settings, tensors, device))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.actor.correction(observations, base)


def form(settings: ValueGradientSettings) -> type[ResidualActor]:
    """The kind of network of a space."""
    return OwnActor if settings.space == "action" else ResidualActor
