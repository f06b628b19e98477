"""The parts that all entry points share: command lines, one-line errors, and settings of the machine.

``SPAR_WORKERS`` is the number of worker processes (default: one a core), and never changes a result. ``SPAR_DEVICE`` is
the Torch device, ``cpu`` (default) or ``cuda``. Both belong to the machine, so DVC does not track them.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Sequence

from spar_core.errors import SparError
from spar_core.training.memory import keep_freed_memory
from stages.cells import Cell
from stages.failures import tell
from stages.table import STAGES


def stage_main(run: Callable[[list[str] | None], None]) -> int:
    """Run an entry point, print an error as one line, and return the exit status."""
    keep_freed_memory()
    if os.environ.get("SPAR_END_WITH"):
        threading.Thread(target=_end_with, args=(int(os.environ["SPAR_END_WITH"]),), daemon=True).start()
    try:
        run(None)
    except (Exception, KeyboardInterrupt) as error:
        return tell(error)
    return 0


def _end_with(number: int) -> None:
    """End this process soon after the process with that id, whose work another process then takes over."""
    import psutil

    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


def workers() -> int:
    """Number of worker processes: ``SPAR_WORKERS``, else the cores that this process may use; 1 on a GPU."""
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


def cell_parser(stage: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that name a cell of a stage, such as ``--dataset D --anchor A --seeds 0-3``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="id of a dataset, which names its entry datasets/<id>.yaml")
    for family in STAGES[stage].members:
        parser.add_argument(f"--{family}", required=True, help=f"name in the section '{family}s' of params.yaml")
    parser.add_argument("--seeds", default="0", help='group of seeds, such as "0-3" (default: 0)')
    return parser


def parse_cell(stage: str, description: str | None, argv: Sequence[str] | None) -> Cell:
    """The cell of a stage that a command line names.

    Raises:
        SparError: the seeds are no group.
    """
    return Cell(stage, **vars(cell_parser(stage, description).parse_args(argv)))
