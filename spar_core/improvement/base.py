"""The interface of every improvement rule: a correction of a frozen anchor's actions, learned from frozen parts.

No rule of SPAR back-propagates a value into a policy: the critic is asked without a gradient, and its answers enter a
loss only as weights. A comparator that follows the critic's gradient says so with ``takes_value_gradient``.

A rule may be deployed behind a conservative gate, which is an extension of this project. The correction is applied
where ``Q_c(s, a_b + Delta) >= Q_c(s, a_b)``; elsewhere the anchor acts. The critic then never prefers the anchor to the
deployed policy. Where the critic is wrong, the gate is wrong too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.critics.base import Critic
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


@dataclass
class Probe:
    """Logged steps of one seed at which a rule's gradients are looked at.

    Attributes:
        observations: [1, n, D], standardised.
        actions: [n, A], logged, in [-1, 1].
        base: [1, n, A], the anchor's actions.
        seed: of the rule.
        drawn: what a rule keeps from one look to the next.
    """

    observations: Tensor
    actions: Tensor
    base: Tensor
    seed: int
    drawn: Any = None


@dataclass(frozen=True)
class Split:
    """A rule before its first step, whose loss is split into fitting the data and following the critic.

    Attributes:
        rule: the untrained rule.
        total: computes the rule's loss on all of its data, summed over seeds.
        fitting: computes the same loss with a critic that prefers no action.
        wanted: corrections [S, n, A] that minimise ``fitting`` and ``total``, in this order, if every state had a
            parameter of its own.
        observations: [S, n, D], the states of ``wanted``.
    """

    rule: Improvement
    total: Callable[[], Tensor]
    fitting: Callable[[], Tensor]
    wanted: tuple[Tensor, Tensor]
    observations: Tensor


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
        return gated(self.frozen, observations, base, correction) if is_gated(self.settings) else correction

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """The policy: anchor plus correction, clipped to the action box [-1, 1]; [S, B, A]."""
        base = self.frozen.anchor.act(observations)
        return (base + self.deployed(observations, base)).clamp(-1.0, 1.0)

    # --- what diagnostics and the theory ask of a rule that trains a network ---

    @classmethod
    def follows_critic(cls, settings: Any) -> bool:
        """Whether the critic adds something to the training loss, so that :meth:`critic_loss` answers."""
        return False

    def critic_loss(self, probe: Probe, step: int) -> Tensor:
        """What the critic adds to the loss at the probe's steps, a scalar.

        This is the rule's own loss minus its loss with a critic that prefers no action.

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


def is_gated(settings: BaseSettings) -> bool:
    """Whether a rule's settings put the rule behind the gate."""
    return bool(getattr(settings, "gate", False))


def gated(frozen: Frozen, observations: Tensor, base: Tensor, correction: Tensor) -> Tensor:
    """The correction [S, B, A] where Q_c does not prefer the anchor's action, and 0 elsewhere."""
    corrected = frozen.values.q(observations, (base + correction).clamp(-1.0, 1.0))
    opens = corrected >= frozen.values.q(observations, base)
    return torch.where(opens.unsqueeze(-1), correction, 0.0)


def mean_by_state(observations: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Replace each row of ``values`` [S, n, .] by the (weighted) mean over the rows of the same seed and state.

    States [S, n, D] are told apart by their first coordinate, so this is for synthetic problems.
    """
    out = torch.empty_like(values)
    for s in range(len(values)):
        for state in observations[s, :, 0].unique():
            here = observations[s, :, 0] == state
            w = torch.ones(int(here.sum()), dtype=values.dtype) if weights is None else weights[s, here]
            out[s, here] = (w.unsqueeze(-1) * values[s, here]).sum(0) / w.sum()
    return out
