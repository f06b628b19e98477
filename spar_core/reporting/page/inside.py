"""The section on geometry and gradients: tables, readings and digests of what was measured inside the cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from spar_core.diagnostics.summary import summarise
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Setting
from spar_core.reporting.numbers.inside import Seen
from spar_core.reporting.page.provenance import dvc_digest

# Columns of the two tables: a number's name, and the title of its column.
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


def inside_section(
    dataset: str, found: Sequence[Seen], settings: ReportSettings, pictured: Sequence[Setting]
) -> dict[str, Any] | None:
    """The template's values for one dataset; None where nothing was diagnosed.

    Args:
        dataset: its id.
        found: geometry and diagnoses of the study.
        settings: the width of intervals.
        pictured: the settings that have figures; readings are shown for these only.
    """
    mine = [seen for seen in found if seen.axes[0] == dataset]
    if not mine:
        return None
    geometry = [seen for seen in mine if seen.kind == "geometry"]
    rules = [seen for seen in mine if seen.kind == "diagnosis"]
    anchors = {anchor for _, anchor, _ in pictured}
    read = [seen for seen in geometry if seen.axes[1] in anchors]
    read += [seen for seen in rules if seen.setting in pictured]
    weak = [seen.estimate("diagnosis/random_weak_share", settings.confidence) for seen in rules]
    return {
        "geometry": _table(geometry, GEOMETRY, settings, lambda seen: [f"`{seen.axes[1]}`"]),
        "rules": _table(rules, RULES, settings, lambda seen: [f"`{seen.axes[3]}`", f"{seen.axes[1]}, {seen.axes[2]}"]),
        "seeds": max(len(set(seen.measures["seed"])) for seen in mine),
        "random_weak_share": next((known for known in weak if known is not None), None),
        "readings": [{"title": _title(seen), "rows": summarise(seen.values, settings.confidence)} for seen in read],
        "sources": [
            {
                "what": f"`{seen.axes[3]}`, {seen.axes[1]}, {seen.axes[2]}" if seen.axes[3] else seen.axes[1],
                "kind": seen.kind,
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


def _table(
    found: Sequence[Seen], columns: dict[str, str], settings: ReportSettings, names: Callable[[Seen], list[str]]
) -> dict[str, Any]:
    """Titles of the columns in which some row has a value, and the rows."""
    values = [{name: seen.estimate(name, settings.confidence) for name in columns} for seen in found]
    kept = [name for name in columns if any(row[name] is not None for row in values)]
    rows = [
        {"names": names(seen), "cells": [row[name] for name in kept]} for seen, row in zip(found, values, strict=True)
    ]
    return {"columns": [columns[name] for name in kept], "rows": rows}
