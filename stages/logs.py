"""What the library logs, on the terminal. ``SPAR_LOG`` is the level: debug, info (the default), warning or error."""

from __future__ import annotations

import logging
import os
import sys

from spar_core.errors import SparError
from spar_core.settings import nearest

VARIABLE = "SPAR_LOG"
LEVELS = ("debug", "info", "warning", "error")


def level(chosen: str | None = None) -> str:
    """The level: what was chosen, else ``SPAR_LOG``.

    Raises:
        SparError: the variable holds no level.
    """
    name = chosen or os.environ.get(VARIABLE) or "info"
    if name.lower() not in LEVELS:
        raise SparError(f"{VARIABLE}='{name}' is not a level", nearest(name, list(LEVELS)))
    return name.lower()


def quiet() -> bool:
    """Whether progress bars are left out."""
    return level() in ("warning", "error")


def log_to_terminal(chosen: str | None = None) -> None:
    """Show the library's log on standard error, from the level on.

    Raises:
        SparError: as in :func:`level`.
    """
    logger = logging.getLogger("spar_core")
    logger.setLevel(level(chosen).upper())
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [shown]
    logger.propagate = False
