"""Read D4RL's flat HDF5 layout into episodes.

These rules decide where an episode ends:

- ``terminals`` end an episode in a terminal state, and ``timeouts`` cut it. A step with both is terminal.
- ``max_episode_steps`` cuts episodes at that length. It is meant for files without usable ``timeouts``.
- If the file has ``next_observations``, a step whose next observation is not the observation of the following row is
  the last of its episode, even if it is not marked. Such unmarked cuts are counted.
- The last row of the file ends the last episode.

If the file has no ``next_observations``, the observation after an episode's last step is not known. A copy of the last
step's observation takes its place, and ``last_known`` is false. Temporal differences leave out the last step of such an
episode if it was cut, because they would bootstrap from the copy. Nothing is bootstrapped after a terminal step.

The file is read in blocks, directly into the final arrays, so that reading takes little more memory than these arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spar_core.data.d4rl_file import Arrays, open_d4rl, read_flags
from spar_core.data.episodes import Episodes
from spar_core.errors import SparError

# Relative difference up to which a next observation counts as the following row; it allows for float32 rounding.
SAME_ROW = 1e-5
BLOCK = 1 << 14  # rows read at a time


@dataclass(frozen=True)
class D4rlReport:
    """Facts about the file.

    Attributes:
        rows: number of rows.
        unmarked_cuts: number of episodes whose end is not marked, and shows only by ``next_observations``.
        unknown_last_observations: number of episodes whose observation after the last step is not in the file.
        kinds: NumPy type of each array in the file, such as ``float64``; numbers are converted to float32.
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
        terminals_are_truncations: whether ``terminals`` mark cuts, as in D4RL's human demonstrations.
        ignore_timeouts: whether to ignore ``timeouts`` because they are wrong, as in D4RL's ``door-human-v0``.
        max_episode_steps: length at which episodes are cut, for files without timeouts.

    Raises:
        SparError: :func:`~spar_core.data.d4rl_file.open_d4rl` refuses the file, or the file does not show where its
            episodes end.
    """
    with open_d4rl(path) as arrays:
        rows = len(arrays["rewards"])
        terminals = read_flags(arrays, "terminals")
        assert terminals is not None  # open_d4rl requires them.
        timeouts = None if ignore_timeouts else read_flags(arrays, "timeouts")
        known = "next_observations" in arrays
        if timeouts is None and not known and max_episode_steps is None and not ignore_timeouts:
            raise SparError(
                f"{path.name} has neither timeouts nor next_observations, so it does not show where episodes were cut",
                "set 'max_episode_steps' in the dataset's entry, or 'ignore_timeouts: true' if no episode was cut",
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


def _fill(episodes: Episodes, arrays: Arrays, ends: NDArray[np.int64]) -> None:
    """Copy all rows into ``episodes``, and after each of ``ends`` its next observation, or a copy of its own one."""
    for start, stop in _blocks(episodes.steps):
        episodes.actions[start:stop] = arrays["actions"][start:stop]
        episodes.rewards[start:stop] = arrays["rewards"][start:stop].reshape(stop - start)
        seen = arrays["observations"][start:stop].astype(np.float32)
        # Each episode that ended earlier takes one more row of observations than it has steps.
        before = np.searchsorted(ends, np.arange(start, stop))
        episodes.observations[np.arange(start, stop) + before] = seen
        numbers = np.arange(*np.searchsorted(ends, (start, stop)))
        last = seen
        if "next_observations" in arrays and len(numbers):
            last = arrays["next_observations"][start:stop].astype(np.float32)
        episodes.observations[ends[numbers] + numbers + 1] = last[ends[numbers] - start]


def _jumps(arrays: Arrays) -> NDArray[np.bool_]:
    """Which steps [N] have a next observation that is not the observation of the following row."""
    rows = len(arrays["rewards"])
    jumps = np.zeros(rows, dtype=bool)
    if "next_observations" not in arrays:
        return jumps
    for start, stop in _blocks(rows - 1):
        following = arrays["next_observations"][start:stop].astype(np.float32)
        row = arrays["observations"][start + 1 : stop + 1].astype(np.float32)
        # A NaN does not count as a jump here; drop_unusable reports it with its place.
        with np.errstate(invalid="ignore"):
            jumps[start:stop] = (np.abs(following - row) > SAME_ROW * (1.0 + np.abs(row))).any(axis=1)
    return jumps


def _cut_long(ends: NDArray[np.bool_], limit: int | None) -> NDArray[np.bool_]:
    """The ends [N], with further ones after every ``limit`` steps of an episode and at the last row."""
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
