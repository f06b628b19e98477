"""Write the table of the default study into README.md, between its markers: ``python scripts/readme_results.py``.

The numbers are those of ``reports/default/metrics.json``; nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "README.md"
HEAD = ["rule", "committee", "its gain", "lowest seed", "mean of the seeds", "their gain", "of it improvement"]
COMMITTEE = ("return_mean", "gain", "gain_low", "gain_high", "lowest_member")
MARKED = re.compile(r"(<!-- results:default -->\n).*?(\n<!-- /results:default -->)", re.DOTALL)


def table() -> str:
    """One row for each rule of the default study."""
    study = yaml.safe_load((ROOT / "studies/default.yaml").read_text(encoding="utf-8"))
    metrics = json.loads((ROOT / "reports/default/metrics.json").read_text(encoding="utf-8"))
    cell = "/".join(study[axis][0] for axis in ("datasets", "anchors", "critics"))
    rules = {
        rule: {key.rpartition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{cell}/{rule}/")}
        for rule in study["improvements"]
    }
    together = {
        rule: {name: metrics.get(f"{cell}/{rule}/committee/{name}") for name in COMMITTEE}
        for rule in study["improvements"]
    }
    lines = [f"| {' | '.join(HEAD)} |", f"|---|{'--:|' * (len(HEAD) - 1)}"]
    lines += [f"| `{rule}` | {' | '.join(cells(own, together[rule]))} |" for rule, own in rules.items()]
    return "\n".join(lines)


def cells(own: dict[str, float], together: dict[str, Any]) -> list[str]:
    """The columns of one rule: of its committee, and of its seeds."""
    part = own.get("improvement_part")
    return [
        f"{together['return_mean']:.0f}",
        gain(together["gain"], together["gain_low"], together["gain_high"]),
        f"{together['lowest_member']:.0f}",
        f"{own['return_mean']:.0f}",
        gain(own.get("gain_over_anchor"), own.get("gain_low"), own.get("gain_high")),
        "" if part is None else f"{part:+.0f}",
    ]


def gain(value: float | None, low: float | None, high: float | None) -> str:
    """A gain with its interval, bold where the interval excludes zero; nothing for the anchor."""
    if value is None or low is None or high is None:
        return ""
    text = f"{value:+.0f} [{low:+.0f}, {high:+.0f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def fill(page: str) -> str:
    """The page with the table between its markers."""
    return MARKED.sub(lambda found: found[1] + table() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
