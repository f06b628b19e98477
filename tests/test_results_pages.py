"""What the README and the results page show is what the committed reports say."""

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

PAGES = ("README.md", "docs/results.md")


def marks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"<!-- (results|summary):(\w+) -->", (ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_what_the_script_writes_from_the_reports(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("README.md", "docs", "reports"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert marks(page)
    for kind, study in marks(page):
        make = {"results": results.tables, "summary": results.summary}[kind]
        written = results.fill(text, f"{kind}:{study}", make(study, results.Path(page)))
        assert written == text, f"{page}: run `python scripts/readme_results.py {study}`"


def test_every_study_with_a_report_is_on_a_page():
    shown = {study for page in PAGES for _, study in marks(page)}
    assert {path.parent.name for path in (ROOT / "reports").glob("*/report.md")} <= shown


def test_filling_replaces_what_stands_between_the_marks_only():
    text = "a\n<!-- results:x -->\nold\n<!-- /results:x -->\nb <!-- results:y -->\n<!-- /results:y -->"
    filled = results.fill(text, "results:x", r"new \1")
    assert filled == text.replace("old", r"new \1")
    assert results.fill(filled, "results:z", "other") == filled


def test_gains_are_bold_where_the_interval_excludes_zero():
    row = {"gain_over_anchor": 10.0, "gain_low": 1.0, "gain_high": 19.0}
    assert results._gain(row) == "**+10 [+1, +19]**"
    assert results._gain({**row, "gain_low": -1.0}) == "+10 [-1, +19]"
    assert results._gain({**row, "gain_over_anchor": float("nan")}) == ""
    assert results._gain({**row, "gain_low": float("nan"), "gain_high": float("nan")}) == "+10 (one seed)"


def test_a_table_by_anchor_leaves_out_what_was_not_run():
    keys = [("b", "anchor", 5.0), ("b", "awr", 7.0), ("a", "anchor", 9.0), ("c", "anchor", 1.0)]
    frame = pd.DataFrame(
        [
            {
                "dataset": "d",
                "critic": "iql",
                "anchor": anchor,
                "improvement": rule,
                "seeds": 2,
                "episodes": 8,
                "return_mean": value,
                "gain_over_anchor": 2.0 if rule == "awr" else float("nan"),
                "gain_low": 1.0,
                "gain_high": 3.0,
            }
            for anchor, rule, value in keys
        ]
    )
    (table,) = results._by_anchor(frame)
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:]] == ["`c`", "`b`", "`a`"]
    assert "| `b` | 5 | **+2 [+1, +3]** |" in table and "| `a` | 9 |  |" in table


def test_the_evaluation_benchmark_on_its_page_is_the_committed_result():
    spec = importlib.util.spec_from_file_location("evaluation_benchmark", ROOT / "benchmarks/evaluation.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = json.loads(benchmark.RESULT.read_text())
    shown = re.search(benchmark.MARKED, benchmark.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown and benchmark.table(result) in shown[0]
    # What it is for: the whole default study in little time, and what batches and processes gain.
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


def test_a_table_by_critic_has_a_row_a_rule_and_the_anchor_in_its_head():
    keys = [("anchor", "a", 9.0), ("anchor", "b", 9.0), ("awr", "a", 10.0), ("awr", "b", 11.0)]
    frame = pd.DataFrame(
        [
            {
                "dataset": "d",
                "critic": critic,
                "anchor": "mlp",
                "improvement": rule,
                "seeds": 2,
                "episodes": 8,
                "return_mean": value,
                "gain_over_anchor": value - 9.0 if rule == "awr" else float("nan"),
                "gain_low": -1.0 if critic == "a" else 1.0,
                "gain_high": 3.0,
            }
            for rule, critic, value in keys
        ]
    )
    (table,) = results._by_critic(frame)
    assert "(`mlp`, 9)" in table
    assert table.splitlines()[2:] == [
        "| rule | `a` | `b` |",
        "|---|--:|--:|",
        "| `awr` | +1 [-1, +3] | **+2 [+1, +3]** |",
    ]


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
