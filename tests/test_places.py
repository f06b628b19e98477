"""Where the project lies and what happens to it meanwhile: disks, links, worktrees, edits while a study runs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from safetensors import SafetensorError

from spar_core import artifacts
from spar_core.artifacts import META, check_room, read_json, write_json
from spar_core.data.entry_files import load_entry
from spar_core.data.loading import load_dataset
from spar_core.effective import settings_of
from spar_core.errors import Interrupted, SparError
from spar_core.study import Study
from spar_core.training import tensors
from stages import failures, fit_bc, plan, study
from stages.cells import Cell
from stages.download import download
from stages.entry import stage_main
from stages.layout import Layout, main_root
from stages.parallel import warm
from stages.parallel.graph import check_place
from stages.parallel.sweep import reason
from stages.parallel.workspace import packed
from stages.params import read_params, section
from stages.planned import check_cell, check_data, check_report
from stages.tracking import ui
from tests.fakes import ROOT

DATASET = "mine/toy-v0"


def write_data(path: Path, episodes: int = 20, steps: int = 8) -> None:
    """A file in D4RL's layout; every episode is cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, n = np.random.default_rng(0), episodes * steps
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(n, 3)), rng.uniform(-1, 1, size=(n, 2))
        file["rewards"], file["terminals"] = np.ones(n), np.zeros(n, bool)
        file["timeouts"] = np.arange(n) % steps == steps - 1


def write_project(root: Path) -> Layout:
    """The project's params, with a study of one anchor on a dataset without an environment, whose file is not there."""
    layout = Layout(root)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["anchors"]["mlp"] |= {"steps": 10, "hidden": [8]}
    lists = {"anchors": ["mlp"], "critics": ["iql"], "improvements": ["anchor"], "seeds": ["0"], "diagnosed": []}
    params["study"] = {"name": "places", "datasets": [DATASET], "estimated": [DATASET], **lists}
    layout.params.parent.mkdir(parents=True, exist_ok=True)
    layout.params.write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copy(ROOT / "theory.yaml", root / "theory.yaml")
    entry = layout.dataset_entry(DATASET)
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"title": "t", "source": "d4rl_hdf5", "path": "mydata/a.hdf5", "not_evaluated": "toy"}))
    for package in ("spar_core", "stages"):
        (root / package).symlink_to(ROOT / package)
    return layout


@pytest.fixture
def project(here, monkeypatch) -> Layout:
    """A project in the current folder, with its data prepared."""
    monkeypatch.setenv("SPAR_TRACKING", "off")
    monkeypatch.setenv("SPAR_WORKERS", "1")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    write_project(here)
    write_data(here / "mydata/a.hdf5")
    download(Layout(), DATASET, 1)
    return Layout()


def fit(seeds: str = "0") -> int:
    """The exit status of the stage that fits the anchor."""
    return stage_main(lambda _: fit_bc.run(["--dataset", DATASET, "--anchor", "mlp", "--seeds", seeds]))


# --- links ---


def into_cache(folder: Path, cache: Path, link: str) -> None:
    """Move every file of a folder into a cache, and link it back in as DVC does."""
    cache.mkdir()
    for number, file in enumerate(path for path in folder.rglob("*") if path.is_file()):
        kept = cache / str(number)
        shutil.move(file, kept)
        kept.chmod(0o444)
        (os.link if link == "hardlink" else os.symlink)(kept.resolve(), file)


@pytest.mark.parametrize("link", ["symlink", "hardlink"])
def test_a_stage_reads_what_dvc_has_linked_from_its_cache(project, link):
    before = load_dataset(project.minari_root, project.data(DATASET), DATASET)
    into_cache(project.artifact(), project.root / "cache", link)
    content = {path: path.read_bytes() for path in (project.root / "cache").iterdir()}
    after = load_dataset(project.minari_root, project.data(DATASET), DATASET)
    assert np.array_equal(after.observations, before.observations) and fit() == 0
    # Prepared again, nothing is written through the links.
    download(project, DATASET, 1)
    assert {path: path.read_bytes() for path in (project.root / "cache").iterdir()} == content


