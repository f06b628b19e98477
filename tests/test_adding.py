"""Add the anchor of docs/adding.md, and a stage: nothing else has to be edited, and nothing that exists runs again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline import DATASET, REPOSITORY, Clone

pytestmark = pytest.mark.pipeline

PAGE = (REPOSITORY / "docs/adding.md").read_text(encoding="utf-8")
NAME = "random_features"


def block(language: str, marker: str) -> str:
    """The fenced block of the page that holds ``marker``."""
    blocks = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if marker in text]
    assert len(blocks) == 1, marker
    return blocks[0]


def add(clone: Clone) -> None:
    """One file, one line, and a variant, from the page."""
    (clone.folder / f"spar_core/anchors/{NAME}.py").write_text(block("python", "class RandomFeaturesAnchor"))
    line = block("python", f'    "{NAME}":')
    assert len(line.splitlines()) == 1
    clone.edit("spar_core/registry.py", "ANCHORS = {\n", "ANCHORS = {\n" + line)
    variant = yaml.safe_load(block("yaml", f"  {NAME}:\n    features"))["anchors"][NAME]
    clone.set({f"anchors.{NAME}": {**variant, "features": 20}})


def test_the_page_adds_an_anchor_that_the_shared_suite_covers_and_no_cell_runs_again(tmp_path: Path):
    clone = Clone(tmp_path / "clone")
    clone.repro()
    add(clone)
    assert clone.repro() == ["plan"], "a new member alone runs nothing"
    clone.study(anchors=["mlp", NAME])
    ran = [stage for stage in clone.repro() if "@" in stage]
    cell = f"{DATASET}-{NAME}"
    assert sorted(ran) == sorted(
        [f"{stage}@{cell}-0-1" for stage in ("fit_bc", "fit_residual")]
        + [
            f"{stage}@{cell}-iql-{rule}-0-1"
            for stage in ("self_imitation", "evaluate")
            for rule in ("anchor", "spar_mlp")
        ]
    )
    suite = clone.run(
        "python", "-m", "pytest", "-vv", "-p", "no:cacheprovider", "tests/test_anchors.py", "-k", NAME, ok=False
    )
    assert suite.returncode == 0, suite.stdout
    assert len(re.findall(rf"\[.*{NAME}.*\] PASSED", suite.stdout)) >= 15
    lint = clone.run("python", "-m", "ruff", "check", f"spar_core/anchors/{NAME}.py", ok=False)
    assert lint.returncode == 0, lint.stdout


# Family, name, class, and the shared suites that have to cover the member: how many of their tests run on it at least.
ADDED = [
    ("critic", "iql_bound", "class IQLBoundCritic", {"test_critics.py": 8}),
    (
        "improvement",
        "spar_box",
        "class SparBox",
        {"test_improvements.py": 6, "test_diagnostics_rules.py": 2, "test_theory.py": 4},
    ),
]


@pytest.mark.parametrize(("family", "name", "marker", "suites"), ADDED, ids=[name for _, name, *_ in ADDED])
def test_the_pages_critic_and_rule_are_one_file_and_one_line_that_the_shared_suites_cover(
    tmp_path: Path, family: str, name: str, marker: str, suites: dict[str, int]
):
    clone = Clone(tmp_path / "clone")
    folder, table = {"critic": ("critics", "CRITICS"), "improvement": ("improvement", "IMPROVEMENTS")}[family]
    (clone.folder / f"spar_core/{folder}/{name}.py").write_text(block("python", marker))
    (line,) = re.findall(rf'`("{name}": "[^"]+")`', PAGE)
    clone.edit("spar_core/registry.py", f"{table} = {{\n", f"{table} = {{\n    {line},\n")
    for suite, least in suites.items():
        command = ("python", "-m", "pytest", "-vv", "-p", "no:cacheprovider", f"tests/{suite}", "-k", name)
        done = clone.run(*command, ok=False)
        assert done.returncode == 0, done.stdout
        assert len(re.findall(rf"\[.*{name}.*\] PASSED", done.stdout)) >= least, done.stdout
    lint = clone.run("python", "-m", "ruff", "check", f"spar_core/{folder}/{name}.py", ok=False)
    assert lint.returncode == 0, lint.stdout


# A stage of five axes: its module, its line in the table, and its text in dvc.yaml.
WEIGH = '''
"""Weigh the policy of a cell: count the bytes of its weights."""

from __future__ import annotations

import sys
from pathlib import Path

from spar_core.artifacts import write_json
from stages.entry import parse_cell, stage_main
from stages.frame import Written, framed
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.weigh``."""
    layout, cell = Layout(), parse_cell("weigh", __doc__, argv)
    folders = cell.folders(layout, "policy")
    with framed(layout, cell, params={}, inputs=folders, steps=None, keeps_checkpoints=False) as frame:
        size = (folders["policy"] / "weights.safetensors").stat().st_size

        def write(folder: Path) -> Written:
            metrics = {"weigh/bytes": [size] * len(frame.seeds)}
            write_json(folder / "metrics.json", metrics)
            return Written(metrics)

        frame.save("weight", write)


