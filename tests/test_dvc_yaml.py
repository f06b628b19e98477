"""dvc.yaml and the code agree: paths, digests, and the two spellings of a cell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from spar_core.evolving.rounds import Round
from spar_core.theory.claims import CLAIMS
from spar_core.theory.settings import TheorySettings
from stages.cells import Cell
from stages.layout import Layout
from stages.table import AXES, STAGES
from tests.fakes import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
AXIS_VALUES = {"dataset": "a/b-v0", "anchor": "mlp", "critic": "iql", "improvement": "awr", "seeds": "0-3"}
# Of a different name, so that a stage that took the one for the other would be noticed.
ROUND = Round(anchor="mlp_round_1", of="mlp", critic="iql", improvement="awr")


def cell_of(stage: str) -> Cell:
    """A cell of a stage, with a value on each axis that its matrix has."""
    if stage == "reanchor":
        return Cell(stage, AXIS_VALUES["dataset"], anchor=ROUND.anchor, seeds=AXIS_VALUES["seeds"], round=ROUND)
    return Cell(stage, **{axis: AXIS_VALUES[axis] for axis in PIPELINE[stage]["matrix"]})


def filled(text: str) -> str:
    text = re.sub(r"\$\{item\.round\.(\w+)\}", lambda match: getattr(ROUND, match[1]), text)
    return re.sub(r"\$\{item\.(\w+)\}", lambda match: AXIS_VALUES[match[1]], text)


def test_every_stage_has_a_description():
    assert all(stage.get("desc") for stage in PIPELINE.values())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_the_matrix_spans_the_lists_that_the_table_names(stage):
    lists = {axis: "seeds" if axis == "seeds" else f"{axis}s" for axis in stage.axes}
    lists["dataset"] = stage.asked_by or "datasets"
    if stage.anchors == "rounds":
        lists = {"round" if axis == "anchor" else axis: name for axis, name in lists.items()} | {"round": "rounds"}
    assert PIPELINE[stage.name]["matrix"] == {axis: f"${{study.{name}}}" for axis, name in lists.items()}
    assert list(PIPELINE[stage.name]["matrix"]) == list(lists), "the order makes the names of the cells"


def test_the_report_depends_on_the_artifacts_that_it_reads():
    assert PIPELINE["report"]["deps"] == [f"artifacts/{s.artifact}" for s in STAGES.values() if s.reported]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_where_the_layout_says(stage):
    outs = [filled(out) for out in PIPELINE[stage]["outs"]]
    wanted = [cell_of(stage).folder(Layout(Path())).as_posix()]
    if stage == "download":
        wanted.insert(0, (Layout(Path()).minari_root / AXIS_VALUES["dataset"]).as_posix())
    assert outs == wanted


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_the_stages_before_it_write(stage):
    written = {filled(out) for name in STAGES for out in PIPELINE[name]["outs"]}
    deps = {filled(dep) for dep in PIPELINE[stage].get("deps", [])}
    assert deps - written == set()


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_names_every_axis(stage):
    command = PIPELINE[stage]["cmd"]
    assert command.startswith(f"python -m stages.{stage} ")
    if stage == "reanchor":
        assert {m[1] for m in re.finditer(r"--(\w+) \$\{item\.round\.\1\}", command)} == set(Round.model_fields)
        command = re.sub(r"--\w+ \$\{item\.round\.\w+\}", "", command)
    assert re.findall(r"--(\w+) \$\{item\.(\w+)\}", command) == [
        (axis, axis) for axis in AXES if axis in PIPELINE[stage]["matrix"]
    ]


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES.values() if "improvement" in stage.axes])
def test_the_cells_of_also_are_made_the_same_way(stage):
    main, also = dict(PIPELINE[stage]), dict(PIPELINE[f"{stage}_also"])
    assert also.pop("desc") != main.pop("desc")
    matrix = dict(main.pop("matrix"))
    assert also.pop("matrix") == matrix | {axis: f"${{study.also.{axis}s}}" for axis in ("anchor", "improvement")}
    assert also == main


@pytest.mark.parametrize(
    "stage", [stage.name for stage in STAGES.values() if "anchor" in stage.axes and stage.anchors == "both"]
)
def test_the_cells_of_rounds_are_made_the_same_way(stage):
    """A round's stage takes the anchor and the critic of the round, and equals the plain stage in all else."""

    def on_rounds(value):
        if isinstance(value, dict):
            return {key: on_rounds(item) for key, item in value.items()}
        if isinstance(value, list):
            return [on_rounds(item) for item in value]
        return re.sub(r"\$\{item\.(anchor|critic)\}", r"${item.round.\1}", value)

    main, made = dict(PIPELINE[stage]), dict(PIPELINE[f"{stage}_round"])
    assert made.pop("desc") != main.pop("desc")
    matrix = {axis: value for axis, value in main.pop("matrix").items() if axis not in ("anchor", "critic")}
    assert made.pop("matrix") == {"round": "${study.rounds}"} | matrix
    assert made == on_rounds(main)


