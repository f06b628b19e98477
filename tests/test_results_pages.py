"""What the README and the pages of docs show of results is what the committed reports say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.fakes import ROOT

_spec = importlib.util.spec_from_file_location("readme_results", ROOT / "scripts/readme_results.py")
assert _spec and _spec.loader
results = importlib.util.module_from_spec(_spec)
sys.modules["readme_results"] = results
_spec.loader.exec_module(results)


def test_the_tables_of_the_readme_are_what_the_script_writes_from_the_reports():
    text = results.PAGE.read_text(encoding="utf-8")
    assert [found[1] for found in results.MARKED.findall(text)] == ["builtin", "default"]
    assert results.fill(text) == text, "run `python scripts/readme_results.py`"


def test_every_report_is_linked_from_the_page_of_results():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    reports = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reports").glob("*/report.md")}
    assert {link.removeprefix("../") for link in re.findall(r"\]\((\.\./reports/\w+/report\.md)\)", page)} == reports


def test_filling_replaces_what_stands_between_the_marks_only():
    text = "a\n<!-- results:default -->\nold\n<!-- /results:default -->\nb"
    filled = results.fill(text)
    assert filled == text.replace("old", results.default()) and results.fill(filled) == filled


def test_gains_are_bold_where_the_interval_excludes_zero():
    alone = {"return_mean": 20.0, "committee/return_mean": 30.0, "committee/lowest_member": 5.0}
    assert results.cells(alone) == ["30", "", "5", "20", ""]
    own = {**alone, "gain_over_anchor": 10.0, "gain_low": -1.0, "gain_high": 19.0}
    own |= {"committee/gain": 8.0, "committee/gain_low": 1.0, "committee/gain_high": 15.0}
    assert results.cells(own) == ["30", "**+8 [+1, +15]**", "5", "20", "+10 [-1, +19]"]


def test_the_default_study_is_evaluated_in_little_time_and_faster_than_by_a_plain_loop():
    result = json.loads((ROOT / "benchmarks/results/evaluation.json").read_text(encoding="utf-8"))
    assert result["study"] == "default" and result["rules"] == 6 and result["episodes_a_seed"] == 10
    assert result["ways"]["stage"]["median_seconds"] < 90 and result["ways"]["rollouts"]["ratio_to_plain_loop"] > 1


@pytest.mark.parametrize(
    "script", [["scripts/mlflow_screenshots.py"], ["-m", "benchmarks.evaluation"], ["benchmarks/interval_coverage.py"]]
)
def test_scripts_that_no_other_test_runs_can_be_started(script):
    done = subprocess.run([sys.executable, *script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def rows_of(study: str, head: str) -> list[list[str]]:
    """Cells of the rows of a table of a study's report, by the beginning of its header."""
    page = (ROOT / "reports" / study / "report.md").read_text(encoding="utf-8")
    rows = page.split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_harm_on_the_page_on_choosing_is_that_of_the_report():
    rows = {row[0].strip("`"): [int(cell) for cell in row[1:6]] for row in rows_of("harm", "| rule | settings |")}
    assert {(settings, seeds) for settings, _, _, seeds, _ in rows.values()} == {(9, 36)}
    harm = {name: [below, lost] for name, (_, below, _, _, lost) in rows.items()}
    plain, all_three = harm["spar_mlp"], harm["spar_mlp_safe"]
    assert [plain] * 4 == [harm[name] for name in ("spar_proj", "spar_mlp_flat", "spar_mlp_prior", "spar_mlp_gate")]
    page = " ".join((ROOT / "docs/choosing.md").read_text(encoding="utf-8").split())
    assert "harms {} settings and loses {} seeds".format(*harm["auto_two"]) in page
    assert "Plain `spar_mlp` and `spar_proj` harm {} and lose {}.".format(*plain) in page
    assert "Each alone harms {} and loses {}, all three together harm {} and lose {}".format(*plain, *all_three) in page


def test_the_regrets_of_the_page_on_choosing_are_those_of_the_report():
    rows = rows_of("choice", "| strategy | datasets | runs | regret |")
    means = {row[0].split(" (scores")[0]: row[3].split(" [")[0] for row in rows}
    assert float(means["`auto`"]) == min(map(float, means.values())), "the least regret"
    page = " ".join((ROOT / "docs/choosing.md").read_text(encoding="utf-8").split())
    names = ("`auto`", "always `spar_proj`", "best by the critic", "always `anchor`")
    told = "{} points, against {} for always `spar_proj`, {} for the critic's favourite and {} for always the anchor"
    assert told.format(*(means[name] for name in names)) in page
    metrics = json.loads((ROOT / "reports/choice/metrics.json").read_text())
    lows = [value for name, value in metrics.items() if name.endswith("/auto/gain_low")]
    assert len(lows) == 3 and min(lows) > 0, "shown above its anchor on all three"
