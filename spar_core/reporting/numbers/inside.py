"""What was seen inside the trained cells of a study: read, joined over seed groups, and put into tables.

Geometry belongs to a dataset and an anchor, a diagnosis to a rule. The seed is the unit of every interval here;
intervals over episodes within a seed stay in the raw rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from spar_core.artifacts import META
from spar_core.diagnostics.measures import MEASURES, PROFILES
from spar_core.diagnostics.summary import summarise
from spar_core.errors import SparError
from spar_core.evaluation.statistics import Estimate, mean_interval
from spar_core.reporting.numbers.cells import KEYS, Folders, StudyLists
from spar_core.reporting.page.config import ReportSettings
from spar_core.reporting.page.provenance import dvc_digest

CURVES = "curves.csv"
# Columns of the two tables: the number, and what its column is called.
GEOMETRY = {
    "geometry/norm_heldout": "residual length",
    "geometry/at_radius_heldout": "at the radius",
    "geometry/log10_reach": "reach, log10 of the action box",
    "geometry/pooled_dimension_twonn": "dimension, TwoNN",
    "geometry/pooled_dimension_mle": "dimension, MLE",
    "geometry/local_split_share": "neighbourhoods with more than one mode",
    "geometry/local_fragmentation": "fragmentation",
    "geometry/effective_rank_zero": "decoder's effective rank",
    "geometry/weak_share_zero": "weak directions",
}
RULES = {
    "diagnosis/distance_ratio_repaired": "distance to data, repair alone",
    "diagnosis/distance_ratio_policy": "distance to data, policy",
    "diagnosis/repair_weak_share": "repair along weak directions",
    "diagnosis/improvement_weak_share": "improvement along weak directions",
    "diagnosis/effective_candidates": "effective candidates",
    "diagnosis/disagreement_ratio": "critic's disagreement",
    "diagnosis/cosine_early": "gradient cosine, first quarter",
    "diagnosis/conflict_share": "steps in conflict",
}


@dataclass
class Seen:
    """All seeds of one geometry (improvement and critic are empty) or of one diagnosis."""

    axes: tuple[str, str, str, str]
    measures: pd.DataFrame
    profiles: pd.DataFrame
    curves: pd.DataFrame
    sources: dict[str, Path] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """By name and seed; a missing value has no seed."""
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


def load_inside(study: StudyLists, folders: Folders, *, partial: bool = False) -> list[Seen]:
    """Geometry and diagnoses of the study's cells, in its order, each once.

    Raises:
        SparError: one is missing or broken; with ``partial`` a missing one is left out.
    """
    found: dict[tuple[str, tuple[str, ...]], Seen] = {}
    read: set[Path] = set()
    for cell in study.cells():
        for kind, folder in folders.inside(cell, study).items():
            if folder in read or (partial and not (folder / META).is_file()):
                continue
            read.add(folder)
            whole = tuple(str(getattr(cell, key)) for key in KEYS)
            axes = (*whole[:2], "", "") if kind == "geometry" else whole
            seen = _read(folder, axes, cell.seeds)
            if (kind, axes) in found:
                found[kind, axes].add(seen)
            else:
                found[kind, axes] = seen
    return list(found.values())


def _read(folder: Path, axes: tuple[str, ...], seeds: str) -> Seen:
    try:
        curves = pd.read_csv(folder / CURVES) if (folder / CURVES).is_file() else pd.DataFrame()
        measures, profiles = pd.read_csv(folder / MEASURES), pd.read_csv(folder / PROFILES)
        return Seen(axes, measures, profiles, curves, {seeds: folder})  # type: ignore[arg-type]
    except FileNotFoundError:
        raise SparError(f"the study asks for a diagnosis, but {folder} does not hold it", "run `dvc repro`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise SparError(f"{folder} is broken: {error}", "delete it and run `dvc repro`") from None


def raw_inside(found: Sequence[Seen]) -> dict[str, bytes]:
    """Every file that was read, by path below ``raw/``."""
    files = {}
    for seen in found:
        for seeds, folder in seen.sources.items():
            below = "/".join([_kind(seen), *filter(None, seen.axes), seeds])
            files |= {f"{below}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    return files


def _kind(seen: Seen) -> str:
    return "diagnosis" if seen.axes[3] else "geometry"


def inside_section(
    dataset: str, found: Sequence[Seen], settings: ReportSettings, pictured: Sequence[tuple[str, str, str]]
) -> dict[str, Any] | None:
    """What the template needs of one dataset; None where nothing was looked into.

    Args:
        dataset: its id.
        found: of the study.
        settings: the width of intervals.
        pictured: settings (dataset, anchor, critic) that have figures; the sentences are given for these too.
    """
    mine = [seen for seen in found if seen.axes[0] == dataset]
    if not mine:
        return None
    geometry = [seen for seen in mine if _kind(seen) == "geometry"]
    rules = [seen for seen in mine if _kind(seen) == "diagnosis"]
    shown = {axes[1] for axes in pictured}
    told = [seen for seen in geometry if seen.axes[1] in shown]
    told += [seen for seen in rules if seen.axes[:3] in pictured]
    weak = [seen.estimate("diagnosis/random_weak_share", settings.confidence) for seen in rules]
    return {
        "geometry": _table(geometry, GEOMETRY, settings, lambda seen: [f"`{seen.axes[1]}`"]),
        "rules": _table(rules, RULES, settings, lambda seen: [f"`{seen.axes[3]}`", f"{seen.axes[1]}, {seen.axes[2]}"]),
        "seeds": max(len(set(seen.measures["seed"])) for seen in mine),
        "random_weak_share": next((known for known in weak if known is not None), None),
        "readings": [
            {
                "title": _title(seen),
                "rows": summarise(seen.values, settings.confidence),
            }
            for seen in told
        ],
        "sources": [
            {
                "what": f"`{seen.axes[3]}`, {seen.axes[1]}, {seen.axes[2]}" if seen.axes[3] else seen.axes[1],
                "kind": _kind(seen),
                "seeds": seeds,
                "digest": dvc_digest(folder)[:12],
            }
            for seen in mine
            for seeds, folder in seen.sources.items()
        ],
    }


def _title(seen: Seen) -> str:
    _, anchor, critic, rule = seen.axes
    return f"Rule `{rule}` on anchor `{anchor}`, critic `{critic}`" if rule else f"Anchor `{anchor}`"


def _table(found: Sequence[Seen], columns: dict[str, str], settings: ReportSettings, names: Any) -> dict[str, Any]:
    """Columns that some row has a value in, and the rows."""
    values = [{name: seen.estimate(name, settings.confidence) for name in columns} for seen in found]
    kept = [name for name in columns if any(row[name] is not None for row in values)]
    rows = [
        {"names": names(seen), "cells": [row[name] for name in kept]} for seen, row in zip(found, values, strict=True)
    ]
    return {"columns": [columns[name] for name in kept], "rows": rows}
