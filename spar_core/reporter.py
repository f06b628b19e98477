"""What a training loop tells the outside: how far it is, and points of its learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from spar_core.networks import Stack

# Points a learning curve should have: enough to see its shape, few enough to store and draw quickly.
CURVE_POINTS = 100

CurveRow = tuple[int, int, str, float]


@dataclass
class Reporter:
    """Collects curve rows (step, seed, metric, value). Subclasses also show them while training runs."""

    seeds: Sequence[int]
    rows: list[CurveRow] = field(default_factory=list)

    def advance(self, steps: int) -> None:
        """``steps`` more units of work are done: optimiser steps, or environment steps, of one seed each."""

    def observe(self, step: int, network: Stack) -> None:
        """See the network just before the update of step ``step`` (from 1); here, nothing is done with it."""

    def log(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Record a value a seed, [S], of each metric."""
        for metric, values in metrics.items():
            for seed, value in zip(self.seeds, values.tolist(), strict=True):
                self.rows.append((step, seed, metric, value))


def is_curve_point(step: int, steps: int) -> bool:
    """Whether step ``step`` (from 1) of ``steps`` belongs on the curve: the first, the last, and evenly between."""
    every = max(1, steps // CURVE_POINTS)
    return step == 1 or step == steps or step % every == 0
