"""What every improvement rule is: a correction of a frozen anchor's actions, learned from frozen parts.

No rule of SPAR back-propagates a value into a policy: the critic answers under ``no_grad``, and its
answers enter a loss as weights only. A comparator that does says so: ``takes_value_gradient``.

A rule may be deployed behind the conservative gate (an extension of this project): the correction is applied where
``Q_c(s, a_b + Delta) >= Q_c(s, a_b)``, and the anchor acts elsewhere. In the critic's own eyes that is never worse
than the anchor; where the critic is wrong, so is the gate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.critics.base import Critic
from spar_core.residual import ResidualModel
from spar_core.settings import Settings as BaseSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted


@dataclass(frozen=True)
class Frozen:
    """The artifacts that every rule shares. ``critic`` is None where a saved policy does not need it to act."""

    anchor: Anchor
    residual: ResidualModel
    critic: Critic | None


class Improvement(ABC):
    """A rule: how the frozen parts and the data become a correction Delta(s, a_b)."""

    Settings: ClassVar[type[BaseSettings]]
    # Whether fitting follows the critic's gradient with respect to the action; only comparators may.
    takes_value_gradient: ClassVar[bool] = False

    def __init__(self, frozen: Frozen, settings: BaseSettings) -> None:
        self.frozen, self.settings = frozen, settings

    @classmethod
    def acts_with_critic(cls, settings: BaseSettings) -> bool:
        """Whether acting (not training) asks the critic, so that a saved policy has to carry it."""
        return is_gated(settings)

    @classmethod
    @abstractmethod
    def fit(cls, context: Context, frozen: Frozen, settings: BaseSettings) -> Fitted:
        """Learn the correction, once a seed."""

    @classmethod
    @abstractmethod
    def restore(
        cls, frozen: Frozen, settings: BaseSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Improvement:
        """The frozen rule of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A] for standardised observations [S, B, D] and anchor actions [S, B, A], before any gate."""

    @torch.no_grad()
    def deployed(self, observations: Tensor, base: Tensor) -> Tensor:
        """The correction [S, B, A] behind the gate, where the settings ask for one."""
        correction = self.correction(observations, base)
        return gated(self.frozen, observations, base, correction) if is_gated(self.settings) else correction

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """The policy: anchor plus correction, clipped to the action box [-1, 1]; [S, B, A]."""
        base = self.frozen.anchor.act(observations)
        return (base + self.deployed(observations, base)).clamp(-1.0, 1.0)


def clipped_candidates(frozen: Frozen, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
    """Candidate corrections ``clip(a_b + G(s, a_b, z)) - a_b``, [S, n, A]."""
    return (base + frozen.residual.decode(observations, base, latents)).clamp(-1.0, 1.0) - base


def is_gated(settings: BaseSettings) -> bool:
    """Whether a rule's settings put it behind the gate; a rule without such a setting is not."""
    return bool(getattr(settings, "gate", False))


def gated(frozen: Frozen, observations: Tensor, base: Tensor, correction: Tensor) -> Tensor:
    """The correction [S, B, A] where Q_c does not prefer the anchor's action, 0 elsewhere."""
    assert frozen.critic is not None
    corrected = frozen.critic.q(observations, (base + correction).clamp(-1.0, 1.0))
    opens = corrected >= frozen.critic.q(observations, base)
    return torch.where(opens.unsqueeze(-1), correction, 0.0)
