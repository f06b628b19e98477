"""Write docs/benchmarks.md and its figures from benchmarks/results: `python -m benchmarks.page`."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, read
from benchmarks.figures import DRAWN
from spar_core.reporting.page import templating

PAGE = ROOT / "docs/benchmarks.md"
IMAGES = ROOT / "docs/images"
NAMES = (
    "study",
    "updates",
    "peers",
    "scaling",
    "sixth_anchor",
    "growth",
    "start_up",
    "data_loading",
    "quality",
    "thousand_cells",
    "one_gpu",
    "evaluation",
)


def quality_rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """For each dataset and way the point of the largest mean return, and its seconds."""
    rows = []
    for dataset, points in told["datasets"].items():
        for way in dict.fromkeys(point["way"] for point in points):
            mine = [
                (statistics.mean(p["returns"]), statistics.mean(p["seconds"]), p["returns"])
                for p in points
                if p["way"] == way
            ]
            last = max(mine, key=lambda point: point[1])
            rows.append({"dataset": dataset, "way": way, "points": sorted((s, r) for r, s, _ in mine), "last": last[2]})
    return rows


def gpu_rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """For each way seconds of an update by stage, and of the pipeline at its budget where all stages are there."""
    rows = []
    for way in dict.fromkeys(row["way"] for row in told["rates"]):
        mine = {row["stage"]: row for row in told["rates"] if row["way"] == way}
        whole = sum(row["first"] + told["budget"] * row["update"] for row in mine.values())
        stages = {stage: row["update"] for stage, row in mine.items()}
        rows.append({"way": way, "stages": stages, "whole": whole if set(mine) == set(told["pipeline"]) else None})
    return rows


def content() -> dict[Path, bytes]:
    """The page and its figures, as bytes by path."""
    results = {name: read(name) for name in NAMES}
    environment = templating.environment(__file__)
    environment.globals |= {"quality_rows": quality_rows, "gpu_rows": gpu_rows}
    environment.filters |= {"to": lambda value, digits: f"{value:,.{digits}f}"}
    files = {PAGE: environment.get_template("page.md.j2").render(results).encode()}
    for name, draw in DRAWN.items():
        files[IMAGES / f"benchmark-{name}.svg"] = draw(results[name])
    return files


def main() -> None:
    """Write them."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, data in content().items():
        path.write_bytes(data)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
