"""D4RL's flat HDF5 layout, read into episodes with the right ends.

Where an episode ends:

- ``terminals`` end an episode in a terminal state, ``timeouts`` cut it. A step with both is terminal.
- Without ``timeouts`` (or with ``ignore_timeouts``), ``max_episode_steps`` cuts at that length.
- Where ``next_observations`` exist, a step whose next observation is not the following row's observation
  is the last of its episode, whether it is marked or not; such unmarked cuts are counted.
- The last row of the file ends the last episode.

Where ``next_observations`` are missing, the observation after an episode's last step is not known. Of a cut
episode the last step is dropped and its observation becomes the last one, since a value is bootstrapped
there. Of a terminated episode the last step is kept with its own observation repeated: nothing is ever
bootstrapped from it, and dropping the step would lose the termination.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spar_core.data.episodes import Episode
from spar_core.errors import SparError

# Rows of one episode agree up to the rounding of float32.
SAME_ROW = 1e-5


@dataclass(frozen=True)
class D4rlReport:
    """What the conversion did: rows read, steps dropped at cuts, and ends that the file did not mark."""

    rows: int
    dropped_steps: int
    unmarked_cuts: int


def read_d4rl(
    path: Path,
    *,
    terminals_are_truncations: bool = False,
    ignore_timeouts: bool = False,
    max_episode_steps: int | None = None,
) -> tuple[list[Episode], D4rlReport]:
    """Read a D4RL file.

    Args:
        path: the HDF5 file.
        terminals_are_truncations: ``terminals`` mark cuts, as in D4RL's human demonstrations.
        ignore_timeouts: ``timeouts`` are wrong, as in D4RL's ``door-human-v0``.
        max_episode_steps: cut episodes at this length, for files without timeouts.

    Raises:
        SparError: the file is missing, is truncated or no HDF5 file, lacks an array, holds arrays of
            different lengths, or does not say where its episodes end.
    """
    arrays = _read_arrays(path)
    observations, actions, rewards = (arrays[name] for name in ("observations", "actions", "rewards"))
    terminals, following = arrays["terminals"], arrays.get("next_observations")
    timeouts = None if ignore_timeouts else arrays.get("timeouts")
    rows = len(rewards)
    if timeouts is None and following is None and max_episode_steps is None and not ignore_timeouts:
        raise SparError(
            f"{path.name} has neither timeouts nor next_observations, so cuts cannot be seen",
            "set 'max_episode_steps' in the dataset's entry, or 'ignore_timeouts: true' if there are none",
        )

    marked = terminals.copy() if timeouts is None else terminals | timeouts
    jumps = _jumps(observations, following) & ~marked
    ends = np.flatnonzero(_cut_long(marked | jumps, max_episode_steps))
    if terminals_are_truncations:
        terminals = np.zeros_like(terminals)

    episodes, dropped, start = [], 0, 0
    for end in ends.tolist():
        stop = end + 1
        if following is not None:
            last, keep = following[end:stop], stop
        elif terminals[end]:
            last, keep = observations[end:stop], stop
        else:
            last, keep = observations[end:stop], end
            dropped += 1
        if keep > start:
            seen = np.concatenate([observations[start:keep], last])
            episodes.append(Episode(seen, actions[start:keep], rewards[start:keep], bool(terminals[end])))
        start = stop
    return episodes, D4rlReport(rows, dropped, int(jumps.sum()))


def _jumps(observations: np.ndarray, following: np.ndarray | None) -> np.ndarray:
    """Steps [N] whose next observation is not the following row."""
    jumps = np.zeros(len(observations), dtype=bool)
    if following is not None and len(observations) > 1:
        gap = np.abs(following[:-1] - observations[1:])
        # A NaN compares as no jump here; the check of the episodes reports it where it stands.
        jumps[:-1] = (gap > SAME_ROW * (1.0 + np.abs(observations[1:]))).any(axis=1)
    return jumps


def _cut_long(ends: np.ndarray, limit: int | None) -> np.ndarray:
    """Ends [N] with one more every ``limit`` steps of an episode, and at the last row."""
    ends = ends.copy()
    ends[-1] = True
    if limit is not None:
        last = np.flatnonzero(ends)
        lengths = np.diff(last, prepend=-1)
        step = np.arange(len(ends)) - np.repeat(last - lengths, lengths)  # 1 at each episode's first step
        ends |= step % limit == 0
    return ends


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file: observations [N, D], actions [N, A], rewards [N] float32; flags [N] bool."""
    import h5py

    if not path.is_file():
        raise SparError(f"{path} does not exist", "check 'path' in the dataset's entry")
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts"):
                if name not in file:
                    continue
                if not isinstance(file[name], h5py.Dataset):
                    raise SparError(f"{path.name}: '{name}' is a group of arrays", "only flat arrays are supported")
                flag = name in ("terminals", "timeouts")
                arrays[name] = np.asarray(file[name][()]).astype(bool if flag else np.float32)
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).split("(")[-1].rstrip(")")
        raise SparError(
            f"{path.name} cannot be read as HDF5 ({reason}); it is truncated or not an HDF5 file",
            "fetch it again",
        ) from None
    return _checked(path, arrays)


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make sure that the needed arrays are there, flat, and of one length."""
    for name in ("observations", "actions", "rewards", "terminals"):
        if name not in arrays:
            raise SparError(f"{path.name} has no array '{name}'", "is it in D4RL's layout?")
    for name in ("rewards", "terminals", "timeouts"):
        if name in arrays:  # some files keep a trailing axis of one
            arrays[name] = arrays[name].reshape(len(arrays[name]), -1)
            if arrays[name].shape[1] != 1:
                raise SparError(f"{path.name}: '{name}' must hold one number a step")
            arrays[name] = arrays[name][:, 0]
    for name in ("observations", "next_observations", "actions"):
        if name in arrays and arrays[name].ndim != 2:
            raise SparError(f"{path.name}: '{name}' has shape {arrays[name].shape}, expected [steps, size]")
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SparError(f"{path.name}: the arrays differ in length ({listed})", "fetch the file again")
    if lengths["rewards"] == 0:
        raise SparError(f"{path.name} holds no steps")
    if "next_observations" in arrays and arrays["next_observations"].shape != arrays["observations"].shape:
        raise SparError(f"{path.name}: next_observations and observations differ in shape")
    return arrays
