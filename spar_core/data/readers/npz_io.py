"""Read a user's own episodes: a folder of ``.npz`` files, one for each episode, in the order of their names.

The file of an episode of T steps holds:

- ``observations`` [T + 1, D]; or [T, D] together with ``next_observations`` [T, D]; or [T, D] alone, if the observation
  after the last step was not recorded. In the last case, no value is bootstrapped from that observation.
- ``actions`` [T, A] and ``rewards`` [T].
- ``terminated``, one truth value or [T]: whether the last step ended in a terminal state. Without it, the episode
  counts as cut, and values are bootstrapped from its last observation.

Files are opened without pickle, so that a dataset cannot run code.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.episodes import Episode, Episodes
from spar_core.data.limits import check_claim, check_inside
from spar_core.errors import SparError

NEEDED = ("observations", "actions", "rewards")
KNOWN = (*NEEDED, "next_observations", "terminated")


def npz_files(folder: Path) -> list[Path]:
    """The files of the episodes, sorted by name.

    Raises:
        SparError: the folder does not exist or holds no such file, or a file is a link to a place outside the folder.
    """
    if not folder.is_dir():
        raise SparError(f"{folder} is not a folder", "check 'path' in the dataset's entry")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise SparError(f"{folder} holds no .npz file", "write one file for each episode")
    for file in files:
        check_inside(file, folder)
    return files


def read_npz(folder: Path) -> Episodes:
    """Read all episodes.

    Raises:
        SparError: a file is missing or damaged, declares more than it can hold, or lacks an array; or an array has
            another shape or does not hold numbers. The line names the file.
    """
    return Episodes.of([_read(file) for file in npz_files(folder)])


def _read(path: Path) -> Episode:
    arrays = _arrays(path)
    for name in NEEDED:
        if name not in arrays:
            raise SparError(f"{path.name} has no array '{name}'", f"write the arrays {', '.join(NEEDED)}")
    observations, actions = arrays["observations"], arrays["actions"]
    rewards = arrays["rewards"].reshape(-1)
    steps, rows = len(rewards), len(observations) if observations.ndim == 2 else -1
    following = arrays.get("next_observations")
    if actions.ndim != 2 or len(actions) != steps or rows not in (steps, steps + 1):
        raise SparError(
            f"{path.name}: observations {observations.shape}, actions {actions.shape} and rewards {rewards.shape} "
            "do not fit together",
            "write [T + 1, D] (or [T, D]), [T, A] and [T]",
        )
    if following is not None and following.shape != observations[:steps].shape:
        raise SparError(
            f"{path.name}: next_observations {following.shape} and observations {observations.shape} differ in shape",
            f"write next_observations [T, D], here {observations[:steps].shape}",
        )
    known = rows == steps + 1 or following is not None
    if rows == steps:
        last = (observations if following is None else following)[-1:]
        nothing = np.zeros((1, observations.shape[1]), np.float32)  # for an empty episode, which is left out later
        observations = np.concatenate([observations, last if steps else nothing])
    return Episode(observations, actions, rewards, _terminated(path.name, arrays.get("terminated"), steps), known)


def _terminated(name: str, flag: NDArray[Any] | None, steps: int) -> bool:
    """Whether an episode's last step is terminal; ``flag`` holds one value, or one for each step."""
    if flag is None:
        return False
    if flag.size not in (1, steps):
        raise SparError(
            f"{name}: 'terminated' holds {flag.size} values for {steps} steps", "write one value, or one for each step"
        )
    flat = flag.reshape(-1)
    if np.isnan(flat).any():
        raise SparError(f"{name}: 'terminated' holds NaN", "write 0 or 1")
    if flat[:-1].any():
        raise SparError(
            f"{name}: 'terminated' is true at step {int(flat.argmax())}, before the last of {steps} steps",
            "write one file for each episode, which ends at the terminal step",
        )
    return bool(flat.any())


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one file, converted to float32 except ``terminated``."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in KNOWN]
            check_claim(path.name, sum(info.file_size for info in members), sum(info.compress_size for info in members))
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in KNOWN if name in stored.files}
    except SparError:
        raise
    except Exception as error:  # For a damaged archive, zipfile, zlib and NumPy each raise errors of their own.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SparError(
            f"{path.name} cannot be read as .npz ({reason})", "write it again with numpy.savez, without objects"
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise SparError(f"{path.name}: '{name}' holds {array.dtype}, not numbers", "write it as floats")
    return {name: array if name == "terminated" else array.astype(np.float32) for name, array in arrays.items()}
