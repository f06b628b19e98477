r"""SPAR-PROJ: latent self-imitation in latent space, projected through the frozen decoder.

.. math:: \Delta_\theta(s, a_b) = G_\phi\big(s, a_b, z_\theta\big), \quad
   z_\theta = c \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert z_\theta(s, a_b) - \sum_k w_k z_k \Big\rVert^2

The policy stays on the decoder's image by construction (before clipping to the action box). The last layer
starts at zero, so at step 0 the correction is G(s, a_b, 0), which is not zero; its length is reported as
``improvement/step0_norm``. With ``inputs: state`` the network sees s alone; the decoder sees the anchor either way.

With ``recentre: true`` every refresh after the first is a round of its own, whose candidates are drawn about the
latent that the policy has reached,

.. math:: z_k = \mathrm{clip}_{[-c, c]}\big(z_\theta + \mathrm{clip}_{[-\delta, \delta]}(s \, \epsilon_k)\big),
   \qquad \epsilon_k \sim \mathcal{N}(0, I)

(:math:`s` is ``recentre_std``, :math:`\delta` is ``trust``), so that a barycentre lies within :math:`\delta` of
:math:`z_\theta` in every coordinate, and rounds reach what no barycentre of draws about 0 does. The learning rate
falls over all rounds together, not within each.

Source: SPAR (arXiv 2605.27877), "SPAR-PROJ"; the formulas are this project's reading, rounds included (what the
update iterates to; the paper's algorithm is not public).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spar_core.improvement.actors import new_network, seen
from spar_core.improvement.base import Frozen, Improvement, clipped_candidates
from spar_core.improvement.imitation import imitate
from spar_core.improvement.self_imitation import ProjSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean


class SparProj(Improvement):
    """A network of (s, a_b) that chooses the latent of the frozen decoder."""

    Settings = ProjSettings

    def __init__(self, frozen: Frozen, settings: ProjSettings, network: Stack) -> None:
        super().__init__(frozen, settings)
        self.network = network

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: ProjSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        outputs = frozen.residual.latent_size
        rule = cls(frozen, settings, new_network(dataset, settings.inputs, settings.hidden, outputs, seeds, device))
        centre = rule.latent if settings.recentre else None
        return imitate(
            rule.network, rule.loss, rule.correction, dataset, frozen, settings, seeds, report, device, centre
        )

    def loss(
        self, observations: Tensor, base: Tensor, correction: Tensor, latent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to the latent barycentre."""
        error = per_seed_mean((self.latent(observations, base) - latent).square())
        return error.sum(), {"improvement/loss": error.detach()}

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: ProjSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> SparProj:
        inputs = tensors["network.0.weight"].shape[-2]
        shape = MLPShape(inputs, settings.hidden, frozen.residual.latent_size)
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def latent(self, observations: Tensor, base: Tensor) -> Tensor:
        """z_theta [S, B, Z], inside the box [-c, c]."""
        return self.settings.latent_clip * torch.tanh(self.network(seen(self.settings.inputs, observations, base)))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return clipped_candidates(self.frozen, observations, base, self.latent(observations, base))
