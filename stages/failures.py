"""How an error reaches the person at the keyboard: as one line on standard error, whichever entry point meets it.

``SPAR_DEBUG=1`` prints the traceback before that line.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from spar_core.errors import Interrupted, SparError
from stages.layout import HERE

DEBUG = "SPAR_DEBUG"
_LONGEST = 300
OURS = ("spar_core", "stages")
PACKAGES = "site-packages"  # the folder of installed packages


def tell(error: BaseException) -> int:
    """Print an error as one line, and return the exit status."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    print(f"error: {line_of(error)}", file=sys.stderr)
    return 130 if isinstance(error, (Interrupted, KeyboardInterrupt)) else 1


def line_of(error: BaseException) -> str:
    """What is wrong and what to do, in one line."""
    if isinstance(error, Interrupted):
        return f"interrupted: {error}"
    if isinstance(error, SparError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no half-written artifact is left, and `dvc repro` starts this stage anew"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in OURS:
        return f"the package '{error.name}' is not installed; run `pip install 'spar-core[pipeline]'`"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or 'no path given'}); free space and rerun"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror or type(error).__name__} ({error.filename})"
    text = " ".join(str(error).split())[:_LONGEST]
    name = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{name} ({_place(error)}); {DEBUG}=1 shows the traceback"


def _place(error: BaseException) -> str:
    """The innermost line of this project that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(HERE)]
    inside = [frame for frame in ours if _is_ours(Path(frame.filename).relative_to(HERE).parts)]
    if not inside:
        return "no line of this project"
    return f"{Path(inside[-1].filename).relative_to(HERE)}, line {inside[-1].lineno}"


def _is_ours(parts: Sequence[str]) -> bool:
    """Whether a path below ``HERE``, in parts, holds this project's code."""
    if HERE.name == PACKAGES:  # installed: other packages lie beside this project's
        return parts[0] in OURS
    # A virtual environment inside the checkout, whatever its name, holds other projects' code.
    return PACKAGES not in parts
