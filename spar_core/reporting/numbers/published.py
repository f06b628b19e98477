"""Published scores of a task, for the report: read from tables of this project, never compared by hand.

Each file ``spar_core/data/published_<name>.csv`` has the columns ``COLUMNS``. A score stands there as its source prints
it, and only where it is of the task's own reward and released data.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scipy import stats

from spar_core.errors import SparError
from spar_core.evaluation.statistics import Estimate

TABLES = Path(__file__).parents[2] / "data"
COLUMNS = ["suite", "task", "method", "score", "std", "seeds", "protocol", "source"]


@dataclass(frozen=True)
class Published:
    """One published score.

    Attributes:
        suite: name of the benchmark, such as ``ogbench-singletask``.
        task: name of the task in it.
        method: as the source calls it.
        score: in the benchmark's units.
        std: spread over seeds, as ``protocol`` says; None where the source gives none.
        seeds: number of seeds; None where the source does not say.
        protocol: which checkpoints and how many episodes count.
        source: where the score was read.
    """

    suite: str
    task: str
    method: str
    score: float
    std: float | None
    seeds: int | None
    protocol: str
    source: str

    def estimate(self, confidence: float) -> Estimate:
        """The score with a Student t-interval over seeds, where spread and number of seeds are public.

        The published deviation is taken as one with n in the denominator (NumPy's default), the wider reading.
        """
        n = self.seeds or 0
        if self.std is None or n < 2:
            return Estimate(self.score, None, None, n)
        half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * self.std / math.sqrt(n - 1)
        return Estimate(self.score, self.score - half, self.score + half, n)


@cache
def all_published() -> tuple[Published, ...]:
    """All rows of all tables, in their order.

    Raises:
        SparError: a table has other columns, or a row of it is not valid; the line names the row.
    """
    rows: list[Published] = []
    for path in sorted(TABLES.glob("published_*.csv")):
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            if reader.fieldnames != COLUMNS:
                raise SparError(f"{path.name} has the columns {reader.fieldnames}", f"write {','.join(COLUMNS)}")
            for number, row in enumerate(reader, 2):
                try:
                    rows.append(_row(row))
                except (TypeError, ValueError):
                    raise SparError(
                        f"{path.name}, line {number}, is not valid", "score, std and seeds are numbers"
                    ) from None
    return tuple(rows)


def _row(row: Mapping[str, str]) -> Published:
    std, seeds = row["std"], row["seeds"]
    words = (row["suite"], row["task"], row["method"])
    spread, count = float(std) if std else None, int(seeds) if seeds else None
    return Published(*words, float(row["score"]), spread, count, row["protocol"], row["source"])


def published(suite: str, task: str) -> list[Published]:
    """The rows of one task, by protocol and source in the order of the table."""
    return [row for row in all_published() if (row.suite, row.task) == (suite, task)]


def published_beside(context: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the report shows beside a dataset's own scores; None where nothing is published.

    Args:
        context: of the dataset's cells; ``published`` names suite and task, and says in ``differs`` why the scores do
            not compare with ours (empty where they do).
    """
    named = context.get("published")
    rows = published(named["suite"], named["task"]) if named else []
    return {"rows": rows, **named} if rows and named else None
