"""Live tracking of stages, on a real SQLite store and with artifact folders made up here."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from spar_core.artifacts import read_json
from spar_core.errors import SparError
from stages.cells import Cell, study_cells
from stages.layout import Layout
from stages.tracking import system_metrics, ui
from stages.tracking.live import Thinner, live_run
from stages.tracking.place import lock_file, main_root, sqlite_path, tracking_uri
from stages.tracking.points import CURVE_POINTS, curve_points
from stages.tracking.publish import publish
from stages.tracking.store import Store
from tests.mlflow_project import (
    DATASET,
    DIGESTS,
    N_CELLS,
    N_RUNS,
    STUDY,
    all_runs,
    by_name,
    digest_of,
    params_of,
    python,
)

pytest_plugins = ["tests.mlflow_fixtures"]


def train(cell: Cell, layout: Layout, steps: int = 500) -> None:
    with live_run(cell, digest_of(cell), params_of(cell), layout, total_steps=steps, study="small") as run:
        for seed in cell.seed_numbers:  # one after another, as a worker process with two seeds does
            for step in range(1, steps + 1):
                run.log_curve(step, "toy/loss", seed, seed + 1 / step)
        run.log_final({"loss": [1.0, 3.0], "n": 7})


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


@pytest.mark.parametrize("name", ["a b", "what?", "50%41", "x#y", "a?b=c&d%3F", "plain"])
def test_the_uri_of_a_database_in_a_folder_of_any_name_leads_back_to_it(tmp_path, name, monkeypatch):
    from sqlalchemy.engine import make_url

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(tmp_path / name)
    assert sqlite_path(uri) == tmp_path / name / "mlflow.db" == Path(str(make_url(uri).database))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my%3Fruns.db?timeout=9")
    uri = tracking_uri(tmp_path / name)
    assert sqlite_path(uri) == tmp_path / name / "my?runs.db" and make_url(uri).query == {"timeout": "9"}


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


def test_a_killed_run_is_replaced(layout):
    cell = study_cells(STUDY)[1]
    ready = layout.root / "ready"
    worker = python(
        f"""
        import time
        from pathlib import Path
        from stages.cells import Cell
        from stages.layout import Layout
        from stages.tracking.live import live_run
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


def test_a_live_run_has_system_metrics_and_leaves_no_thread(layout, monkeypatch):
    monkeypatch.setattr(system_metrics, "INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(system_metrics, "_POINTS_PER_INTERVAL", 4)
    threads = set(threading.enumerate())
    cell = study_cells(STUDY)[1]
    with live_run(cell, digest_of(cell), params_of(cell), layout) as run:
        assert len(set(threading.enumerate()) - threads) == 1
        time.sleep(2.5)
    assert not [t for t in set(threading.enumerate()) - threads if "SystemMetrics" in t.name]
    (logged,) = all_runs(layout)
    assert logged.info.status == "FINISHED" and run.run_id == logged.info.run_id
    names = {name for name in logged.data.metrics if name.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names
    assert not [name for name in names if "disk" in name or "network" in name]
    history = Store(layout.root).client.get_metric_history(logged.info.run_id, "system/system_memory_usage_megabytes")
    # Twenty-five in equal steps; with steps that double after every four, about twelve.
    assert 4 < len(history) < 17 and all(point.value > 0 for point in history)
    publish(STUDY, layout)
    assert by_name(layout)[cell.name].info.run_id == logged.info.run_id

    monkeypatch.setenv("SPAR_TRACKING", "off")
    with live_run(cell, "another", params_of(cell), layout):
        assert not set(threading.enumerate()) - threads


def test_a_locked_database_costs_a_stage_seconds_and_one_warning(layout, capsys):
    holder = sqlite3.connect(layout.root / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    train(study_cells(STUDY)[1], layout)
    holder.close()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "not tracked in MLflow (another process holds mlflow.db" in error
    assert time.monotonic() - begun < 30


def test_the_lock_of_a_server_is_keyed_by_its_address_and_not_by_the_project(tmp_path):
    assert lock_file(f"sqlite:///{tmp_path}/mlflow.db") == tmp_path / "mlflow.db.lock"
    ours = lock_file("http://localhost:5000")
    assert ours == lock_file("http://localhost:5000/") != lock_file("http://localhost:5001")
    assert "localhost" not in ours.name


# --- the way to the results ---


def test_the_ui_says_where_the_results_are_and_opens_them_where_there_is_a_display(
    tmp_path, monkeypatch, capsys, fresh_store, environment
):
    opened = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda program, command: None)
    monkeypatch.setattr(ui.subprocess, "Popen", lambda command, **options: opened.append(command[-1]))
    monkeypatch.setattr(ui, "_has_display", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    (tmp_path / "params.yaml").write_text("study: {datasets: [mine/a-v0, mine/b-v0]}")
    ui.run([])
    assert capsys.readouterr().out == "" and not (tmp_path / "mlflow.db").exists(), "there is no store yet"
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    number = MlflowClient("sqlite:///mlflow.db").create_experiment("mine/b-v0")
    capsys.readouterr()
    ui.run(["--port", "5001"])
    address = f"http://127.0.0.1:5001/#/experiments/{number}/runs?workflowType=machine_learning"
    assert capsys.readouterr().out.startswith(f"Results on mine/b-v0: {address}") and len(opened) == 1
    assert address in opened[0]


def test_the_browser_waits_for_the_server(monkeypatch):
    answers, opened = iter([OSError(), OSError(), None]), []

    @contextmanager
    def ask(address, timeout):
        assert address == "http://127.0.0.1:5000/"
        error = next(answers)
        if error:
            raise error
        yield

    monkeypatch.setattr(ui.urllib.request, "urlopen", ask)
    monkeypatch.setattr(ui.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    ui.show("http://127.0.0.1:5000/#/experiments/1")
    assert opened == ["http://127.0.0.1:5000/#/experiments/1"]
