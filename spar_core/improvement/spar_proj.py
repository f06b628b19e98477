r"""SPAR-PROJ: latent self-imitation in latent space, projected through the frozen decoder.

.. math:: \Delta_\theta(s, a_b) = \mathrm{clip}\big(a_b + G(s, a_b, z_\theta)\big) - a_b, \quad
   z_\theta = c \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert z_\theta(s, a_b) - \sum_k w_k z_k \Big\rVert^2

The latents :math:`z_k` and weights :math:`w_k` are those of :mod:`spar_core.improvement.self_imitation`. The policy
stays on the decoder's image by construction (before clipping to the action box). The last layer starts at zero, so at
step 0 the correction is G(s, a_b, 0), which is not zero; its length is reported as ``improvement/step0_norm``. With
``inputs: state`` the network sees s alone, and the decoder still sees the anchor's action.

With ``recentre: true`` every refresh after the first is a round, whose candidates are drawn about the latent that the
policy has reached:

.. math:: z_k = \mathrm{clip}_{[-c, c]}\big(z_\theta + \mathrm{clip}_{[-\delta, \delta]}(b \, \epsilon_k)\big),
   \qquad \epsilon_k \sim \mathcal{N}(0, I)

with :math:`b` = ``recentre_std`` and :math:`\delta` = ``trust``. A barycentre then lies within :math:`\delta` of
:math:`z_\theta` in every coordinate, and rounds reach what no barycentre of draws about 0 reaches. The learning rate
falls over all rounds together.

Source: SPAR (arXiv 2605.27877), "SPAR-PROJ"; the formulas are this project's reading. The rounds are our reading of
what the update iterates to, since the paper's algorithm is not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from spar_core.improvement.actors import new_network, seen
from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.improvement.self_imitation import Centre, SelfImitation, SelfImitationSettings, Targets
from spar_core.improvement.split import mean_by_state
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack


class SparProjSettings(SelfImitationSettings):
    """Settings of self-imitation, and of rounds about the policy's latent."""

    recentre: bool = Field(False, description="draw candidates of later refreshes about the policy's latent")
    recentre_std: float = Field(0.5, gt=0, description="their standard deviation, in prior standard deviations")
    trust: float = Field(0.5, gt=0, description="largest step of a refresh from the policy's latent, per coordinate")

    @field_validator("recentre")
    @classmethod
    def _rounds_take_refreshes(cls, recentre: bool, info: ValidationInfo) -> bool:
        if recentre and info.data.get("refreshes") == 1:
            raise ValueError("the first refresh is drawn about 0, so rounds need refreshes of 2 or more")
        return recentre

    def latents(self, noise: Tensor, centre: Tensor | None) -> Tensor:
        if centre is not None:
            noise = centre + (self.recentre_std * noise).clamp(-self.trust, self.trust)
        return super().latents(noise, None)


class SparProj(SelfImitation):
    """A network of (s, a_b) that chooses the latent of the frozen decoder, regressed onto the latents' barycentre."""

    Settings = SparProjSettings

    def __init__(self, frozen: Frozen, settings: SparProjSettings, network: Stack) -> None:
        super().__init__(frozen, settings)
        self.network = network

    @classmethod
    def at_step_zero(cls, context: Context, frozen: Frozen, settings: SparProjSettings) -> Self:
        network = new_network(context, settings.inputs, settings.hidden, frozen.residual.latent_size)
        return cls(frozen, settings, network)

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: SparProjSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Self:
        shape = MLPShape(tensors["network.0.weight"].shape[-2], settings.hidden, frozen.residual.latent_size)
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def latent(self, observations: Tensor, base: Tensor) -> Tensor:
        """z_theta [S, B, Z], inside the box [-c, c]."""
        clip: float = self.settings.latent_clip
        return clip * torch.tanh(self.network(seen(self.settings.inputs, observations, base)))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return clipped_candidates(self.frozen, observations, base, self.latent(observations, base))

    def error(self, targets: Targets) -> Tensor:
        """Latent minus the barycentre of the latents, [S, B, Z]."""
        return self.latent(targets.observations, targets.base) - targets.latent

    def wanted(self, targets: Targets) -> Tensor:
        latent = mean_by_state(targets.observations, targets.latent)
        return clipped_candidates(self.frozen, targets.observations, targets.base, latent)

    def centre(self) -> Centre | None:
        return self.latent if self.settings.recentre else None
