"""Publishing and live tracking over HTTP: a real `mlflow server`, several machines at it, and one that is down."""

from __future__ import annotations

import time
import urllib.request

import pytest

from spar_core.errors import SparError
from stages.cells import study_cells
from stages.layout import Layout
from stages.tracking import store as mlflow_store
from stages.tracking.live import live_run
from stages.tracking.publish import publish
from stages.tracking.store import DIGEST_TAG, WRITER_TAG, Store
from tests.mlflow_project import (
    N_RUNS,
    STUDY,
    aliases_of,
    all_runs,
    by_name,
    digest_of,
    free_port,
    make_project,
    params_of,
    publisher,
    serving,
    snapshot,
)

pytest_plugins = ["tests.mlflow_fixtures"]


@pytest.fixture
def project(request, tmp_path, environment, server, monkeypatch):
    """A study on a dataset that no other test has, in a project that logs to the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    dataset = f"toy/{request.node.name[5:45].replace('_', '-')}-v0"
    study = STUDY.model_copy(update={"datasets": (dataset,)})
    return study, make_project(tmp_path / "project", study), dataset


def test_publishing_to_a_server_twice_gives_the_same_runs_with_files_and_models(project, server, tmp_path):
    study, layout, dataset = project
    tally = publish(study, layout)
    assert (tally.present, tally.added, tally.models_added) == (N_RUNS, N_RUNS, 2)
    found = snapshot(layout, dataset)
    assert len(by_name(layout, dataset)) == N_RUNS and len(found["models"]) == 2
    assert found["aliases"] == aliases_of(champion="1", anchor="2")
    again = publish(study, layout)
    assert (again.added, again.models_added) == (0, 0) and snapshot(layout, dataset) == found
    assert sorted(path.name for path in layout.root.iterdir()) == ["artifacts", "reports"], "nothing beside the project"

    # Through the server's proxy, as a browser on another machine sees them.
    client = Store(layout.root).client
    result = by_name(layout, dataset)["result spar_mlp mlp iql"]
    assert result.info.artifact_uri.startswith("mlflow-artifacts:")
    paths = [file.path for file in client.list_artifacts(result.info.run_id, "report/small")]
    assert "report/small/report.md" in paths
    address = f"{server.uri}/get-artifact?path=report/small/report.md&run_uuid={result.info.run_id}"
    assert urllib.request.urlopen(address, timeout=20).read() == b"# Report\n"
    (model,) = [model for model, (name, *_) in found["models"].items() if name.startswith("spar_mlp")]
    names = {file.path for file in client.list_logged_model_artifacts(model)}
    assert {"MLmodel", "served_policy.py", "artifacts", "code", "requirements.txt"} <= names


def test_two_machines_that_publish_at_once_leave_everything_once(project, tmp_path):
    study, layout, dataset = project
    other = make_project(tmp_path / "clone", study)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    # A temporary folder of its own each, and so a lock of its own, as on two machines.
    both = [
        publisher(root, study, TMPDIR=str(folder))
        for root, folder in zip((layout.root, other.root), folders, strict=True)
    ]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    runs = by_name(layout, dataset)
    assert len(runs) == N_RUNS and {run.info.status for run in runs.values()} == {"FINISHED"}
    found = snapshot(layout, dataset)
    assert sorted(name for name, *_ in found["models"].values()) == ["anchor mlp iql", "spar_mlp mlp iql"]
    assert sorted(source.removeprefix("models:/") for source, *_ in found["versions"].values()) == sorted(
        found["models"]
    )
    assert set(found["aliases"][0]) == {"champion", "anchor", "champion-small", "anchor-small"}
    # Whoever was last has linked the runs that stayed.
    publish(study, layout)
    linked = by_name(layout, dataset)["result spar_mlp mlp iql"].data.tags["spar.run.fit_bc"]
    assert linked == runs["fit_bc mlp 0-1"].info.run_id


def test_two_clones_on_one_machine_take_turns(project, tmp_path):
    study, layout, dataset = project
    other = make_project(tmp_path / "clone", study)
    both = [publisher(root, study) for root in (layout.root, other.root)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    from mlflow.entities import ViewType

    store = Store(layout.root)
    experiment = store.experiment(dataset)
    ever = store.client.search_runs([experiment], run_view_type=ViewType.ALL)
    assert len(ever) == N_RUNS, "with one lock, nothing is written twice in the first place"


def test_a_run_that_another_machine_is_writing_is_left_alone(project, monkeypatch):
    study, layout, dataset = project
    store = Store(layout.root)
    cell = study_cells(study)[1]
    experiment = store.experiment(dataset)
    tags = {**cell.tags(), DIGEST_TAG: digest_of(cell)}

    def begin(writer: str) -> str:
        run_id = store.start(experiment, cell.name, tags, {})
        store.client.set_tag(run_id, WRITER_TAG, writer)
        return run_id

    theirs, dead = begin("another:1"), begin(store.writer_tag()[WRITER_TAG].split(":")[0] + ":99999999")
    publish(study, layout)
    runs = {run.info.run_id: run for run in all_runs(layout, dataset)}
    assert theirs in runs and dead not in runs
    assert sum(run.info.run_name == cell.name for run in runs.values()) == 2
    # The other machine finishes: its run is the older one, and stays.
    store.finish(theirs)
    publish(study, layout)
    kept = by_name(layout, dataset)
    assert kept[cell.name].info.run_id == theirs and len(kept) == N_RUNS
    assert kept["result spar_mlp mlp iql"].data.tags["spar.run.fit_bc"] == theirs

    # Silent for too long, it is taken for dead.
    silent = begin("another:2")
    monkeypatch.setattr(mlflow_store, "_SILENT_SECONDS", 0.0)
    publish(study, layout)
    assert silent not in {run.info.run_id for run in all_runs(layout, dataset)}


def test_a_live_run_on_a_server_is_the_one_that_publish_finds(project):
    study, layout, dataset = project
    cell = study_cells(study)[1]
    with live_run(cell, digest_of(cell), params_of(cell), layout, total_steps=10) as run:
        for step in range(10):
            run.log_curve(step, "toy/loss", 0, 1.0)
            run.log_curve(step, "toy/loss", 1, 3.0)
        run.log_final({"loss": [1.0, 3.0]})
    publish(study, layout)
    live = by_name(layout, dataset)[cell.name]
    assert live.info.run_id == run.run_id and live.data.metrics["toy/loss"] == 2.0


def test_a_server_that_is_down_is_one_clear_line_soon(tmp_path, environment):
    layout = make_project(tmp_path)
    uri = f"http://someone:secret@127.0.0.1:{free_port()}"
    begun = time.monotonic()
    process = publisher(layout.root, MLFLOW_TRACKING_URI=uri)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1 and time.monotonic() - begun < 60
    assert error.count("\n") == 1 and error.startswith("error: MLflow at http://***@127.0.0.1:"), error
    assert "secret" not in error and "publish again later" in error


@pytest.mark.slow
def test_a_server_that_dies_under_a_stage_costs_one_warning(tmp_path, environment, fresh_store, monkeypatch, capsys):
    study, layout = STUDY, make_project(tmp_path / "project")
    cell = study_cells(study)[1]
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", fresh_store) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        begun = time.monotonic()
        with live_run(cell, digest_of(cell), params_of(cell), layout) as run:
            run.log_curve(0, "toy/loss", 0, 1.0)
            run.flush()
            server.stop()
            run.log_curve(1, "toy/loss", 0, 1.0)
            run.flush()
        assert time.monotonic() - begun < 60
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not tracked in MLflow" in error, error
    with pytest.raises(SparError, match=r"MLflow at http.* fails"):
        publish(study, Layout(layout.root))
