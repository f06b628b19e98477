"""Open a file in D4RL's flat HDF5 layout, and check it before any of its arrays is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spar_core.data.hdf5 import array_names, array_of, check_written, chunk_bytes, open_hdf5
from spar_core.data.limits import check_claim
from spar_core.data.names import AS_USUAL, FLAGS, NUMBERS, Naming, check_continuous, listed, unusual
from spar_core.errors import SparError

if TYPE_CHECKING:
    import h5py

# Bytes that a number takes in memory once it is read; next observations are the rows of observations.
IN_MEMORY = {"observations": 4, "actions": 4, "rewards": 4, "next_observations": 0, **dict.fromkeys(FLAGS, 1)}

Arrays = dict[str, "h5py.Dataset"]


@contextmanager
def open_d4rl(path: Path, extras: Sequence[str] = (), naming: Naming = AS_USUAL) -> Iterator[Arrays]:
    """Yield the arrays of a file by their meaning; each is checked, and stays on disk until it is indexed.

    Args:
        path: the HDF5 file.
        extras: names of further arrays to yield, such as ``infos/qpos``. One that is missing, or that does not hold
            numbers [steps, size], is left out.
        naming: what the dataset's entry says about the file's arrays.

    Raises:
        SparError: the file is missing or cannot be read; it lacks an array, or holds one of no known meaning; or an
            array is empty, does not hold continuous numbers, has another length than the others, lies in another file,
            was not written in full, or takes more memory than there is.
    """
    with open_hdf5(path) as file:
        held = array_names(file)
        found = naming.find(held, path.name)
        # Only an entry that names the cuts says that no step is terminal.
        if not {"terminals", "dones"} & found.keys() and "timeouts" not in naming.arrays:
            raise SparError(
                f"{path.name} has no array 'terminals'; it holds {listed(held)}",
                "write it, or name it in the dataset's entry with 'arrays: {terminals: NAME}', or name the cuts with "
                "'arrays: {timeouts: NAME}' if no step is terminal",
            )
        arrays = {meaning: array_of(path, file, name) for meaning, name in found.items()}
        _check(path, arrays, unusual(found))
        for name in extras:
            if _is_table(file, name):
                arrays[name] = array_of(path, file, name)
                size = arrays[name].size * arrays[name].dtype.itemsize
                check_claim(f"'{name}' of {path.name}", size, arrays[name].id.get_storage_size())
        _check_lengths(path, arrays)
        yield arrays


def names_of(arrays: Arrays) -> dict[str, str]:
    """The name in the file of each array, by its meaning."""
    return {meaning: array.name.lstrip("/") for meaning, array in arrays.items()}


def _is_table(file: h5py.File, name: str) -> bool:
    """Whether ``name`` is an array of numbers [steps, size]."""
    import h5py

    found = file.get(name)
    return isinstance(found, h5py.Dataset) and found.ndim == 2 and found.dtype.kind in NUMBERS


def _check(path: Path, arrays: Arrays, renamed: Mapping[str, str]) -> None:
    """Make sure that the arrays of episodes have the right shapes and were written, and that they fit into memory."""
    needed, stored = 0, 0
    for meaning, array in arrays.items():
        what = f"'{renamed.get(meaning, meaning)}'"
        flat = meaning in (*FLAGS, "rewards")  # some files keep a trailing axis of one
        if flat and (array.ndim == 0 or array.size != len(array)):
            raise SparError(
                f"{path.name}: {what} has shape {array.shape}, expected [steps]", "use a file in D4RL's layout"
            )
        if not flat and array.ndim != 2:
            raise SparError(
                f"{path.name}: {what} has shape {array.shape}, expected [steps, size]", "use a file in D4RL's layout"
            )
        if meaning == "actions":
            check_continuous(f"{what} of {path.name}", array.dtype)
        size = array.size * IN_MEMORY[meaning] + chunk_bytes(array)
        check_claim(f"{what} of {path.name}", size, array.id.get_storage_size())
        needed, stored = needed + size, stored + array.id.get_storage_size()
        if meaning not in FLAGS:
            check_written(array, f"{what} of {path.name}", whole=meaning != "rewards")
    check_claim(path.name, needed, stored)
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        raise SparError(
            f"{path.name}: next_observations {arrays['next_observations'].shape} and observations "
            f"{arrays['observations'].shape} differ in shape",
            "use a file in D4RL's layout",
        )


def _check_lengths(path: Path, arrays: Arrays) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SparError(f"{path.name}: the arrays differ in length ({shown})", "write one row a step into each")
    if lengths["rewards"] == 0:
        raise SparError(f"{path.name} holds no steps", "write at least two episodes into it")
