r"""SPAR-MLP: latent self-imitation in action space.

.. math:: \Delta_\theta(s, a_b) = \rho \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \min_\theta \; \mathbb{E}_s \Big\lVert \frac{\Delta_\theta(s, a_b) - \sum_k w_k d_k}{\rho} \Big\rVert^2

The last layer starts at zero, so at step 0 the policy is the anchor, exactly. Regressing on the barycentre
has the same gradient as the weighted sum of squares over the candidates.

Source: SPAR (arXiv 2605.27877), "SPAR-MLP"; the formulas are this project's reading. With
``weighting: equal`` this is the comparator ``uniform``: what repairing the anchor alone gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.fitted import Fitted
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.candidates import CandidateSettings
from spar_core.improvement.imitation import imitate
from spar_core.networks import MLPShape, Stack, per_seed_mean
from spar_core.randomness import streams
from spar_core.reporter import Reporter


class SparMLP(Improvement):
    """A bounded network of (s, a_b), in units of the residual radius."""

    Settings = CandidateSettings

    def __init__(self, frozen: Frozen, settings: CandidateSettings, network: Stack) -> None:
        super().__init__(frozen, settings)
        self.network = network

    @classmethod
    def at_step_zero(
        cls, dataset: Dataset, frozen: Frozen, settings: CandidateSettings, seeds: Sequence[int], device: str
    ) -> SparMLP:
        """The untrained rule: its correction is zero everywhere."""
        inputs = dataset.observation_size + dataset.action_size
        network = Stack(MLPShape(inputs, settings.hidden, dataset.action_size), len(seeds), device)
        network.initialise(streams(seeds, "improvement/initialise"), zero_last=True)
        return cls(frozen, settings, network)

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
        rule = cls.at_step_zero(dataset, frozen, settings, seeds, device)
        return imitate(rule.network, rule.loss, rule.correction, dataset, frozen, settings, seeds, report, device)

    def loss(
        self, observations: Tensor, base: Tensor, correction: Tensor, latent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error in units of the radius."""
        radius = self.frozen.residual.radius.unsqueeze(1)
        error = per_seed_mean((self.bounded(observations, base) - correction / radius).square())
        return error.sum(), {"improvement/loss": error.detach()}

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: CandidateSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> SparMLP:
        inputs = tensors["network.0.weight"].shape[-2]
        shape = MLPShape(inputs, settings.hidden, frozen.residual.radius.shape[-1])
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.frozen.residual.radius.unsqueeze(1) * self.bounded(observations, base)

    def bounded(self, observations: Tensor, base: Tensor) -> Tensor:
        return torch.tanh(self.network(torch.cat([observations, base], dim=-1)))