# --- disks ---


def test_a_full_disk_is_noticed_before_training(project, monkeypatch, capsys):
    monkeypatch.setattr(artifacts, "ROOM", 1 << 62)
    monkeypatch.setattr("spar_core.making.frame.over_seeds", lambda *_: pytest.fail("it trained"))
    assert fit() == 1
    assert (
        capsys.readouterr().err == f"error: the disk is full (artifacts/anchor/{DATASET}/mlp); free space and rerun\n"
    )
    assert list(project.artifact("anchor").rglob("*.draft")) == []


def test_a_place_for_artifacts_that_is_none_is_noticed_before_training(project, capsys):
    project.artifact("anchor").write_text("a file")
    assert fit() == 1
    assert capsys.readouterr().err == f"error: Not a directory (artifacts/anchor/{DATASET}/mlp)\n"
    check_room(project.artifact("critic", DATASET, "iql", "0"))
    assert list(project.artifact("critic").rglob("*.*")) == [], "nothing stays there"


def test_a_disk_that_fills_up_while_weights_are_written_is_a_full_disk(project, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    assert fit() == 1
    draft = f"artifacts/anchor/{DATASET}/mlp/.0.draft/weights.safetensors"
    assert capsys.readouterr().err.endswith(f"error: the disk is full ({draft}); free space and rerun\n")
    assert list(project.artifact("anchor", DATASET, "mlp").iterdir()) == []


def test_artifacts_behind_a_link_are_refused_before_the_first_cell(project):
    plan.run([])
    for folder in (project.artifact("anchor"), project.artifact()):
        elsewhere = project.root / f"other-{folder.name}"
        elsewhere.mkdir()
        folder.parent.mkdir(exist_ok=True)
        if folder.exists():
            shutil.move(folder, elsewhere)
        folder.symlink_to(elsewhere.resolve())
        with pytest.raises(SparError, match=rf"{folder} is a link, .* `dvc cache dir --local FOLDER`"):
            plan.run([])
        folder.unlink()


# --- seeds ---


@pytest.mark.parametrize("seeds", ["0, 1", " 4 ", "3-1", "-1", "1.5", ""])
def test_a_stage_refuses_what_a_study_refuses_for_seeds(project, seeds, capsys):
    assert fit(seeds) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: seed group '{seeds}' is not valid; write ") and told.count("\n") == 1
    assert not project.artifact("anchor").exists()


# --- worktrees of `dvc exp run --temp` and `--queue` ---


def test_a_worktree_takes_data_that_git_does_not_hold_from_the_main_project(here, monkeypatch):
    work = here / ".dvc/tmp/exps/tmp1"
    layout = write_project(work)
    assert main_root(work) == here and layout.roots == (work, here) and Layout(here).roots == (here,)
    with pytest.raises(SparError, match=r"tmp1/mydata/a\.hdf5 does not exist"):
        download(layout, DATASET, 1)
    write_data(here / "mydata/a.hdf5")
    monkeypatch.chdir(work)
    plan.run([])
    assert download(Layout(), DATASET, 1)["steps"] == 160
    # The worktree writes the same bytes as the main project does.
    of_worktree = {name: (work / f"artifacts/data/{DATASET}" / name).read_bytes() for name in (META, "manifest.json")}
    main = write_project(here)
    download(main, DATASET, 1)
    assert of_worktree == {name: (main.data(DATASET) / name).read_bytes() for name in of_worktree}
    # A file of the worktree itself comes first.
    write_data(work / "mydata/a.hdf5", episodes=4)
    assert download(Layout(), DATASET, 1)["steps"] == 32


def test_a_worktree_says_how_it_gets_the_file_of_an_anchor(here, monkeypatch):
    work = here / ".dvc/tmp/exps/tmp1"
    layout = write_project(work)
    write_data(here / "mydata/a.hdf5")
    params = yaml.safe_load(layout.params.read_text())
    params["anchors"]["robot"] = {"kind": "external", "onnx": "policies/robot.onnx"}
    params["study"]["anchors"] = ["robot"]
    layout.params.write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.chdir(work)
    with pytest.raises(SparError, match=r"run `dvc exp run --copy-paths policies/robot\.onnx \.\.\.`"):
        plan.run([])


# --- edits while a study runs ---


def cell_of(layout: Layout) -> tuple[Cell, dict[str, object]]:
    settings = settings_of(read_params(layout, DATASET), section(layout, "study", Study))
    return Cell("fit_bc", DATASET, anchor="mlp", seeds="0"), {"anchor": settings["anchors"]["mlp"]}


def test_a_cell_that_dvc_runs_is_the_one_that_was_planned(project, monkeypatch, capsys):
    plan.run([])
    monkeypatch.setenv("DVC_STAGE", "fit_bc@mine/toy-v0-mlp-0")
    assert fit() == 0
    made = (project.artifact("anchor", DATASET, "mlp", "0") / META).read_bytes()
    capsys.readouterr()
    text = project.params.read_text()
    project.params.write_text(text.replace("steps: 10\n", "steps: 11\n", 1))
    assert project.params.read_text() != text and fit() == 1
    told = capsys.readouterr().err
    assert told.startswith("error: 'anchor' of params.yaml changed after `plan` had read it; ")
    assert (project.artifact("anchor", DATASET, "mlp", "0") / META).read_bytes() == made
    # Outside of DVC, a stage takes params.yaml as it is.
    monkeypatch.delenv("DVC_STAGE")
    assert fit() == 0
    project.params.write_text(text)

    monkeypatch.setenv("DVC_STAGE", "fit_bc@mine/toy-v0-mlp-0")
    content = read_json(project.plan)
    cell, params = cell_of(project)
    check_cell(project, cell, {**params, "round": {}, "weighing": {"unit": "bytes"}})
    content["code"]["stage"]["fit_bc"] = "other"
    write_json(project.plan, content)
    with pytest.raises(SparError, match="the code of the stage 'fit_bc' changed after"):
        check_cell(project, cell, params)


def test_an_entry_its_file_and_the_report_are_the_planned_ones(project, monkeypatch):
    plan.run([])
    monkeypatch.setenv("DVC_STAGE", "download@mine/toy-v0")
    entry = load_entry(project.dataset_entry(DATASET))
    check_data(project, DATASET, entry)
    content = read_json(project.plan)
    check_report(project, content["study"], content["report"])
    with pytest.raises(SparError, match=r"'report' of params\.yaml changed after"):
        check_report(project, content["study"], {**content["report"], "confidence": 0.5})
    with pytest.raises(SparError, match=r"'study' of params\.yaml changed after"):
        check_report(project, {**content["study"], "question": "?"}, content["report"])
    write_data(project.root / "mydata/a.hdf5", episodes=4)
    with pytest.raises(SparError, match=r"datasets/mine/toy-v0\.yaml or a file behind it changed after"):
        check_data(project, DATASET, entry)


# --- errors ---


def test_an_error_that_nobody_foresaw_is_one_line_and_its_traceback_can_be_had(monkeypatch, capsys):
    monkeypatch.delenv("SPAR_DEBUG", raising=False)

    def divide(_):
        return np.linalg.inv(np.zeros((2, 2)))

    assert stage_main(divide) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: LinAlgError: Singular matrix (tests/test_places.py, line ")
    assert told.endswith("; SPAR_DEBUG=1 shows the traceback\n") and told.count("\n") == 1
    monkeypatch.setenv("SPAR_DEBUG", "1")
    assert stage_main(divide) == 1
    more = capsys.readouterr().err
    assert more.startswith("Traceback (most recent call last):") and more.endswith(told)
    assert failures.line_of(Interrupted("stopped")) == "interrupted: stopped"
    assert failures.line_of(ValueError("a\nb")) == (
        "ValueError: a b (no line of this project); SPAR_DEBUG=1 shows the traceback"
    )


def test_the_place_of_an_error_is_never_inside_a_virtual_environment_of_the_checkout(here, monkeypatch):
    package = here / "my-env" / "lib" / "site-packages" / "other.py"
    package.parent.mkdir(parents=True)
    package.write_text("def fail():\n    raise KeyError('key')\n")
    (here / "mine.py").write_text("import other\n\n\ndef run(_):\n    other.fail()\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(failures, "HERE", here)
    mine = importlib.import_module("mine")
    with pytest.raises(KeyError) as caught:
        mine.run(None)
    assert failures.line_of(caught.value).startswith("KeyError: 'key' (mine.py, line 5)")


def test_an_error_in_a_forked_process_reaches_the_user_as_one_line():
    sent: list[SparError] = []
    pipe = type("Pipe", (), {"send": lambda _, value: sent.append(value)})()
    warm._answer(pipe, lambda: {}["key"], ())
    assert str(sent[0]).startswith("KeyError: 'key' (tests/test_places.py, line ")


def test_the_reason_of_a_failed_cell_is_the_last_line_of_its_traceback(tmp_path):
    log = tmp_path / "log"
    log.write_text("Traceback (most recent call last):\n  File x\nImportError: no module\n")
    assert reason(log) == "ImportError: no module"
    log.write_text("Running\nerror: no data\nERROR: failed to reproduce\n")
    assert reason(log) == "error: no data"


# --- no git, no DVC ---


def test_a_copy_of_the_files_alone_says_what_dvc_needs(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")
    with pytest.raises(SparError, match=r"run `git init` .*, or `dvc config --local core\.no_scm true`"):
        check_place(tmp_path)
    with pytest.raises(SparError, match="git cannot list the project's files; run `git init`"):
        packed(tmp_path)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    check_place(tmp_path)


# --- policies of other studies ---


def test_dvc_forgets_that_it_may_remove_policies(project):
    (project.root / ".dvc").mkdir()
    (project.root / ".dvc/config").write_text("[core]\n    no_scm = true\n    site_cache_dir = .dvc/site\n")
    made = [project.artifact(kind, DATASET, "mlp", "0") for kind in ("policy", "anchor")]
    for folder in made:
        folder.mkdir(parents=True)
        write_json(folder / "policy.json", {})

    def tidied(after: Callable[[], None]) -> list[str]:
        """What DVC would remove if nothing were named any more."""
        with Repo(str(project.root)) as repo:
            for folder in made:
                repo.state.save_link(str(folder.resolve()), repo.fs)
        after()
        with Repo(str(project.root)) as repo:
            return repo.state.get_unused_links([], repo.fs)

    assert tidied(lambda: plan.run([])) == [str(made[1])]
    params = yaml.safe_load(project.params.read_text())
    (project.root / "studies").mkdir()
    (project.root / "studies/other.yaml").write_text(yaml.safe_dump({**params["study"], "name": "other"}))
    assert tidied(lambda: study.run(["other"])) == [str(made[1])]


# --- the MLflow UI ---


def test_make_ui_opens_the_store_of_a_folder_with_any_name(tmp_path, monkeypatch):
    called = []
    folder = tmp_path / "a b?c%41"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(os, "execv", lambda program, command: called.append((Path.cwd(), command[1:])))
    ui.run(["--port", "5001"])
    expected = ["-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", "5001"]
    assert called == [(folder, expected)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    with pytest.raises(SparError, match=r"the runs are on the server http://\*\*\*@host:5000; open that address"):
        ui.run([])
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    # Under ``make test``, a second make would also say which folder it enters and leaves.
    command = ["make", "--no-print-directory", "-n", "ui"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].endswith("python -m stages.tracking.ui"), done.stderr
