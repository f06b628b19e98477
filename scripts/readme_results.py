"""Write the results of a study into README.md, between its markers, from ``reports/<study>/table.csv``.

Usage: ``python scripts/readme_results.py default builtin replay``. The command that made the numbers stands above
each table; nothing is typed by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd


def table(study: str) -> str:
    """Markdown tables of a study, one a dataset."""
    frame = pd.read_csv(Path("reports") / study / "table.csv")
    command = "make run" if study == "default" else f"make study NAME={study}"
    parts = [f"`{command}`, full report: [reports/{study}/report.md](reports/{study}/report.md)"]
    for dataset, rows in frame.groupby("dataset", sort=False):
        episodes = int(rows["episodes"].iloc[0] / rows["seeds"].iloc[0])
        lines = [
            f"`{dataset}`, {rows['seeds'].iloc[0]} seeds of {episodes} episodes "
            "(gain: paired difference to the anchor, in brackets its 95% t-interval over seeds; bold where that "
            "excludes zero):",
            "",
            "| rule | mean return | score on D4RL's scale | gain over the anchor | of it repair | of it improvement |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for row in rows.itertuples():
            gain = "" if pd.isna(row.gain_over_anchor) else _gain(row)
            split = ["" if pd.isna(x) else f"{x:+.0f}" for x in (row.repair, row.improvement_part)]
            score = "" if pd.isna(row.normalised_score) else f"{row.normalised_score:.1f}"
            cells = [f"`{row.improvement}`", f"{row.return_mean:.0f}", score, gain, *split]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _gain(row: object) -> str:
    low, high = row.gain_low, row.gain_high  # type: ignore[attr-defined]
    text = f"{row.gain_over_anchor:+.0f} [{low:+.0f}, {high:+.0f}]"  # type: ignore[attr-defined]
    return f"**{text}**" if low > 0 or high < 0 else text


def main() -> None:
    """Command line."""
    readme = Path("README.md")
    text = readme.read_text(encoding="utf-8")
    for study in sys.argv[1:]:
        marks = f"<!-- results:{study} -->", f"<!-- /results:{study} -->"
        pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"error: README.md has no markers for '{study}'")
        filled = f"{marks[0]}\n{table(study)}\n{marks[1]}"
        text = pattern.sub(lambda _, filled=filled: filled, text)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
