r"""SPAR-MLP: latent self-imitation in action space.

.. math:: \Delta_\theta(s, a_b) = \rho \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert \frac{\Delta_\theta(s, a_b) - \sum_k w_k d_k}{\rho} \Big\rVert^2

The candidates :math:`d_k` and weights :math:`w_k` are those of :mod:`spar_core.improvement.self_imitation`;
:math:`\rho` is the radius of the residual model. The last layer starts at zero, so at step 0 the policy is the anchor,
exactly. Regressing onto the barycentre has the same gradient as the weighted sum of squares over the candidates.

The code takes the mean over action dimensions in place of the sum of the squared norm, which scales the loss alone.

Source: SPAR (arXiv 2605.27877), "SPAR-MLP"; the formulas are this project's reading. With ``weighting: equal`` this is
the comparator ``uniform``, which does not follow the critic. With ``inputs: state`` the network sees s alone. A
deterministic anchor's action is a function of s, so the network then lacks no information.
"""

from __future__ import annotations

from torch import Tensor

from spar_core.improvement.actors import ResidualActor
from spar_core.improvement.self_imitation import SelfImitation, SelfImitationSettings, Targets


class SparMLP(ResidualActor, SelfImitation):
    """A bounded network of (s, a_b), regressed onto the barycentre of the candidate corrections."""

    Settings = SelfImitationSettings

    def error(self, targets: Targets) -> Tensor:
        """Correction minus barycentre, in units of the radius, [S, B, A]."""
        radius = self.frozen.residual.radius.unsqueeze(1)
        return self.bounded(targets.observations, targets.base) - targets.correction / radius

    def wanted(self, targets: Targets) -> Tensor:
        return targets.correction
