"""Published scores: the file, and how a report sets measured scores beside them."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter

import pytest
from scipy import stats

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.flat import numbers_of
from spar_core.reporting.numbers.published import (
    COLUMNS,
    FILES,
    FOLDER,
    Pair,
    below,
    compare,
    method_of,
    public_scores,
    published,
    steps_of,
)
from spar_core.reporting.numbers.reading import load_rules
from stages.layout import Layout
from stages.report import folders_of
from tests.test_report import report_of, study_of, write_cells

HOPPER = "d4rl/hopper-medium-v2"
KINDS = {
    "anchor": ("mlp", "iql", "anchor"),
    "uniform": ("mlp", "iql", "spar_mlp"),
    "awr": ("mlp", "iql", "awr_scratch"),
    "best_of_n": ("mlp", "iql", "rebrac"),
    "spar_mlp": ("mlp", "iql", "spar_mlp"),
}


def test_every_row_has_its_source_and_stands_there_once():
    for path in FOLDER.glob(FILES):
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        assert tuple(rows[0]) == COLUMNS
        assert all(row["source"] and row["protocol"] and math.isfinite(float(row["score"])) for row in rows)
        keys = Counter(tuple(row[name] for name in ("suite", "task", "method", "protocol", "source")) for row in rows)
        assert max(keys.values()) == 1, keys.most_common(1)


def test_known_rows_of_d4rl():
    with (FOLDER / "published_d4rl.csv").open(encoding="utf-8") as handle:
        assert sum(1 for _ in handle) == 1 + 606
    rows = {(row.method, row.protocol): row for row in published("d4rl", "pen-human-v1")}
    assert len(rows) == 21 and rows["BC", "last"].score == 71.03 and rows["BC", "best"].score == 99.69
    assert (rows["SPAR", "not public"].score, rows["SPAR", "not public"].std) == (62.7, None)
    assert [line["score"] for line in public_scores()] == [97, 101.9, 113.4, 76.7, 76.2, 62.7]


def test_spars_public_scores_below_older_methods_are_named_with_both_numbers():
    found = {line["task"]: (line["score"], line["method"], round(line["theirs"], 1)) for line in below()}
    assert found == {
        "pen-human-v1": (62.7, "BC", 71.0),
        "antmaze-umaze-diverse-v2": (76.7, "ReBRAC", 83.5),
        "pen-cloned-v1": (76.2, "ReBRAC", 102.8),
    }
    assert all(line["score"] < line["theirs"] for line in below())


def test_a_published_interval_takes_the_deviation_as_one_over_n():
    row = next(row for row in published("d4rl", "hopper-medium-v2") if (row.method, row.protocol) == ("IQL", "last"))
    # Deviations over n and n - 1 give the same standard error: std / sqrt(n - 1).
    half = stats.t.ppf(0.975, 3) * row.std / math.sqrt(3)
    assert row.estimate(0.95).high == pytest.approx(row.score + half) and row.estimate(0.95).n == 4
    spar = next(row for row in published("d4rl", "pen-human-v1") if row.method == "SPAR")
    assert spar.estimate(0.95) == Estimate(62.7, None, None, 0)


def test_a_difference_is_named_only_where_the_intervals_do_not_meet():
    def differs(ours, theirs):
        return Pair("BC", "anchor", theirs and Estimate(*theirs, 4), ours and Estimate(*ours, 4)).differs

    assert differs((5.0, 4.0, 6.0), (3.0, 2.0, 3.9)) == "above"
    assert differs((1.0, 0.0, 1.9), (3.0, 2.0, 4.0)) == "below"
    assert differs((5.0, 3.9, 6.0), (3.0, 2.0, 3.9)) == ""
    assert differs((5.0, 4.0, 6.0), (3.0, None, None)) == "no interval"
    assert differs(None, (3.0, 2.0, 4.0)) == "" and differs((3.0, 2.0, 4.0), None) == ""


def made_with(kinds, **changed) -> dict:
    parts = dict(zip(("anchor", "critic", "improvement"), kinds, strict=True))
    return {family: {"kind": kind, "changed": changed.get(family, {})} for family, kind in parts.items()}


def test_the_steps_behind_a_score_are_those_of_its_parts():
    parts = made_with(("mlp", "iql", "td3_bc"), anchor={"steps": 1_000_000}, critic={"steps": 300})
    assert steps_of(parts) == "1,000,000 / 300 / 5,000"
    assert steps_of(made_with(("knn", "iql", "anchor"))) == "- / 10,000 / -"


@pytest.mark.parametrize(
    ("parts", "changed", "method"),
    [
        (("mlp", "iql", "anchor"), {}, "BC"),
        (("mlp", "iql", "anchor"), {"anchor": {"top_share": 0.1}}, "10% BC"),
        (("mlp", "iql", "anchor"), {"anchor": {"label_noise": 0.5}}, None),
        (("committee", "iql", "anchor"), {}, None),
        (("mlp", "iql", "awr_scratch"), {}, "IQL"),
        (("mlp", "sarsa", "awr_scratch"), {}, None),
        (("mlp", "iql", "awr"), {}, None),
        (("mlp", "iql", "spar_proj"), {"improvement": {"tau": 1.0}}, "SPAR"),
        (("mlp", "iql", "spar_mlp"), {"improvement": {"weighting": "equal"}}, None),
        (("mlp", "sarsa", "td3_bc"), {}, "TD3+BC"),
        (("mlp", "iql", "rebrac"), {}, "ReBRAC"),
    ],
)
def test_a_rule_is_a_published_method_only_if_it_is_that_method(parts, changed, method):
    assert method_of(made_with(parts, **changed)) == method


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path)


def cells(layout: Layout, dataset: str, *, steps: int = 999_906, comparable: bool = True, mismatch=None, **lists):
    """Evaluated cells of a dataset, with what the evaluate stage knows about data and parts."""
    study = study_of(datasets=[dataset], **lists)
    write_cells(layout, study, mismatch=mismatch)
    for cell in study.cells():
        path = layout.artifact("evaluation", dataset, cell.anchor, cell.critic, cell.improvement, cell.seeds)
        context = json.loads((path / "context.json").read_text())
        context["comparable_to_d4rl"] = comparable
        context["dataset"]["steps"] = steps
        changed = {"improvement": {"weighting": "equal"}} if cell.improvement == "uniform" else {}
        context["made_with"] = made_with(KINDS[cell.improvement], **changed)
        (path / "context.json").write_text(json.dumps(context))
    return study


def test_comparable_data_stand_beside_published_scores_with_protocol_and_figure(layout):
    report = report_of(layout, cells(layout, HOPPER))
    page = report.files["report.md"].decode()
    section = page.split("## Beside published scores")[1]
    assert "published.svg" in report.figures and "figures/published.svg" in section
    lines = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| ")}
    # BC scored 53.5 there; returns of about 1000 are scores of about 10 on this scale.
    assert "53.5" in lines["BC"] and "`anchor`" in lines["BC"] and "**below**" in lines["BC"]
    assert "`awr`" in lines["IQL"] and "`best_of_n`" in lines["ReBRAC"]
    assert "| - | - | - | - |" in lines["CQL"], "published alone"
    assert "6,000 / 10,000 / 5,000" in lines["IQL"]
    assert "`uniform`" in lines["-"], "measured alone"
    assert "last policy, 4 seeds of 5 episodes, on a file of 999906 steps" in section
    assert "last (CORL README" in section and "Scores of the protocol best are published, too" in section
    assert "On pen-human-v1 its score (62.7) lies below that of BC (71.0)." in section
    assert "| antmaze-umaze-diverse-v2 | 76.7 |" in section


def compared(layout: Layout, study):
    rules = load_rules(study, folders_of(layout))
    numbers = numbers_of(rules, ReportSettings())
    return compare(numbers.rules, numbers.summaries, 0.95)


@pytest.mark.parametrize("dataset", ["builtin/hopper-replay-v0", "d4rl/nothing-medium-v2", "minari/hopper-medium-v2"])
def test_where_nothing_is_published_there_is_no_comparison(layout, dataset):
    assert compared(layout, cells(layout, dataset)) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 20_000}, "it holds 20,000 steps, and the published file of this name about 1,000,000"),
        ({"comparable": False}, "not comparable with D4RL tables"),
        ({"mismatch": "evaluated in another version of the environment than the data came from"}, "another version"),
    ],
)
def test_other_data_under_a_published_name_are_refused_with_the_reason(layout, options, reason):
    found = compared(layout, cells(layout, HOPPER, **options))
    assert not found.beside and len(found.left_out) == 1
    assert found.left_out[0][0] == HOPPER and reason in found.left_out[0][1]


def test_a_study_of_both_kinds_says_what_is_not_compared_and_why(layout):
    small, other = "d4rl/walker2d-medium-v2", "builtin/hopper-replay-v0"
    for dataset, steps in ((HOPPER, 999_906), (small, 360), (other, 200_000)):
        cells(layout, dataset, steps=steps, comparable=dataset != other, improvements=["anchor", "awr"])
    study = study_of(datasets=[HOPPER, small, other], improvements=["anchor", "awr"])
    section = report_of(layout, study).files["report.md"].decode().split("## Beside published scores")[1]
    assert f"- {small}: it holds 360 steps, and the published file of this name about 1,000,000." in section
    assert f"### {small}" not in section and f"### {HOPPER}, published and measured" in section
    assert other not in section.split("What is public")[0], "nothing is published under its name"
