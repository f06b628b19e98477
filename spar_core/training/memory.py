"""Keep freed memory in the process instead of returning it to the system."""

from __future__ import annotations

import ctypes
import sys

# Options of glibc's mallopt: M_MMAP_THRESHOLD (at its largest), M_TRIM_THRESHOLD, M_TOP_PAD, in bytes.
MALLOPT = {-3: 32 << 20, -1: 1 << 30, -2: 64 << 20}


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, if its C library is glibc; this changes no result.

    An update allocates arrays of the same sizes again and again. Each page that was returned to the system in between
    would cost a page fault.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in MALLOPT.items():
            mallopt(option, value)
