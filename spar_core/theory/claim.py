"""The interface of a claim: pieces of work, rows that are measured, and findings that say what holds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spar_core.evaluation.statistics import Estimate, mean_interval
from spar_core.training.reporter import Reporter
from spar_core.training.workers import over_seeds

# Significant digits of every number that is written. Processors may differ in later digits.
DIGITS = 6

# A row: names that say what was measured, and for each quantity a list with one value a seed.
Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One sentence that can be checked.

    Attributes:
        name: unique within the claim.
        says: the sentence.
        value: mean over seeds of what was measured.
        low, high: its interval; None where there is none.
        expected: the value in closed form; None where only a sign or a bound is claimed.
        holds: whether the sentence holds.
    """

    name: str
    says: str
    value: float
    low: float | None
    high: float | None
    expected: float | None
    holds: bool

    @classmethod
    def of(
        cls, name: str, says: str, values: Sequence[float], confidence: float, expected: float | None,
        holds: Callable[[Estimate], bool],
    ) -> Finding:  # fmt: skip
        """The finding for measured ``values``, one a seed. ``holds`` decides from their mean and interval."""
        estimate = mean_interval([float(value) for value in values], confidence)
        return cls(name, says, estimate.value, estimate.low, estimate.high, expected, bool(holds(estimate)))


def within(expected: float, tolerance: float) -> Callable[[Estimate], bool]:
    """Test whether the mean lies within ``tolerance`` of the expected value."""
    return lambda estimate: abs(estimate.value - expected) <= tolerance


def below(bound: float) -> Callable[[Estimate], bool]:
    """Test whether the whole interval lies below ``bound``."""
    return lambda estimate: estimate.value < bound and (estimate.high is None or estimate.high < bound)


def above(bound: float) -> Callable[[Estimate], bool]:
    """Test whether the whole interval lies above ``bound``."""
    return lambda estimate: estimate.value > bound and (estimate.low is None or estimate.low > bound)


@dataclass(frozen=True)
class Claim:
    """A claim of the method, as functions of the settings (a :class:`~spar_core.theory.settings.TheorySettings`).

    Attributes:
        name: the claim's name in the settings.
        title: heading of its section in the report.
        question: the sentence below the heading.
        pieces: gives the picklable pieces of work. Each piece holds all seeds, so the number of workers changes no
            tensor's shape.
        measure: takes the settings and a piece, and gives rows.
        findings: takes the settings and all rows, and gives findings.
        figure: takes the settings and all rows, and gives SVG.
    """

    name: str
    title: str
    question: str
    pieces: Callable[[Any], list[Any]]
    measure: Callable[[Any, Any], list[Row]]
    findings: Callable[[Any, list[Row]], list[Finding]]
    figure: Callable[[Any, list[Row]], bytes]


@dataclass(frozen=True)
class Outcome:
    """The bytes of the files that a claim writes, by name: ``result.json``, ``table.csv`` and ``figure.svg``."""

    files: dict[str, bytes]


@dataclass(frozen=True)
class _Measure:
    """Measures pieces in one process."""

    claim: Claim
    settings: Any

    def __call__(self, pieces: Sequence[Any], report: Reporter) -> list[Row]:
        return [row for piece in pieces for row in self.claim.measure(self.settings, piece)]


def run_claim(claim: Claim, settings: Any, workers: int) -> Outcome:
    """Measure a claim with ``workers`` processes, whose number changes no byte."""
    shares = over_seeds(_Measure(claim, settings), claim.pieces(settings), workers)
    rows = [rounded(row) for share in shares for row in share]
    findings = [rounded(asdict(finding)) for finding in claim.findings(settings, rows)]
    shown = [summary(row, settings.confidence) for row in rows]
    result = {
        "claim": claim.name,
        "title": claim.title,
        "question": claim.question,
        "seeds": list(settings.seed_numbers),
        "confidence": settings.confidence,
        "findings": findings,
        "rows": shown,
    }
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    files = {"result.json": text.encode(), "table.csv": _table(shown), "figure.svg": claim.figure(settings, rows)}
    return Outcome(files)


def summary(row: Row, confidence: float) -> Row:
    """The row with mean and interval in place of each list of values."""
    shown: Row = {}
    for key, value in row.items():
        if isinstance(value, list):
            estimate = mean_interval(value, confidence)
            shown |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
        else:
            shown[key] = value
    out: Row = rounded(shown)
    return out


def rounded(value: Any) -> Any:
    """A JSON-like value with its floats rounded to ``DIGITS`` significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}")
    return value


def _table(rows: Sequence[Row]) -> bytes:
    """CSV with the columns of all rows, in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(key) for key in columns] for row in rows)
    return text.getvalue().encode()


def pick(rows: Sequence[Row], **wanted: Any) -> Row:
    """The only row with these values."""
    (found,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return found
