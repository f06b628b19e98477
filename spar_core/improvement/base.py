"""What every improvement rule is: a correction of a frozen anchor's actions, learned from frozen parts.

No rule of SPAR back-propagates a value into a policy: the critic answers under ``no_grad``, and its
answers enter a loss as weights only. A comparator that does says so: ``takes_value_gradient``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.critics.base import Critic
from spar_core.data.dataset import Dataset
from spar_core.fitted import Fitted
from spar_core.reporter import Reporter
from spar_core.residual import ResidualModel
from spar_core.settings import Settings as BaseSettings


@dataclass(frozen=True)
class Frozen:
    """The artifacts that every rule shares. ``critic`` is None where a saved policy does not need it to act."""

    anchor: Anchor
    residual: ResidualModel
    critic: Critic | None


class Improvement(ABC):
    """A rule: how the frozen parts and the data become a correction Delta(s, a_b)."""

    Settings: ClassVar[type[BaseSettings]]
    # Whether acting (not training) asks the critic, so that a saved policy has to carry it.
    acts_with_critic: ClassVar[bool] = False
    # Whether fitting follows the critic's gradient with respect to the action; only comparators may.
    takes_value_gradient: ClassVar[bool] = False

    def __init__(self, frozen: Frozen, settings: BaseSettings) -> None:
        self.frozen, self.settings = frozen, settings

    @classmethod
    @abstractmethod
    def fit(
        cls,
        dataset: Dataset,
        frozen: Frozen,
        settings: BaseSettings,
        seeds: Sequence[int],
        report: Reporter,
        device: str,
    ) -> Fitted:
        """Learn the correction, once a seed."""

    @classmethod
    @abstractmethod
    def restore(
        cls, frozen: Frozen, settings: BaseSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Improvement:
        """The frozen rule of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A] for standardised observations [S, B, D] and anchor actions [S, B, A]."""

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """The policy: anchor plus correction, clipped to the action box [-1, 1]; [S, B, A]."""
        base = self.frozen.anchor.act(observations)
        return (base + self.correction(observations, base)).clamp(-1.0, 1.0)


def clipped_candidates(frozen: Frozen, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
    """Candidate corrections ``clip(a_b + G(s, a_b, z)) - a_b``, [S, n, A]."""
    return (base + frozen.residual.decode(observations, base, latents)).clamp(-1.0, 1.0) - base
