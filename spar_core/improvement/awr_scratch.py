r"""Advantage-weighted regression as a policy from scratch (a comparator): no anchor, no radius.

.. math:: \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s)), \qquad
   \min_\theta \; \mathbb{E}_{(s, a)} \; \min\big(e^{\beta (Q_c(s, a) - V(s))}, w_{\max}\big)
   \lVert \pi_\theta(s) - a \rVert^2

Source: the policy extraction of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eq. 7), after AWR (Peng et al.
2019). Deviation: squared error in place of a Gaussian likelihood, as in ``awr``. With :math:`\beta = 0` it is
plain behaviour cloning. Its difference from ``awr`` is what the anchor and its radius are worth.
"""

from __future__ import annotations

from spar_core.improvement.actors import OwnActor
from spar_core.improvement.awr import AWR, WeightSettings


class AWRFromScratch(OwnActor, AWR):
    """The weights and the regression of AWR, with a policy of its own."""

    Settings = WeightSettings
