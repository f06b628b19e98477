"""Open HDF5 files, and say in one true sentence why one cannot be read."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from spar_core.data.names import NUMBERS
from spar_core.errors import SparError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    An error that h5py raises while the file is open becomes one line too; an error of anything else stays as it is.

    Raises:
        SparError: the file is missing, may not be read, is being written, is locked, is truncated or damaged, is no
            HDF5 file, or needs a filter that is not installed.
    """
    import h5py

    _check_file(path)
    register_filters()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if not from_h5py(error):
            raise
        raise explained(path, error) from None


def register_filters() -> None:
    """Make the filters of the package hdf5plugin known to HDF5, where that is installed."""
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")  # Its import registers them.


def from_h5py(error: BaseException) -> bool:
    """Whether h5py raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("h5py")


def explained(path: Path, error: Exception) -> SparError:
    """The error line for an error that h5py raised when it opened or read the file ``path``."""
    text, name = " ".join(str(error).split()), path.name
    sizes = re.search(r"truncated file: eof = (\d+), .*stored_eof = (\d+)", text)
    if "unable to lock file" in text:
        if isinstance(error, BlockingIOError):
            return SparError(
                f"{name} is locked by another process, which is writing it",
                "wait until that process has closed the file",
            )
        return SparError(
            f"{name} cannot be locked on its file system ({getattr(error, 'errno', None) or text})",
            "run `export HDF5_USE_FILE_LOCKING=FALSE`, if no process is writing the file",
        )
    if "already open for" in text:
        return SparError(
            f"{name} was not closed by the process that wrote it: it is still being written, or its writing was "
            "interrupted",
            f"wait until that process has closed it; if none is writing, run `h5clear -s {name}` or write it again",
        )
    if sizes:
        return SparError(
            f"{name} is truncated: it has {int(sizes[1]):,} of {int(sizes[2]):,} bytes",
            "fetch or write it again; if a process is still writing it, wait until that has closed the file",
        )
    if "file signature not found" in text:
        empty = path.stat().st_size == 0
        return SparError(
            f"{name} is empty" if empty else f"{name} is not an HDF5 file (it begins with {_beginning(path)})",
            "fetch it again, or correct 'path' or 'url' in the dataset's entry",
        )
    needed = _missing_filter(path) if "filter" in text or "plugin" in text else None
    if needed:
        return SparError(
            f"{name} is whole, but compressed with {needed}, which is not installed here",
            "run `pip install hdf5plugin`, or write the file again with gzip",
        )
    reason = text.split("(", 1)[-1].rstrip(")'\"") or type(error).__name__
    return SparError(f"{name} is damaged and cannot be read as HDF5 ({reason})", "fetch or write it again")


def array_names(file: h5py.File) -> list[str]:
    """Paths of all arrays and links in a file, sorted."""
    import h5py

    names: list[str] = []

    def add(name: str, link: object) -> None:
        if not (isinstance(link, h5py.HardLink) and isinstance(file.get(name), h5py.Group)):
            names.append(name)

    file.visititems_links(add)
    return sorted(names)


def array_of(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """An array of numbers whose values lie in the file itself.

    Raises:
        SparError: ``name`` is a broken link or a link to another file; the array is a group, virtual, external or
            without values; or it does not hold numbers.
    """
    import h5py

    what = f"{path.name}: '{name}'"
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise SparError(
            f"{what} is a link to another file, '{link.path}' of {link.filename}", "put the array into the file itself"
        )
    if file.get(name) is None:
        raise SparError(f"{what} is a link that leads nowhere", "put the array into the file itself")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise SparError(f"{what} is a group or empty, not an array", "only flat arrays are supported")
    if array.is_virtual:
        sources = sorted({source.file_name for source in array.virtual_sources()})
        raise SparError(
            f"{what} is a virtual dataset over {', '.join(sources) or 'no source'}", "copy its values into the file"
        )
    if array.external:
        raise SparError(f"{what} lies in another file, {array.external[0][0]}", "put the array into the file itself")
    # The group that holds the array may itself be a link, so compare the files' names.
    if array.file.filename != file.filename:
        raise SparError(f"{what} lies in another file, {array.file.filename}", "put the array into the file itself")
    try:
        kind = array.dtype
    except TypeError as error:
        raise SparError(f"{what} holds values that NumPy has no type for ({error})", "write it as floats") from None
    if kind.kind not in NUMBERS:
        raise SparError(f"{what} holds {kind}, not numbers", "use a file in D4RL's layout")
    return array


def check_written(array: h5py.Dataset, what: str, *, whole: bool) -> None:
    """Refuse an array whose values were never written; HDF5 would give its fill value for them.

    Args:
        array: the array.
        what: its name, for the error line.
        whole: whether every chunk must have been written. Otherwise one is enough, as in arrays that are mostly zero.

    Raises:
        SparError: no value was written, or with ``whole`` a chunk is missing.
    """
    if array.size == 0:
        return
    missing = array.id.get_storage_size() == 0
    if whole and not missing and array.chunks is not None:
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
        missing = array.id.get_num_chunks() < chunks
    if missing:
        raise SparError(
            f"{what} was declared with shape {array.shape} but not written in full, so the rest would be its fill "
            f"value {array.fillvalue}",
            "write all of its values, or shorten the arrays to the rows that were written",
        )


def chunk_bytes(array: h5py.Dataset) -> int:
    """Memory in bytes that reading a part of the array takes beside that part: its chunks are decompressed whole."""
    return int(array.dtype.itemsize * math.prod(array.chunks)) if array.chunks else 0


def _missing_filter(path: Path) -> str | None:
    """A filter that an array of the file needs and that is not installed; None if there is none."""
    import h5py

    def missing(_: str, array: h5py.Dataset | h5py.Group) -> str | None:
        if isinstance(array, h5py.Dataset):
            properties = array.id.get_create_plist()
            for code, _flags, _values, label in map(properties.get_filter, range(properties.get_nfilters())):
                if not h5py.h5z.filter_avail(code):
                    return f"the HDF5 filter {label.decode('utf-8', 'replace')} (number {code})"
        return None

    with h5py.File(path, "r") as file:
        found: str | None = file.visititems(missing)
    return found


def _check_file(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise SparError(f"{path} is not a file", "check 'path' in the dataset's entry")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "check 'path' in the dataset's entry") from None
    except OSError as error:
        raise SparError(
            f"{path} cannot be read ({error.strerror or error})", "check the file, and that you may read it"
        ) from None


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return repr(file.read(12).decode("ascii", "replace"))
