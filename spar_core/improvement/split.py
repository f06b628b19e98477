"""A rule's loss taken apart: what fits the data, and what the critic adds. Diagnostics and the theory use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from spar_core.training.networks import Stack


class Trained(Protocol):
    """A rule that trains a network."""

    network: Stack

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A] for standardised observations [S, B, D] and anchor actions [S, B, A]."""


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
        fitting: computes the same loss with a critic that values all actions equally.
        wanted: corrections [S, n, A] that minimise ``fitting`` and ``total``, in this order, if every state had a
            parameter of its own.
        observations: [S, n, D], the states of ``wanted``.
    """

    rule: Trained
    total: Callable[[], Tensor]
    fitting: Callable[[], Tensor]
    wanted: tuple[Tensor, Tensor]
    observations: Tensor


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
