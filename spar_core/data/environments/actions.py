"""The bounds of actions: those of an environment or dataset, and those that an entry sets within them.

Networks act in [-1, 1], and the scaler maps this range to the bounds. So every bound must be finite, and float32 must
be able to tell the data's actions apart between them. A dimension whose two bounds are equal has only one action, which
the scaler leaves out of learning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spar_core.errors import SparError

if TYPE_CHECKING:
    from gymnasium import Space

Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]

# Smallest share of the bounds' range that the data's actions may span. float32 resolves 1e-7 of the range.
SMALLEST_SPAN = 1e-5
SAME = 1e-6  # Bounds that differ by less are the same.
HINT = "set 'action_low' and 'action_high' in the dataset's entry to what policies may do"


def space_bounds(actions: Space[Any], owner: str) -> Bounds:
    """Lower and upper bounds [A] of an action space; they may be infinite.

    Args:
        actions: the space.
        owner: the environment or dataset that it belongs to, for error lines.

    Raises:
        SparError: the actions are not a vector of floats.
    """
    from gymnasium.spaces import Box

    if not isinstance(actions, Box) or len(actions.shape) != 1 or not np.issubdtype(actions.dtype, np.floating):
        raise SparError(
            f"the actions of {owner} are {actions}, not a bounded vector of floats",
            "choose another environment or dataset: discrete actions and integers are not supported",
        )
    return _float32(actions.low), _float32(actions.high)


def joined_bounds(environment: Bounds, data: Bounds, env_id: str | None) -> Bounds:
    """The environment's bounds [A], and the data's where the environment has none.

    Raises:
        SparError: both have a bound, and the two differ.
    """
    found = []
    for ours, theirs in zip(environment, data, strict=True):
        both = np.isfinite(ours) & np.isfinite(theirs)
        if not np.allclose(ours[both], theirs[both], atol=SAME):
            low, high = (np.round(bound, 4).tolist() for bound in data)
            raise SparError(
                f"the data's action bounds {low} to {high} are not those of '{env_id}'",
                "correct 'env_id' or 'env_kwargs' in the dataset's entry",
            )
        found.append(np.where(np.isfinite(ours), ours, theirs))
    return found[0], found[1]


def narrowed_bounds(bounds: Bounds, wanted: tuple[Any, Any], owner: str) -> Bounds:
    """The bounds that an entry sets, one by one; where it sets none, those given.

    Args:
        bounds: of the environment or the data, [A]; they may be infinite.
        wanted: the entry's ``action_low`` and ``action_high``: a number, A numbers, or None.
        owner: the environment or dataset that ``bounds`` belong to, for error lines.

    Raises:
        SparError: the entry has another number of bounds than A, or one that lies outside ``bounds``.
    """
    found = []
    for name, ours, theirs, sign in zip(("action_low", "action_high"), bounds, wanted, (1, -1), strict=True):
        if theirs is None:
            found.append(ours)
            continue
        values = _float32(theirs)
        if values.shape not in ((), ours.shape):
            raise SparError(
                f"'{name}' in the dataset's entry has {len(values)} numbers, but actions have {len(ours)} dimensions",
                "give one number for all dimensions, or one for each",
            )
        values = np.broadcast_to(values, ours.shape).copy()
        with np.errstate(invalid="ignore"):
            outside = np.flatnonzero(sign * (ours - values) > SAME)
        if len(outside):
            i = int(outside[0])
            raise SparError(
                f"'{name}' in the dataset's entry is {values[i]:g} in dimension {i}, outside the bounds of {owner} "
                f"({bounds[0][i]:g} to {bounds[1][i]:g})",
                f"give bounds within these, or remove '{name}'",
            )
        found.append(values)
    return found[0], found[1]


def check_bounds(bounds: Bounds, actions: NDArray[np.float32], owner: str) -> None:
    """Make sure that actions can be learned within bounds.

    Args:
        bounds: lower and upper bounds [A].
        actions: the data's actions, [N, A].
        owner: the environment or dataset that the bounds belong to, for error lines.

    Raises:
        SparError: a bound is not finite, a lower one lies above its upper one, no dimension has two different bounds,
            or float32 cannot tell the data's actions apart between the bounds.
    """
    if not len(actions):
        return
    low, high = bounds
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
    for i, (one, other, range_) in enumerate(zip(low.tolist(), high.tolist(), width.tolist(), strict=True)):
        seen = actions[:, i]
        least, most = float(seen.min()), float(seen.max())
        if not np.isfinite(range_):
            raise SparError(
                f"the actions of {owner} have no usable bounds in dimension {i} ({one:g} to {other:g})",
                f"{HINT}; the data's lie between {least:g} and {most:g}",
            )
        if range_ < 0:
            raise SparError(
                f"the lower bound {one:g} of action dimension {i} lies above the upper bound {other:g}",
                "correct 'action_low' and 'action_high' in the dataset's entry",
            )
        if 0 < most - least < SMALLEST_SPAN * range_:
            raise SparError(
                f"the data's actions lie between {least:g} and {most:g} in dimension {i}, which float32 cannot tell "
                f"apart between the bounds of {owner}, {one:g} and {other:g}",
                HINT,
            )
    if not width.any():
        raise SparError(
            f"the lower and upper bounds of {owner} are equal in every action dimension, so there is nothing to learn",
            "correct 'env_id', or 'action_low' and 'action_high', in the dataset's entry",
        )


def _float32(values: Any) -> NDArray[np.float32]:
    """The numbers as float32; one that is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float64).astype(np.float32)
