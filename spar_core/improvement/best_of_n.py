r"""Best of N at deployment (a comparator): the critic picks among candidates of the residual model; nothing is trained.

.. math:: \Delta(s, a_b) = d_{k^*}, \qquad k^* = \arg\max_k Q_c(s, a_b + d_k)

with the candidates of latent self-imitation. The N latents are drawn once for each seed and kept in the artifact, so
the policy is a function of the observation.

Source: IDQL (Hansen-Estruch et al. 2023) and SfBC (Chen et al. 2023), with SPAR's candidates in place of
samples of a generative behaviour policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.improvement.base import Frozen, Improvement, clipped_candidates
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.randomness import normal, streams


class BestOfNSettings(Settings):
    candidates: PositiveInt = Field(32, description="N, candidates for each action")
    latent_clip: float = Field(1.0, gt=0, description="c: latents are clipped to [-c, c], in prior standard deviations")


class BestOfN(Improvement):
    """Greedy choice among N fixed latents [S, N, Z]."""

    Settings = BestOfNSettings

    def __init__(self, frozen: Frozen, settings: BestOfNSettings, latents: Tensor) -> None:
        super().__init__(frozen, settings)
        self.latents = latents

    @classmethod
    def acts_with_critic(cls, settings: Any) -> bool:
        return True

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: BestOfNSettings) -> Fitted:
        seeds = context.seeds
        draws = normal(streams(seeds, "improvement/latents"), settings.candidates, frozen.residual.latent_size)
        return Fitted({"latents": draws.clamp(-settings.latent_clip, settings.latent_clip)})

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: BestOfNSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> BestOfN:
        return cls(frozen, settings, tensors["latents"].to(device))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        (seeds, batch), n = base.shape[:2], self.latents.shape[1]
        wide = observations.unsqueeze(2).expand(-1, -1, n, -1).flatten(1, 2)
        wide_base = base.unsqueeze(2).expand(-1, -1, n, -1).flatten(1, 2)
        candidates = clipped_candidates(self.frozen, wide, wide_base, self.latents.repeat(1, batch, 1))
        values = self.frozen.values.q(wide, wide_base + candidates).view(seeds, batch, n)
        best = values.argmax(dim=-1, keepdim=True).unsqueeze(-1)
        candidates = candidates.view(seeds, batch, n, -1)
        return candidates.gather(2, best.expand(-1, -1, -1, candidates.shape[-1])).squeeze(2)
