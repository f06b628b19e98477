"""What the README and the pages of docs show of results is what the committed reports say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from tests.fakes import ROOT

_spec = importlib.util.spec_from_file_location("readme_results", ROOT / "scripts/readme_results.py")
assert _spec and _spec.loader
results = importlib.util.module_from_spec(_spec)
sys.modules["readme_results"] = results
_spec.loader.exec_module(results)


def test_the_table_of_the_readme_is_what_the_script_writes_from_the_report():
    text = results.PAGE.read_text(encoding="utf-8")
    assert len(results.MARKED.findall(text)) == 1
    assert results.fill(text) == text, "run `python scripts/readme_results.py`"


def test_every_report_is_linked_from_the_page_of_results():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    reports = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reports").glob("*/report.md")}
    assert {link.removeprefix("../") for link in re.findall(r"\]\((\.\./reports/\w+/report\.md)\)", page)} == reports


def test_filling_replaces_what_stands_between_the_marks_only():
    text = "a\n<!-- results:default -->\nold\n<!-- /results:default -->\nb"
    filled = results.fill(text)
    assert filled == text.replace("old", results.table()) and results.fill(filled) == filled


def test_gains_are_bold_where_the_interval_excludes_zero():
    own = {"return_mean": 20.0, "normalised_score": 1.0, "gain_over_anchor": 10.0, "gain_low": 1.0, "gain_high": 19.0}
    assert results.cells(own, 4.0) == ["20", "1.0", "**+10 [+1, +19]**", "+4", ""]
    assert results.cells({**own, "gain_low": -1.0, "improvement_part": 6.0}, 4.0)[2:] == ["+10 [-1, +19]", "+4", "+6"]
    assert results.cells({"return_mean": 20.0, "normalised_score": 1.0}, 4.0) == ["20", "1.0", "", "", ""]


def test_the_default_study_is_evaluated_in_little_time_and_faster_than_by_a_plain_loop():
    result = json.loads((ROOT / "benchmarks/results/evaluation.json").read_text(encoding="utf-8"))
    assert result["study"] == "default" and result["rules"] == 6 and result["episodes_a_seed"] == 10
    assert result["ways"]["stage"]["median_seconds"] < 90 and result["ways"]["rollouts"]["ratio_to_plain_loop"] > 1


@pytest.mark.parametrize(
    "script", ["scripts/mlflow_screenshots.py", "benchmarks/evaluation.py", "benchmarks/interval_coverage.py"]
)
def test_scripts_that_no_other_test_runs_can_be_started(script):
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def rows_of(study: str, head: str) -> list[list[str]]:
    """Cells of the rows of a table of a study's report, by the beginning of its header."""
    page = (ROOT / "reports" / study / "report.md").read_text(encoding="utf-8")
    rows = page.split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_harm_on_the_page_on_choosing_is_that_of_the_report():
    frame = pd.DataFrame(rows_of("harm", "| rule | settings | shown below |")).set_index(0)
    frame.index = frame.index.str.strip("`")
    frame = frame.loc[:, 1:5].astype(int)
    frame.columns = ["settings", "below", "above", "seeds", "seeds_below_by_a_tenth"]
    page = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert [row[0] for row in told] == frame.index.tolist()
    columns = ["below", "above", "seeds_below_by_a_tenth"]
    assert {name: tuple(map(int, rest)) for name, *rest in told} == {
        name: tuple(row) for name, row in zip(frame.index, frame[columns].to_numpy().tolist(), strict=True)
    }
    assert set(frame["settings"]) == {9} and set(frame["seeds"]) == {36}


def test_the_regrets_of_the_page_on_choosing_are_those_of_the_report():
    rows = rows_of("choice", "| strategy | datasets | runs | regret |")
    means = pd.Series({row[0].split(" (scores")[0]: float(row[3].split(" [")[0]) for row in rows})
    page = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    table = page.split("| strategy | mean regret |")[1].split("\n\n")[0]
    told = dict(re.findall(r"^\| ([^|]+) \| ([-\d.]+) \|$", table, re.MULTILINE))
    assert told == {name: f"{value:.1f}" for name, value in means.items()}
    assert list(map(float, told.values())) == sorted(map(float, told.values())), "the least regret first"
    metrics = json.loads((ROOT / "reports/choice/metrics.json").read_text())
    lows = [value for name, value in metrics.items() if name.endswith("/auto/gain_low")]
    assert len(lows) == 3 and min(lows) > 0, "shown above its anchor on all three"
