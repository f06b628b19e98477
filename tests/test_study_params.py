"""What DVC finds out of date where a study has params of its own, or a dataset's entry has settings."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from spar_core.settings import parse
from spar_core.study import Study
from stages.cells import study_cells
from stages.layout import Layout
from tests.pipeline import DATASET, Clone
from tests.test_pipeline import changed

pytestmark = pytest.mark.pipeline

OTHER = "builtin/other-replay-v0"
LISTS = {
    "question": "Does it matter?",
    "datasets": [DATASET, OTHER],
    "anchors": ["mlp"],
    "critics": ["iql"],
    "improvements": ["anchor", "spar_mlp"],
    "seeds": ["0"],
}
OWN = {
    "critics": {"iql_cold": {"like": "iql", "warm_start_steps": 0}},
    "improvements": {"spar_mlp": {"tau": 0.5}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Clone:
    """A clone in which a study of two datasets is up to date for DVC; its artifacts are empty, since none is read.

    Another study beside it has params of its own.
    """
    clone = Clone(tmp_path_factory.mktemp("studies") / "clone")
    entry = (clone.folder / f"datasets/{DATASET}.yaml").read_text()
    (clone.folder / f"datasets/{OTHER}.yaml").write_text(entry.replace("seed: 0", "seed: 1"))
    (clone.folder / "studies/plain.yaml").write_text(yaml.safe_dump(LISTS))
    (clone.folder / "studies/own.yaml").write_text(yaml.safe_dump({**LISTS, "params": OWN}))
    clone.run("python", "-m", "stages.study", "plain")
    layout = Layout(clone.folder)
    for cell in study_cells(parse(Study, clone.params()["study"], "study")):
        folders = [cell.folder(layout), *([layout.minari_root / cell.dataset] if cell.stage == "download" else [])]
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "meta.json").write_text("{}")
    clone.run("python", "-m", "stages.plan")
    report = yaml.safe_load((clone.folder / "dvc.yaml").read_text())["stages"]["report"]
    for out in [*report["outs"], *report["metrics"]]:
        path = clone.folder / (out if isinstance(out, str) else next(iter(out))).replace("${study.name}", "plain")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    clone.run("dvc", "commit", "--force")
    clone.commit()
    assert changed(clone) == set()
    return clone


@pytest.fixture
def clone(base, tmp_path) -> Clone:
    """A copy of the base clone, with its cache, to change at will."""
    copy = Clone.__new__(Clone)
    copy.folder, copy.environment = tmp_path / "clone", base.environment
    shutil.copytree(base.folder, copy.folder, symlinks=True)
    return copy


def cells(stage: str, *datasets: str) -> set[str]:
    """The cells of a stage that all have the rule `spar_mlp`."""
    return {f"{stage}@{dataset}-mlp-iql-spar_mlp-0" for dataset in datasets}


def settings(clone: Clone, dataset: str) -> dict:
    return json.loads((clone.folder / "artifacts/plan.json").read_text())["settings"][dataset]


def test_a_study_concerns_what_its_params_name_and_leaves_no_trace(clone):
    before = (clone.folder / "params.yaml").read_bytes()
    clone.run("python", "-m", "stages.study", "own")
    # The report of the study is another one, so all of its outputs are missing.
    assert changed(clone) == {"report", *cells("self_imitation", DATASET, OTHER)}
    assert settings(clone, OTHER)["improvements"]["spar_mlp"]["tau"] == 0.5
    clone.run("python", "-m", "stages.study", "plain")
    assert (clone.folder / "params.yaml").read_bytes() == before
    assert changed(clone) == set()


def test_a_setting_of_an_entry_concerns_the_cells_of_its_dataset_that_have_it(clone):
    entry = clone.folder / f"datasets/{OTHER}.yaml"
    plain = entry.read_text()

    def holds(tree: str) -> set[str]:
        entry.write_text(plain + f"settings: {tree}\n")
        return changed(clone) - {"report"}

    assert holds("{critics: {iql: {expectile: 0.9}}}") == {f"fit_critic@{OTHER}-iql-0"}
    assert settings(clone, OTHER)["critics"]["iql"]["expectile"] == 0.9
    assert settings(clone, DATASET)["critics"]["iql"]["expectile"] == 0.7
    assert holds("{improvements: {spar_mlp: {tau: 0.9}}}") == cells("self_imitation", OTHER)
    assert holds("{anchors: {mlp: {steps: 31}}}") == {f"fit_bc@{OTHER}-mlp-0"}
    assert holds("{residual: {beta: 0.2}}") == {f"fit_residual@{OTHER}-mlp-0"}
    assert holds("{evaluation: {episodes: 3}}") == {
        f"evaluate@{OTHER}-mlp-iql-{rule}-0" for rule in ("anchor", "spar_mlp")
    }
    assert holds("{estimation: {states: 9}, critics: {sarsa: {steps: 9}}}") == set(), "no cell of the study has them"
    entry.write_text(plain.replace("title: HalfCheetah", "title: A cheetah").replace("license: MIT", "license: none"))
    assert changed(clone) == set(), "words are no params"
    entry.write_text(plain + "settings: {critics: {iql: {expectil: 0.9}}}\n")
    result = clone.run("python", "-m", "stages.plan", ok=False)
    assert result.returncode == 1 and result.stderr == (
        f"error: datasets/{OTHER}.yaml, settings, critic 'iql': unknown key 'expectil'; did you mean 'expectile'?\n"
    )


def test_only_what_a_param_of_the_study_concerns_is_out_of_date(clone):
    def holds(tree: dict) -> set[str]:
        clone.set({"study.params": tree})
        return changed(clone)

    residuals = {f"fit_residual@{dataset}-mlp-0" for dataset in (DATASET, OTHER)}
    assert holds({"residual": {"beta": 0.1}}) == {"report", *residuals}
    assert holds({"anchors": {"mlp": {"residual": {"beta": 0.1}}}}) == {"report", *residuals}
    assert holds({"critics": {"fresh": {"like": "iql", "steps": 5}}}) == set(), "no cell has the new variant"
    assert holds({"report": {"confidence": 0.9}}) == {"report"}
    # The report says where a setting comes from, even where its value is the same.
    assert holds({"evaluation": {"episodes": 2}}) == {"report"}
    assert holds({}) == set()


def test_dvc_shows_edits_of_params_and_refuses_one_that_the_study_hides(clone):
    clone.run("python", "-m", "stages.study", "own")
    clone.commit()
    clone.set({"improvements.uniform.tau": 0.7})
    diff = json.loads(clone.run("dvc", "params", "diff", "--json").stdout)
    (key, edit), *others = diff["params.yaml"].items()
    assert (key, edit["old"], edit["new"]) == ("improvements.uniform.tau", 0.3, 0.7) and not others
    clone.run("git", "checkout", "params.yaml")
    result = clone.run("dvc", "exp", "run", "-S", "improvements.spar_mlp.tau=0.9", ok=False)
    said = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: ")]
    assert result.returncode != 0 and said == [
        "error: params.yaml: improvements.spar_mlp.tau = 0.9 has no effect, since the study 'own' sets 0.5; "
        "change study.params.improvements.spar_mlp.tau instead, or commit the change for other studies"
    ]
    # Another study may use it, once it is committed.
    clone.commit()
    assert changed(clone) == {"report", *cells("self_imitation", DATASET, OTHER)}
    assert settings(clone, DATASET)["improvements"]["spar_mlp"]["tau"] == 0.5
