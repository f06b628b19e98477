"""Open a file in D4RL's flat HDF5 layout, and check it before any of its arrays is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spar_core.data.limits import check_claim
from spar_core.errors import SparError

if TYPE_CHECKING:
    import h5py

NEEDED = ("observations", "actions", "rewards", "terminals")
FLAGS = ("terminals", "timeouts")
ARRAYS = (*NEEDED, "timeouts", "next_observations")
NUMBERS = "fiub"  # NumPy's kinds: float, integer, unsigned integer, boolean

Arrays = dict[str, "h5py.Dataset"]


@contextmanager
def open_d4rl(path: Path, extras: Sequence[str] = ()) -> Iterator[Arrays]:
    """Yield the arrays of a file by name; each is checked, and stays on disk until it is indexed.

    Args:
        path: the HDF5 file.
        extras: names of further arrays to yield, such as ``infos/qpos``. One that is missing, or that does not hold
            numbers [steps, size], is left out.

    Raises:
        SparError: the file is missing, cannot be read, or is not a whole HDF5 file; it lacks an array; or an array is
            empty, does not hold numbers, has another length than the others, lies in another file, or declares more
            bytes than the file can hold.
    """
    import h5py

    _check_file(path)
    try:
        with h5py.File(path, "r") as file:
            names = [name for name in ARRAYS if file.get(name, getlink=True) is not None]
            names += [name for name in extras if _is_table(file, name)]
            arrays = {name: _array(path, file, name) for name in names}
            _check(path, arrays)
            yield arrays
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).split("(")[-1].rstrip(")")
        raise SparError(
            f"{path.name} cannot be read as HDF5 ({reason}); it is truncated or not an HDF5 file",
            "fetch it again",
        ) from None


def read_flags(arrays: Arrays, name: str) -> NDArray[np.bool_] | None:
    """Read an array of truth values [N]; None if the file lacks it.

    Raises:
        SparError: the array holds a NaN, which NumPy would take for true.
    """
    if name not in arrays:
        return None
    values: NDArray[np.generic] = arrays[name][()].reshape(-1)
    missing = np.isnan(values)
    if missing.any():
        raise SparError(
            f"'{name}' of {Path(arrays[name].file.filename).name} is NaN at step {int(missing.argmax())}",
            "write 0 or 1 there: a NaN does not say whether the episode ends",
        )
    return values.astype(bool)


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


def _is_table(file: h5py.File, name: str) -> bool:
    """Whether ``name`` is an array of numbers [steps, size]."""
    import h5py

    found = file.get(name)
    return isinstance(found, h5py.Dataset) and found.ndim == 2 and found.dtype.kind in NUMBERS


def _array(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """The array ``name``, which must hold numbers, lie in the file itself and not declare more than it can hold."""
    import h5py

    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise SparError(f"{path.name}: '{name}' is a link to another file", "put the array into the file itself")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise SparError(f"{path.name}: '{name}' is a group or empty, not an array", "only flat arrays are supported")
    # The group that holds the array may itself be a link, so compare the files' names.
    if array.external or array.is_virtual or array.file.filename != file.filename:
        raise SparError(f"{path.name}: '{name}' lies in another file", "put the array into the file itself")
    if array.dtype.kind not in NUMBERS:
        raise SparError(f"{path.name}: '{name}' holds {array.dtype}, not numbers", "use a file in D4RL's layout")
    check_claim(f"'{name}' of {path.name}", array.size * array.dtype.itemsize, array.id.get_storage_size())
    return array


def _check(path: Path, arrays: Arrays) -> None:
    """Make sure that the needed arrays exist, have the right number of axes, and have one length."""
    for name in NEEDED:
        if name not in arrays:
            raise SparError(f"{path.name} has no array '{name}'", "use a file in D4RL's layout")
    for name, array in arrays.items():
        flat = name in (*FLAGS, "rewards")  # some files keep a trailing axis of one
        if flat and (array.ndim == 0 or array.size != len(array)):
            raise SparError(
                f"{path.name}: '{name}' has shape {array.shape}, expected [steps]", "use a file in D4RL's layout"
            )
        if not flat and array.ndim != 2:
            raise SparError(
                f"{path.name}: '{name}' has shape {array.shape}, expected [steps, size]", "use a file in D4RL's layout"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SparError(f"{path.name}: the arrays differ in length ({listed})", "fetch the file again")
    if lengths["rewards"] == 0:
        raise SparError(f"{path.name} holds no steps", "fetch the file again")
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        raise SparError(
            f"{path.name}: next_observations {arrays['next_observations'].shape} and observations "
            f"{arrays['observations'].shape} differ in shape",
            "use a file in D4RL's layout",
        )
