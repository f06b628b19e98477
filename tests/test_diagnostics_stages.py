"""The stages that look into a cell, through a tiny pipeline: what they write and refuse, and the report's section."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest

from spar_core.diagnostics.readings import MEANINGS
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.errors import SparError
from spar_core.reporting.numbers.inside import load_inside
from spar_core.reporting.page.present import present_part
from spar_core.reporting.page.provenance import dvc_digest
from spar_core.reporting.page.render import build_report
from spar_core.training.reporter import Reporter
from stages import (
    diagnose,
    download,
    evaluate,
    fit_bc,
    fit_critic,
    fit_residual,
    geometry,
    plan,
    report,
    self_imitation,
)
from stages.cells import Cell, study_cells
from stages.diagnose import LookAtRule
from stages.entry import stage_main
from stages.geometry import LookAtResiduals
from stages.layout import Layout
from stages.params import section
from stages.report import folders_of, read_study
from tests.fakes import ROOT
from tests.pipeline import DATASET, Clone, cell_arguments

SEEDS = "0-1"
TRAINED = (
    *("uniform", "awr", "awr_scratch", "spar_mlp", "spar_proj_rounds", "spar_proj_safe"),
    *("value_gradient", "value_gradient_action"),
)
RULES = ("anchor", *TRAINED, "best_of_n", "auto")
GRADIENTS = tuple(rule for rule in TRAINED if rule != "uniform")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A scratch checkout as the working directory, with a diagnosed study in it."""
    clone = Clone(tmp_path_factory.mktemp("diagnosed") / "clone")
    clone.borrow("extraction", "improvements", "spar_proj_rounds", "value_gradient_action")
    safe = {"like": "spar_proj", "disagreement": 2.0, "anchor_weight": 0.5, "gate": True}
    clone.set({"improvements.spar_proj_safe": safe})
    clone.study(improvements=list(RULES), seeds=[SEEDS], diagnosed=[DATASET])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        patch.setenv("SPAR_WORKERS", "1")
        patch.setenv("SPAR_TRACKING", "off")
        plan.run([])
        download.run(["--dataset", DATASET])
        for stage in (fit_bc, fit_residual, geometry):
            stage.run(["--dataset", DATASET, "--anchor", "mlp", "--seeds", SEEDS])
        fit_critic.run(["--dataset", DATASET, "--critic", "iql", "--seeds", SEEDS])
        for rule in RULES:
            for stage in (self_imitation, evaluate, diagnose):
                stage.run(cell_arguments(DATASET, rule, SEEDS))
        yield clone


def folder_of(rule: str):
    return Layout().artifact("diagnosis", DATASET, "mlp", "iql", rule, SEEDS)


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def numbers(folder) -> dict[str, list[float | None]]:
    return json.loads((folder / "metrics.json").read_text())


# --- what is written ---


def test_every_number_has_a_unit_a_reading_and_a_row_a_seed(project):
    known: set[str] = set()
    for folder in (Layout().artifact("geometry", DATASET, "mlp", SEEDS), *map(folder_of, RULES)):
        rows, readings = rows_of(folder / "measures.csv"), json.loads((folder / "readings.json").read_text())
        names = {row["name"] for row in rows}
        known |= names
        assert {row["seed"] for row in rows} == {"0", "1"}
        for name, reading in readings.items():
            assert reading["unit"] == MEANINGS[name].unit and reading["reading"].endswith("."), name
            values = [float(row["value"]) for row in rows if row["name"] == name and row["value"]]
            assert reading["value"] == pytest.approx(np.mean(values)) and reading["seeds"] == len(values)
        assert set(readings) == {name for name, values in numbers(folder).items() if any(v is not None for v in values)}
        for row in rows:
            if row["low"]:
                assert (
                    float(row["low"]) <= float(row["value"]) + 1e-9 and float(row["value"]) <= float(row["high"]) + 1e-9
                )
    assert known == set(MEANINGS), "every meaning belongs to a number, and every number has one"


