"""Read a user's own episodes: one ``.npz`` file, or a folder of them in the order of their names.

A file of T steps holds:

- ``observations`` [T + 1, D]; or [T, D] together with ``next_observations`` [T, D]; or [T, D] alone, if the observation
  after the last step was not recorded. In the last case, no value is bootstrapped from that observation.
- ``actions`` [T, A] and ``rewards`` [T].
- flags, each one truth value or [T]: ``terminals`` (a step leads to a terminal state), ``timeouts`` (an episode was
  cut), ``dones`` (either). One value is about the last step. A file whose flags mark inner steps is cut there into
  several episodes. Without a flag at its end, the last episode counts as cut, and values are bootstrapped from its last
  observation.

Arrays may have any of the names in :mod:`spar_core.data.names`, or one that the dataset's entry gives. Files are opened
without pickle, so that a dataset cannot run code.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.ends import Ends, read_ends
from spar_core.data.episodes import Episodes
from spar_core.data.limits import check_claim, check_inside
from spar_core.data.names import AS_USUAL, FLAGS, NEEDED, NUMBERS, Naming, check_continuous
from spar_core.data.readers.flat import cut
from spar_core.errors import SparError


@dataclass(frozen=True)
class NpzReport:
    """Facts about the files of a folder.

    Attributes:
        files: number of files.
        unmarked_cuts: number of episodes whose end is not marked, and shows only by ``next_observations``.
        names: the name in the files of each array, by its meaning; several, with commas, if files differ.
        notes: lines about arrays that can be read in two ways.
    """

    files: int
    unmarked_cuts: int
    names: dict[str, str]
    notes: tuple[str, ...]


def npz_files(folder: Path) -> list[Path]:
    """The files of the episodes, sorted by name; ``folder`` may also be one such file.

    Raises:
        SparError: the folder does not exist or holds no such file, or a file is a link to a place outside the folder.
    """
    if folder.is_file() and folder.suffix == ".npz":
        return [folder]
    if not folder.is_dir():
        raise SparError(f"{folder} is neither a folder nor an .npz file", "check 'path' in the dataset's entry")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise SparError(f"{folder} holds no .npz file", "write one file for each episode")
    for file in files:
        check_inside(file, folder)
    return files


def read_npz(folder: Path, naming: Naming = AS_USUAL) -> tuple[Episodes, NpzReport]:
    """Read all episodes.

    Args:
        folder: the folder of files, or one file.
        naming: what the dataset's entry says about the names of arrays.

    Raises:
        SparError: a file is missing or damaged, takes more memory than there is, lacks an array or holds one of no
            known meaning; or an array has another shape, does not hold numbers, or is not in the order of time. The
            line names the file.
    """
    files = npz_files(folder)
    parts, cuts = [], 0
    names: dict[str, list[str]] = {}
    notes: list[str] = []
    needed = 0
    for path in files:
        arrays, found = _arrays(path, naming)
        # Numbers become float32, and all files' episodes are copied behind each other at the end.
        needed += sum(2 * 4 * arrays[meaning].size for meaning in NEEDED)
        check_claim(str(folder), needed, needed)
        episodes, jumps, remark = _episodes(path.name, arrays, found)
        parts.append(episodes)
        cuts += jumps
        if remark and not notes:
            notes.append(f"{path.name}: {remark}")
        for meaning, name in found.items():
            if name not in names.setdefault(meaning, []):
                names[meaning].append(name)
    together = Episodes.of([episode for part in parts for episode in part])
    return together, NpzReport(len(files), cuts, {key: ", ".join(some) for key, some in names.items()}, tuple(notes))


def _episodes(name: str, arrays: dict[str, NDArray[Any]], found: dict[str, str]) -> tuple[Episodes, int, str]:
    """The episodes of a file, the number of cuts that are not marked, and a note on what can be read in two ways."""
    observations, actions = arrays["observations"], arrays["actions"]
    rewards = arrays["rewards"]
    steps, rows = rewards.size, len(observations) if observations.ndim == 2 else -1
    if rewards.ndim == 0 or len(rewards) != steps or actions.ndim != 2 or len(actions) != steps:
        rows = -1
    if rows not in (steps, steps + 1):
        raise SparError(
            f"{name}: observations {observations.shape}, actions {actions.shape} and rewards {rewards.shape} "
            "do not fit together",
            "write [T + 1, D] (or [T, D]), [T, A] and [T]",
        )
    following = arrays.get("next_observations")
    if following is not None and following.shape != observations[:steps].shape:
        raise SparError(
            f"{name}: next_observations {following.shape} and observations {observations.shape} differ in shape",
            f"write next_observations [T, D], here {observations[:steps].shape}",
        )
    flags = {
        meaning: _a_step_each(arrays[meaning], found[meaning], name, steps) for meaning in FLAGS if meaning in arrays
    }
    ends = read_ends(flags, found, name, steps)
    if steps == 0:  # left out later, and counted
        return Episodes.empty(np.zeros(1, np.int64), observations.shape[1], actions.shape[1]), 0, ""
    note = ends.note
    if ends.timeouts is None:
        ends = Ends(ends.terminals, np.zeros(steps, bool))  # The end of a file is a mark, so few others are expected.
        if ends.terminals[:-1].any():
            called = found["terminals"]
            note = (
                f"'{called}' alone ends the episodes in it; if it marks cuts (time limits), write "
                f"'arrays: {{timeouts: {called}}}' into the dataset's entry"
            )
    last = observations[steps] if rows == steps + 1 else None
    episodes, jumps = cut({**arrays, "observations": observations[:steps]}, name, ends)
    if last is not None:
        if following is not None and not np.allclose(following[-1], last, rtol=1e-5, atol=1e-5, equal_nan=True):
            raise SparError(
                f"{name}: the last row of observations is not that of next_observations",
                "leave out next_observations, or the last row of observations",
            )
        with np.errstate(over="ignore"):  # as in `cut`
            episodes.observations[-1] = last
        episodes.last_known[-1] = True
    return episodes, jumps, note


def _a_step_each(flag: NDArray[Any], called: str, name: str, steps: int) -> NDArray[Any]:
    """A flag for each step [T], from such flags or from one for the last step."""
    if flag.shape in ((steps,), (steps, 1)):
        return flag.reshape(-1)
    if flag.size != 1:
        raise SparError(
            f"{name}: '{called}' has shape {flag.shape} for {steps} steps", "write one value, or one for each step"
        )
    spread = np.zeros(steps, flag.dtype)
    spread[-1:] = flag.reshape(-1)
    return spread


def _arrays(path: Path, naming: Naming) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of one file by their meaning, and their names; arrays without a use are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        found = naming.find(list(infos), path.name)
        members = [infos[name] for name in found.values()]
        check_claim(path.name, sum(info.file_size for info in members), sum(info.compress_size for info in members))
        with np.load(path, allow_pickle=False) as stored:
            arrays = {meaning: np.asarray(stored[name]) for meaning, name in found.items()}
    except SparError:
        raise
    except Exception as error:  # For a damaged archive, zipfile, zlib and NumPy each raise errors of their own.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SparError(
            f"{path.name} cannot be read as .npz ({reason})", "write it again with numpy.savez, without objects"
        ) from None
    for meaning, array in arrays.items():
        if array.dtype.kind not in NUMBERS:
            raise SparError(f"{path.name}: '{found[meaning]}' holds {array.dtype}, not numbers", "write it as floats")
    check_continuous(f"'{found['actions']}' of {path.name}", arrays["actions"].dtype)
    return arrays, found