def test_the_digests_that_dvc_watches_are_those_that_mlflow_keys_by():
    """dvc.yaml and ``Cell.code_digest`` name the same entries of plan.json for each stage."""

    class Asked(dict):
        def get(self, key, default=None):
            seen.append(key)
            return Asked() if key in ("code", "stage", "anchor", "critic", "improvement") else "digest"

    for name in STAGES:
        watched = watched_of(name)
        families = {key.split(".")[1] for key in watched if key.startswith("code.") and "stage" not in key}
        seen: list[str] = []
        cell_of(name).code_digest(Asked())
        assert f"code.stage.{name}" in watched
        assert families == set(seen) & {"anchor", "critic", "improvement"}, name


def watched_of(stage: str) -> list[str]:
    """The entries of plan.json that a stage has as params; it has no others."""
    (params,) = PIPELINE[stage]["params"]
    assert set(params) == {"artifacts/plan.json"}
    return params["artifacts/plan.json"]


def test_a_stage_watches_the_effective_settings_of_its_own_choices_on_its_own_dataset():
    prefix = "settings.${item.dataset}."
    watched = {
        name: [key.removeprefix(prefix) for key in watched_of(name) if key.startswith("settings.")] for name in STAGES
    }
    assert watched == {
        "download": [],
        "fit_bc": ["anchors.${item.anchor}"],
        "fit_residual": ["residual.${item.anchor}"],
        "fit_critic": ["critics.${item.critic}"],
        "self_imitation": ["improvements.${item.improvement}"],
        "reanchor": ["anchors.${item.round.anchor}", "reanchoring"],
        "evaluate": ["evaluation"],
        "estimate": ["estimation"],
        "geometry": ["diagnosis"],
        "diagnose": ["diagnosis"],
    }
    assert watched_of("report")[1:] == ["study", "report", "origins"]


def test_the_theory_stage_is_a_cell_a_claim_that_watches_its_own_params_and_code():
    stage = PIPELINE["theory"]
    assert stage["matrix"] == {"claim": "${claims}"} and "deps" not in stage
    assert stage["cmd"] == "python -m stages.theory --claim ${item.claim}"
    params, digests = stage["params"]
    shared = set(TheorySettings.model_fields) - {"claims", *CLAIMS}
    assert set(params) == {"theory.yaml"} and set(params["theory.yaml"]) == {*shared, "${item.claim}"}
    assert digests == {"artifacts/plan.json": ["code.stage.theory", "code.theory.${item.claim}"]}
    layout = Layout(Path())
    assert stage["outs"] == [{layout.theory("${item.claim}").as_posix(): {"cache": False}}]
    page = PIPELINE["theory_page"]
    assert page["deps"] == [(layout.theory(name) / "result.json").as_posix() for name in CLAIMS]
    assert page["outs"] == [{layout.theory("README.md").as_posix(): {"cache": False}}]


def test_make_experiments_leaves_out_what_params_yaml_holds_too_and_nothing_else():
    """Of the columns of `dvc exp show`, digests and effective settings are dropped: more than nine in ten."""
    (text,) = re.findall(r"^NOT_COMPARED := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    dropped = re.compile(text)
    plan = {key for stage in PIPELINE.values() for entry in stage.get("params", []) for key in of_plan(entry)}
    assert len(plan) > 20
    for key in (*plan, "artifacts/plan.json:study.name", "artifacts/plan.json", "reports/theory/x.json"):
        assert dropped.search(f"{key}.") or key in ("study", "report"), key
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    metrics = json.loads((ROOT / "reports/builtin/metrics.json").read_text(encoding="utf-8"))
    assert not [key for key in (*(f"{section}." for section in params), *metrics) if dropped.search(key)]


def of_plan(entry) -> list[str]:
    """The keys of artifacts/plan.json in an entry of a stage's params."""
    return entry.get("artifacts/plan.json", []) if isinstance(entry, dict) else []
