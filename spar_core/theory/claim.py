"""What every claim is: pieces of work, rows measured from them, and findings that say what holds."""

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

# Digits of every number that is written: more than any reader needs, fewer than processors disagree in.
DIGITS = 6

# A row: names of what was measured, and one value a seed of each quantity.
Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One checkable sentence: what was measured, with its interval, against what is expected.

    ``expected`` is a number in closed form, or None where only a sign or a bound is claimed; ``holds`` says whether the
    sentence does.
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
        """From one value a seed."""
        estimate = mean_interval([float(value) for value in values], confidence)
        return cls(name, says, estimate.value, estimate.low, estimate.high, expected, bool(holds(estimate)))


def within(expected: float, tolerance: float) -> Callable[[Estimate], bool]:
    """Whether the mean is ``tolerance`` or less from what is expected."""
    return lambda estimate: abs(estimate.value - expected) <= tolerance


def below(bound: float) -> Callable[[Estimate], bool]:
    """Whether the whole interval lies below a bound."""
    return lambda estimate: estimate.value < bound and (estimate.high is None or estimate.high < bound)


def above(bound: float) -> Callable[[Estimate], bool]:
    """Whether the whole interval lies above a bound."""
    return lambda estimate: estimate.value > bound and (estimate.low is None or estimate.low > bound)


@dataclass(frozen=True)
class Claim:
    """A claim of the method, as functions of the settings (a :class:`~spar_core.theory.settings.TheorySettings`).

    Attributes:
        name: as in ``params.yaml``.
        title: a heading.
        question: one sentence.
        pieces: picklable pieces of work; each holds all seeds, so that shares of workers change no shape.
        measure: (settings, piece) to rows.
        findings: (settings, rows) to findings.
        figure: (settings, rows) to SVG.
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
    """What a claim writes: ``result.json``, ``table.csv``, ``figure.svg``, by name to bytes."""

    files: dict[str, bytes]


@dataclass(frozen=True)
class _Measure:
    """The work of one process."""

    claim: Claim
    settings: Any

    def __call__(self, pieces: Sequence[Any], report: Reporter) -> list[Row]:
        return [row for piece in pieces for row in self.claim.measure(self.settings, piece)]


def run_claim(claim: Claim, settings: Any, workers: int) -> Outcome:
    """Measure a claim; the bytes do not depend on how many processes work."""
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
    """A row with mean and interval in place of the values of seeds."""
    out: Row = {}
    for key, value in row.items():
        if isinstance(value, list):
            estimate = mean_interval(value, confidence)
            out |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
        else:
            out[key] = value
    return rounded(out)


def rounded(value: Any) -> Any:
    """Numbers of a JSON-like value at ``DIGITS`` significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}")
    return value


def _table(rows: Sequence[Row]) -> bytes:
    """CSV with the columns of all rows, in the order in which they first come."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(key) for key in columns] for row in rows)
    return text.getvalue().encode()


def pick(rows: Sequence[Row], **wanted: Any) -> Row:
    """The one row that has these values."""
    (found,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return found
