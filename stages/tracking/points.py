"""The metrics that MLflow gets from artifacts: curves, final values, and the summary of a rule."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json
from spar_core.errors import SparError
from stages.tracking.store import Point

CURVE_POINTS = 200


@dataclass(frozen=True)
class Folders:
    """Artifacts of one kind, one a seed group: those of a rule (``own``), and those of the anchor alone."""

    own: list[Path]
    anchor: list[Path]


def curve_key(metric: str, seed: int | None) -> str:
    """MLflow name of one seed's curve, or of the mean over seeds (``seed`` None)."""
    return metric if seed is None else f"{metric}/seed_{seed}"


def final_points(metrics: Mapping[str, Any], seeds: tuple[int, ...]) -> list[Point]:
    """``final/<name>``, the mean over seeds, and ``final/<name>/seed_<k>`` from the content of metrics.json."""
    points: list[Point] = []
    for name, value in metrics.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        kept = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        if not kept:
            continue
        points.append((f"final/{name}", 0, sum(kept) / len(kept)))
        if isinstance(value, (list, tuple)) and len(value) == len(seeds):
            points += [
                (f"final/{name}/seed_{seed}", 0, float(v))
                for seed, v in zip(seeds, value, strict=True)
                if isinstance(v, (int, float)) and math.isfinite(v)
            ]
    return points


def curve_points(path: Path) -> list[Point]:
    """All curves of a ``curves.csv``, of each seed and of the mean over seeds, thinned to ``CURVE_POINTS`` points each.

    A cell that trained nothing has no such file, and the result is empty.
    """
    if not path.is_file():
        return []
    curves: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in _rows(path, ("step", "seed", "metric", "value")):
        if row["value"] != "":
            curves[row["metric"]][row["seed"]][int(row["step"])] = float(row["value"])
    points: list[Point] = []
    for metric, by_seed in curves.items():
        for seed, curve in by_seed.items():
            points += _thinned(curve_key(metric, int(seed) if seed != "" else None), curve)
        seeds = [curve for seed, curve in by_seed.items() if seed != ""]
        if seeds and "" not in by_seed:
            common = set.intersection(*(set(curve) for curve in seeds))
            points += _thinned(metric, {step: _mean(curve[step] for curve in seeds) for step in common})
    return points


def evaluation_points(path: Path) -> list[Point]:
    """Final values of an evaluation cell from its ``episodes.csv``: the mean over seeds, and one a seed.

    The mean return of the committee is that of ``committee.csv`` beside it. The result is empty if no policy was rolled
    out.
    """
    by_seed: dict[int, list[dict[str, str]]] = defaultdict(list)
    for row in _episodes(path):
        by_seed[int(row["seed"])].append(row)
    seeds = tuple(sorted(by_seed))
    finals: dict[str, list[float]] = {
        "return": [_mean(float(row["return"]) for row in by_seed[seed]) for seed in seeds],
        "length": [_mean(float(row["length"]) for row in by_seed[seed]) for seed in seeds],
    }
    # An empty field means that the environment has no notion of success.
    if all(row["success"] != "" for rows in by_seed.values() for row in rows):
        finals["success"] = [_mean(_flag(row["success"]) for row in by_seed[seed]) for seed in seeds]
    beside = path.with_name("committee.csv")
    committee = _rows(beside, ("seeds", "return")) if beside.is_file() else []
    together = {"committee_return": _mean(float(row["return"]) for row in committee)} if committee else {}
    return final_points(finals, seeds) + final_points(together, ())


def estimate_points(path: Path) -> list[Point]:
    """Final values of an estimate cell from its ``estimates.json``, by names that differ from those of returns."""
    found = read_json(path)
    values = {name: found[name] for name in ("fqe", "critic_estimate") if found.get(name) is not None}
    return final_points(values, tuple(found["seeds"]))


def result_metrics(
    report: Path, key: tuple[str, str, str, str], evaluations: Folders, estimates: Folders
) -> dict[str, float]:
    """``final/...`` metrics of one (dataset, anchor, critic, improvement).

    The numbers come from the study's report if there is one. Otherwise they are computed from the folders: mean return,
    standard deviation over seeds, normalised score, and gain over the anchor. For a policy that was not rolled out they
    are the mean estimate and its gain over the anchor's.

    Args:
        report: folder of the study's report.
        key: dataset, anchor, critic and improvement of the rule.
        evaluations: evaluation folders of the rule, and of the anchor alone on the same axes.
        estimates: likewise the folders of the estimates, if the study has them.
    """
    table = report / "metrics.json"
    prefix = "/".join(key) + "/"
    if table.is_file():
        values = {k.removeprefix(prefix): v for k, v in read_json(table).items() if k.startswith(prefix)}
        if values:
            return {f"final/{k}": float(v) for k, v in values.items() if isinstance(v, (int, float))}
    ours = _seed_returns(evaluations.own)
    if not ours:
        return _estimated_metrics(estimates, key[3] == "anchor")
    mean = _mean(ours.values())
    found = {"return_mean": mean}
    if len(ours) > 1:
        found["return_std"] = statistics.stdev(ours.values())
    reference = read_json(evaluations.own[0] / "context.json").get("reference")
    if reference:
        low, high = float(reference["min"]), float(reference["max"])
        found["normalised_score"] = 100 * (mean - low) / (high - low)
    theirs = _seed_returns(evaluations.anchor)
    if key[3] != "anchor" and theirs and theirs.keys() == ours.keys():
        found["gain_over_anchor"] = _mean(ours[seed] - theirs[seed] for seed in ours)
    return {f"final/{name}": value for name, value in found.items()}


def _estimated_metrics(estimates: Folders, is_anchor: bool) -> dict[str, float]:
    """Metrics of a rule that was not rolled out, by names that differ from those of returns."""
    ours, theirs = _seed_estimates(estimates.own), _seed_estimates(estimates.anchor)
    if not ours:
        return {}
    found = {"final/fqe_mean": _mean(ours.values())}
    if not is_anchor and theirs and theirs.keys() == ours.keys():
        found["final/fqe_gain_over_anchor"] = _mean(ours[seed] - theirs[seed] for seed in ours)
    return found


def _seed_estimates(folders: list[Path]) -> dict[int, float]:
    estimates = [read_json(folder / "estimates.json") for folder in folders]
    pairs = ((seed, value) for found in estimates for seed, value in zip(found["seeds"], found["fqe"], strict=True))
    return {seed: value for seed, value in pairs if value is not None}


def _thinned(key: str, curve: Mapping[int, float]) -> list[Point]:
    steps = sorted(curve)
    if len(steps) > CURVE_POINTS:
        last = len(steps) - 1
        steps = [steps[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
    return [(key, step, curve[step]) for step in steps]


def _seed_returns(folders: list[Path]) -> dict[int, float]:
    returns: dict[int, list[float]] = defaultdict(list)
    for folder in folders:
        for row in _episodes(folder / "episodes.csv"):
            returns[int(row["seed"])].append(float(row["return"]))
    return {seed: _mean(values) for seed, values in returns.items()}


def _episodes(path: Path) -> list[dict[str, str]]:
    return _rows(path, ("seed", "return", "length", "success"))


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise SparError(f"{path} lacks the column '{missing[0]}'", "run `dvc repro`")
            return list(reader)
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run `dvc repro` or `dvc pull`") from None


def _flag(text: str) -> float:
    return 1.0 if text.strip().lower() in ("true", "1", "1.0") else 0.0


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
