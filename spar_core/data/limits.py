"""What a file claims to hold, checked before any memory is asked for.

A few kilobytes can declare terabytes: arrays that were never written, or a number in a header. A load that
trusts them ends in an out-of-memory kill without a word.
"""

from __future__ import annotations

from pathlib import Path

from spar_core.errors import SparError

# Deflate, the strongest filter that HDF5 and .npz files commonly use, shrinks at most about this much (zlib's
# own documentation says 1032); what claims more was never written.
LARGEST_RATIO = 1100
# A file this much larger than memory cannot be meant; what the machine has free at the moment says less.
GIB = 1 << 30


def check_claim(name: str, claimed: int, stored: int) -> None:
    """Refuse a source that claims more bytes than it can hold, or than this machine has memory.

    Args:
        name: of the file or array, for the message.
        claimed: bytes that its contents would take in memory.
        stored: bytes that it takes on disk.

    Raises:
        SparError: it does.
    """
    import psutil

    if claimed > LARGEST_RATIO * stored + (1 << 20):
        raise SparError(
            f"{name} claims to hold {claimed / GIB:.1f} GiB in {stored:,} bytes on disk, which is not possible",
            "it is damaged or made to exhaust memory; fetch it again from a source you trust",
        )
    memory = psutil.virtual_memory().total
    if claimed > memory:
        raise SparError(
            f"{name} needs {claimed / GIB:.1f} GiB of memory, and this machine has {memory / GIB:.1f}",
            "use a larger machine, or a part of the dataset",
        )


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of ``folder`` that is a link to somewhere outside it, or to nowhere.

    Raises:
        SparError: it is.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that go round in a circle; which of the two depends on Python's version
        raise SparError(f"{path} is a link that leads nowhere", "replace it with the file that is meant") from None
    if not inside:
        raise SparError(
            f"{path} is a link out of its folder",
            "copy the file into the folder: a dataset must not change with files outside it",
        )
