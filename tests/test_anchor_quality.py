"""Anchor quality: lines, crossings and correlations with known answers, the words that follow, partial reports."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.anchor_quality import AnchorQuality, anchor_quality
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.numbers.tables import summarise
from spar_core.reporting.page.glossary import explain
from spar_core.reporting.page.present import present_part
from spar_core.reporting.page.render import Report, build_report
from spar_core.seeds import parse_seeds
from spar_core.study import EvaluationCell
from stages.layout import Layout
from stages.report import folders_of

DATASET, CRITIC = "builtin/halfcheetah-replay-v0", "iql"
# Anchor returns, and the coverage distance of each: spar_mlp ends at 500 + 0.5 x, so it lifts below 1000.
ANCHORS = {"poor": 0.0, "weak": 400.0, "fair": 800.0, "good": 1200.0, "best": 1600.0}
COVERAGE = {"poor": 0.9, "weak": 0.6, "fair": 0.5, "good": 0.3, "best": 0.4}
WIGGLE = {0: -6.0, 1: 2.0, 2: -1.0, 3: 5.0}


def level(anchor: str, rule: str) -> float:
    """Mean return that a rule ends at, starting from an anchor."""
    x = ANCHORS[anchor]
    return {"anchor": x, "uniform": x + 100.0, "spar_mlp": 500.0 + 0.5 * x, "awr": 900.0}[rule]


@dataclass
class Cells:
    """A study that is any list of cells: the report assumes no product."""

    rows: list[EvaluationCell]
    name: str = "anchor_quality"
    question: str = ""
    estimated: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    diagnosed: tuple[str, ...] = ()

    def cells(self) -> list[EvaluationCell]:
        return self.rows


def study_of(anchors=tuple(ANCHORS), rules=("anchor", "uniform", "spar_mlp"), seeds=("0-3",), awr=(), critic=CRITIC):
    product = [EvaluationCell(DATASET, a, critic, r, s) for a in anchors for r in rules for s in seeds]
    return Cells(product + [EvaluationCell(DATASET, a, critic, "awr", s) for a in awr for s in seeds])


def write_cells(layout: Layout, study: Cells, *, noise=1.0, diagnostics=True) -> None:
    """Two episodes a seed, whose mean is the level plus a wiggle that depends on seed and rule."""
    for cell in study.cells():
        folder = folders_of(layout)(cell, study)["evaluation"]
        folder.mkdir(parents=True)
        seeds = parse_seeds(cell.seeds)
        # The rules' wiggles differ, so that paired differences have a spread.
        share = {"anchor": 1.0, "uniform": 0.5, "spar_mlp": -0.5, "awr": 2.0}[cell.improvement]
        rows = [
            {
                "dataset": cell.dataset,
                "anchor": cell.anchor,
                "critic": cell.critic,
                "improvement": cell.improvement,
                "seed": seed,
                "episode": episode,
                "env_seed": episode,
                "return": level(cell.anchor, cell.improvement)
                + noise * share * WIGGLE.get(seed, 3.0)
                + 7
                - 14 * episode,
                "length": 1000,
                "terminated": False,
                "success": "",
            }
            for seed in seeds
            for episode in (0, 1)
        ]
        pd.DataFrame(rows).to_csv(folder / "episodes.csv", index=False)
        known = {
            # Two seeds have a value and the others none, so the mean is over those two.
            "anchor/coverage_distance": [
                {0: COVERAGE[cell.anchor] + 0.01, 1: COVERAGE[cell.anchor] - 0.01}.get(seed) for seed in seeds
            ],
            "anchor/heldout_mse": [0.2 + COVERAGE[cell.anchor] ** 2] * len(seeds),
            "anchor/modes_missed": [None] * len(seeds),
            "anchor/heldout_log_density": [3.5] * len(seeds) if cell.anchor == "fair" else None,
            "anchor/bimodal_share": [0.25] * len(seeds),
            "anchor/parameters": [76038] * len(seeds),
            "improvement/parameters": [0 if cell.improvement == "anchor" else 1234] * len(seeds),
            "policy/parameters": [76038 + 1234 * (cell.improvement != "anchor")] * len(seeds),
        }
        context = {
            "env_id": "HalfCheetah-v5",
            "reference": None,
            "label": "",
            "dataset": {"steps": 100, "episodes": 2, "mean_return": 1.0, "best_return": 2.0},
            "protocol": "last",
            "diagnostics": {k: v for k, v in known.items() if v is not None} if diagnostics else {},
        }
        (folder / "context.json").write_text(json.dumps(context))


def report_of(layout: Layout, study: Cells) -> Report:
    return build_report(study, folders_of(layout), ReportSettings())


def quality_of(layout: Layout, study: Cells) -> AnchorQuality:
    rules = load_rules(study, folders_of(layout))
    (quality,) = anchor_quality(rules, summarise(rules, ReportSettings()), ReportSettings())
    return quality


def trend(quality: AnchorQuality, rule: str):
    return next(item for item in quality.trends if item.rule == rule)


def words(report: Report, rule: str) -> str:
    """The bullets of one rule."""
    page = report.files["report.md"].decode()
    return page.split(f"**`{rule}`**, on ")[1].split("\n\n")[1]


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path)


# --- the analysis ---


def test_a_known_line_is_recovered(layout):
    study = study_of(awr=["weak", "good"])
    write_cells(layout, study)
    quality = quality_of(layout, study)
    assert [(row.number, row.name) for row in quality.anchors] == list(enumerate(ANCHORS, start=1))
    ours = trend(quality, "spar_mlp")
    # The wiggles have mean 0, so the means lie on the line exactly.
    assert ours.line.slope.value == pytest.approx(0.5) and ours.line.intercept == pytest.approx(500)
    assert ours.crossing.value == pytest.approx(1000)
    assert [[row.name for row in ours.anchors(d)] for d in (1, 0, -1)] == [
        ["poor", "weak", "fair"],
        [],
        ["good", "best"],
    ]
    assert ours.mean_gain.value == pytest.approx(100) and ours.mean_gain.n == 4
    assert ours.mean_repair.value == pytest.approx(100) and ours.mean_improvement.value == pytest.approx(0, abs=1e-9)
    # Of each seed the mean over anchors; the interval is over the four seeds.
    each = [100 - 1.5 * wiggle for wiggle in WIGGLE.values()]
    expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    assert (ours.mean_gain.low, ours.mean_gain.high) == pytest.approx(tuple(expected))


def test_what_explains_the_gain(layout):
    study = study_of()
    write_cells(layout, study)
    ours = trend(quality_of(layout, study), "spar_mlp")
    gains = [500 - 0.5 * x for x in ANCHORS.values()]
    coverage = list(COVERAGE.values())
    found = ours.explanation("coverage_distance")
    assert found.n == 5
    assert found.share == pytest.approx(stats.pearsonr(coverage, gains).statistic ** 2)
    assert found.rank.rho == pytest.approx(stats.spearmanr(coverage, gains).statistic)
    assert ours.explanation("return").share == pytest.approx(1)
    assert found.beyond_return.p is None
    # A gain that is the same for every anchor has no variance to explain.
    assert trend(quality_of(layout, study), "uniform").explanation("coverage_distance").share is None


def test_noise_share_and_diagnostics_by_seed(layout):
    study = study_of()
    write_cells(layout, study, noise=20.0)
    quality = quality_of(layout, study)
    spread = np.var([20 * w for w in WIGGLE.values()], ddof=1) / 4
    assert quality.noise_share == pytest.approx(spread / np.var(list(ANCHORS.values()), ddof=1))
    fair = quality.anchors[2]
    assert fair.diagnostics["coverage_distance"] == pytest.approx(0.5)
    assert "modes_missed" not in fair.diagnostics and fair.diagnostics["heldout_log_density"] == 3.5
    rule = load_rules(study, folders_of(layout))[0]
    assert rule.by_seed["anchor/coverage_distance"] == pytest.approx({0: 0.91, 1: 0.89})
    assert rule.diagnostics["anchor/coverage_distance"] == pytest.approx([0.91, 0.89])


# --- the page ---


def test_the_words_follow_the_numbers(layout):
    study = study_of(awr=["weak", "good", "best"])
    write_cells(layout, study)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert "### Anchor quality, critic `iql`" in page and "The 5 anchors are numbered" in page
    ours = words(report, "spar_mlp")
    assert "**Lifts 3 of 5**, is undecided on 0, **harms 2** (`good` -100 [" in ours and "`best` -300 [" in ours
    assert "Mean gain over these anchors: +100 [" in ours and "repair is +100 [" in ours
    assert "0.50 [0.50, 0.50]" in ours and "the better the anchor, the smaller the gain" in ours
    assert "crosses the identity (where the gain is zero) at an anchor return of 1000 [1000, 1000]" in ours
    assert "anchors with a return below 1000 are lifted" in ours and "above 1000 are harmed" in ours
    assert "On its own, coverage distance explains 80% of the variance of the gain across 5 anchors" in ours
    # rho is 0.9 over five anchors: 10 of 120 orders do as well or better, which shows nothing.
    assert "+0.90 (p = 0.083), so no relation is shown" in ours
    repair = words(report, "uniform")
    assert "**Lifts 5 of 5**" in repair and "all of it repair, by definition" in repair
    assert "parallel" in repair and "The role of the anchor's coverage is unknown" in repair
    awr = words(report, "awr")
    assert "**Lifts 1 of 3**" in awr and "**harms 2** (`good` -300" in awr
    assert "5 anchors on one dataset with one critic are few" in page
    gains = page.split("| no. | anchor | `uniform` | `spar_mlp` | `awr` |")[1].split("\n\n")[0].splitlines()
    assert gains[2].startswith("| 1 | `poor` | **+100") and gains[2].endswith("| - |")
    assert gains[-1].count("|") == gains[2].count("|")
    assert "modes missed" not in page.lower() and "| log density |" in page


def test_links_tables_and_folded_settings(layout):
    study = study_of(awr=["weak", "good"])
    write_cells(layout, study)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert set(report.figures) == {"anchors.builtin.halfcheetah-replay-v0.iql.svg"}
    assert {part.split(")")[0] for part in page.split("](figures/")[1:]} == set(report.figures)
    assert "\n\n\n" not in page and "nan" not in page and "None" not in page
    assert page.count("<details>") == page.count("</details>") == 5
    for block in (block for block in page.split("\n\n") if block.strip().startswith("|")):
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1, block
    assert "| trained by the rule | parameters to act |" in page and "| 1234 | 77272 |" in page
    # The verdict on this anchor names no policy. Five rules lack awr on three anchors: the overview has a dash there.
    assert [line[-4:] for line in page.splitlines() if line.startswith(f"| {DATASET}, fair")] == [" - |", " - |"]


def test_anchors_csv_has_every_number(layout):
    study = study_of(awr=["weak"])
    write_cells(layout, study)
    frame = pd.read_csv(io.BytesIO(report_of(layout, study).files["anchors.csv"]))
    assert len(frame) == 5 * 3 + 1
    row = frame[(frame["anchor"] == "best") & (frame["improvement"] == "spar_mlp")].iloc[0]
    assert row["number"] == 5 and row["verdict"] == "harms" and row["gain"] == pytest.approx(-300)
    assert row["anchor_coverage_distance"] == pytest.approx(0.4) and row["parameters_policy"] == 77272
    assert row["gain"] == pytest.approx(row["repair"] + row["improvement_part"])
    assert frame[frame["improvement"] == "anchor"]["gain"].isna().all()


def test_two_anchors_have_no_section_and_an_empty_table(layout):
    study = study_of(anchors=["poor", "best"])
    write_cells(layout, study)
    report = report_of(layout, study)
    assert b"Anchor quality" not in report.files["report.md"]
    lines = report.files["anchors.csv"].decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("dataset,critic,number,anchor,")
    assert not any(name.startswith("anchors") for name in report.figures)


def test_one_seed_makes_no_claim(layout):
    study = study_of(seeds=["0"])
    write_cells(layout, study)
    report = report_of(layout, study)
    ours = words(report, "spar_mlp")
    assert "nothing is claimed" in ours and "(one seed)" in ours
    assert not any(claim in ours for claim in ("Lifts", "harmed", "lifted", "the better the anchor", "identity"))
    assert "| **" not in report.files["report.md"].decode()


def test_without_diagnostics(layout):
    study = study_of()
    write_cells(layout, study, diagnostics=False)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert "0 of these anchors have a coverage distance" in words(report, "spar_mlp")
    assert "| no. | anchor | return | 95% interval |\n" in page and "trained by the rule" not in page
    assert "nan" not in page and "\n\n\n" not in page


def test_a_critic_without_the_baseline_has_no_section(layout):
    study = Cells(study_of().rows + study_of(rules=("uniform", "spar_mlp"), critic="cql").rows)
    write_cells(layout, study)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert "### Anchor quality, critic `iql`" in page and "### Anchor quality, critic `cql`" not in page
    assert "This anchor and critic have no gain" in page
    # Settings that no figure of anchor quality covers are split over figures of at most four panels.
    assert {name for name in report.figures if name.startswith("returns")} == {
        f"returns.builtin.halfcheetah-replay-v0.{i}.svg" for i in (1, 2)
    }


def test_an_anchor_without_the_baseline_is_left_out(layout):
    study = study_of()
    study.rows = [c for c in study.rows if (c.anchor, c.improvement) != ("fair", "anchor")]
    write_cells(layout, study)
    quality = quality_of(layout, study)
    assert [row.name for row in quality.anchors] == ["poor", "weak", "good", "best"]
    assert trend(quality, "spar_mlp").line.n == 4


def test_same_bytes_twice_and_in_seed_groups(layout):
    together, apart = study_of(awr=["good"]), study_of(awr=["good"], seeds=["2-3", "0-1"])
    write_cells(layout, together)
    first = report_of(layout, together)
    assert first == report_of(layout, together)
    assert b"<dc:date>" not in first.figures["anchors.builtin.halfcheetah-replay-v0.iql.svg"]
    write_cells(layout, apart, diagnostics=False)
    assert report_of(layout, apart).files["returns.csv"] == first.files["returns.csv"]


# --- partial reports ---


def drop(layout: Layout, anchor: str, rule: str, seeds: str) -> None:
    shutil.rmtree(layout.artifact("evaluation", DATASET, anchor, CRITIC, rule, seeds))


def test_partial_report_says_what_is_missing(layout):
    study = study_of(seeds=["0-1", "2-3"])
    write_cells(layout, study)
    drop(layout, "good", "spar_mlp", "0-1")
    drop(layout, "good", "spar_mlp", "2-3")
    drop(layout, "weak", "uniform", "2-3")
    with pytest.raises(SparError, match="the study names the cell"):
        report_of(layout, study)
    part = present_part(study, folders_of(layout))
    report = build_report(part, folders_of(layout), ReportSettings(), missing=part.missing)
    page = report.files["report.md"].decode()
    assert page.index("**Partial report.** 3 of the study's 30 cells are missing") < page.index("**Protocol.**")
    assert "anchor `good`, critic `iql`: `spar_mlp` (0-1; 2-3)" in page
    assert "anchor `weak`, critic `iql`: `uniform` (2-3)" in page and "\n\n\n" not in page
    assert "**`spar_mlp`**, on 4 anchors" in page
    table = pd.read_csv(io.BytesIO(report.files["table.csv"]))
    weak = table[(table["anchor"] == "weak") & (table["improvement"] == "uniform")].iloc[0]
    # Over the two seeds that both sides have: 100 - half of their wiggles' mean.
    assert weak["gain_over_anchor"] == pytest.approx(100 + 0.5 * 2.0)
    episodes = pd.read_csv(io.BytesIO(report.files["episodes.csv"]))
    assert len(episodes) == 27 * 4


def test_partial_stage_leaves_the_report_alone(layout, monkeypatch, capsys):
    from spar_core.effective import SECTIONS
    from stages.entry import stage_main
    from stages.report import run

    lists = {"datasets": [DATASET], "anchors": list(ANCHORS), "critics": [CRITIC], "seeds": ["0-3"]}
    values = {"name": "demo", "improvements": ["anchor", "uniform", "spar_mlp"], **lists}
    layout.params.write_text(yaml.safe_dump({**{name: {} for name in SECTIONS}, "study": values}))
    monkeypatch.chdir(layout.root)
    monkeypatch.setattr("sys.argv", ["report", "--partial"])
    assert stage_main(run) == 1 and "no cell of the study 'demo'" in "".join(capsys.readouterr())
    write_cells(layout, study_of())
    run([])
    folder = layout.report("demo")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    drop(layout, "fair", "uniform", "0-3")
    run(["--partial"])
    assert "1 missing cell:" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    written = {path.name for path in (folder / "partial").iterdir()}
    assert written == {
        *("report.md", "table.csv", "returns.csv", "anchors.csv", "metrics.json", "episodes.csv"),
        *("measures.csv", "pairs.csv", "overall.csv", "harm.csv", "regret.csv", "committees.csv"),
        "figures",
    }


def test_every_new_diagnostic_is_explained():
    keys = [f"anchor/{name}" for name in ("coverage_distance", "heldout_log_density", "bimodal_share", "modes_missed")]
    keys += [f"{part}/parameters" for part in ("anchor", "residual", "critic", "improvement", "policy")]
    keys += ["critic/uncertainty_heldout", "critic/uncertainty_random", "improvement/q", "improvement/bc_loss"]
    assert all(explain(key) for key in keys)


def test_templates_lie_where_they_are_looked_for():
    folder = Path(build_report.__code__.co_filename).parent / "templates"
    pages = (
        "report",
        "anchor_quality",
        "offline",
        "diagnostics",
        "pairs",
        "agreement",
        "committees",
        "answer",
        "overall",
        "provenance",
    )
    pages += ("harm", "regret", "rounds", "inside", "published", "beside_published")
    assert {path.name for path in folder.glob("*.md.j2")} == {f"{name}.md.j2" for name in pages}
