r"""SPAR-PROJ: latent self-imitation in latent space, projected through the frozen decoder.

.. math:: \Delta_\theta(s, a_b) = G_\phi\big(s, a_b, z_\theta\big), \quad
   z_\theta = c \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert z_\theta(s, a_b) - \sum_k w_k z_k \Big\rVert^2

The policy stays on the decoder's image by construction (before clipping to the action box). The last layer
starts at zero, so at step 0 the correction is G(s, a_b, 0), which is not zero; its length is reported as
``improvement/step0_norm``.

Source: SPAR (arXiv 2605.27877), "SPAR-PROJ"; the formulas are this project's reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.fitted import Fitted
from spar_core.improvement.base import Frozen, Improvement, clipped_candidates
from spar_core.improvement.candidates import CandidateSettings
from spar_core.improvement.imitation import imitate
from spar_core.networks import MLPShape, Stack, per_seed_mean
from spar_core.randomness import streams
from spar_core.reporter import Reporter


class SparProj(Improvement):
    """A network of (s, a_b) that chooses the latent of the frozen decoder."""

    Settings = CandidateSettings

    def __init__(self, frozen: Frozen, settings: CandidateSettings, network: Stack) -> None:
        super().__init__(frozen, settings)
        self.network = network

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        frozen: Frozen,
        settings: CandidateSettings,
        seeds: Sequence[int],
        report: Reporter,
        device: str,
    ) -> Fitted:
        inputs = dataset.observation_size + dataset.action_size
        network = Stack(MLPShape(inputs, settings.hidden, frozen.residual.latent_size), len(seeds), device)
        network.initialise(streams(seeds, "improvement/initialise"), zero_last=True)
        rule = cls(frozen, settings, network)
        return imitate(network, rule.loss, rule.correction, dataset, frozen, settings, seeds, report, device)

    def loss(
        self, observations: Tensor, base: Tensor, correction: Tensor, latent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to the latent barycentre."""
        error = per_seed_mean((self.latent(observations, base) - latent).square())
        return error.sum(), {"improvement/loss": error.detach()}

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: CandidateSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> SparProj:
        inputs = tensors["network.0.weight"].shape[-2]
        shape = MLPShape(inputs, settings.hidden, frozen.residual.latent_size)
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def latent(self, observations: Tensor, base: Tensor) -> Tensor:
        """z_theta [S, B, Z], inside the box [-c, c]."""
        return self.settings.latent_clip * torch.tanh(self.network(torch.cat([observations, base], dim=-1)))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return clipped_candidates(self.frozen, observations, base, self.latent(observations, base))
