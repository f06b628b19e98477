"""The anchor alone, without a correction. Every gain is measured against this rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spar_core.improvement.base import Frozen, Improvement
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted


class AnchorAloneSettings(Settings):
    """Nothing to set."""


class AnchorAlone(Improvement):
    """Delta = 0."""

    Settings = AnchorAloneSettings

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: AnchorAloneSettings) -> Fitted:
        return Fitted()

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: AnchorAloneSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> AnchorAlone:
        return cls(frozen, settings)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return torch.zeros_like(base)
