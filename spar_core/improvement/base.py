"""The interface of every improvement rule: a correction of a frozen anchor's actions, learned from frozen parts.

No rule of SPAR back-propagates a value into a policy: the critic is asked without a gradient, and its answers enter a
loss only as weights. A comparator that follows the critic's gradient says so with ``takes_value_gradient``.

A rule may be deployed behind a gate (:mod:`spar_core.improvement.safeguards`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.critics.base import Critic
from spar_core.improvement.safeguards import gated, is_gated
from spar_core.improvement.split import Probe, Split
from spar_core.residual import ResidualModel
from spar_core.settings import Settings as BaseSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import Stack


@dataclass(frozen=True)
class Frozen:
    """The frozen parts that every rule shares. ``critic`` is None in a saved policy that acts without it."""

    anchor: Anchor
    residual: ResidualModel
    critic: Critic | None

    @property
    def values(self) -> Critic:
        """The critic, where there has to be one."""
        assert self.critic is not None
        return self.critic


class Improvement(ABC):
    """A rule: how the frozen parts and the data become a correction Delta(s, a_b)."""

    Settings: ClassVar[type[BaseSettings]]
    # Whether fitting follows the critic's gradient with respect to the action; only comparators may.
    takes_value_gradient: ClassVar[bool] = False
    settings: Any
    # What the rule trains; a rule that trains nothing has none.
    network: Stack

    def __init__(self, frozen: Frozen, settings: BaseSettings) -> None:
        self.frozen, self.settings = frozen, settings

    @classmethod
    def acts_with_critic(cls, settings: Any) -> bool:
        """Whether acting (not training) asks the critic. A saved policy then carries the critic."""
        return is_gated(settings)

    @classmethod
    @abstractmethod
    def fit(cls, context: Context, frozen: Frozen, settings: Any) -> Fitted:
        """Learn the correction, once a seed."""

    @classmethod
    @abstractmethod
    def restore(cls, frozen: Frozen, settings: Any, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        """The frozen rule of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A] for standardised observations [S, B, D] and anchor actions [S, B, A], before any gate."""

    @torch.no_grad()
    def deployed(self, observations: Tensor, base: Tensor) -> Tensor:
        """The correction [S, B, A] behind the gate, where the settings ask for one."""
        correction = self.correction(observations, base)
        return gated(self.frozen.values, observations, base, correction) if is_gated(self.settings) else correction

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """The policy: anchor plus correction, clipped to the action box [-1, 1]; [S, B, A]."""
        base = self.frozen.anchor.act(observations)
        return (base + self.deployed(observations, base)).clamp(-1.0, 1.0)

    # --- what diagnostics and the theory ask of a rule that trains a network ---

    @classmethod
    def follows_critic(cls, settings: Any) -> bool:
        """Whether the critic adds a term to the training loss, which :meth:`critic_term` returns."""
        return False

    def critic_term(self, probe: Probe, step: int) -> Tensor:
        """The term that the critic adds to this rule's training loss, at the probe's steps; a scalar.

        This is the rule's own loss minus its loss with a critic that values all actions equally.

        Args:
            probe: of one seed.
            step: optimiser step of training, from 1, at which the rule is looked at.
        """
        raise NotImplementedError(f"the critic adds nothing to the loss of {type(self).__name__}")

    @classmethod
    def split(cls, context: Context, frozen: Frozen, settings: Any) -> Split:
        """The rule before its first step, taken apart; only where :meth:`follows_critic`."""
        raise NotImplementedError(f"the critic adds nothing to the loss of {cls.__name__}")


def clipped_candidates(frozen: Frozen, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
    """Candidate corrections ``clip(a_b + G(s, a_b, z)) - a_b``, [S, n, A]."""
    return (base + frozen.residual.decode(observations, base, latents)).clamp(-1.0, 1.0) - base
