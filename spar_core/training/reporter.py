"""What a training loop tells the outside: how far it is, and points of its learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from spar_core.training.checkpoints import Checkpoints, CurveRow

if TYPE_CHECKING:
    from spar_core.training.networks import Stack

# Points a learning curve should have: enough to see its shape, few enough to store and draw quickly.
CURVE_POINTS = 100


@dataclass
class Reporter:
    """Collects curve rows (step, seed, metric, value). Subclasses also show them while training runs.

    Attributes:
        seeds: of the work.
        rows: collected so far.
        checkpoints: where loops keep theirs; None where they keep none.
        stopping: whether the work is asked to stop.
    """

    seeds: Sequence[int]
    rows: list[CurveRow] = field(default_factory=list)
    checkpoints: Checkpoints | None = None
    stopping: Callable[[], bool] = lambda: False

    def advance(self, steps: int) -> None:
        """``steps`` more units of work are done: optimiser steps, or environment steps, of one seed each."""

    def observe(self, step: int, network: Stack) -> None:
        """See the network just before the update of step ``step`` (from 1); here, nothing is done with it."""

    def log(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Record a value a seed, [S], of each metric."""
        self.add(
            [
                (step, seed, metric, value)
                for metric, values in metrics.items()
                for seed, value in zip(self.seeds, values.tolist(), strict=True)
            ]
        )

    def add(self, rows: Sequence[CurveRow]) -> None:
        """Record rows."""
        self.rows.extend(rows)

    def last(self, metric: str, missing: float = math.nan) -> list[float]:
        """The value of ``metric`` that was recorded last, one a seed; ``missing`` where there is none."""
        known = {seed: value for _, seed, name, value in self.rows if name == metric}
        return [known.get(seed, missing) for seed in self.seeds]


class Nested(Reporter):
    """Reports a part of another reporter's work.

    Progress and rows are passed on, rows under ``prefix`` (none for ""; not at all for None). Loops keep their
    checkpoints apart, under ``part``.
    """

    def __init__(self, outer: Reporter, part: str, *, prefix: str | None = "", seeds: Sequence[int] | None = None):
        checkpoints = outer.checkpoints.inside(part) if outer.checkpoints else None
        super().__init__(outer.seeds if seeds is None else seeds, [], checkpoints, outer.stopping)
        self.outer, self.prefix = outer, prefix

    def advance(self, steps: int) -> None:
        self.outer.advance(steps)

    def add(self, rows: Sequence[CurveRow]) -> None:
        super().add(rows)
        if self.prefix is not None:
            before = f"{self.prefix}/" if self.prefix else ""
            self.outer.add([(step, seed, before + metric, value) for step, seed, metric, value in rows])


def is_curve_point(step: int, steps: int) -> bool:
    """Whether step ``step`` (from 1) of ``steps`` belongs on the curve: the first, the last, and evenly between."""
    every = max(1, steps // CURVE_POINTS)
    return step == 1 or step == steps or step % every == 0
