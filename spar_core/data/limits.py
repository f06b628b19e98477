"""Check the size that a file declares before any memory is allocated for it.

A file of a few kilobytes can declare terabytes, by arrays that were never written or by a wrong number in a header.
Allocating them would get the process killed without an error line.
"""

from __future__ import annotations

from pathlib import Path

from spar_core.errors import SparError

# Deflate, the strongest filter that HDF5 and .npz files commonly use, compresses at most by a factor of about 1032
# (zlib's documentation). A file that declares more was never written in full.
LARGEST_RATIO = 1100
GIB = 1 << 30


def check_claim(name: str, claimed: int, stored: int) -> None:
    """Refuse a file or array that declares more bytes than it can hold, or than this machine has memory.

    Args:
        name: name of the file or array, for the error line.
        claimed: bytes that its contents would take in memory.
        stored: bytes that it takes on disk.

    Raises:
        SparError: ``claimed`` exceeds one of the two limits.
    """
    import psutil

    if claimed > LARGEST_RATIO * stored + (1 << 20):
        raise SparError(
            f"{name} claims to hold {claimed / GIB:.1f} GiB in {stored:,} bytes on disk, which is not possible: it is "
            "damaged, or was made to exhaust memory",
            "fetch it again from a source that you trust",
        )
    memory = psutil.virtual_memory().total
    if claimed > memory:
        raise SparError(
            f"{name} needs {claimed / GIB:.1f} GiB of memory, and this machine has {memory / GIB:.1f}",
            "use a machine with more memory, or a part of the dataset",
        )


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of ``folder`` that is a link to a place outside the folder, or a broken link.

    Raises:
        SparError: ``path`` is such a link.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # A loop of links raises one or the other, depending on Python's version.
        raise SparError(f"{path} is a link that leads nowhere", "replace the link with the file") from None
    if not inside:
        raise SparError(
            f"{path} is a link to a file outside its folder",
            "copy the file into the folder: a dataset must not depend on files outside it",
        )