def test_every_number_is_on_the_page_with_its_unit():
    page = (ROOT / "docs/diagnostics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(?:geometry|diagnosis)/[^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    told = {name: unit for cell, unit in rows for name in re.findall(r"`(\w+/\w+)`", cell)}
    assert told == {name: meaning.unit for name, meaning in MEANINGS.items()}


def test_gradients_are_compared_for_the_rules_that_the_critic_moves(project):
    for rule in RULES:
        folder = folder_of(rule)
        if rule not in GRADIENTS:
            assert not (folder / "curves.csv").exists() and "diagnosis/conflict_share" not in numbers(folder)
            continue
        rows = [row for row in rows_of(folder / "curves.csv") if row["metric"] == "gradients/cosine"]
        assert {row["step"] for row in rows} == set(map(str, range(2, 31))) and len(rows) == 58, rule
        cosines = np.array([float(row["value"]) for row in rows if row["seed"] == "1"])
        assert (np.abs(cosines) <= 1 + 1e-9).all()
        assert numbers(folder)["diagnosis/conflict_share"][1] == pytest.approx((cosines < 0).mean())


def test_what_must_be_so_is_so(project):
    anchor, uniform, best = (numbers(folder_of(rule)) for rule in ("anchor", "uniform", "best_of_n"))
    assert anchor["diagnosis/total_length"] == [0, 0]
    assert anchor["diagnosis/distance_ratio_policy"] == anchor["diagnosis/distance_ratio_anchor"]
    assert uniform["diagnosis/effective_candidates"] == pytest.approx([16, 16])
    assert best["diagnosis/random_weak_share"] == anchor["diagnosis/random_weak_share"]
    assert len({json.dumps(numbers(folder_of(rule))["diagnosis/distance_logged"]) for rule in RULES}) == 1


# --- the same bytes ---


def test_a_seed_is_found_the_same_alone_and_beside_others(project):
    layout, settings = Layout(), section(Layout(), "diagnosis", DiagnosisSettings)
    meta = json.loads((folder_of("spar_mlp") / "meta.json").read_text())
    assert meta["params"] == {"diagnosis": settings.model_dump(mode="json")} and meta["seeds"] == [0, 1]
    residuals = LookAtResiduals(layout, Cell("geometry", DATASET, anchor="mlp", seeds=SEEDS), settings, "cpu")
    policy = json.loads(
        (layout.artifact("policy", DATASET, "mlp", "iql", "spar_mlp", SEEDS) / "policy.json").read_text()
    )
    part = policy["parts"]["improvement"]
    from spar_core.registry import load_member

    rule = load_member("improvement", part["kind"]).Settings(**part["settings"])
    cell = Cell("diagnose", DATASET, "mlp", "iql", "spar_mlp", SEEDS)
    for job in (residuals, LookAtRule(layout, cell, part["kind"], rule, settings, "cpu")):
        together, alone = job([0, 1], Reporter([0, 1])), job([1], Reporter([1]))
        assert together[1] == alone[0]


def test_the_number_of_workers_changes_no_byte(project, monkeypatch):
    folder = folder_of("spar_mlp")
    before = dvc_digest(folder)
    monkeypatch.setenv("SPAR_WORKERS", "2")
    diagnose.run(cell_arguments(DATASET, "spar_mlp", SEEDS))
    assert dvc_digest(folder) == before


# --- what is refused ---


def test_a_policy_without_its_curves_is_refused_and_nothing_is_written(project, capsys):
    policy, written = Layout().artifact("policy", DATASET, "mlp", "iql", "awr", SEEDS), dvc_digest(folder_of("awr"))
    path = policy / "curves.csv"
    whole = path.read_bytes()
    path.write_text("step,seed\n1,2\n")
    try:
        assert stage_main(lambda _: diagnose.run(cell_arguments(DATASET, "awr", SEEDS))) == 1
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "curves.csv is missing or broken" in error and "dvc repro" in error
    assert dvc_digest(folder_of("awr")) == written


def test_a_missing_policy_is_one_line(project):
    with pytest.raises(SparError, match="does not exist; it should hold the policy"):
        diagnose.run(cell_arguments(DATASET, "nothing", SEEDS))


# --- the study ---


def test_the_cells_of_a_diagnosed_study(project):
    study, _ = read_study(Layout())
    cells = [cell for cell in study_cells(study) if cell.stage in ("geometry", "diagnose")]
    assert [cell.stage for cell in cells] == ["geometry", *["diagnose"] * len(RULES)]
    assert all((cell.folder(Layout()) / "meta.json").is_file() for cell in cells)
    without = study.model_copy(update={"diagnosed": ()})
    assert not [cell for cell in study_cells(without) if cell.stage in ("geometry", "diagnose")]


def test_plan_drops_what_left_the_study(project):
    layout = Layout()
    stale = [
        layout.artifact("geometry", DATASET, "knn", SEEDS),
        layout.artifact("diagnosis", DATASET, "mlp", "iql", "left", SEEDS),
    ]
    for folder in stale:
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
    study, _ = read_study(layout)
    assert set(plan.prune(layout, study)) == set(stale)
    assert folder_of("awr").is_dir() and layout.artifact("geometry", DATASET, "mlp", SEEDS).is_dir()


# --- the report ---


@pytest.fixture(scope="module")
def rendered(project):
    folder = report.make_report(Layout())
    return folder, (folder / "report.md").read_text(encoding="utf-8")


def test_the_report_has_a_section_with_tables_and_figures(rendered):
    folder, page = rendered
    text = page.split("### Geometry and gradients")[1].split("\n## ")[0]
    slug = DATASET.replace("/", ".")
    for name in (f"geometry.{slug}.mlp.svg", f"moves.{slug}.mlp.iql.svg", f"gradients.{slug}.mlp.iql.svg"):
        assert f"(figures/{name})" in text and (folder / "figures" / name).read_bytes().startswith(b"<?xml")
    shown = numbers(folder_of("spar_mlp"))["diagnosis/distance_ratio_policy"]
    line = next(line for line in text.splitlines() if line.startswith("| `spar_mlp` |"))
    assert f" {np.mean(shown):.3g} ±" in line
    assert (
        f"geometry of mlp, seeds {SEEDS}: `{dvc_digest(Layout().artifact('geometry', DATASET, 'mlp', SEEDS))[:12]}`"
        in text
    )
    for name in MEANINGS:
        assert f"`{name}`" in text, name
    assert "nan" not in text.lower().split()


def test_the_table_of_measures_holds_every_number_of_every_seed(project, rendered):
    folder, _ = rendered
    with (folder / "measures.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    axes = {("", ""): Layout().artifact("geometry", DATASET, "mlp", SEEDS)} | {
        ("iql", rule): folder_of(rule) for rule in RULES
    }
    assert {(row["critic"], row["improvement"]) for row in rows} == set(axes)
    for (critic, rule), original in axes.items():
        with (original / "measures.csv").open(newline="", encoding="utf-8") as handle:
            wanted = [(r["seed"], r["name"], _number(r["value"]), _number(r["low"])) for r in csv.DictReader(handle)]
        mine = [row for row in rows if (row["critic"], row["improvement"]) == (critic, rule)]
        assert {(row["dataset"], row["anchor"]) for row in mine} == {(DATASET, "mlp")}
        assert [(r["seed"], r["name"], _number(r["value"]), _number(r["low"])) for r in mine] == wanted


def _number(text: str) -> float | None:
    return float(text) if text else None


def test_a_missing_diagnosis_is_an_error_and_a_partial_report_goes_without(project, tmp_path):
    study, settings = read_study(Layout())
    folders = folders_of(Layout())
    held = folder_of("awr")
    shutil.move(held, tmp_path / "awr")
    try:
        with pytest.raises(SparError, match=r"asks for a diagnosis, but .*awr/0-1 does not hold it"):
            load_inside(study, folders)
        part = present_part(study, folders)
        page = build_report(part, folders, settings, missing=part.missing).files["report.md"].decode()
        text = page.split("### Geometry and gradients")[1].split("\n## ")[0]
        assert "| `spar_mlp` | mlp, iql |" in text and "| `awr` | mlp, iql |" not in text
    finally:
        shutil.move(tmp_path / "awr", held)


def test_a_study_without_diagnoses_has_no_such_section(project):
    study, settings = read_study(Layout())
    plain = build_report(study.model_copy(update={"diagnosed": ()}), folders_of(Layout()), settings)
    assert "Geometry and gradients" not in plain.files["report.md"].decode()
    assert len(plain.files["measures.csv"].splitlines()) == 1, "a header and no row"
