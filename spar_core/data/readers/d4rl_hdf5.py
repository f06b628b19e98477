"""Read D4RL's flat HDF5 layout into episodes.

These rules decide where an episode ends:

- ``terminals`` end an episode in a terminal state, and ``timeouts`` cut it. A step with both is terminal.
- ``max_episode_steps`` cuts episodes at that length. It is meant for files without usable ``timeouts``.
- If the file has ``next_observations``, a step whose next observation is not the observation of the following row is
  the last of its episode, even if it is not marked. Such unmarked cuts are counted.
- The last row of the file ends the last episode.

``dones`` are read as :func:`~spar_core.data.ends.read_ends` says. :mod:`spar_core.data.readers.flat` cuts the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spar_core.data.d4rl_file import names_of, open_d4rl
from spar_core.data.ends import read_ends
from spar_core.data.episodes import Episodes
from spar_core.data.names import AS_USUAL, Naming
from spar_core.data.readers.flat import cut
from spar_core.errors import SparError


@dataclass(frozen=True)
class D4rlReport:
    """Facts about the file.

    Attributes:
        rows: number of rows.
        unmarked_cuts: number of episodes whose end is not marked, and shows only by ``next_observations``.
        unknown_last_observations: number of episodes whose observation after the last step is not in the file.
        kinds: NumPy type of each array in the file, such as ``float64``; numbers are converted to float32.
        names: the name in the file of each array, by its meaning.
        notes: lines about arrays that can be read in two ways.
    """

    rows: int
    unmarked_cuts: int
    unknown_last_observations: int
    kinds: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_d4rl(
    path: Path,
    *,
    terminals_are_truncations: bool = False,
    ignore_timeouts: bool = False,
    max_episode_steps: int | None = None,
    naming: Naming = AS_USUAL,
) -> tuple[Episodes, D4rlReport]:
    """Read a D4RL file.

    Args:
        path: the HDF5 file.
        terminals_are_truncations: whether ``terminals`` mark cuts, as in D4RL's human demonstrations.
        ignore_timeouts: whether to ignore ``timeouts`` because they are wrong, as in D4RL's ``door-human-v0``.
        max_episode_steps: length at which episodes are cut, for files without timeouts.
        naming: what the dataset's entry says about the names of arrays.

    Raises:
        SparError: :func:`~spar_core.data.d4rl_file.open_d4rl` refuses the file, or the file does not show where its
            episodes end, or its rows are not in order.
    """
    with open_d4rl(path, naming=naming) as arrays:
        rows = len(arrays["rewards"])
        names = names_of(arrays)
        ends = read_ends(arrays, names, path.name, rows, ignore_timeouts=ignore_timeouts)
        known = "next_observations" in arrays
        if ends.timeouts is None and not known and max_episode_steps is None and not ignore_timeouts:
            raise SparError(
                f"{path.name} has neither timeouts nor next_observations, so it does not show where episodes were cut",
                "set 'max_episode_steps' in the dataset's entry, or 'ignore_timeouts: true' if no episode was cut",
            )
        episodes, jumps = cut(arrays, path.name, ends, max_episode_steps)
        kinds = {meaning: str(array.dtype) for meaning, array in arrays.items()}
    if terminals_are_truncations:
        episodes.terminated[:] = False
    notes = (f"{path.name}: {ends.note}",) if ends.note and not terminals_are_truncations else ()
    return episodes, D4rlReport(rows, jumps, 0 if known else len(episodes), kinds, names, notes)
