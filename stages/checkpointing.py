"""Where the checkpoints of a cell lie, which result they belong to, and when they are deleted.

Checkpoints are no outputs of DVC. They lie in ``.checkpoints``, or in the folder that ``SPAR_CHECKPOINTS`` names. Their
folder is named by a digest of all that the result depends on: the cell's params, inputs and code, the versions of the
libraries that compute, the processor's instructions and the device. ``SPAR_CHECKPOINT_SECONDS`` is the time between two
checkpoints (default 30; 0 keeps none). Neither variable changes a result.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from spar_core.artifacts import digest_value
from spar_core.errors import SparError
from spar_core.registry import variant_kinds
from spar_core.training.checkpoints import Checkpoints
from stages.cells import Cell
from stages.closure import member_module
from stages.entry import device
from stages.layout import Layout
from stages.params import read_params
from stages.planned import running_digest

SECONDS = 30.0


@contextmanager
def checkpointed(
    layout: Layout, cell: Cell, params: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator[Checkpoints | None]:
    """Checkpoints for the work of the block, or None if none are kept. They are deleted when the work is done.

    Checkpoints of the same cell with other params, inputs or code are useless, and are deleted first.
    """
    seconds = seconds_between()
    of_cell = layout.checkpoints(cell.stage, cell.folder(layout))
    if seconds == 0:
        yield None
        return
    folder = of_cell / identity(layout, cell, params, inputs)
    for other in of_cell.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    yield Checkpoints(folder, seconds)
    shutil.rmtree(of_cell, ignore_errors=True)


def seconds_between() -> float:
    """Time between two checkpoints: ``SPAR_CHECKPOINT_SECONDS``, else the default.

    Raises:
        SparError: the variable holds no time.
    """
    text = os.environ.get("SPAR_CHECKPOINT_SECONDS", "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise SparError(f"SPAR_CHECKPOINT_SECONDS='{text}' is not a number of seconds", "0 keeps no checkpoints")
    return seconds


def identity(layout: Layout, cell: Cell, params: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Digest of all that the weights of a cell depend on, to the last bit.

    The code is digested from the files that run, and not looked up in ``plan.json``, since a stage may run alone.
    """
    variants = read_params(layout, cell.dataset)
    modules = [f"stages.{cell.stage}"]
    for family, name in cell.members().items():
        values = variants.get(f"{family}s", {}).get(name)
        modules += [member_module(family, kind) for kind in variant_kinds(name, values)]
    name = device()
    runs_on = [
        platform.python_version(),
        torch.__version__,
        np.__version__,
        torch.backends.cpu.get_cpu_capability(),
        name if name == "cpu" else f"{name}: {torch.cuda.get_device_name(name)}",
    ]
    return digest_value([params, inputs, running_digest(modules), runs_on])
