"""What every entry point shares: one-line errors, and the machine's settings that are no params.

``SPAR_WORKERS`` (processes; default: one a core) and ``SPAR_DEVICE`` (``cpu``, ``cuda``; default ``cpu``) say
how a stage runs on this machine. The first never changes a result, so neither is tracked by DVC.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import time
from collections.abc import Callable

from spar_core.errors import Interrupted, SparError
from spar_core.training.memory import keep_freed_memory


def stage_main(run: Callable[[list[str] | None], None]) -> int:
    """Run an entry point; print what the user can mend as one line, and return the exit status."""
    keep_freed_memory()
    if os.environ.get("SPAR_END_WITH"):
        threading.Thread(target=_end_with, args=(int(os.environ["SPAR_END_WITH"]),), daemon=True).start()
    try:
        run(None)
    except Interrupted as error:
        print(f"error: interrupted: {error}", file=sys.stderr)
        return 130
    except SparError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and error.filename is None:
            raise
        what = (
            f"the disk is full ({error.filename or 'no path given'}); free space and rerun"
            if full
            else f"{error.strerror or type(error).__name__} ({error.filename})"
        )
        print(f"error: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "error: interrupted; nothing half-written is left, `dvc repro` starts this stage anew",
            file=sys.stderr,
        )
        return 130
    return 0


def _end_with(number: int) -> None:
    """End this process soon after the process ``SPAR_END_WITH`` has: what was asked for is then asked of another."""
    import psutil

    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


def workers() -> int:
    """Worker processes: ``SPAR_WORKERS``, else the cores that this process may use; one on a GPU."""
    text = os.environ.get("SPAR_WORKERS", "")
    if text and not (text.isdigit() and int(text) > 0):
        raise SparError(f"SPAR_WORKERS='{text}' is not a number of processes", "set it to 1 or more")
    if device() != "cpu":
        return 1
    return int(text) if text else len(os.sched_getaffinity(0))


def device() -> str:
    """Torch device: ``SPAR_DEVICE``, else the CPU."""
    name = os.environ.get("SPAR_DEVICE", "cpu")
    if name == "cpu":
        return name
    import torch

    if not name.startswith("cuda") or not torch.cuda.is_available():
        raise SparError(f"SPAR_DEVICE='{name}' is not available here", "use cpu, or cuda on a machine that has it")
    return name


def cell_arguments(description: str, *axes: str) -> argparse.ArgumentParser:
    """A parser of the axes of a cell, such as ``--dataset D --anchor A --seeds 0-3``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    helps = {
        "dataset": "a dataset id: datasets/<id>.yaml",
        "anchor": "a name in the section 'anchors' of params.yaml",
        "critic": "a name in the section 'critics' of params.yaml",
        "improvement": "a name in the section 'improvements' of params.yaml",
    }
    for axis in axes:
        parser.add_argument(f"--{axis}", required=True, help=helps[axis])
    parser.add_argument("--seeds", default="0", help='a group of seeds, such as "0-3" (default: 0)')
    return parser
