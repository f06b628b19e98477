"""Convert dictionary observations to one vector, and back.

The vector holds the leaves of the dictionary one after the other, depth first, with the keys of each level sorted by
name. If ``observation_keys`` is given, the vector holds the leaves that it names, in its order. A matrix is stored row
by row. This module alone decides the order, so it depends neither on how a dictionary was filled nor on Gymnasium.

The layout of an observation that is a vector already has one part with an empty path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.names import NUMBERS
from spar_core.errors import SparError
from spar_core.settings import nearest

if TYPE_CHECKING:
    from gymnasium import Space

MOST_AXES = 2  # A box of floats with more axes counts as an image.


@dataclass(frozen=True)
class Part:
    """One leaf of the dictionary.

    Attributes:
        path: keys that lead to it, such as ``achieved_goal/kettle``.
        start: its first column of the vector.
        stop: the column after its last one.
        shape: its shape; a matrix is stored row by row.
    """

    path: str
    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ObservationLayout:
    """Where each part of an observation lies in the vector [D]."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """D, the length of the vector."""
        return self.parts[-1].stop

    @property
    def plain(self) -> bool:
        """Whether observations are vectors already."""
        return self.parts[0].path == ""

    def flatten(self, observation: Any) -> NDArray[np.float32]:
        """Convert an observation, or a batch of them, to vectors [..., D].

        Args:
            observation: a dictionary whose leaves are [..., *shape] with the same leading axes; or an array [..., D],
                if the layout is plain. Leaves that are not part of the layout are left out.

        Raises:
            SparError: a leaf is missing or has another shape, or the leading axes of the leaves differ.
        """
        leaves = [self._leaf(observation, part) for part in self.parts]
        leading = {leaf.shape[:-1] for leaf in leaves}
        if len(leading) > 1:
            found = ", ".join(f"'{p.path}' {leaf.shape[:-1]}" for p, leaf in zip(self.parts, leaves, strict=True))
            raise SparError(
                f"the parts of the observation differ in their leading axes: {found}", "give every part one batch shape"
            )
        return np.concatenate(leaves, axis=-1)

    def unflatten(self, vectors: NDArray[Any]) -> Any:
        """Convert vectors [..., D] to a nested dictionary of leaves [..., *shape]; a plain layout returns the vectors.

        Raises:
            SparError: the last axis is not D.
        """
        vectors = np.asarray(vectors)
        if vectors.shape[-1:] != (self.size,):
            raise SparError(
                f"an array of shape {vectors.shape} does not hold observations of {self.size} numbers",
                f"give an array [..., {self.size}]",
            )
        if self.plain:
            return vectors
        nested: dict[str, Any] = {}
        for part in self.parts:
            *parents, name = part.path.split("/")
            level = nested
            for parent in parents:
                level = level.setdefault(parent, {})
            level[name] = vectors[..., part.start : part.stop].reshape((*vectors.shape[:-1], *part.shape))
        return nested

    def to_list(self) -> list[dict[str, Any]]:
        """The parts as plain values, for JSON."""
        return [{"path": p.path, "start": p.start, "stop": p.stop, "shape": list(p.shape)} for p in self.parts]

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> ObservationLayout:
        """The inverse of :meth:`to_list`."""
        return cls(tuple(Part(v["path"], v["start"], v["stop"], tuple(v["shape"])) for v in values))

    def _leaf(self, observation: Any, part: Part) -> NDArray[np.float32]:
        """One part of an observation, [..., stop - start]."""
        value = observation
        for name in part.path.split("/") if part.path else ():
            if not isinstance(value, Mapping) or name not in value:
                raise SparError(
                    f"the observation has no part '{part.path}'", "correct 'observation_keys' in the dataset's entry"
                )
            value = value[name]
        array = np.asarray(value)
        where = f"part '{part.path}' of the observation" if part.path else "the observation"
        if array.dtype.kind not in NUMBERS:
            raise SparError(f"{where} has the type {array.dtype}", "it must hold real numbers")
        array = array.astype(np.float32, copy=False)
        axes = array.ndim - len(part.shape)
        if axes < 0 or array.shape[axes:] != part.shape:
            raise SparError(
                f"{where} has the shape {array.shape}, which does not end in {part.shape}",
                "check that data and environment belong together",
            )
        return array.reshape((*array.shape[:axes], part.stop - part.start))


def observation_layout(
    space: Space[Any], observation_keys: Sequence[str] | None = None, owner: str = "the environment"
) -> ObservationLayout:
    """The layout of an observation space.

    Args:
        space: a box with one axis, or a dictionary of boxes and dictionaries.
        observation_keys: parts to take, in this order, such as ``observation`` or ``achieved_goal/kettle``. A path to a
            dictionary takes all of its leaves. None takes every part, sorted by name.
        owner: the environment or dataset that the observations belong to, for error lines.

    Raises:
        SparError: a part is not a box of floats; a key is unknown (the line names the nearest one), or names a part a
            second time; or there are keys but the observations are not a dictionary.
    """
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        chosen = _chosen(dict(_leaves(space, (), owner)), observation_keys, owner)
        leaves = {path: _shape(path, inner, owner) for path, inner in chosen.items()}
    elif observation_keys is not None:
        raise SparError(
            f"the observations of {owner} are not a dictionary", "remove 'observation_keys' from the dataset's entry"
        )
    elif isinstance(space, Box) and len(space.shape) == 1:
        leaves = {"": space.shape}
    else:
        raise SparError(
            f"the observations of {owner} are {_kind(space)}, not one vector",
            "choose another environment: only vectors and dictionaries of vectors are supported",
        )
    parts, start = [], 0
    for path, shape in leaves.items():
        parts.append(Part(path, start, start + math.prod(shape), tuple(shape)))
        start = parts[-1].stop
    if start == 0:
        raise SparError(
            f"the observations of {owner} hold no numbers",
            "choose another environment: an observation must have at least one number",
        )
    return ObservationLayout(tuple(parts))


def _leaves(space: Any, above: tuple[str, ...], owner: str) -> Iterator[tuple[str, Any]]:
    """Path and space of each leaf of a dictionary space, depth first, sorted by name at each level."""
    from gymnasium.spaces import Dict

    for name in space.spaces:
        if not isinstance(name, str) or not name or "/" in name:
            raise SparError(
                f"the observations of {owner} have the key {name!r}", "rename it: a key must be text without '/'"
            )
    for name in sorted(space.spaces):
        inner, path = space.spaces[name], (*above, name)
        if isinstance(inner, Dict):
            yield from _leaves(inner, path, owner)
        else:
            yield "/".join(path), inner


def _chosen(leaves: Mapping[str, Any], keys: Sequence[str] | None, owner: str) -> dict[str, Any]:
    """The leaves that ``keys`` name, in the order of ``keys``."""
    if keys is None:
        return dict(leaves)
    parents = {"/".join(path.split("/")[:depth]) for path in leaves for depth in range(1, path.count("/") + 1)}
    chosen: dict[str, Any] = {}
    for key in keys:
        if key not in leaves and key not in parents:
            raise SparError(
                f"the observations of {owner} have no part '{key}'", nearest(key, sorted({*leaves, *parents}))
            )
        for path, inner in leaves.items():
            if path == key or path.startswith(f"{key}/"):
                if path in chosen:
                    raise SparError(f"'observation_keys' names '{path}' twice", "name each part once")
                chosen[path] = inner
    return chosen


def _shape(path: str, space: Any, owner: str) -> tuple[int, ...]:
    from gymnasium.spaces import Box

    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) <= MOST_AXES:
        return space.shape
    raise SparError(
        f"part '{path}' of the observations of {owner} is {_kind(space)}, not a vector of floats",
        "name the other parts in 'observation_keys': only boxes of floats with at most two axes fit into the vector",
    )


def _kind(space: Any) -> str:
    """A space in words, such as "a Box space of shape (64, 64, 3) and type uint8"."""
    words = f"a {type(space).__name__} space"
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    return words if not shape else f"{words} of shape {shape} and type {dtype}"
