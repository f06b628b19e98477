"""Cells side by side: the schedule, and real sweeps of a scratch clone with DVC."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from spar_core.errors import SparError
from stages.layout import Layout
from stages.parallel.graph import read_graph, restrict, to_run, without_unchanged
from stages.parallel.schedule import Schedule
from stages.parallel.sweep import default_jobs, where_time_went
from tests.pipeline import DATASET, REPOSITORY, Clone

DIAMOND = {"data": (), "anchor": ("data",), "critic": ("data",), "policy": ("anchor", "critic"), "report": ("policy",)}


def walk(schedule, jobs, fails=(), rng=None):
    """Run a schedule without work: the order in which cells started."""
    started, running = [], []
    rng = rng or random.Random(0)
    while not schedule.over():
        while len(running) < jobs and (name := schedule.start()):
            assert all(need in schedule.done for need in schedule.graph[name])
            started.append(name)
            running.append(name)
        name = running.pop(rng.randrange(len(running)))
        schedule.finish(name, name not in fails)
    return started


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_cell_starts_when_all_that_it_needs_is_done_and_each_starts_once(jobs):
    schedule = Schedule(DIAMOND)
    started = walk(schedule, jobs)
    assert sorted(started) == sorted(DIAMOND) and schedule.done == set(DIAMOND)
    assert schedule.start() is None


def test_random_graphs_are_finished_in_an_order_that_respects_them():
    for seed in range(20):
        rng = random.Random(seed)
        graph = {str(i): tuple(str(j) for j in range(i) if rng.random() < 0.2) for i in range(30)}
        schedule = Schedule(graph)
        assert len(walk(schedule, rng.randint(1, 6), rng=rng)) == 30


def test_what_depends_on_a_failed_cell_is_left_out_and_the_rest_is_done():
    graph = {**DIAMOND, "other": ("data",)}
    schedule = Schedule(graph)
    walk(schedule, 2, fails={"critic"})
    assert schedule.failed == {"critic"} and schedule.left_out == {"policy", "report"}
    assert schedule.done == {"data", "anchor", "other"}


def test_the_longest_chain_comes_first():
    graph = {"short": (), "long": (), "middle": ("long",), "end": ("middle",)}
    assert Schedule(graph).start() == "long"
    assert Schedule(graph, {"short": 10.0}).start() == "short"


def test_targets_bring_what_they_need_and_nothing_else():
    assert set(restrict(DIAMOND, ["policy"])) == {"data", "anchor", "critic", "policy"}
    cells = {"fit@a": (), "fit@b": (), "use@a": ("fit@a",)}
    assert set(restrict(cells, ["fit"])) == {"fit@a", "fit@b"}
    with pytest.raises(SparError, match="no stage 'fitt'"):
        restrict(cells, ["fitt"])


def test_only_changed_cells_and_those_that_depend_on_them_run():
    assert without_unchanged(DIAMOND, set()) == {}
    assert without_unchanged(DIAMOND, {"critic"}) == {"critic": (), "policy": ("critic",), "report": ("policy",)}
    assert without_unchanged(DIAMOND, set(DIAMOND)) == DIAMOND


def test_the_table_of_time_is_by_stage_the_longest_first():
    head, *rows = where_time_went({"fit_bc@a": 10.0, "fit_bc@b": 20.0, "report": 50.0, "evaluate@a": 20.0})
    assert head.split() == ["stage", "cells", "seconds", "share"]
    assert [row.split() for row in rows] == [
        ["report", "1", "50", "50%"],
        ["fit_bc", "2", "30", "30%"],
        ["evaluate", "1", "20", "20%"],
    ]


def test_jobs_by_cores():
    assert [default_jobs(cores) for cores in (1, 2, 8, 16)] == [1, 2, 2, 4]


def test_the_graph_of_this_project_is_in_an_order_that_can_run():
    graph = read_graph(REPOSITORY)
    seen = set()
    for name, needs in graph.items():
        assert set(needs) <= seen, name
        seen.add(name)
    assert "plan" not in graph and any(name.startswith("self_imitation@") for name in graph)


# --- with DVC ---


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("sweep") / "clone", cache=tmp_path_factory.mktemp("sweep-cache"))


def sweep(clone, *arguments, ok=True):
    return clone.run("python", "-m", "stages.parallel.sweep", *arguments, ok=ok)


@pytest.fixture(scope="module")
def swept(clone):
    """A whole sweep with two jobs."""
    return sweep(clone, "--jobs", "2")


@pytest.mark.pipeline
def test_a_sweep_leaves_nothing_for_dvc_repro_to_do_but_the_plan(clone, swept, monkeypatch):
    assert "cells are done" in swept.stdout and "FAILED" not in swept.stdout
    assert clone.repro() == ["plan"]
    monkeypatch.chdir(clone.folder)
    assert to_run(clone.folder, []) == {}
    assert "nothing changed" in sweep(clone).stdout
    assert {line.split()[0] for line in swept.stdout.splitlines() if "%" in line} >= {"fit_bc", "report"}
    logs = {path.name for path in (clone.folder / "runs" / "sweep").iterdir()}
    assert {f"fit_bc@{DATASET.replace('/', '_')}-mlp-0-1.log", "report.log"} <= logs


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_sweep_makes_the_same_bytes_as_dvc_repro(clone, swept, tmp_path):
    one_by_one = Clone(tmp_path / "clone", cache=tmp_path / "cache")
    one_by_one.repro()
    assert one_by_one.lock() == clone.lock()


@pytest.mark.pipeline
def test_a_failed_cell_is_named_with_its_reason_and_the_rest_is_finished(clone, swept):
    clone.set({"critics.sarsa.learning_rate": 1e9})
    clone.study(critics=["iql", "sarsa"], improvements=["anchor", "awr"])
    result = sweep(clone, "evaluate", "--jobs", "2", ok=False)
    assert result.returncode == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and "fit_critic@" in failed[0] and "the critic diverged" in failed[0]
    assert "1 of" in result.stderr and "were left out" in result.stderr
    assert "Traceback" not in result.stderr
    done = [line for line in result.stdout.splitlines() if "-iql-" in line]
    assert len(done) == 2 and all("-awr-" in line and ": done" in line for line in done), "others are up to date"


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_dataset_that_cannot_be_had_stops_no_other_and_leaves_a_partial_report(clone, swept, tmp_path):
    gone = "d4rl/hopper-medium-v2"
    entry = clone.folder / f"datasets/{gone}.yaml"
    before = entry.read_text()
    clone.study(
        datasets=[DATASET, gone], critics=["iql"], improvements=["anchor", "spar_mlp"], seeds=["0-1"], estimated=[]
    )
    try:
        entry.write_text(before.replace("http://rail.eecs.berkeley.edu", "http://127.0.0.1:9"))
        result = clone.run("python", "-m", "stages.run", ok=False, SPAR_CACHE=str(tmp_path))
    finally:
        entry.write_text(before)
        clone.study(datasets=[DATASET])
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (failed,) = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.startswith(f"failed: download@{gone}: ") and "127.0.0.1" in failed
    assert "partial report, 2 missing cells: " in result.stdout
    page = (clone.folder / "reports/default/partial/report.md").read_text()
    assert f"## {DATASET}" in page and f"- {gone}, anchor `mlp`" in page and f"## {gone}" not in page


@pytest.mark.pipeline
def test_params_that_are_wrong_stop_a_sweep_before_it_starts(clone):
    before = (clone.folder / "params.yaml").read_text()
    try:
        clone.set({"critics.iql.expectille": 0.7})
        result = sweep(clone, ok=False)
    finally:
        (clone.folder / "params.yaml").write_text(before)
    assert result.returncode == 1 and "expectille" in result.stderr and "Traceback" not in result.stderr
    assert "did you mean 'expectile'" in result.stderr and not result.stdout.strip()


@pytest.mark.pipeline
def test_ctrl_c_stops_all_cells_and_the_same_command_goes_on(clone):
    clone.study(critics=["iql"], improvements=["anchor", "spar_mlp"], seeds=["4-5"])
    clone.set({"anchors.mlp.steps": 4000, "critics.iql.steps": 4000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.parallel.sweep", "fit_bc", "fit_critic", "--jobs", "2"],
        cwd=clone.folder,
        env={**clone.environment, "SPAR_CHECKPOINT_SECONDS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 120
    while len(list((clone.folder / ".checkpoints").rglob("*.safetensors"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "error: interrupted" in output and "goes on from there" in output, output
    assert "Traceback" not in output
    assert list((clone.folder / ".checkpoints").rglob("*.safetensors"))
    assert "cells are done" in sweep(clone, "fit_bc", "fit_critic", "--jobs", "2").stdout
    assert not list((clone.folder / ".checkpoints").rglob("*.safetensors"))


def test_log_names_are_flat(tmp_path):
    from stages.parallel.sweep import log_of

    path = log_of(Layout(tmp_path), "fit_bc@builtin/x-mlp-0-3")
    assert path.parent == tmp_path / "runs" / "sweep" and os.sep not in path.name
