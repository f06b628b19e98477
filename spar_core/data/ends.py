"""Flags that end episodes: which steps lead to a terminal state, and at which ones an episode was cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.names import NUMBERS
from spar_core.errors import SparError


@dataclass(frozen=True)
class Ends:
    """The ends of episodes that a file marks, for N steps.

    Attributes:
        terminals: [N] bool, steps that lead to a terminal state.
        timeouts: [N] bool, steps at which an episode was cut, or that end one in either way; None if the file does not
            show all cuts.
        note: what an array was taken for that can be read in two ways; empty if there is none.
    """

    terminals: NDArray[np.bool_]
    timeouts: NDArray[np.bool_] | None
    note: str = ""

    @property
    def marked(self) -> NDArray[np.bool_]:
        """[N] bool, steps that end an episode in one way or the other."""
        return self.terminals if self.timeouts is None else self.terminals | self.timeouts


def read_ends(
    arrays: Mapping[str, Any], names: Mapping[str, str], where: str, steps: int, *, ignore_timeouts: bool = False
) -> Ends:
    """Read the flags of a file.

    A step with a terminal and a timeout is terminal, as in D4RL and Gymnasium. ``dones`` mark every end, so with
    ``timeouts`` those are the cuts among them, as in Stable-Baselines3, and with ``terminals`` all others are cuts.
    ``dones`` alone are taken for terminals, as the update rules of most libraries do; the note says so.

    Args:
        arrays: arrays [N] or [N, 1] by their meaning, on disk or in memory.
        names: their names in the file, by their meaning.
        where: name of the file, for error lines.
        steps: N.
        ignore_timeouts: whether ``timeouts`` are wrong and are left out.

    Raises:
        SparError: a flag is neither 0 nor 1, or ``terminals`` hold a step that ``dones`` do not.
    """
    found = {
        meaning: flags(arrays[meaning], f"'{names[meaning]}' of {where}")
        for meaning in ("terminals", "timeouts", "dones")
        if meaning in arrays and not (meaning == "timeouts" and ignore_timeouts)
    }
    terminals, timeouts, dones = (found.get(meaning) for meaning in ("terminals", "timeouts", "dones"))
    if dones is None:
        return Ends(np.zeros(steps, bool) if terminals is None else terminals, timeouts)
    if terminals is not None:
        if (terminals & ~dones).any():
            raise SparError(
                f"{where}: step {int((terminals & ~dones).argmax())} is terminal, but not an end in '{names['dones']}'",
                "leave out the array that is wrong with 'ignored_arrays' in the dataset's entry",
            )
        return Ends(terminals, dones if timeouts is None else timeouts | dones)
    if timeouts is not None:
        return Ends(dones & ~timeouts, timeouts)
    return Ends(
        dones,
        np.zeros(steps, bool),
        f"'{names['dones']}' was taken for terminal states, since no other array marks ends; if it marks cuts (time "
        f"limits), write 'arrays: {{timeouts: {names['dones']}}}' into the dataset's entry",
    )


def flags(array: Any, what: str) -> NDArray[np.bool_]:
    """Truth values [N] from an array of numbers, on disk or in memory.

    Args:
        array: [N] or [N, 1].
        what: its name, for error lines.

    Raises:
        SparError: a number is neither 0 nor 1.
    """
    values: NDArray[Any] = np.asarray(array[()]).reshape(-1)
    if values.dtype.kind not in NUMBERS:
        raise SparError(f"{what} holds {values.dtype}, not numbers", "write 0 or 1")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        at = int(wrong.argmax())
        if np.isnan(values[at]):
            raise SparError(
                f"{what} is NaN at step {at}", "write 0 or 1 there: a NaN does not say whether the episode ends"
            )
        raise SparError(
            f"{what} is {values[at]} at step {at}", "write 0 or 1: another number does not say whether the episode ends"
        )
    return values.astype(bool)
