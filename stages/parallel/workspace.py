"""Make one cell on another machine: in a workspace with the project's files, with inputs from a shared DVC remote."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from spar_core.errors import SparError
from stages.parallel.child import dvc_environment

REMOTE = "cells"
LOCK = "dvc.lock"
# Characters of a task's output that are sent back, at most.
LOG = 200_000


@dataclass(frozen=True)
class Task:
    """The description of one cell's work.

    Attributes:
        name: name of the cell.
        needs: entries of dvc.lock of the cells whose outputs this cell reads.
        remote: DVC's section of the remote, such as ``{"url": ...}``.
        folder: folder on the node, for workspaces and the cache.
        checkpoints: a folder that all nodes see, or None.
        workers: number of worker processes.
    """

    name: str
    needs: Mapping[str, Any]
    remote: Mapping[str, Any]
    folder: str
    checkpoints: str | None
    workers: int


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes:
        entry: the cell's entry of dvc.lock; None after a failure.
        ran: whether the cell's command ran; otherwise the cell was restored from the cache.
        log: the end of the output.
    """

    entry: Any
    ran: bool
    log: str


def packed(root: Path) -> bytes:
    """An archive of the project's own files as they are now, tracked or new, and of what plan wrote.

    The bytes of the archive depend only on the names, contents and modes of the files.

    Raises:
        SparError: git, which knows the files, does not answer.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise SparError("git cannot list the project's files", "run `git init` in the project's folder") from None
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name} - {LOCK}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted({*names, "artifacts/plan.json"}):
            path = root / name
            if path.is_file():
                info = tarfile.TarInfo(name)
                data = path.read_bytes()
                info.size, info.mode = len(data), path.stat().st_mode & 0o777
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def remote_section(root: Path, remote: str | None) -> dict[str, Any]:
    """DVC's section of the named remote, of the default remote (for None), or of a remote at a URL.

    Raises:
        SparError: no remote is given, and the project has no default one.
    """
    with Repo(str(root)) as repo:
        name = remote or repo.config["core"].get("remote")
        if not name:
            raise SparError("no DVC remote is named", "say --remote with a folder or URL that all nodes reach")
        known = repo.config["remote"]
        if name in known:
            return {key: value for key, value in known[name].items() if value is not None}
    return {"url": str(Path(name).resolve()) if "://" not in name else name}


def fetch(root: Path, remote: Mapping[str, Any], names: Sequence[str]) -> None:
    """Bring the outputs of cells, and the run cache, from the remote into the cache of the project.

    Raises:
        SparError: an output did not arrive.
    """
    known = {"core": {"remote": REMOTE}, "remote": {REMOTE: dict(remote)}}
    try:
        with Repo(str(root), config=known) as repo:
            repo.fetch(targets=list(names), run_cache=True)
    except DvcException as error:
        raise SparError(f"not all outputs came from the remote: {error}", "run the same command again") from None


def lock_entries(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock."""
    path = root / LOCK
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {}) if path.is_file() else {}


def merge_lock(root: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into dvc.lock; the file is replaced in one step."""
    draft = root / f".{LOCK}.draft"
    content = {"schema": "2.0", "stages": {**lock_entries(root), **entries}}
    draft.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    draft.replace(root / LOCK)


def run_task(tree: bytes, task: Task) -> Outcome:
    """Make the cell, or restore it from the cache, and push it to the remote."""
    base = Path(task.folder)
    with slot(base / hashlib.md5(tree, usedforsecurity=False).hexdigest()) as (workspace, lock):
        _prepare(workspace, tree, base / "cache", task)
        merge_lock(workspace, task.needs)
        output = ""
        steps = (
            # `plan` has no output in the cache, so only the run cache is fetched.
            ["fetch", "--run-cache", "plan"],
            ["repro", "--pull", "--single-item", task.name],
            ["push", "--run-cache", task.name],
        )
        for arguments in steps:
            status, text = _dvc(workspace, lock, arguments, base, task)
            output += text
            if status != 0:
                return Outcome(None, False, output[-LOG:])
        ran = f"Running stage '{task.name}'" in output
        return Outcome(lock_entries(workspace)[task.name], ran, output[-LOG:])


def _dvc(workspace: Path, lock: int, arguments: list[str], base: Path, task: Task) -> tuple[int, str]:
    environment = dvc_environment(
        OMP_NUM_THREADS="1",
        SPAR_WORKERS=str(task.workers),
        SPAR_CHECKPOINTS=task.checkpoints or str(base / "checkpoints"),
        # When the task is killed, its stage ends too, and does not run beside the stage of the next attempt.
        SPAR_END_WITH=str(os.getpid()),
    )
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # DVC outlives a killed task for a moment; the workspace stays locked until DVC has ended.
        pass_fds=[lock],
    )
    return result.returncode, result.stdout


@contextmanager
def slot(folder: Path) -> Iterator[tuple[Path, int]]:
    """The first workspace that no other task uses, and the file descriptor of its lock.

    The lock is free again when every process that holds the descriptor has ended: this process, and the children that
    inherit the descriptor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        with (folder / f"{number}.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            yield folder / str(number), handle.fileno()
            return


def _prepare(workspace: Path, tree: bytes, cache: Path, task: Task) -> None:
    """Unpack the project's files, and configure DVC to use the node's cache and the remote."""
    ready = workspace / ".ready"
    if ready.exists():
        return
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        archive.extractall(workspace, filter="data")
    with Repo(str(workspace), _wait_for_lock=True, config={"core": {"no_scm": True}}) as repo:
        with repo.config.edit("local") as config:
            config["core"] = {"remote": REMOTE, "no_scm": True, "analytics": False}
            config["remote"] = {REMOTE: dict(task.remote)}
            config["cache"] = {"dir": str(cache)}
    ready.touch()
