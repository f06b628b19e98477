r"""What each candidate of latent self-imitation weighs, and three safeguards against a critic that is wrong.

Without safeguards, of the candidates' values :math:`q_k` at a state,

.. math:: w = \mathrm{softmax}\big(q / (\tau \sigma)\big)

With them, for the advantage over the anchor :math:`A_k = q_k - Q_c(s, a_b)`, the critic's own networks :math:`Q_m` and
:math:`u(s) = \mathrm{mean}_k \, \mathrm{std}_m \big(Q_m(s, a_b + d_k) - Q_m(s, a_b)\big)`:

.. math::
   w_k \propto \frac{1 - p}{K} \exp \frac{A_k}{T(s)}, \qquad w_{\text{anchor}} \propto p, \qquad
   T(s) = \tau \sqrt{\sigma^2 + \eta^2 u(s)^2}

* ``disagreement`` is :math:`\eta`: weights flatten where the networks disagree about the *advantage*. Where they
  disagree about the value itself no harm is done, since an offset of a state weighs nothing in a softmax. An error that
  all of the networks share is not seen.
* ``anchor_weight`` is :math:`p`: the anchor is a candidate too, of advantage zero, with this prior weight. Where no
  candidate is better than it, the target moves towards it.
* the gate (``gate``) acts at deployment, in :mod:`spar_core.improvement.base`.

Source: this project's extensions; the weights themselves are its reading of SPAR (arXiv 2605.27877).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.base import spread_of
from spar_core.improvement.actors import ResidualNetworkSettings


class SafeguardSettings(ResidualNetworkSettings):
    """The safeguards; all are off by default."""

    disagreement: float = Field(0.0, ge=0)
    anchor_weight: float = Field(0.0, ge=0, lt=1)
    gate: bool = False


def disagreement_about_advantage(members: Tensor, of_anchor: Tensor) -> Tensor:
    """u [S, n]: how far the critic's networks are apart about the advantage over the anchor, mean over candidates.

    Args:
        members: values of each network for the candidates, [S, M, n, K].
        of_anchor: and for the anchor's action, [S, M, n].
    """
    advantages = members - of_anchor.unsqueeze(-1)
    return spread_of(advantages).mean(dim=-1)


def weigh(
    values: Tensor, of_anchor: Tensor, apart: Tensor | None, spread: Tensor, tau: float, anchor_weight: float
) -> tuple[Tensor, Tensor]:
    """Weights of the candidates [S, n, K] and of the anchor [S, n]; together they sum to one.

    Args:
        values: Q_c of the candidates [S, n, K].
        of_anchor: Q_c of the anchor's action [S, n]; not looked at where ``anchor_weight`` is 0.
        apart: disagreement about the advantage, times its weight, [S, n]; None for none.
        spread: sigma [S], the spread of values within a state.
        tau: temperature, in units of sigma.
        anchor_weight: the anchor's prior weight p, 0 where it is no candidate.
    """
    temperature = tau * spread.view(-1, 1)
    if apart is not None:
        temperature = tau * (spread.view(-1, 1).square() + apart.square()).sqrt()
    if anchor_weight == 0.0:
        weights = torch.softmax(values / temperature.unsqueeze(-1), dim=-1)
        return weights, weights.new_zeros(weights.shape[:-1])
    advantages = (values - of_anchor.unsqueeze(-1)) / temperature.unsqueeze(-1)
    priors = math.log((1.0 - anchor_weight) / values.shape[-1])
    zero = torch.full_like(of_anchor, math.log(anchor_weight)).unsqueeze(-1)
    weights = torch.softmax(torch.cat([advantages + priors, zero], dim=-1), dim=-1)
    return weights[..., :-1], weights[..., -1]
