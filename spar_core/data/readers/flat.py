"""Cut flat arrays into episodes, for files on disk and for arrays in memory.

A marked step ends an episode. If there are ``next_observations``, a step whose next observation is not the observation
of the following row is the last of its episode too, even if it is not marked. The last row ends the last episode.

If there are no ``next_observations``, the observation after an episode's last step is not known. A copy of the last
step's observation takes its place, and ``last_known`` is false. Temporal differences leave out the last step of such an
episode if it was cut, because they would bootstrap from the copy. Nothing is bootstrapped after a terminal step.

Rows are read in blocks, directly into the final arrays, so that reading takes little more memory than these arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.ends import Ends
from spar_core.data.episodes import Episodes
from spar_core.errors import SparError

# Relative difference up to which a next observation counts as the following row; it allows for float32 rounding.
SAME_ROW = 1e-5
BLOCK = 1 << 14  # rows read at a time
# Share of the steps inside episodes, above which next observations that are no following rows are a mistake, not cuts.
MOST = 0.5

Arrays = Mapping[str, Any]


def cut(arrays: Arrays, where: str, ends: Ends, max_episode_steps: int | None = None) -> tuple[Episodes, int]:
    """Cut flat arrays into episodes.

    Args:
        arrays: ``observations`` [N, D], ``actions`` [N, A], ``rewards`` [N] or [N, 1], and perhaps
            ``next_observations`` [N, D]; each is indexed by slices of rows. N is at least one.
        where: name of the file, for error lines.
        ends: the ends that are marked. If cuts are among them, few unmarked cuts are expected.
        max_episode_steps: length at which episodes are cut.

    Returns:
        The episodes, and the number of them whose end is not marked.

    Raises:
        SparError: the next observations are shifted against the observations, or belong to rows in another order.
    """
    jumps = np.zeros(len(ends.marked), bool)
    if "next_observations" in arrays:
        jumps = ~_follows(arrays, 1) & ~_cut_long(ends.marked, None)
        inside = ~_cut_long(ends.marked, max_episode_steps)
        _check_order(arrays, where, inside, jumps & inside, ends.timeouts is not None)
    last = np.flatnonzero(_cut_long(ends.marked | jumps, max_episode_steps))
    episodes = Episodes.empty(np.diff(last, prepend=-1), arrays["observations"].shape[1], arrays["actions"].shape[1])
    with np.errstate(over="ignore"):  # drop_unusable reports a number that float32 cannot hold, with its place.
        _fill(episodes, arrays, last)
    episodes.terminated[:] = ends.terminals[last]
    episodes.last_known[:] = "next_observations" in arrays
    return episodes, int(jumps.sum())


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


def _check_order(
    arrays: Arrays, where: str, inside: NDArray[np.bool_], jumps: NDArray[np.bool_], cuts_are_marked: bool
) -> None:
    """Refuse next observations that are those of other rows at most of the steps ``inside`` [N] marked episodes."""
    steps = int(inside.sum())
    if jumps.sum() <= MOST * steps:
        return
    for offset, which in ((0, "the observations of the same rows"), (2, "the observations two rows later")):
        shifted = int((_follows(arrays, offset) & jumps).sum())
        if shifted > MOST * steps:
            raise SparError(
                f"{where}: next_observations are {which} at {shifted} of {steps} steps inside episodes, not those of "
                "the following rows: the arrays are shifted against each other",
                "write the observation before a step and the one after it into the same row",
            )
    if cuts_are_marked:
        raise SparError(
            f"{where}: next_observations are not the following rows' observations at {int(jumps.sum())} of {steps} "
            "steps inside episodes: the rows are not in the order of time, or an array belongs to other data",
            "write the steps of each episode one after the other, or leave next_observations out",
        )


def _follows(arrays: Arrays, offset: int) -> NDArray[np.bool_]:
    """At which steps [N] the next observation is the observation ``offset`` rows later; false where there is none."""
    rows = len(arrays["observations"])
    same = np.zeros(rows, dtype=bool)
    for start, stop in _blocks(rows - offset):
        following = _as_float32(arrays["next_observations"][start:stop])
        row = _as_float32(arrays["observations"][start + offset : stop + offset])
        # A NaN counts as the same here; drop_unusable reports it with its place.
        with np.errstate(invalid="ignore"):
            same[start:stop] = ~(np.abs(following - row) > SAME_ROW * (1.0 + np.abs(row))).any(axis=1)
    return same


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


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