if __name__ == "__main__":
    sys.exit(stage_main(run))
'''
LINE = '        Stage("weigh", "weight", AXES, anchors="study", reported=True, timed=True),\n'
TEXT = """  weigh: &weigh
    desc: Count the bytes of a policy's weights
    matrix: *rules
    cmd: >-
      python -m stages.weigh --dataset ${item.dataset} --anchor ${item.anchor}
      --critic ${item.critic} --improvement ${item.improvement} --seeds ${item.seeds}
    deps: [*policy]
    params:
      - artifacts/plan.json: [code.stage.weigh, *anchor_code, *critic_code, *rule_code]
    outs:
      - artifacts/weight/${item.dataset}/${item.anchor}/${item.critic}/${item.improvement}/${item.seeds}

  weigh_also:
    <<: *weigh
    desc: Count the bytes of the policies of study.also
    matrix: *also

"""
ASK = """
import json
from stages.cells import study_cells
from stages.layout import Layout
from stages.report import folders_of, read_study
from stages.tracking.store import Store

layout = Layout()
study, _ = read_study(layout)
store = Store(layout.root)
runs = store.runs(store.experiment(study.datasets[0]))
print(json.dumps({
    "cells": [cell.name for cell in study_cells(study) if cell.stage == "weigh"],
    "read": sorted({kind for cell in study.cells() for kind in folders_of(layout)(cell, study)}),
    "bytes": [run.data.metrics["final/weigh/bytes"] for run in runs if run.data.tags["spar.stage"] == "weigh"],
    "linked": [bool(run.data.tags.get("spar.run.weigh")) for run in runs if run.data.tags["spar.stage"] == "result"],
}))
"""


def add_stage(clone: Clone) -> None:
    (clone.folder / "stages/weigh.py").write_text(WEIGH)
    last = '        Stage("diagnose"'
    clone.edit("stages/table.py", last, LINE + last)
    clone.edit("dvc.yaml", "  report:\n", TEXT + "  report:\n")
    clone.edit("dvc.yaml", "artifacts/geometry, artifacts", "artifacts/geometry, artifacts/weight, artifacts")


def test_a_stage_is_a_file_a_line_of_the_table_and_its_text_in_dvc_yaml(tmp_path: Path):
    clone = Clone(tmp_path / "clone")
    clone.repro()
    add_stage(clone)
    cells = [f"weigh@{DATASET}-mlp-iql-{rule}-0-1" for rule in ("anchor", "spar_mlp")]
    assert clone.repro() == ["plan", *cells, "report"], "nothing that existed runs again but the report, which reads it"
    weights = {rule: clone.folder / f"artifacts/weight/{DATASET}/mlp/iql/{rule}/0-1" for rule in ("anchor", "spar_mlp")}
    assert all(json.loads((folder / "meta.json").read_text())["kind"] == "weight" for folder in weights.values())
    # The cost of a rule, MLflow and the report know the stage.
    clone.run("python", "-m", "stages.cost")
    header, *rows = (clone.folder / "reports/default/cost.csv").read_text().splitlines()
    column = header.split(",").index("seconds_weigh")
    # The time is known; it is below the table's tenth of a second, and an unknown time would be empty.
    assert len(rows) == 2 and all(float(row.split(",")[column]) >= 0 for row in rows)
    clone.run("python", "-m", "stages.tracking.publish")
    found: dict[str, Any] = json.loads(clone.run("python", "-c", ASK).stdout.splitlines()[-1])
    assert found["cells"] == ["weigh mlp iql anchor 0-1", "weigh mlp iql spar_mlp 0-1"]
    assert found["read"] == ["evaluation", "weight"]
    assert len(found["bytes"]) == 2 and min(found["bytes"]) > 1000 and found["linked"] == [True, True]
    # An artifact goes when its cell leaves the study.
    clone.study(improvements=["anchor"])
    clone.repro("plan")
    assert weights["anchor"].is_dir() and not weights["spar_mlp"].exists()
    # The checks of dvc.yaml hold for the stage too.
    names = "matrix or report or writes or depends or command or also or digests"
    checks = clone.run("python", "-m", "pytest", "-p", "no:cacheprovider", "tests/test_dvc_yaml.py", "-k", names)
    assert checks.returncode == 0, checks.stdout
