"""Dictionary observations as one vector, and back.

The vector holds the leaves of the dictionary one after the other, depth first, with the keys sorted by name
at each level, or those that ``observation_keys`` names, in its order. A matrix is laid out row by row. The
order is made here, so neither the order in which a dictionary was filled nor Gymnasium can change it.

A plain vector is a layout of a single part with an empty path, and passes through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spar_core.errors import SparError
from spar_core.settings import nearest

if TYPE_CHECKING:
    from gymnasium import Space

MOST_AXES = 2  # A box of floats with more axes is taken for an image.


@dataclass(frozen=True)
class Part:
    """One leaf of the dictionary: columns ``start`` to ``stop`` of the vector hold its ``shape``, row by row.

    ``path`` is such as ``achieved_goal/kettle``.
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
        """D, the numbers in one observation."""
        return self.parts[-1].stop

    @property
    def plain(self) -> bool:
        """Whether observations are vectors already."""
        return self.parts[0].path == ""

    def flatten(self, observation: Any) -> np.ndarray:
        """One observation to [D] float32, or a batch, whose leaves have the same leading axes, to [..., D].

        Leaves that are not part of the layout are left out.

        Raises:
            SparError: a leaf is missing, has another shape, or differs from the others in its leading axes.
        """
        leaves = [self._leaf(observation, part) for part in self.parts]
        leading = {leaf.shape[:-1] for leaf in leaves}
        if len(leading) > 1:
            found = ", ".join(f"'{p.path}' {leaf.shape[:-1]}" for p, leaf in zip(self.parts, leaves, strict=True))
            raise SparError(f"the parts of the observation differ in their leading axes: {found}")
        return np.concatenate(leaves, axis=-1)

    def unflatten(self, vectors: np.ndarray) -> Any:
        """[..., D] to a nested dictionary whose leaves are [..., *shape]; a plain layout returns the vectors.

        Raises:
            SparError: the last axis is not D.
        """
        vectors = np.asarray(vectors)
        if vectors.shape[-1:] != (self.size,):
            raise SparError(f"an array {vectors.shape} holds no observations of {self.size} numbers")
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

    def _leaf(self, observation: Any, part: Part) -> np.ndarray:
        """One part of an observation as [..., numbers of the part] float32."""
        value = observation
        for name in part.path.split("/") if part.path else ():
            if not isinstance(value, Mapping) or name not in value:
                raise SparError(f"the observation has no part '{part.path}'")
            value = value[name]
        array = np.asarray(value, dtype=np.float32)
        axes = array.ndim - len(part.shape)
        if axes < 0 or array.shape[axes:] != part.shape:
            where = f"part '{part.path}' of the observation" if part.path else "the observation"
            raise SparError(f"{where} has the shape {array.shape}, which does not end in {part.shape}")
        return array.reshape((*array.shape[:axes], part.stop - part.start))


def observation_layout(
    space: Space, observation_keys: Sequence[str] | None = None, owner: str = "the environment"
) -> ObservationLayout:
    """The layout of an observation space.

    Args:
        space: a box with one axis, or a dictionary of boxes and dictionaries.
        observation_keys: parts to take, in this order, such as ``observation`` or ``achieved_goal/kettle``;
            a path that names a dictionary takes all of it. Null takes every part, sorted by name.
        owner: whose observations these are, for the messages.

    Raises:
        SparError: a part that is no box of floats, an unknown key (the line names the nearest), a part named
            twice, or keys although the observations are no dictionary.
    """
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        chosen = _chosen(dict(_leaves(space, (), owner)), observation_keys, owner)
        leaves = {path: _shape(path, inner, owner) for path, inner in chosen.items()}
    elif observation_keys is not None:
        raise SparError(f"the observations of {owner} are no dictionary", "remove 'observation_keys'")
    elif isinstance(space, Box) and len(space.shape) == 1:
        leaves = {"": space.shape}
    else:
        raise SparError(f"the observations of {owner} are {_kind(space)}, not one vector", "only vectors are supported")
    parts, start = [], 0
    for path, shape in leaves.items():
        parts.append(Part(path, start, start + math.prod(shape), tuple(shape)))
        start = parts[-1].stop
    if start == 0:
        raise SparError(f"the observations of {owner} hold no numbers", "only vectors are supported")
    return ObservationLayout(tuple(parts))


def _leaves(space: Any, above: tuple[str, ...], owner: str) -> Iterator[tuple[str, Any]]:
    """Path and space of each leaf of a dictionary space, in the documented order."""
    from gymnasium.spaces import Dict

    for name in space.spaces:
        if not isinstance(name, str) or not name or "/" in name:
            raise SparError(f"the observations of {owner} have a key {name!r}", "only names without '/' are supported")
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
                    raise SparError(f"'observation_keys' names '{path}' twice", "name every part once")
                chosen[path] = inner
    return chosen


def _shape(path: str, space: Any, owner: str) -> tuple[int, ...]:
    from gymnasium.spaces import Box

    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) <= MOST_AXES:
        return space.shape
    raise SparError(
        f"part '{path}' of the observations of {owner} is {_kind(space)}, not a vector of floats",
        "only boxes of floats with at most two axes can be part of the vector; 'observation_keys' leaves others out",
    )


def _kind(space: Any) -> str:
    """A space in words, such as ``a Box space of shape (64, 64, 3) and type uint8``."""
    words = f"a {type(space).__name__} space"
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    return words if not shape else f"{words} of shape {shape} and type {dtype}"
