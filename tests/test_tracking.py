"""Tracking and publishing, on a real SQLite store and with artifact folders made up here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from spar_core.artifacts import digest_folder, read_json, write_json, write_meta
from spar_core.errors import SparError
from spar_core.study import Study
from stages.cells import Cell, cell_digest, study_cells
from stages.layout import Layout
from stages.mlflow_store import DIGEST_TAG, Store, main_root
from stages.points import CURVE_POINTS, curve_points
from stages.publish import publish, summary, version_tags
from stages.tracking import Thinner, live_run, tracking_uri

REPO = Path(__file__).resolve().parents[1]
DATASET = "builtin/toy-v0"
STUDY = Study(
    name="small",
    datasets=(DATASET,),
    anchors=("mlp",),
    critics=("iql",),
    improvements=("anchor", "spar_mlp"),
    seeds=("0-1",),
)
N_CELLS = 8  # download, fit_bc, fit_residual, fit_critic, and two rules with a policy and an evaluation
N_RUNS = N_CELLS + 2
DIGESTS = {
    "code": {
        "stage": {
            "download": "c0",
            "fit_bc": "c1",
            "fit_residual": "c2",
            "fit_critic": "c3",
            "self_imitation": "c4",
            "evaluate": "c5",
        },
        "anchor": {"mlp": "m1"},
        "critic": {"iql": "m2"},
        "improvement": {"anchor": "m3", "spar_mlp": "m4"},
    },
    "data": {DATASET: "d0"},
}
# What is in a store, asked by another process: MLflow keeps databases open for as long as a process lives.
NAMES = """
import sys
from pathlib import Path
from stages.mlflow_store import Store
store = Store(Path(sys.argv[1]))
print(*(run.info.run_name for run in store.runs(store.experiment("builtin/toy-v0"))), sep="\\n")
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SPAR_TRACKING", raising=False)


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory) -> Path:
    """A database with its tables and nothing else: its creation takes seconds, so tests copy one."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Store(root)
    return root / "mlflow.db"


@pytest.fixture
def layout(tmp_path, fresh_store) -> Layout:
    """A project with every artifact of the study and an empty store."""
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    layout = Layout(tmp_path)
    layout.digests.parent.mkdir(parents=True)
    layout.digests.write_text(yaml.safe_dump(DIGESTS))
    for cell in study_cells(STUDY):
        write_cell(cell, layout)
    report = layout.report(STUDY.name)
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("# Report\n")
    (report / "figures" / "returns.svg").write_text("<svg/>")
    return layout


def params_of(cell: Cell) -> dict:
    return {"lr": 0.001, "hidden": [8, 8], "optimiser": {"name": cell.stage, "decay": None}}


def inputs_of(cell: Cell) -> dict[str, str]:
    return {"data": "0123456789abcdef0123456789abcdef"} if cell.stage != "download" else {}


def digest_of(cell: Cell) -> str:
    return cell_digest(params_of(cell), inputs_of(cell), cell.code_digest(DIGESTS))


def write_cell(cell: Cell, layout: Layout) -> None:
    folder = cell.folder(layout)
    folder.mkdir(parents=True)
    write_meta(folder, cell.stage, params=params_of(cell), inputs=inputs_of(cell))
    if cell.stage == "download":
        manifest = {"source": {"kind": "builtin"}, "digest": "0123456789abcdef0123456789abcdef", "steps": 100}
        write_json(folder / "manifest.json", {**manifest, "env_id": "Toy-v0", "episodes": 2})
    elif cell.stage == "evaluate":
        bonus = 10.0 if cell.improvement == "spar_mlp" else 0.0
        rows = [
            f"{cell.dataset},{cell.anchor},{cell.critic},{cell.improvement},{s},{e},{e},{s + e + bonus},5,True,"
            for s in cell.seed_numbers
            for e in range(3)
        ]
        head = "dataset,anchor,critic,improvement,seed,episode,env_seed,return,length,terminated,success"
        (folder / "episodes.csv").write_text("\n".join([head, *rows]) + "\n")
        write_json(folder / "context.json", {"reference": {"min": 0.0, "max": 20.0}})
    else:
        lines = ["step,seed,metric,value"]
        lines += [f"{t},{s},toy/loss,{s + 1 / t}" for t in range(1, 501) for s in cell.seed_numbers]
        (folder / "curves.csv").write_text("\n".join(lines) + "\n")
        write_json(folder / "metrics.json", {"loss": [1.0, 3.0], "n": 7})


def all_runs(layout: Layout) -> list:
    store = Store(layout.root)
    return store.runs(store.experiment(DATASET))


def by_name(layout: Layout) -> dict:
    runs = all_runs(layout)
    names = {run.info.run_name: run for run in runs}
    assert len(names) == len(runs), "a run is there twice"
    return names


def train(cell: Cell, layout: Layout, steps: int = 500) -> None:
    with live_run(cell, digest_of(cell), params_of(cell), layout, total_steps=steps, study="small") as run:
        for seed in cell.seed_numbers:  # one after another, as a worker process with two seeds does
            for step in range(1, steps + 1):
                run.log_curve(step, "toy/loss", seed, seed + 1 / step)
        run.log_final({"loss": [1.0, 3.0], "n": 7})


def python(code: str, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment, text=True)


def test_study_cells_are_unique_and_in_pipeline_order():
    cells = study_cells(STUDY)
    assert len(cells) == len(set(cells)) == N_CELLS
    stages = ["download", "fit_bc", "fit_residual", "fit_critic"] + ["self_imitation"] * 2 + ["evaluate"] * 2
    assert [cell.stage for cell in cells] == stages
    assert cells[1].name == "fit_bc mlp 0-1" and cells[1].seed_numbers == (0, 1)
    assert "critic" not in cells[1].tags() and cells[3].tags()["critic"] == "iql"
    with pytest.raises(SparError, match="no code digest for 'fit_bc flow 0-1'"):
        Cell("fit_bc", DATASET, anchor="flow", seeds="0-1").code_digest(DIGESTS)


def test_uri_is_absolute_and_of_the_main_project(tmp_path, monkeypatch):
    expected = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri(tmp_path) == expected
    worktree = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    (worktree / "sub").mkdir(parents=True)
    assert main_root(worktree) == tmp_path
    assert tracking_uri(worktree) == tracking_uri(worktree / "sub") == expected
    monkeypatch.chdir(worktree)
    assert tracking_uri(Path()) == expected
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri(worktree) == "http://localhost:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri(worktree) == f"sqlite:///{tmp_path / 'other.db'}"


def test_thinning_keeps_at_most_the_limit():
    for total in (10, 199, 200, 5000):
        thinner = Thinner(total)
        kept = [step for step in range(1, total + 1) if thinner.keep(step)]
        assert len(kept) <= CURVE_POINTS and kept[0] == 1 and kept[-1] == total
        assert len(kept) >= min(total, CURVE_POINTS) * 0.9
    for length in (100, 1000, 50_000):
        thinner = Thinner()
        kept = [step for step in range(length) if thinner.keep(step)]
        assert 100 <= len(kept) <= CURVE_POINTS


def test_live_run_then_publish_makes_no_duplicate(layout):
    cell = study_cells(STUDY)[1]
    train(cell, layout)
    train(cell, layout)  # the stage runs again: the same digest is not logged twice
    (live,) = all_runs(layout)
    assert live.info.status == "FINISHED" and live.info.run_name == cell.name
    assert live.data.params["optimiser.name"] == "fit_bc" and live.data.params["hidden"] == "[8, 8]"
    assert live.data.tags["spar.stage"] == "fit_bc" and live.data.tags["spar.study"] == "small"
    assert live.data.metrics["final/loss"] == 2.0 and live.data.metrics["final/loss/seed_1"] == 3.0
    assert live.inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef0123456789abcdef"
    history = Store(layout.root).client.get_metric_history(live.info.run_id, "toy/loss")
    assert 150 < len(history) <= CURVE_POINTS
    assert {point.step: point.value for point in history}[500] == pytest.approx(0.5 + 1 / 500)
    assert len(Store(layout.root).client.get_metric_history(live.info.run_id, "toy/loss/seed_1")) <= CURVE_POINTS

    tally = publish(STUDY, layout)
    assert (tally.present, tally.added) == (N_RUNS, N_RUNS - 1)
    assert by_name(layout)[cell.name].info.run_id == live.info.run_id


def test_publish_is_idempotent_and_restores_an_empty_store(layout, fresh_store):
    artifacts = digest_folder(layout.root / "artifacts")
    publish(STUDY, layout)
    first = by_name(layout)
    tally = publish(STUDY, layout)
    assert (tally.present, tally.added) == (N_RUNS, 0)
    again = by_name(layout)
    assert {n: r.info.run_id for n, r in first.items()} == {n: r.info.run_id for n, r in again.items()}
    assert {n: r.data.tags for n, r in first.items()} == {n: r.data.tags for n, r in again.items()}
    assert f"{N_RUNS} runs present, 0 added" in summary(tally, layout.root)

    # A new root, since MLflow keeps the files of a database open for as long as the process lives.
    elsewhere = Layout(layout.root / "clone")
    for folder in ("artifacts", "reports"):
        shutil.copytree(layout.root / folder, elsewhere.root / folder)
    shutil.copy(fresh_store, elsewhere.root / "mlflow.db")
    assert publish(STUDY, elsewhere).added == N_RUNS
    restored = by_name(elsewhere)
    ours = {n: (r.data.metrics, r.data.params, r.data.tags[DIGEST_TAG]) for n, r in first.items()}
    theirs = {n: (r.data.metrics, r.data.params, r.data.tags[DIGEST_TAG]) for n, r in restored.items()}
    assert ours == theirs
    assert digest_folder(layout.root / "artifacts") == artifacts, "publishing changed an artifact"


def test_result_run_holds_numbers_report_and_the_way_to_its_stages(layout):
    (layout.root / "dvc.lock").write_text("schema: '2.0'\n")
    publish(STUDY, layout)
    runs = by_name(layout)
    result = runs["result spar_mlp mlp iql"]
    assert result.data.metrics["final/return_mean"] == pytest.approx(11.5)
    assert result.data.metrics["final/normalised_score"] == pytest.approx(57.5)
    assert result.data.metrics["final/gain_over_anchor"] == pytest.approx(10.0)
    assert result.data.tags["spar.run.fit_bc"] == runs["fit_bc mlp 0-1"].info.run_id
    assert runs["fit_critic iql 0-1"].info.run_id in result.data.tags["mlflow.note.content"]
    policy = runs["self_imitation mlp iql spar_mlp 0-1"]
    assert policy.data.tags["mlflow.parentRunId"] == result.info.run_id
    assert runs["evaluate mlp iql anchor 0-1"].data.metrics["final/return"] == pytest.approx(1.5)
    assert "final/success" not in runs["evaluate mlp iql anchor 0-1"].data.metrics
    client = Store(layout.root).client
    assert [f.path for f in client.list_artifacts(result.info.run_id, "report/small")] == [
        "report/small/figures",
        "report/small/report.md",
    ]
    assert result.info.artifact_uri.startswith((layout.root / "mlartifacts").as_uri())
    old = result.data.tags["dvc.lock.md5"]

    # New numbers of the report, a new lock file, another study: the same runs, brought up to date.
    (layout.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    key = f"{DATASET}/mlp/iql/spar_mlp"
    write_json(layout.report("small") / "metrics.json", {f"{key}/return_mean": 12.0, f"{key}/gain_low": 8.0})
    assert publish(STUDY, layout).added == 0
    result = by_name(layout)["result spar_mlp mlp iql"]
    assert result.data.metrics["final/return_mean"] == 12.0 and result.data.metrics["final/gain_low"] == 8.0
    assert result.data.tags["dvc.lock.md5"] != old
    assert publish(STUDY.model_copy(update={"name": "wide"}), layout).added == 0
    assert all(run.data.tags["spar.study"] == "small, wide" for run in all_runs(layout))


def test_publishers_that_start_together_create_one_database_and_no_duplicate(layout):
    (layout.root / "mlflow.db").unlink()
    code = f"""
        from pathlib import Path
        from stages.layout import Layout
        from stages.publish import publish
        from spar_core.study import Study
        publish(Study.model_validate_json({STUDY.model_dump_json()!r}), Layout(Path({str(layout.root)!r})))
        """
    workers = [python(code) for _ in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    names = subprocess.run(
        [sys.executable, "-c", NAMES, str(layout.root)], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]
    assert len(names) == len(set(names)) == N_RUNS


def test_a_killed_run_is_replaced(layout):
    cell = study_cells(STUDY)[1]
    ready = layout.root / "ready"
    worker = python(
        f"""
        import time
        from pathlib import Path
        from stages.cells import Cell
        from stages.layout import Layout
        from stages.tracking import live_run
        cell = Cell("fit_bc", {DATASET!r}, anchor="mlp", seeds="0-1")
        with live_run(cell, {digest_of(cell)!r}, {{}}, Layout(Path({str(layout.root)!r}))) as run:
            run.log_curve(1, "toy/loss", 0, 1.0)
            run.flush()
            Path({str(ready)!r}).touch()
            time.sleep(120)
        """
    )
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=20)
    (killed,) = all_runs(layout)
    assert killed.info.status == "RUNNING"
    train(cell, layout, steps=20)
    (run,) = all_runs(layout)
    assert run.info.status == "FINISHED" and run.info.run_id != killed.info.run_id


def test_a_failed_stage_is_failed_in_mlflow_and_published_later(layout):
    cell = study_cells(STUDY)[1]
    with pytest.raises(ZeroDivisionError):
        with live_run(cell, digest_of(cell), params_of(cell), layout) as run:
            run.log_curve(1, "toy/loss", 0, 1 / 0)
    (failed,) = all_runs(layout)
    assert failed.info.status == "FAILED"
    publish(STUDY, layout)
    assert by_name(layout)[cell.name].info.status == "FINISHED"


def test_tracking_never_fails_the_stage(layout, monkeypatch, capsys):
    cell = study_cells(STUDY)[1]
    monkeypatch.setenv("SPAR_TRACKING", "off")
    train(cell, layout)
    assert all_runs(layout) == [] and capsys.readouterr().err == ""
    monkeypatch.delenv("SPAR_TRACKING")

    # The store breaks while the stage runs: one warning, and the run does not count as finished.
    with live_run(cell, digest_of(cell), params_of(cell), layout) as run:
        Store(layout.root).client.delete_run(run.run_id)
        for step in range(3):
            run.log_curve(step, "toy/loss", 0, 1.0)
            run.flush()
    assert capsys.readouterr().err.count("warning:") == 1

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    train(cell, layout)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "fit_bc mlp 0-1 is not tracked" in error
    assert time.monotonic() - started < 20
    with pytest.raises(SparError, match=r"MLflow at http://127\.0\.0\.1:9 fails"):
        publish(STUDY, layout)


def test_a_missing_artifact_is_one_clear_line(layout):
    shutil.rmtree(study_cells(STUDY)[2].folder(layout))
    with pytest.raises(SparError, match=r"1 of 8 artifacts.*'fit_residual mlp 0-1'.*dvc pull") as caught:
        publish(STUDY, layout)
    assert "\n" not in str(caught.value)


def test_curves_of_a_file_are_thinned_and_averaged(layout):
    points = curve_points(study_cells(STUDY)[1].folder(layout) / "curves.csv")
    keys = [key for key, _, _ in points]
    assert {key: keys.count(key) for key in keys} == {
        "toy/loss/seed_0": CURVE_POINTS,
        "toy/loss/seed_1": CURVE_POINTS,
        "toy/loss": CURVE_POINTS,
    }
    assert ("toy/loss", 1, 1.5) in points and ("toy/loss", 500, 0.502) in points
    assert read_json(study_cells(STUDY)[1].folder(layout) / "metrics.json")["n"] == 7


def test_version_tags_without_git_or_lock_are_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert version_tags(tmp_path) == {}
