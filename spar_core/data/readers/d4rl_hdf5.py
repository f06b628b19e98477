"""D4RL's flat HDF5 layout, read into episodes with the right ends.

Where an episode ends:

- ``terminals`` end an episode in a terminal state, ``timeouts`` cut it. A step with both is terminal.
- Without ``timeouts`` (or with ``ignore_timeouts``), ``max_episode_steps`` cuts at that length.
- Where ``next_observations`` exist, a step whose next observation is not the following row's observation
  is the last of its episode, whether it is marked or not; such unmarked cuts are counted.
- The last row of the file ends the last episode.

Where ``next_observations`` are missing, the observation after an episode's last step is not known. The step
keeps its action and its reward, its own observation is repeated after it, and the episode says so
(``last_known``): temporal differences leave out such a step of a cut episode, since they would bootstrap from
it; after a terminal step nothing is bootstrapped anyway.

The file is read in blocks, straight into the arrays that stay, so that it takes little more memory than them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spar_core.data.d4rl_file import Arrays, open_d4rl, read_flags
from spar_core.data.episodes import Episodes
from spar_core.errors import SparError

# Rows of one episode agree up to the rounding of float32.
SAME_ROW = 1e-5
BLOCK = 1 << 14  # rows read at a time


@dataclass(frozen=True)
class D4rlReport:
    """What the conversion found.

    Attributes:
        rows: of the file.
        unmarked_cuts: ends of episodes that only a jump to another observation shows.
        unknown_last_observations: episodes whose observation after the last step is not in the file.
        kinds: type of the numbers in each array, such as ``float64``; all become float32.
    """

    rows: int
    unmarked_cuts: int
    unknown_last_observations: int
    kinds: dict[str, str]


def read_d4rl(
    path: Path,
    *,
    terminals_are_truncations: bool = False,
    ignore_timeouts: bool = False,
    max_episode_steps: int | None = None,
) -> tuple[Episodes, D4rlReport]:
    """Read a D4RL file.

    Args:
        path: the HDF5 file.
        terminals_are_truncations: ``terminals`` mark cuts, as in D4RL's human demonstrations.
        ignore_timeouts: ``timeouts`` are wrong, as in D4RL's ``door-human-v0``.
        max_episode_steps: cut episodes at this length, for files without timeouts.

    Raises:
        SparError: the file is missing or cannot be read, is truncated or no HDF5 file, lacks an array, holds
            arrays of different lengths or of no numbers, claims more than it can hold, or does not say where
            its episodes end.
    """
    with open_d4rl(path) as arrays:
        rows = len(arrays["rewards"])
        terminals = read_flags(arrays, "terminals")
        timeouts = None if ignore_timeouts else read_flags(arrays, "timeouts")
        known = "next_observations" in arrays
        if timeouts is None and not known and max_episode_steps is None and not ignore_timeouts:
            raise SparError(
                f"{path.name} has neither timeouts nor next_observations, so cuts cannot be seen",
                "set 'max_episode_steps' in the dataset's entry, or 'ignore_timeouts: true' if there are none",
            )
        marked = terminals if timeouts is None else terminals | timeouts
        jumps = _jumps(arrays) & ~marked
        ends = np.flatnonzero(_cut_long(marked | jumps, max_episode_steps))
        episodes = Episodes.empty(
            np.diff(ends, prepend=-1), arrays["observations"].shape[1], arrays["actions"].shape[1]
        )
        _fill(episodes, arrays, ends)
    if not terminals_are_truncations:
        episodes.terminated[:] = terminals[ends]
    episodes.last_known[:] = known
    kinds = {name: str(array.dtype) for name, array in arrays.items()}
    return episodes, D4rlReport(rows, int(jumps.sum()), 0 if known else len(episodes), kinds)


def _fill(episodes: Episodes, arrays: Arrays, ends: np.ndarray) -> None:
    """Copy all rows, and the observation after each end where there is one."""
    for start, stop in _blocks(episodes.steps):
        episodes.actions[start:stop] = arrays["actions"][start:stop]
        episodes.rewards[start:stop] = arrays["rewards"][start:stop].reshape(stop - start)
        seen = arrays["observations"][start:stop].astype(np.float32)
        # Every episode that ended before a row has left one more row before it.
        before = np.searchsorted(ends, np.arange(start, stop))
        episodes.observations[np.arange(start, stop) + before] = seen
        numbers = np.arange(*np.searchsorted(ends, (start, stop)))
        last = seen
        if "next_observations" in arrays and len(numbers):
            last = arrays["next_observations"][start:stop].astype(np.float32)
        episodes.observations[ends[numbers] + numbers + 1] = last[ends[numbers] - start]


def _jumps(arrays: Arrays) -> np.ndarray:
    """Steps [N] whose next observation is not the following row."""
    rows = len(arrays["rewards"])
    jumps = np.zeros(rows, dtype=bool)
    if "next_observations" not in arrays:
        return jumps
    for start, stop in _blocks(rows - 1):
        following = arrays["next_observations"][start:stop].astype(np.float32)
        row = arrays["observations"][start + 1 : stop + 1].astype(np.float32)
        # A NaN compares as no jump here; the check of the episodes reports it where it stands.
        with np.errstate(invalid="ignore"):
            jumps[start:stop] = (np.abs(following - row) > SAME_ROW * (1.0 + np.abs(row))).any(axis=1)
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


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))
