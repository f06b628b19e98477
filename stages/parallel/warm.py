"""`dvc repro` of a cell in a process that need not import anything: it is forked from one that has imported everything.

Importing DVC, Torch and MLflow takes several seconds, and a study has dozens of cells. So a server process (Python's
``forkserver``) imports them once, and every cell is forked from the server. Within a cell, DVC runs the stage's command
in another forked process instead of a shell with a new interpreter. DVC itself decides what runs, as in `dvc repro`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spar_core.errors import SparError
from stages.entry import stage_main
from stages.failures import DEBUG, line_of
from stages.table import STAGES

# Modules that the server imports. Those that may be the main module are left out, since a forked process imports its
# main module anew.
_IMPORTED = [
    *("dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce", "dvc.stage.run", "torch", "mlflow.tracking"),
    *("gymnasium", "mujoco", "minari", "scipy.stats", "sklearn.cluster", "matplotlib.pyplot"),
    *(f"stages.{name}" for name in STAGES),
    *("stages.report", "stages.view", "stages.tracking.publish", "stages.parallel.graph"),
]
# A command of dvc.yaml that needs no shell begins with these words.
_PYTHON = ["python", "-m"]


def server() -> Any:
    """The context of processes that are forked from the server. The first process that starts, starts the server."""
    os.environ["OMP_NUM_THREADS"] = "1"  # Torch and BLAS read the variable when they are imported.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a module-level function that runs in a process forked from the server.

    Raises:
        SparError: the function raised an error; the line says which.
    """
    context = server()
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, question, arguments))
    process.start()
    theirs.close()
    try:
        answer = answers.recv()
    except EOFError:
        raise SparError(f"the process of '{question.__name__}' was killed", "most often memory ran out") from None
    finally:
        process.join()
    if isinstance(answer, SparError):
        raise answer
    return answer


def _answer(answers: Connection, question: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answers.send(question(*arguments))
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        answers.send(SparError(line_of(error)))


def start_repro(root: Path, name: str, log: Path, variables: Mapping[str, str]) -> BaseProcess:
    """Start `dvc repro --single-item` of a stage or cell.

    The process is in a process group of its own, so that Ctrl-C reaches it through this process alone.

    Args:
        root: of the project.
        name: of the stage or cell.
        log: file that receives the output.
        variables: environment variables to set.
    """
    process: BaseProcess = server().Process(target=_repro, args=(str(root), name, str(log), dict(variables)))
    process.start()
    return process


def _repro(root: str, name: str, log: str, variables: dict[str, str]) -> None:
    os.setsid()
    _redirect(log)
    os.environ.update(variables)
    os.chdir(root)
    # The server has imported these already.
    import dvc.stage.run
    from dvc.cli import main

    stage = _Stage(dvc.stage.run._run)
    dvc.stage.run._run = stage
    status = main(["--wait-for-lock", "repro", "--single-item", name])
    stage.close()
    sys.exit(status)


def _redirect(log: str) -> None:
    """Let standard output and errors of this process, and of its children, go to a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, replaced in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, replaced)
    os.close(output)
    os.close(nothing)


class _Stage:
    """Takes the place of DVC's function that runs a command.

    The process of the command is forked at once, before DVC opens files and starts threads, and waits for the command.
    """

    def __init__(self, otherwise: Callable[..., None]) -> None:
        """Take the place of ``otherwise``, which runs commands that need a shell."""
        self.otherwise = otherwise
        context = multiprocessing.get_context("fork")
        self._command, theirs = context.Pipe()
        self._process = context.Process(target=_run_command, args=(theirs, self._command))
        self._process.start()
        theirs.close()
        self._used = False

    def __call__(self, executable: str, command: str, **options: Any) -> None:
        from dvc.stage.exceptions import StageCmdFailedError

        words = shlex.split(command)
        if words[:2] != _PYTHON or not words[2].startswith("stages.") or self._used:
            self.otherwise(executable, command, **options)
            return
        self._used = True
        self._command.send((words[2], words[3:], options["env"], str(options["cwd"])))
        # The command receives Ctrl-C too and ends; DVC waits for its end.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.join()
        finally:
            signal.signal(signal.SIGINT, handler)
        if self._process.exitcode != 0:
            raise StageCmdFailedError(command, self._process.exitcode)

    def close(self) -> None:
        """End the process if DVC ran no command."""
        self._command.close()
        self._process.join()


def _run_command(command: Connection, theirs: Connection) -> None:
    theirs.close()
    try:
        module, arguments, variables, folder = command.recv()
    except (EOFError, KeyboardInterrupt):
        return
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = [module, *arguments]
    sys.exit(stage_main(importlib.import_module(module).run))
