"""Cells on a real Ray cluster of several worker processes, with a DVC remote in a folder."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import psutil
import pytest

from spar_core.errors import SparError
from stages.parallel.workspace import lock_entries, merge_lock, packed, remote_section, slot
from tests.pipeline import Clone

KILLS = 4


def test_the_same_files_are_packed_to_the_same_bytes(tmp_path):
    one, two = Clone(tmp_path / "one"), Clone(tmp_path / "two")
    assert packed(one.folder) == packed(two.folder)
    two.set({"anchors.mlp.steps": 31})
    assert packed(one.folder) != packed(two.folder)


def test_a_remote_is_a_name_a_url_or_a_folder_and_there_has_to_be_one(tmp_path):
    clone = Clone(tmp_path / "clone")
    with pytest.raises(SparError, match="no DVC remote is named; say --remote"):
        remote_section(clone.folder, None)
    assert remote_section(clone.folder, str(tmp_path / "there")) == {"url": str(tmp_path / "there")}
    assert remote_section(clone.folder, "s3://bucket/spar") == {"url": "s3://bucket/spar"}
    clone.run("dvc", "remote", "add", "-d", "team", "s3://bucket/spar")
    assert (
        remote_section(clone.folder, None)["url"] == "s3://bucket/spar" == remote_section(clone.folder, "team")["url"]
    )


def test_lock_entries_are_merged_and_the_others_stay(tmp_path):
    merge_lock(tmp_path, {"a": {"cmd": "1"}, "b": {"cmd": "2"}})
    merge_lock(tmp_path, {"b": {"cmd": "3"}})
    assert lock_entries(tmp_path) == {"a": {"cmd": "1"}, "b": {"cmd": "3"}}


TASK = """
import subprocess, sys, time
from pathlib import Path
from stages.parallel.workspace import slot

with slot(Path(sys.argv[1])) as (workspace, lock):
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    child.wait()
"""


def test_the_workspace_of_a_killed_task_is_taken_until_its_children_have_ended(tmp_path):
    task = subprocess.Popen([sys.executable, "-c", TASK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(task.stdout.readline()))
    task.kill()
    task.wait()
    with slot(tmp_path) as (workspace, _):
        assert workspace == tmp_path / "1"
    child.kill()
    psutil.wait_procs([child])
    with slot(tmp_path) as (workspace, _), slot(tmp_path) as (second, _):
        assert (workspace, second) == (tmp_path / "0", tmp_path / "1")


def start(clone, tmp_path, nodes, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "stages.parallel.cluster", "--remote", str(tmp_path / "remote"), "--folder", str(nodes)]
        + ["--retries", "20", *arguments],
        cwd=clone.folder,
        env={**clone.environment, "SPAR_CHECKPOINT_SECONDS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ray_tasks(process):
    """Ray's worker processes below a driver that are at a task now."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        if title.startswith("ray::") and "@" in title:
            found.append(child)
    return found


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing_and_nothing_is_trained_twice(tmp_path):
    clone = Clone(tmp_path / "clone", cache=tmp_path / "cache")
    clone.set({f"{section}.steps": 3000 for section in ("anchors.mlp", "residual", "critics.iql")})
    process = start(clone, tmp_path, tmp_path / "nodes")
    rng, killed, end = random.Random(0), 0, time.monotonic() + 500
    while process.poll() is None and time.monotonic() < end:
        time.sleep(rng.uniform(1.0, 4.0))
        tasks = ray_tasks(process) if killed < KILLS and process.poll() is None else []
        if tasks:
            rng.choice(tasks).kill()
            killed += 1
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and killed == KILLS, output
    cells = [line for line in output.splitlines() if line.startswith("[")]
    # A task that was killed after its push finds its work in the remote; any other makes it.
    assert len(cells) == 8 and all(": made," in line or ": was there," in line for line in cells), output
    ran = [line for line in output.splitlines() if line.startswith("Running stage '")]
    assert ran == ["Running stage 'plan':", "Running stage 'report':", "Running stage 'theory_page':"]
    assert not list((tmp_path / "nodes" / "checkpoints").rglob("*.safetensors"))

    alone = Clone(tmp_path / "alone", cache=tmp_path / "alone-cache")
    alone.set({f"{section}.steps": 3000 for section in ("anchors.mlp", "residual", "critics.iql")})
    alone.repro()
    assert alone.lock() == clone.lock()

    # Anyone else, on nodes that have nothing yet.
    other = Clone(tmp_path / "other", cache=tmp_path / "other-cache")
    other.set({f"{section}.steps": 3000 for section in ("anchors.mlp", "residual", "critics.iql")})
    output, _ = start(other, tmp_path, tmp_path / "other-nodes").communicate(timeout=300)
    assert len([line for line in output.splitlines() if ": was there," in line]) == 8, output
    assert other.lock() == clone.lock()


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_rest_is_done(tmp_path):
    clone = Clone(tmp_path / "clone", cache=tmp_path / "cache")
    clone.set({"critics.sarsa.learning_rate": 1e9})
    clone.study(critics=["iql", "sarsa"], improvements=["spar_mlp"])
    process = start(clone, tmp_path, tmp_path / "nodes")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in output
    failed = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and "fit_critic@" in failed[0] and "the critic diverged" in failed[0]
    assert len([line for line in output.splitlines() if ": made," in line]) == 6, output


def test_without_ray_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    from stages.parallel.cluster import _ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SparError, match=r"Ray is not installed; pip install -r requirements-ray\.txt"):
        _ray(None)
