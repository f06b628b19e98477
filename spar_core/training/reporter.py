"""Report the progress of training loops and the points of their learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from spar_core.training.checkpoints import Checkpoints, CurveRow

if TYPE_CHECKING:
    from spar_core.training.networks import Stack

# Approximate number of points of a learning curve: enough to show its shape, and few enough to store and draw quickly.
CURVE_POINTS = 100


@dataclass
class Reporter:
    """Collects points of learning curves, (step, seed, metric, value). Subclasses also show them during training.

    Attributes:
        seeds: the S seeds of the work.
        rows: points collected so far.
        checkpoints: the checkpoints of the work's loops; None if they keep none.
        stopping: whether the work has been asked to stop.
    """

    seeds: Sequence[int]
    rows: list[CurveRow] = field(default_factory=list)
    checkpoints: Checkpoints | None = None
    stopping: Callable[[], bool] = lambda: False

    def advance(self, steps: int) -> None:
        """Report that ``steps`` more units of work are done; a unit is an optimiser or environment step of one seed."""

    def observe(self, step: int, network: Stack) -> None:
        """Receive the network just before the update of step ``step`` (from 1); this class ignores it."""

    def log(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Record the values [S] of each metric at a step."""
        self.add(
            [
                (step, seed, metric, value)
                for metric, values in metrics.items()
                for seed, value in zip(self.seeds, values.tolist(), strict=True)
            ]
        )

    def add(self, rows: Sequence[CurveRow]) -> None:
        """Record points of learning curves."""
        self.rows.extend(rows)

    def last(self, metric: str, missing: float = math.nan) -> list[float]:
        """The last recorded value of ``metric`` for each seed, or ``missing`` for a seed without one."""
        known = {seed: value for _, seed, name, value in self.rows if name == metric}
        return [known.get(seed, missing) for seed in self.seeds]


class Nested(Reporter):
    """Reports one part of another reporter's work, and passes progress and points on to that reporter."""

    def __init__(
        self, outer: Reporter, part: str, *, prefix: str | None = "", seeds: Sequence[int] | None = None
    ) -> None:
        """Report a part of the work of ``outer``.

        Args:
            outer: reporter of the whole work.
            part: folder for the checkpoints of this part.
            prefix: put before the metrics that are passed on, with a slash unless it is empty; None passes on none.
            seeds: seeds of this part; None takes those of ``outer``.
        """
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
    """Whether step ``step`` (from 1) of ``steps`` is a point of the curve: the first, the last, and evenly between."""
    every = max(1, steps // CURVE_POINTS)
    return step == 1 or step == steps or step % every == 0
