"""What the arrays of a user's file mean: the names that are usual in the field, and what an entry says of others.

Every array of a file either has a meaning here, is named in the dataset's entry, or is refused by name. So no array is
left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from spar_core.errors import SparError
from spar_core.settings import nearest

Meaning = Literal["observations", "next_observations", "actions", "rewards", "terminals", "timeouts", "dones"]
MEANINGS: tuple[str, ...] = get_args(Meaning)
NEEDED = ("observations", "actions", "rewards")
FLAGS = ("terminals", "timeouts", "dones")
# Names in D4RL, OGBench, d3rlpy, Gymnasium, Minari, Stable-Baselines3, imitation and Tianshou.
USUAL = {
    "observations": ("observations", "observation", "obs"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "obs_next"),
    "actions": ("actions", "action", "acts", "act"),
    "rewards": ("rewards", "reward", "rews", "rew"),
    "terminals": ("terminals", "terminal", "terminated", "terminations"),
    "timeouts": ("timeouts", "timeout", "truncated", "truncations"),
    "dones": ("dones", "done"),
}
MEANS = {name: meaning for meaning, names in USUAL.items() for name in names}
# Groups and arrays that D4RL's and OGBench's files hold beside the episodes; nothing is trained on them.
BESIDE = ("infos", "metadata", "qpos", "qvel")
NUMBERS = "fiub"  # NumPy's kinds: float, integer, unsigned integer, boolean
SHOWN = 6  # names that an error line lists


@dataclass(frozen=True)
class Naming:
    """What a dataset's entry says about the arrays of its files.

    Attributes:
        arrays: the name in the file of each array that is not called as usual.
        ignored: names of arrays that are left out.
    """

    arrays: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    def find(self, held: Sequence[str], where: str) -> dict[str, str]:
        """The name of the array behind each meaning that a file holds.

        Args:
            held: names of the arrays in the file.
            where: name of the file, for error lines.

        Raises:
            SparError: the file lacks a needed array, or one that the entry names; two arrays have one meaning; or an
                array has no known meaning.
        """
        found: dict[str, str] = {}
        for meaning, name in self.arrays.items():
            if name not in held:
                raise SparError(
                    f"the entry says that '{name}' holds the {meaning}, but {where} has no such array",
                    nearest(name, list(held)) if held else "correct 'arrays' in the dataset's entry",
                )
            found[meaning] = name
        left = [name for name in held if name not in (*self.arrays.values(), *self.ignored) and not _beside(name)]
        for name in [name for name in left if name in MEANS]:
            meaning = MEANS[name]
            if meaning in found:
                raise SparError(
                    f"{where} holds '{found[meaning]}' and '{name}', which both mean {meaning}",
                    f"leave one out with 'ignored_arrays: [{name}]' in the dataset's entry",
                )
            found[meaning] = name
            left.remove(name)
        for meaning in NEEDED:
            if meaning not in found:
                inside = [name for name in held if name.startswith(f"{meaning}/")]
                if inside:
                    raise SparError(
                        f"{where}: '{meaning}' is a group of {listed(inside)}, not an array",
                        f"choose one of them with 'arrays: {{{meaning}: {inside[0]}}}' in the dataset's entry",
                    )
                raise SparError(
                    f"{where} has no array '{meaning}'; it holds {listed(held)}",
                    f"write it, or name it in the dataset's entry with 'arrays: {{{meaning}: NAME}}'",
                )
        if left:
            raise SparError(
                f"{where} holds {listed(left)}, and nothing says what that means",
                "name it in the dataset's entry, such as 'arrays: {terminals: NAME}', or leave it out with "
                f"'ignored_arrays: [{', '.join(left[:SHOWN])}]'",
            )
        return {meaning: found[meaning] for meaning in MEANINGS if meaning in found}


AS_USUAL = Naming()


def unusual(found: Mapping[str, str]) -> dict[str, str]:
    """The meanings whose array does not have the same name, and that name."""
    return {meaning: name for meaning, name in found.items() if name != meaning}


def check_continuous(what: str, dtype: np.dtype[Any]) -> None:
    """Refuse actions of a NumPy type that holds no fractions.

    Args:
        what: name of the actions, for the error line.
        dtype: their type.

    Raises:
        SparError: the type is one of integers or truth values.
    """
    if dtype.kind != "f":
        raise SparError(
            f"{what} holds {dtype}, so the actions are choices, and only continuous actions are supported",
            "if they are continuous, write them as floats",
        )


def listed(names: Iterable[str]) -> str:
    """Names for an error line, the first few of many."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more if names else "no array"


def _beside(name: str) -> bool:
    return name.strip("/").split("/")[0] in BESIDE
