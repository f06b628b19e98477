"""Write the results of studies into README.md and docs/results.md, between their markers, from ``reports/<study>/``.

Usage: ``python scripts/readme_results.py default extraction``. The command that made the numbers stands above each
table; nothing is typed by hand. ``<!-- results:NAME -->`` takes the tables of a study, ``<!-- summary:NAME -->`` the
figure of an anchor-quality study and the beginning of its answer in words.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

PAGES = (Path("README.md"), Path("docs/results.md"))
REPORTS = Path("reports")


def tables(study: str, page: Path) -> str:
    """The tables of a study: one a dataset. One row an anchor where the report has an anchor-quality section, and one
    column a critic where there are several."""
    frame = pd.read_csv(REPORTS / study / "table.csv")
    parts = [_origin(study, page)]
    if frame.groupby(["dataset", "critic"])["anchor"].nunique().max() > 2:
        return "\n\n".join([*parts, _answer(study), _figure(study, page), *_by_anchor(frame)])
    if frame["critic"].nunique() > 1:
        return "\n\n".join([*parts, *_by_critic(frame), _harm(pd.read_csv(REPORTS / study / "harm.csv"))])
    return "\n\n".join([*parts, *(_by_rule(dataset, rows) for dataset, rows in frame.groupby("dataset", sort=False))])


def summary(study: str, page: Path) -> str:
    """The beginning of the computed answer of an anchor-quality study, and its figure."""
    kept = [line for line in _answer(study).splitlines() if re.match(r"\*\*`|- \*\*Lifts|- Mean gain", line)]
    lines = [f"\n{line}\n" if line.startswith("**") else line for line in kept]
    return "\n\n".join([_origin(study, page), "\n".join(lines).strip(), _figure(study, page)])


def _answer(study: str) -> str:
    """The computed answer of an anchor-quality study, as its report gives it."""
    report = (REPORTS / study / "report.md").read_text(encoding="utf-8")
    section = re.search(r"### Anchor quality.*?\n\n(.*?)\n\n(?=!\[)", report, re.DOTALL)
    if section is None:
        sys.exit(f"error: reports/{study}/report.md has no anchor-quality section")
    return section[1]


def _origin(study: str, page: Path) -> str:
    command = "make run" if study == "default" else f"make study NAME={study}"
    report = REPORTS / study / "report.md"
    return f"`{command}`, full report: [{report.as_posix()}]({_from(page, report)})"


def _figure(study: str, page: Path) -> str:
    """The figure of an anchor-quality study."""
    found = sorted((REPORTS / study / "figures").glob("anchors.*.svg"))
    return "\n\n".join(
        f'<img src="{_from(page, path)}" width="560" alt="Improved return against the anchor\'s return">'
        for path in found
    )


def _from(page: Path, path: Path) -> str:
    """A link from a page to a file."""
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _by_rule(dataset: str, rows: pd.DataFrame) -> str:
    episodes = int(rows["episodes"].iloc[0] / rows["seeds"].iloc[0])
    # A report of earlier code may lack the column.
    counted = "parameters_rule" in rows
    # Tasks that end at success: there a better policy shows in the steps it takes.
    judged = rows["success_rate"].notna().any()
    digits = 0 if rows["return_mean"].abs().max() >= 10 else 2
    head = ["rule", "mean return", "score on D4RL's scale", "gain over the anchor", "of it repair", "of it improvement"]
    head += ["success", "mean length"] if judged else []
    head += ["parameters it adds"] if counted else []
    lines = [
        f"`{dataset}`, {_protocol(rows)}{rows['seeds'].iloc[0]} seeds of {episodes} episodes (gain: paired difference "
        "to the anchor, in brackets its 95% t-interval over seeds; bold where that excludes zero):",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'--:|' * (len(head) - 1)}",
    ]
    for row in rows.to_dict("records"):
        split = [_number(row[name], f"+.{digits}f") for name in ("repair", "improvement_part")]
        cells = [f"`{row['improvement']}`", f"{row['return_mean']:.{digits}f}", _number(row["normalised_score"], ".1f")]
        cells += [_gain(row, digits), *split]
        if judged:
            cells += [_number(row["success_rate"], ".2f"), _number(row["length_mean"], ".0f")]
        if counted:
            cells.append(_number(row["parameters_rule"], ",.0f"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_anchor(frame: pd.DataFrame) -> list[str]:
    """A row an anchor, a column a rule: return of the anchor, and gains over it."""
    parts = []
    for (dataset, critic), rows in frame.groupby(["dataset", "critic"], sort=False):
        rules = [rule for rule in dict.fromkeys(rows["improvement"]) if rule != "anchor"]
        by_cell = {(row["anchor"], row["improvement"]): row for row in rows.to_dict("records")}
        anchors = sorted(dict.fromkeys(rows["anchor"]), key=lambda name: by_cell[name, "anchor"]["return_mean"])
        episodes = int(rows["episodes"].iloc[0] / rows["seeds"].iloc[0])
        lines = [
            f"`{dataset}`, critic `{critic}`, {_protocol(rows)}{rows['seeds'].iloc[0]} seeds of {episodes} episodes. "
            "Gains over the anchor, in brackets the paired 95% t-interval over seeds, bold where that excludes zero; "
            "empty: not run:",
            "",
            f"| anchor | its return | {' | '.join(f'`{rule}`' for rule in rules)} |",
            f"|---|{'--:|' * (len(rules) + 1)}",
        ]
        for anchor in anchors:
            gains = [_gain(by_cell[anchor, rule]) if (anchor, rule) in by_cell else "" for rule in rules]
            lines.append(f"| `{anchor}` | {by_cell[anchor, 'anchor']['return_mean']:.0f} | {' | '.join(gains)} |")
        parts.append("\n".join(lines))
    return parts


def _by_critic(frame: pd.DataFrame) -> list[str]:
    """A row a rule, a column a critic: gains over the one anchor."""
    parts = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        critics = list(dict.fromkeys(rows["critic"]))
        by_cell = {(row["improvement"], row["critic"]): row for row in rows.to_dict("records")}
        episodes = int(rows["episodes"].iloc[0] / rows["seeds"].iloc[0])
        alone = by_cell["anchor", critics[0]]["return_mean"]
        lines = [
            f"`{dataset}`, {_protocol(rows)}{rows['seeds'].iloc[0]} seeds of {episodes} episodes. Gains over the "
            f"anchor (`{rows['anchor'].iloc[0]}`, {alone:.0f}) by critic, in brackets the paired 95% t-interval over "
            "seeds, bold where that excludes zero:",
            "",
            f"| rule | {' | '.join(f'`{critic}`' for critic in critics)} |",
            f"|---|{'--:|' * len(critics)}",
        ]
        for rule in dict.fromkeys(rows["improvement"]):
            if rule != "anchor":
                gains = " | ".join(_gain(by_cell[rule, critic]) for critic in critics)
                lines.append(f"| `{rule}` | {gains} |")
        parts.append("\n".join(lines))
    return parts


def _harm(frame: pd.DataFrame) -> str:
    """How often each rule ends below its anchor, over all datasets and critics."""
    lines = [
        "All of them together. Shown below or above: the interval excludes zero. Lost: seeds that end more than a "
        "tenth of the anchor's return below it:",
        "",
        "| rule | settings | shown below | shown above | seeds | lost |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    columns = ["settings", "below", "above", "seeds", "seeds_below_by_a_tenth"]
    for row in frame.to_dict("records"):
        lines.append(f"| `{row['improvement']}` | {' | '.join(str(row[name]) for name in columns)} |")
    return "\n".join(lines)


def _protocol(rows: pd.DataFrame) -> str:
    """``protocol `last`, ``; the reports of earlier code do not say, and theirs was the same."""
    name = rows["protocol"].iloc[0] if "protocol" in rows else "last"
    return f"protocol `{name}`, "


def _number(value: float, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _gain(row: dict[str, float], digits: int = 0) -> str:
    if pd.isna(row["gain_over_anchor"]):
        return ""
    low, high = row["gain_low"], row["gain_high"]
    if pd.isna(low):
        return f"{row['gain_over_anchor']:+.{digits}f} (one seed)"
    text = f"{row['gain_over_anchor']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def fill(text: str, mark: str, content: str) -> str:
    """``text`` with what stands between a pair of markers replaced; the same text where they are not."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def main() -> None:
    """Command line."""
    makers: dict[str, Callable[[str, Path], str]] = {"results": tables, "summary": summary}
    for study in sys.argv[1:]:
        found = False
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            for kind, make in makers.items():
                if f"<!-- {kind}:{study} -->" in text:
                    text, found = fill(text, f"{kind}:{study}", make(study, page)), True
            page.write_text(text, encoding="utf-8")
        if not found:
            sys.exit(f"error: no page has markers for '{study}'")


if __name__ == "__main__":
    main()
