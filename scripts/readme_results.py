"""Write the tables of results into README.md, between their markers: ``python scripts/readme_results.py``.

The numbers are those of ``reports/<study>/metrics.json``; nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "README.md"
MARKED = re.compile(r"(<!-- results:(\w+) -->\n).*?(\n<!-- /results:\2 -->)", re.DOTALL)
HEAD = ["rule", "committee", "gain over the anchor's", "lowest seed", "mean of the seeds", "gain over the anchor"]
Numbers = dict[str, float]


def numbers(study: str) -> dict[str, dict[str, Numbers]]:
    """Metrics by dataset and rule, for the first anchor and critic of a study; ``committee/...`` are of committees."""
    lists = yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text(encoding="utf-8"))
    metrics = json.loads((ROOT / f"reports/{study}/metrics.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Numbers]] = {}
    for dataset in lists["datasets"]:
        for rule in lists["improvements"]:
            cell = "/".join([dataset, lists["anchors"][0], lists["critics"][0], rule]) + "/"
            own = {key.removeprefix(cell): value for key, value in metrics.items() if key.startswith(cell)}
            found.setdefault(dataset, {})[rule] = own
    return found


def default() -> str:
    """One row for each rule of the default study: its committee, and its seeds."""
    (rules,) = numbers("default").values()
    lines = [f"| {' | '.join(HEAD)} |", f"|---|{'--:|' * (len(HEAD) - 1)}"]
    return "\n".join(lines + [f"| `{rule}` | {' | '.join(cells(own))} |" for rule, own in rules.items()])


def cells(own: Numbers) -> list[str]:
    """The columns of one rule."""
    return [
        f"{own['committee/return_mean']:.0f}",
        gain(*(own.get(f"committee/{name}") for name in ("gain", "gain_low", "gain_high"))),
        f"{own['committee/lowest_member']:.0f}",
        f"{own['return_mean']:.0f}",
        gain(own.get("gain_over_anchor"), own.get("gain_low"), own.get("gain_high")),
    ]


def gain(value: float | None, low: float | None, high: float | None) -> str:
    """A gain with its interval, bold where the interval excludes zero; nothing for the anchor."""
    if value is None or low is None or high is None:
        return ""
    text = f"{value:+.0f} [{low:+.0f}, {high:+.0f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def builtin() -> str:
    """One row for each rule, and for each dataset its committee's return with that of the lowest seed."""
    by_dataset = numbers("builtin")
    rules = list(next(iter(by_dataset.values())))
    lines = [f"| rule | {' | '.join(f'`{dataset}`' for dataset in by_dataset)} |", f"|---|{'--:|' * len(by_dataset)}"]
    for rule in rules:
        shown = [
            f"{own[rule]['committee/return_mean']:.0f} ({own[rule]['committee/lowest_member']:.0f})"
            for own in by_dataset.values()
        ]
        lines.append(f"| `{rule}` | {' | '.join(shown)} |")
    return "\n".join(lines)


TABLES = {"default": default, "builtin": builtin}


def fill(page: str) -> str:
    """The page with the tables between their markers."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
