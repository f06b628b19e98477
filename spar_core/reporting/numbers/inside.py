"""Geometry and diagnoses of a study's cells, read and joined over seed groups.

Geometry belongs to a dataset and an anchor, a diagnosis to a rule. The seed is the unit of every interval here;
``measures.csv`` also holds the intervals over episodes within a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from spar_core.artifacts import META
from spar_core.diagnostics.measures import MEASURE_COLUMNS, MEASURES, PROFILES
from spar_core.errors import SparError
from spar_core.evaluation.statistics import Estimate, mean_interval
from spar_core.reporting.numbers.cells import KEYS, FoldersOf, Setting, StudyLists

# Kinds of the artifacts that are read here.
KINDS = ("geometry", "diagnosis")
CURVES = "curves.csv"
Axes = tuple[str, str, str, str]


@dataclass
class Seen:
    """All seeds of one geometry or of one diagnosis.

    Attributes:
        axes: dataset, anchor, critic and rule; critic and rule of a geometry are empty.
        measures, profiles, curves: the artifact's tables; ``curves`` is empty where no gradient was compared.
        sources: folder of each seed group.
    """

    axes: Axes
    measures: pd.DataFrame
    profiles: pd.DataFrame
    curves: pd.DataFrame
    sources: dict[str, Path] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``geometry`` or ``diagnosis``."""
        return "diagnosis" if self.axes[3] else "geometry"

    @property
    def setting(self) -> Setting:
        """Dataset, anchor and critic."""
        return self.axes[:3]

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """Measured values by name and seed; a seed without a value is left out."""
        known = self.measures.dropna(subset=["value"])
        return {
            str(name): {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"], strict=True)}
            for name, rows in known.groupby("name", sort=False)
        }

    def estimate(self, name: str, confidence: float) -> Estimate | None:
        """Mean over seeds with its interval; None where no seed has the number."""
        known = self.values.get(name)
        return mean_interval(list(known.values()), confidence) if known else None

    def add(self, other: Seen) -> None:
        """Join another seed group."""
        for part in ("measures", "profiles", "curves"):
            setattr(self, part, pd.concat([getattr(self, part), getattr(other, part)], ignore_index=True))
        self.sources |= other.sources


def load_inside(study: StudyLists, folders: FoldersOf, *, partial: bool = False) -> list[Seen]:
    """Geometry and diagnoses of the study's cells, in its order, each once.

    Raises:
        SparError: one of them is missing or broken; with ``partial``, a missing one is left out.
    """
    found: dict[tuple[str, Axes], Seen] = {}
    read: set[Path] = set()
    for cell in study.cells():
        for kind, folder in folders(cell, study).items():
            if kind not in KINDS or folder in read or (partial and not (folder / META).is_file()):
                continue
            read.add(folder)
            rule = ("", "") if kind == "geometry" else (cell.critic, cell.improvement)
            seen = _read(folder, (cell.dataset, cell.anchor, *rule), cell.seeds)
            if (kind, seen.axes) in found:
                found[kind, seen.axes].add(seen)
            else:
                found[kind, seen.axes] = seen
    return list(found.values())


def _read(folder: Path, axes: Axes, seeds: str) -> Seen:
    try:
        curves = pd.read_csv(folder / CURVES) if (folder / CURVES).is_file() else pd.DataFrame()
        # The default parser may change the last digit, and measures.csv repeats these numbers.
        measures = pd.read_csv(folder / MEASURES, float_precision="round_trip")
        return Seen(axes, measures, pd.read_csv(folder / PROFILES), curves, {seeds: folder})
    except FileNotFoundError:
        raise SparError(f"the study asks for a diagnosis, but {folder} does not hold it", "run `dvc repro`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise SparError(f"{folder} is broken: {error}", "delete it and run `dvc repro`") from None


def measures_frame(found: Sequence[Seen]) -> pd.DataFrame:
    """``measures.csv``: one row per number and seed, with its interval over episodes where the artifact has one."""
    frames = [seen.measures.assign(**dict(zip(KEYS, seen.axes, strict=True))) for seen in found]
    columns = [*KEYS, *MEASURE_COLUMNS]
    frame = pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
    return frame.astype({"states": "Int64", "episodes": "Int64"})
