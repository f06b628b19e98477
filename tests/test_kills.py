"""Stages that are killed, at any moment and many times, and run again: the artifact is that of a run left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.pipeline import DATASET, Clone, cell_arguments

SEEDS = "0-1"
# Enough work for several kills on the way; checkpoints lie closer than any user's.
STEPS, SECONDS = 4000, "0.1"
ANCHOR = ["--dataset", DATASET, "--anchor", "mlp", "--seeds", SEEDS]
CRITIC = ["--dataset", DATASET, "--critic", "iql", "--seeds", SEEDS]
# A round of the anchor's own policy: whatever the critic says, its gain is zero, so that it is not refused.
ROUND = ["--dataset", DATASET, "--anchor", "mlp_round_1", "--of", "mlp", "--critic", "iql", "--improvement", "anchor"]
# Stage, its arguments, the folder of its artifact, and how often it is killed: 52 times altogether.
STAGES = {
    "anchor": ("fit_bc", ANCHOR, "anchor/{}/mlp", 8),
    "residual": ("fit_residual", ANCHOR, "residual/{}/mlp", 8),
    "critic": ("fit_critic", CRITIC, "critic/{}/iql", 8),
    "spar_proj": ("self_imitation", cell_arguments(DATASET, "spar_proj", SEEDS), "policy/{}/mlp/iql/spar_proj", 8),
    "auto": ("self_imitation", cell_arguments(DATASET, "auto", SEEDS), "policy/{}/mlp/iql/auto", 8),
    "estimate": ("estimate", cell_arguments(DATASET, "spar_proj", SEEDS), "estimate/{}/mlp/iql/spar_proj", 6),
    "reanchor": ("reanchor", [*ROUND, "--seeds", SEEDS], "anchor/{}/mlp_round_1", 6),
}
# An estimate takes seconds and starts anew.
WITHOUT_CHECKPOINTS = {"estimate"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A checkout in which every part is trained for some thousand steps."""
    made = Clone(tmp_path_factory.mktemp("kills") / "clone")
    params = made.params()
    longer = {}
    for section in ("anchors", "critics", "improvements"):
        for name, values in params[section].items():
            # A step of a critic takes several times as long as one of the others.
            steps = STEPS // 3 if section == "critics" else STEPS
            longer |= {f"{section}.{name}.{key}": steps for key in ("steps", "warm_start_steps") if key in values}
    made.borrow("evolving", "anchors", "mlp_round_1")
    made.set(
        {
            **longer,
            "residual.steps": STEPS,
            "estimation.fqe.steps": STEPS,
            "reanchoring.largest_share": 1.0,
        }
    )
    made.run("python", "-m", "stages.plan")
    made.run("python", "-m", "stages.download", "--dataset", DATASET)
    return made


@pytest.fixture(scope="module")
def parts(clone):
    """What the stages read."""
    run(clone, "fit_bc", ANCHOR)
    run(clone, "fit_residual", ANCHOR)
    run(clone, "fit_critic", CRITIC)
    for rule in ("anchor", "spar_proj"):
        run(clone, "self_imitation", cell_arguments(DATASET, rule, SEEDS))


def artifact(clone: Clone, below: str) -> Path:
    return clone.folder / "artifacts" / below.format(DATASET) / SEEDS


def start(clone: Clone, stage: str, arguments: list[str]) -> subprocess.Popen:
    """A stage in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}", *arguments],
        cwd=clone.folder,
        env={**clone.environment, "SPAR_CHECKPOINT_SECONDS": SECONDS, "SPAR_WORKERS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(clone: Clone, stage: str, arguments: list[str]) -> None:
    process = start(clone, stage, arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoints(clone: Clone) -> list[Path]:
    return list((clone.folder / ".checkpoints").rglob("*.safetensors"))


def take_away(folder: Path, to: Path) -> dict[str, bytes]:
    """Move an artifact out of the way; what was in it."""
    folder.rename(to)
    return contents(to)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_killed_at_random_moments_ends_with_the_same_bytes(clone, parts, tmp_path, name):
    stage, arguments, below, wanted = STAGES[name]
    folder = artifact(clone, below)
    begun = time.monotonic()
    run(clone, stage, arguments)
    alone_took = time.monotonic() - begun
    assert not checkpoints(clone), "they go when the artifact is there"
    alone = take_away(folder, tmp_path / "alone")
    rng, kills, with_checkpoint = random.Random(name), 0, 0
    while kills < wanted:
        process = start(clone, stage, arguments)
        try:
            process.wait(rng.uniform(0.2, 1.0) * alone_took)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            with_checkpoint += bool(checkpoints(clone))
            assert not folder.exists() or contents(folder) == alone, "half an artifact"
        if folder.exists():
            assert take_away(folder, tmp_path / f"after {kills} kills, {time.monotonic()}") == alone
    run(clone, stage, arguments)
    assert contents(folder) == alone
    expected = name not in WITHOUT_CHECKPOINTS
    assert (with_checkpoint >= 1) == expected, f"{with_checkpoint} of {kills} kills found a checkpoint"
    assert not checkpoints(clone)


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(clone, tmp_path):
    stage, arguments, below, _ = STAGES["anchor"]
    folder = artifact(clone, below)
    process = start(clone, stage, arguments)
    wait_for(lambda: checkpoints(clone))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    last = output.splitlines()[-1]
    assert process.returncode == 130, output
    assert last.startswith("error: interrupted: stopped at step ")
    assert "run the same command to resume from a checkpoint" in last
    assert "Traceback" not in output and not folder.exists()
    run(clone, stage, arguments)
    resumed = take_away(folder, tmp_path / "resumed")
    run(clone, stage, arguments)
    assert contents(folder) == resumed and not checkpoints(clone)


def test_workers_end_with_the_stage_that_started_them(clone):
    stage, arguments, _, _ = STAGES["anchor"]
    process = start(clone, stage, arguments)
    wait_for(lambda: checkpoints(clone))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_other_params_do_not_go_on_from_a_checkpoint(clone, tmp_path):
    stage, arguments, below, _ = STAGES["anchor"]
    folder = artifact(clone, below)
    process = start(clone, stage, arguments)
    wait_for(lambda: checkpoints(clone))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    clone.set({"anchors.mlp.learning_rate": 0.002})
    try:
        run(clone, stage, arguments)
        after_kill = take_away(folder, tmp_path / "after a kill")
        run(clone, stage, arguments)
        assert contents(folder) == after_kill
    finally:
        clone.set({"anchors.mlp.learning_rate": 0.001})
