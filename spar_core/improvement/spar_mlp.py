r"""SPAR-MLP: latent self-imitation in action space.

.. math:: \Delta_\theta(s, a_b) = \rho \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert \frac{\Delta_\theta(s, a_b) - \sum_k w_k d_k}{\rho} \Big\rVert^2

The last layer starts at zero, so at step 0 the policy is the anchor, exactly. Regressing on the barycentre
has the same gradient as the weighted sum of squares over the candidates.

Source: SPAR (arXiv 2605.27877), "SPAR-MLP"; the formulas are this project's reading. With
``weighting: equal`` this is the comparator ``uniform``: what repairing the anchor alone gives. With
``inputs: state`` the network sees s alone, Delta(s); where the anchor is a function of s nothing is lost.
"""

from __future__ import annotations

from torch import Tensor

from spar_core.improvement.actors import ResidualActor
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.imitation import imitate
from spar_core.improvement.self_imitation import CandidateSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import per_seed_mean


class SparMLP(ResidualActor, Improvement):
    """A bounded network of (s, a_b), in units of the residual radius, that imitates candidates."""

    Settings = CandidateSettings

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: CandidateSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        rule = cls.at_step_zero(dataset, frozen, settings, seeds, device)
        return imitate(rule.network, rule.loss, rule.correction, dataset, frozen, settings, seeds, report, device)

    def loss(
        self, observations: Tensor, base: Tensor, correction: Tensor, latent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error in units of the radius."""
        radius = self.frozen.residual.radius.unsqueeze(1)
        error = per_seed_mean((self.bounded(observations, base) - correction / radius).square())
        return error.sum(), {"improvement/loss": error.detach()}
