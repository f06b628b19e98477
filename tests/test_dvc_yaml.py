"""dvc.yaml and the code agree: paths, digests, and the two spellings of a cell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stages.cells import AXES, STAGES, Cell
from stages.layout import Layout
from tests.fakes import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
AXIS_VALUES = {"dataset": "a/b-v0", "anchor": "mlp", "critic": "iql", "improvement": "awr", "seeds": "0-3"}


def cell_of(stage: str) -> Cell:
    """A cell of a stage, with a value on each axis that its matrix has."""
    return Cell(stage, **{axis: AXIS_VALUES[axis] for axis in PIPELINE[stage]["matrix"]})


def filled(text: str) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda match: AXIS_VALUES[match[1]], text)


def test_every_stage_has_a_description():
    assert all(stage.get("desc") for stage in PIPELINE.values())


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
    deps = {filled(dep) for dep in PIPELINE[stage]["deps"]}
    assert deps - written == ({"datasets/a/b-v0.yaml"} if stage == "download" else set())


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_names_every_axis(stage):
    command = PIPELINE[stage]["cmd"]
    assert command.startswith(f"python -m stages.{stage} ")
    assert re.findall(r"--(\w+) \$\{item\.(\w+)\}", command) == [
        (axis, axis) for axis in AXES if axis in PIPELINE[stage]["matrix"]
    ]


@pytest.mark.parametrize("stage", ["self_imitation", "evaluate", "estimate", "diagnose"])
def test_the_cells_of_also_are_made_the_same_way(stage):
    main, also = dict(PIPELINE[stage]), dict(PIPELINE[f"{stage}_also"])
    assert also.pop("desc") != main.pop("desc")
    matrix = dict(main.pop("matrix"))
    assert also.pop("matrix") == matrix | {axis: f"${{study.also.{axis}s}}" for axis in ("anchor", "improvement")}
    assert also == main


def test_the_digests_that_dvc_watches_are_those_that_mlflow_keys_by():
    """dvc.yaml and ``Cell.code_digest`` name the same entries of digests.yaml for each stage."""

    class Asked(dict):
        def get(self, key, default=None):
            seen.append(key)
            return Asked() if key in ("code", "stage", "anchor", "critic", "improvement") else "digest"

    for name in STAGES:
        entries = [entry for entry in PIPELINE[name]["params"] if isinstance(entry, dict)]
        watched = [key for entry in entries for key in entry["artifacts/digests.yaml"]]
        families = {key.split(".")[1] for key in watched if key.startswith("code.") and "stage" not in key}
        seen: list[str] = []
        Cell(name, "d", "mlp", "iql", "awr", "0").code_digest(Asked())
        assert f"code.stage.{name}" in watched
        assert families == set(seen) & {"anchor", "critic", "improvement"}, name


def test_a_stage_watches_the_params_of_its_own_choices():
    watched = {name: [key for key in PIPELINE[name]["params"] if isinstance(key, str)] for name in STAGES}
    assert watched == {
        "download": [],
        "fit_bc": ["anchors.${item.anchor}"],
        "fit_residual": ["residual", "anchors.${item.anchor}"],
        "fit_critic": ["critics.${item.critic}"],
        "self_imitation": ["improvements.${item.improvement}"],
        "evaluate": ["evaluation"],
        "estimate": ["estimation"],
        "geometry": ["diagnosis"],
        "diagnose": ["diagnosis"],
    }
