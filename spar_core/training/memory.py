"""What a process does with memory that it frees."""

from __future__ import annotations

import ctypes
import sys

# Options of glibc's mallopt: M_MMAP_THRESHOLD (at its largest), M_TRIM_THRESHOLD, M_TOP_PAD, in bytes.
MALLOPT = {-3: 32 << 20, -1: 1 << 30, -2: 64 << 20}


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where the C library is glibc. Changes no result.

    An update allocates the same arrays again and again; a page that went back to the system in between costs a fault.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in MALLOPT.items():
            mallopt(option, value)
