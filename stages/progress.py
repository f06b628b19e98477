"""Progress bars, which show the stage, the work done, the rate and the time left. They change no result."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from stages.logs import quiet


class Progress:
    """A tqdm bar on standard error. Without a terminal, a line is printed every ten seconds at most."""

    def __init__(self, *, stage: str, total: int, unit: str) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=stage,
            unit=f" {unit}",
            unit_scale=True,
            dynamic_ncols=terminal,
            ncols=None if terminal else 100,
            mininterval=0.2 if terminal else 10.0,
            file=sys.stderr,
            disable=quiet(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, n: int) -> None:
        """Count ``n`` more units as done."""
        self._bar.update(n)
