"""Write the table of the default study into README.md, between its markers: ``python scripts/readme_results.py``.

The numbers are those of ``reports/default/metrics.json``; nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "README.md"
HEAD = ["rule", "mean return", "score on D4RL's scale", "gain over the anchor", "of it repair", "of it improvement"]
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
    repair = rules["uniform"]["return_mean"] - rules["anchor"]["return_mean"]
    lines = [f"| {' | '.join(HEAD)} |", f"|---|{'--:|' * (len(HEAD) - 1)}"]
    lines += [f"| `{rule}` | {' | '.join(cells(own, repair))} |" for rule, own in rules.items()]
    return "\n".join(lines)


def cells(own: dict[str, float], repair: float) -> list[str]:
    """The columns of one rule; a gain is bold where its interval excludes zero."""
    shown = [f"{own['return_mean']:.0f}", f"{own['normalised_score']:.1f}"]
    if "gain_over_anchor" not in own:
        return [*shown, "", "", ""]
    low, high = own["gain_low"], own["gain_high"]
    gain = f"{own['gain_over_anchor']:+.0f} [{low:+.0f}, {high:+.0f}]"
    part = own.get("improvement_part")
    return [
        *shown,
        f"**{gain}**" if low > 0 or high < 0 else gain,
        f"{repair:+.0f}",
        "" if part is None else f"{part:+.0f}",
    ]


def fill(page: str) -> str:
    """The page with the table between its markers."""
    return MARKED.sub(lambda found: found[1] + table() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
