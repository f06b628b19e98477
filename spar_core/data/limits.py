"""Check the size that a file declares before any memory is allocated for it.

A file of a few kilobytes can declare terabytes, by arrays that were never written or by a wrong number in a header.
Allocating them would get the process killed without an error line.
"""

from __future__ import annotations

from pathlib import Path

from spar_core.errors import SparError

# Deflate, the filter that HDF5 and .npz files commonly use, compresses at most by a factor of about 1032 (zlib's
# documentation). Arrays of zeros may take less with other filters, or nothing where they were never written, so the
# factor alone refuses no file: it only tells a file that lies from one that is large.
LARGEST_RATIO = 1100
GIB = 1 << 30


def check_claim(name: str, claimed: int, stored: int) -> None:
    """Refuse a file or array that takes more memory than this machine has.

    Args:
        name: name of the file or array, for the error line.
        claimed: bytes of memory that reading it takes.
        stored: bytes that it takes on disk.

    Raises:
        SparError: ``claimed`` exceeds the memory.
    """
    import psutil

    memory = psutil.virtual_memory().total
    if claimed <= memory:
        return
    if claimed > LARGEST_RATIO * stored + (1 << 20):
        raise SparError(
            f"{name} claims to hold {claimed / GIB:.1f} GiB in {stored:,} bytes on disk, and this machine has "
            f"{memory / GIB:.1f} GiB of memory: the file is damaged, or was made to exhaust memory",
            "fetch it again from a source that you trust",
        )
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
