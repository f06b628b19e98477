r"""Safeguards of a rule against a critic that is wrong. All are off by default.

With the advantage over the anchor :math:`A_k = Q_c(s, a_b + d_k) - Q_c(s, a_b)` of candidate :math:`d_k`, the critic's
own networks :math:`Q_m`, and their disagreement
:math:`u(s) = \mathrm{mean}_k \, \mathrm{std}_m \big(Q_m(s, a_b + d_k) - Q_m(s, a_b)\big)`, candidates weigh

.. math:: w_k \propto \frac{1 - p}{K} \exp \frac{A_k}{T(s)}, \qquad w_{\text{anchor}} \propto p, \qquad
   T(s) = \tau \sqrt{\sigma^2 + \eta^2 u(s)^2}

* ``disagreement`` is :math:`\eta`: weights flatten where the networks disagree about the advantage. An offset that the
  networks give to all actions of a state changes no weight. Errors that all networks share are not seen.
* ``anchor_weight`` is :math:`p`: the anchor is one more candidate, with correction zero and this prior weight. No
  latent need decode to zero, so among latents the candidate that moves the action least stands for the anchor.
* ``gate`` acts at deployment: the correction is applied where :math:`Q_c(s, a_b + \Delta) \ge Q_c(s, a_b)`, and
  elsewhere the anchor acts. The critic then never prefers the anchor to the deployed policy.

Source: this project's extensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spar_core.critics.base import Critic, spread_of
from spar_core.settings import Settings


def disagreement_about_advantage(members: Tensor, anchor_members: Tensor) -> Tensor:
    """u [S, n]: standard deviation over the critic's networks of the advantage over the anchor, mean over candidates.

    Args:
        members: values of each network for the candidates, [S, M, n, K].
        anchor_members: values of each network for the anchor's action, [S, M, n].
    """
    return spread_of(members - anchor_members.unsqueeze(-1)).mean(dim=-1)


def temperature(tau: float, spread: Tensor, doubts: Tensor | None) -> Tensor:
    """T of sigma [S] and of eta u [S, n]: [S, n], or [S, 1] where ``doubts`` is None."""
    if doubts is None:
        return tau * spread.view(-1, 1)
    return tau * (spread.view(-1, 1).square() + doubts.square()).sqrt()


def weigh_with_anchor(advantages: Tensor, temperatures: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """Weights of the candidates [S, n, K] and of the anchor [S, n], for advantages [S, n, K] and a prior p above 0."""
    candidates = advantages / temperatures.unsqueeze(-1) + math.log((1.0 - prior) / advantages.shape[-1])
    anchor = torch.full_like(advantages[..., :1], math.log(prior))
    weights = torch.softmax(torch.cat([candidates, anchor], dim=-1), dim=-1)
    return weights[..., :-1], weights[..., -1]


def anchor_latent(corrections: Tensor, latents: Tensor) -> Tensor:
    """The latent [S, n, Z] that stands for the anchor: the one of K whose candidate moves the action least."""
    least = corrections.norm(dim=-1).argmin(dim=-1, keepdim=True).unsqueeze(-1)
    return latents.gather(2, least.expand(-1, -1, -1, latents.shape[-1])).squeeze(2)


def is_gated(settings: Settings) -> bool:
    """Whether a rule's settings put the rule behind the gate."""
    return bool(getattr(settings, "gate", False))


def gated(critic: Critic, observations: Tensor, base: Tensor, correction: Tensor) -> Tensor:
    """The correction [S, B, A] where Q_c does not prefer the anchor's action, and 0 elsewhere."""
    corrected = critic.q(observations, (base + correction).clamp(-1.0, 1.0))
    opens = corrected >= critic.q(observations, base)
    return torch.where(opens.unsqueeze(-1), correction, 0.0)
