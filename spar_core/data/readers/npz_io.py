"""A user's own episodes: a folder of ``.npz`` files, one an episode, in the order of their names.

Each file holds, for an episode of T steps,

- ``observations`` [T + 1, D]; or [T, D] and ``next_observations`` [T, D], or [T, D] alone where the observation
  after the last step was not recorded (no value is bootstrapped from it then);
- ``actions`` [T, A] and ``rewards`` [T];
- ``terminated``, one truth value or [T]: whether the last step ended in a terminal state. Without it the episode
  counts as cut, which is the safe reading: values are continued through its end.

Files are opened without pickle, so that a dataset from elsewhere cannot run code.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from spar_core.data.episodes import Episode, Episodes
from spar_core.data.limits import check_claim, check_inside
from spar_core.errors import SparError

NEEDED = ("observations", "actions", "rewards")
KNOWN = (*NEEDED, "next_observations", "terminated")


def npz_files(folder: Path) -> list[Path]:
    """The episodes' files, by name.

    Raises:
        SparError: there is no such folder, it holds none, or one is a link out of the folder.
    """
    if not folder.is_dir():
        raise SparError(f"{folder} is no folder", "check 'path' in the dataset's entry")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise SparError(f"{folder} holds no .npz file", "it should hold one file an episode")
    for file in files:
        check_inside(file, folder)
    return files


def read_npz(folder: Path) -> Episodes:
    """Read all episodes.

    Raises:
        SparError: a file is missing, damaged, claims more than it can hold, lacks an array, or holds one of
            another shape or of no numbers; the line names the file.
    """
    return Episodes.of([_read(file) for file in npz_files(folder)])


def _read(path: Path) -> Episode:
    arrays = _arrays(path)
    for name in NEEDED:
        if name not in arrays:
            raise SparError(f"{path.name} has no array '{name}'", f"an episode needs {', '.join(NEEDED)}")
    observations, actions = arrays["observations"], arrays["actions"]
    rewards = arrays["rewards"].reshape(-1)
    steps, rows = len(rewards), len(observations) if observations.ndim == 2 else -1
    following = arrays.get("next_observations")
    if actions.ndim != 2 or len(actions) != steps or rows not in (steps, steps + 1):
        raise SparError(
            f"{path.name}: observations {observations.shape}, actions {actions.shape} and rewards {rewards.shape} "
            "do not fit together",
            "expected [T + 1, D] (or [T, D]), [T, A] and [T]",
        )
    if following is not None and following.shape != observations[:steps].shape:
        raise SparError(f"{path.name}: next_observations {following.shape} and observations differ in shape")
    known = rows == steps + 1 or following is not None
    if rows == steps:
        last = (observations if following is None else following)[-1:]
        nothing = np.zeros((1, observations.shape[1]), np.float32)  # an empty episode, left out later
        observations = np.concatenate([observations, last if steps else nothing])
    return Episode(observations, actions, rewards, _terminated(path.name, arrays.get("terminated"), steps), known)


def _terminated(name: str, flag: np.ndarray | None, steps: int) -> bool:
    """Whether an episode's last step is terminal; ``flag`` holds one value for all of it, or one a step."""
    if flag is None:
        return False
    if flag.size not in (1, steps):
        raise SparError(
            f"{name}: 'terminated' holds {flag.size} values for {steps} steps", "write one value, or one a step"
        )
    flat = flag.reshape(-1)
    if np.isnan(flat).any():
        raise SparError(f"{name}: 'terminated' holds NaN", "write 0 or 1")
    if flat[:-1].any():
        raise SparError(
            f"{name}: 'terminated' is true at step {int(flat.argmax())}, before the last of {steps}",
            "write one file an episode, each up to its end",
        )
    return bool(flat.any())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one file, numbers as float32."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in KNOWN]
            check_claim(path.name, sum(info.file_size for info in members), sum(info.compress_size for info in members))
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in KNOWN if name in stored.files}
    except SparError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SparError(
            f"{path.name} cannot be read as .npz ({reason})", "write it again with numpy.savez, without objects"
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise SparError(f"{path.name}: '{name}' holds {array.dtype}, not numbers", "write it as floats")
    return {name: array if name == "terminated" else array.astype(np.float32) for name, array in arrays.items()}
