"""Learning curves: how they are read, and those of all parts of a policy condensed into one small table.

Curves are only shown: no checkpoint is selected by them.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from spar_core.errors import SparError
from spar_core.evenly import evenly
from spar_core.training.checkpoints import CurveRow
from spar_core.training.fitted import CURVES

COLUMNS = ["part", "metric", "step", "seeds", "mean", "low", "high"]
POINTS = 32


def condense(parts: Mapping[str, Path], target: Path) -> None:
    """Write the curves of several fitted parts: the mean over seeds, and the lowest and highest seed.

    Args:
        parts: name ("anchor", "residual", ...) and folder of each part; a part that trained nothing has no curves.
        target: the CSV to write, with the columns ``COLUMNS`` and at most ``POINTS`` evenly spread steps per curve.

    Raises:
        SparError: a file of curves is broken.
    """
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for part, folder in parts.items():
            path = folder / CURVES
            for (metric, step), values in _by_point(read_curves(path) if path.is_file() else ()).items():
                mean = float(np.mean(values))
                writer.writerow([part, metric, step, len(values), repr(mean), repr(min(values)), repr(max(values))])


def read_curves(path: Path) -> list[CurveRow]:
    """The points of a file that :func:`spar_core.training.fitted.write_curves` wrote.

    Raises:
        SparError: the file is missing or broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return [(int(r["step"]), int(r["seed"]), r["metric"], float(r["value"])) for r in csv.DictReader(handle)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SparError(f"{path} is missing or broken ({error})", "delete its folder and run `dvc repro`") from None


def _by_point(rows: Iterable[CurveRow]) -> dict[tuple[str, int], list[float]]:
    """Values of all seeds by metric and step, with at most ``POINTS`` steps per metric."""
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for step, _, metric, value in rows:
        curves[metric][step].append(value)
    points: dict[tuple[str, int], list[float]] = {}
    for metric, curve in sorted(curves.items()):
        steps = sorted(curve)
        points |= {(metric, step): curve[step] for step in evenly(np.array(steps), POINTS).tolist()}
    return points
