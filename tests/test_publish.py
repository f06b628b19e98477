"""Publishing from artifacts alone, on a real SQLite store."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from spar_core.artifacts import digest_folder, write_json
from spar_core.errors import SparError
from stages.cells import study_cells
from stages.layout import Layout
from stages.tracking.publish import attach, publish, summary, version_tags
from stages.tracking.store import DIGEST_TAG, Store
from tests.mlflow_project import (
    DATASET,
    N_RUNS,
    STUDY,
    aliases_of,
    all_runs,
    by_name,
    make_project,
    publisher,
    snapshot,
    write_table,
)

pytest_plugins = ["tests.mlflow_fixtures"]


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
    page = f"/#/experiments/{Store(layout.root).experiment(DATASET)}/runs?workflowType=machine_learning"
    assert f"See them: `make ui`, then http://127.0.0.1:5000{page}" in summary(tally, layout.root)

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
    (layout.report("small") / "report.html").write_text("<html></html>")
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
        "report/small/report.html",
        "report/small/report.md",
        "report/small/table.csv",
    ]
    assert result.data.params == {"lr": "0.001", "hidden": "[8, 8]", "optimiser.name": "evaluate"}, "a null is noise"
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


def test_a_page_that_was_written_after_publishing_is_attached_once(layout):
    publish(STUDY, layout)
    page = layout.report("small") / "report.html"
    page.write_text("<p>names the runs</p>")
    attach(STUDY, layout)
    results = [run for run in by_name(layout).values() if run.data.tags["spar.stage"] == "result"]
    client = Store(layout.root).client
    for run in results:
        copy = client.download_artifacts(run.info.run_id, "report/small/report.html")
        assert Path(copy).read_text() == page.read_text()
    attach(STUDY, layout)
    publish(STUDY, layout)
    again = [run for run in by_name(layout).values() if run.data.tags["spar.stage"] == "result"]
    assert [run.data.tags for run in again] == [run.data.tags for run in results]
    for name in ("episodes.csv", "measures.csv"):
        (layout.report("small") / name).write_text("rows\n")
    attach(STUDY, layout)
    attached = {Path(f.path).name for f in client.list_artifacts(results[0].info.run_id, "report/small")}
    assert "report.md" in attached and not {"episodes.csv", "measures.csv"} & attached


def test_publishers_that_start_together_create_one_database_and_no_duplicate(layout):
    (layout.root / "mlflow.db").unlink()
    workers = [publisher(layout.root) for _ in range(3)]
    outputs = [worker.communicate(timeout=180) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], outputs
    found = snapshot(layout)
    names = [name for name, _ in found["runs"].values()]
    assert len(names) == len(set(names)) == N_RUNS
    assert sorted(name for name, *_ in found["models"].values()) == ["anchor mlp iql", "spar_mlp mlp iql"]
    assert len(found["versions"]) == 2 and found["aliases"] == aliases_of(champion="1", anchor="2")


def test_a_person_who_opens_the_experiment_is_told_what_is_in_it(layout):
    publish(STUDY, layout)
    publish(STUDY.model_copy(update={"name": "wide"}), layout)
    store = Store(layout.root)
    tags = store.client.get_experiment(store.experiment(DATASET)).tags
    assert tags["spar.study"] == "small, wide" and "Studies: small, wide." in tags["mlflow.note.content"]
    assert "Study `wide`." in tags["mlflow.note.content"] and "Anchor `" in tags["mlflow.note.content"], "its verdict"
    # The filters that the description names are such that MLflow understands and find something.
    filters = [line.strip() for line in tags["mlflow.note.content"].splitlines() if line.startswith("    ")]
    assert len(filters) == 3
    assert len(store.runs(store.experiment(DATASET), filters[0])) == 2
    assert len(store.runs(store.experiment(DATASET), filters[1])) == 1
    store.runs(store.experiment(DATASET), filters[2])
    assert (
        "(#/experiments/" in tags["mlflow.note.content"] and "(#/models/builtin.toy-v0)" in tags["mlflow.note.content"]
    )
    assert len(store.runs(store.experiment(DATASET), "tags.anchor = 'mlp'")) == N_RUNS - 2


def test_estimates_stand_in_for_returns_where_nothing_was_rolled_out(tmp_path, fresh_store, environment):
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    study = STUDY.model_copy(update={"estimated": (DATASET,)})
    layout = make_project(tmp_path, study)
    for rule in study.improvements:
        folder = layout.artifact("evaluation", DATASET, "mlp", "iql", rule, "0-1")
        head = (folder / "episodes.csv").read_text().splitlines()[0]
        (folder / "episodes.csv").write_text(head + "\n")
    write_table(layout, study, {"anchor": "1.5,,,,,", "spar_mlp": "11.5,,,,,"})
    tally = publish(study, layout)
    runs = by_name(layout)
    assert len(runs) == N_RUNS + 2
    assert not [name for name in runs["evaluate mlp iql spar_mlp 0-1"].data.metrics if name.startswith("final/")]
    estimate = runs["estimate mlp iql spar_mlp 0-1"].data.metrics
    assert estimate["final/fqe"] == 10.5 and estimate["final/fqe/seed_1"] == 11.0
    assert estimate["final/critic_estimate"] == -0.5 and estimate["final/critic_estimate/seed_0"] == -1.0
    result = runs["result spar_mlp mlp iql"]
    assert result.data.metrics == {"final/fqe_mean": 10.5, "final/fqe_gain_over_anchor": 10.0}
    assert result.data.tags["spar.run.estimate"] == runs["estimate mlp iql spar_mlp 0-1"].info.run_id
    found = snapshot(layout)
    assert len(found["models"]) == 2 and found["aliases"] == aliases_of(anchor="1")
    assert tally.notes == [f"no champion of {DATASET}: the report has no interval of a mean return"]
    assert publish(study, layout).added == 0


def test_a_missing_artifact_is_one_clear_line(layout):
    shutil.rmtree(study_cells(STUDY)[2].folder(layout))
    with pytest.raises(SparError, match=r"1 of 8 artifacts.*'fit_residual mlp 0-1'.*dvc pull") as caught:
        publish(STUDY, layout)
    assert "\n" not in str(caught.value)


def test_version_tags_without_git_or_lock_are_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert version_tags(tmp_path) == {}


# --- what goes wrong ---

# One process that loads everything once, and then a child for each method of MLflow's client, which is killed before
# the method is called for the n-th time.
KILL = """
    import os, signal
    import mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
    from mlflow import MlflowClient

    def killed_at(method, times):
        if os.fork() == 0:
            made, original = [], getattr(MlflowClient, method)
            def kill(*args, **kwargs):
                made.append(method)
                if len(made) == times:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)
            setattr(MlflowClient, method, kill)
            publish(study, Layout(root))
            os._exit(0)
        return os.WIFSIGNALED(os.wait()[1])

    assert killed_at("log_inputs", 3), "in a stage run"
    assert killed_at("log_artifact", 2), "in the report of a result"
    assert killed_at("log_model_artifacts", 1), "in a model that has no file yet"
    assert killed_at("finalize_logged_model", 1), "in a model that has them all"
    assert killed_at("log_outputs", 2), "in a model that is whole, and its run does not know"
    assert killed_at("set_registered_model_alias", 1), "in a version that has no alias yet"
    """


def test_a_publish_that_is_killed_anywhere_is_completed_by_the_next(layout):
    last = publisher(layout.root, before=KILL)
    _, error = last.communicate(timeout=120)
    assert last.returncode == 0, error
    found = snapshot(layout)
    assert (
        sorted(name for name, _ in found["runs"].values()) == sorted(by_name(layout)) and len(found["runs"]) == N_RUNS
    )
    assert {status for _, status in found["runs"].values()} == {"FINISHED"}
    assert sorted(name for name, *_ in found["models"].values()) == ["anchor mlp iql", "spar_mlp mlp iql"]
    assert {status for _, status, _ in found["models"].values()} == {"READY"}
    assert len(found["versions"]) == 2 and found["aliases"] == aliases_of(anchor="2", champion="1")
    results = {run.info.run_id: run for run in all_runs(layout) if run.data.tags["spar.stage"] == "result"}
    for model, (_, _, source) in found["models"].items():
        assert [output.model_id for output in results[source].outputs.model_outputs] == [model]
    # No file of a half-written model is left either.
    folders = [
        path.name for path in (layout.root / "mlartifacts" / DATASET / "models").iterdir() if any(path.rglob("*.*"))
    ]
    assert sorted(folders) == sorted(found["models"])
    assert publish(STUDY, layout).added == 0 and snapshot(layout) == found


def test_a_locked_database_is_one_clear_line_and_the_next_publish_completes(layout):
    holder = sqlite3.connect(layout.root / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    locked = publisher(layout.root)
    _, error = locked.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert locked.returncode == 1
    assert error.count("\n") == 1 and error.startswith("error: another process holds mlflow.db"), error
    holder.execute("ROLLBACK")
    holder.close()
    assert publish(STUDY, layout).added == N_RUNS


@pytest.mark.slow
def test_a_database_that_is_locked_while_publishing_is_one_clear_line(layout):
    lock = """
        import sqlite3
        from mlflow import MlflowClient
        original = MlflowClient.log_inputs
        def hold(*args, **kwargs):
            global holder
            holder = sqlite3.connect(root / "mlflow.db", isolation_level=None)
            holder.execute("BEGIN EXCLUSIVE")
            return original(*args, **kwargs)
        MlflowClient.log_inputs = hold
        """
    begun = time.monotonic()
    locked = publisher(layout.root, before=lock)
    _, error = locked.communicate(timeout=120)
    assert time.monotonic() - begun < 60 and locked.returncode == 1
    assert error.count("\n") == 1 and "database is locked" in error, error
    publish(STUDY, layout)
    assert len(by_name(layout)) == N_RUNS


def test_a_damaged_database_is_one_clear_line(layout):
    (layout.root / "mlflow.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(SparError, match=r"mlflow\.db is damaged .*make publish"):
        publish(STUDY, layout)
