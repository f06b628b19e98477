"""What a policy takes and gives: the parts of its observations in their order, and where its data come from.

A policy's networks take one vector. If the robot or the environment gives a dictionary, the order of its parts in that
vector decides what the policy does. So the policy's folder holds the layout, and :meth:`Interface.vectors` refuses what
does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.environments.flatten import ObservationLayout
from spar_core.errors import SparError


@dataclass(frozen=True)
class Interface:
    """The observations of a policy, and the dataset that they belong to.

    Attributes:
        observation_size: D, the length of the vector.
        layout: of a dictionary observation; None if observations are vectors.
        chosen: whether the dataset's entry chose some parts of the dictionary (``observation_keys``). Then a dictionary
            may hold further parts, which the policy does not see.
        dataset: id of the dataset; None where the folder does not say.
        digest: of the dataset's episodes; None where the folder does not say.
        env_id: Gymnasium id of the environment; None where there is none, or the folder does not say.
    """

    observation_size: int
    layout: ObservationLayout | None = None
    chosen: bool = False
    dataset: str | None = None
    digest: str | None = None
    env_id: str | None = None

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Interface:
        """That of the policies which are trained on a dataset, from the dataset's manifest."""
        environment = manifest["environment"]
        parts = environment["observation_layout"]
        return cls(
            manifest["observation_size"],
            None if parts is None else ObservationLayout.from_list(parts),
            environment["observation_keys"] is not None,
            manifest["dataset"],
            manifest["digest"],
            environment["env_id"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self), "layout": None if self.layout is None else self.layout.to_list()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Interface:
        """The inverse of :meth:`to_dict`."""
        parts = values["layout"]
        return cls(**{**values, "layout": None if parts is None else ObservationLayout.from_list(parts)})

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each part of an observation, in the vector's order. A vector is one part, named ``""``."""
        if self.layout is None:
            return {"": (self.observation_size,)}
        return {part.path: part.shape for part in self.layout.parts}

    def names(self) -> list[str]:
        """A name of each column of the vector, for messages: ``'goal'[1]``, or ``dimension 4`` of a plain vector."""
        if self.layout is None:
            return [f"dimension {column}" for column in range(self.observation_size)]
        return [f"'{part.path}'[{column}]" for part in self.layout.parts for column in range(part.stop - part.start)]

    def vectors(self, observation: Any) -> NDArray[np.float32]:
        """The vectors [D] or [B, D] of an observation or a batch of them.

        Args:
            observation: a vector [D] or a batch [B, D], in the layout's order. If there is a layout: also a dictionary
                whose leaves have the shapes of the parts, each with or without a first axis of B.

        Raises:
            SparError: the observation does not fit: another size, a missing or unknown part, text, NaN or infinity.
        """
        array = self._of_parts(observation) if isinstance(observation, Mapping) else _numbers(observation, "")
        if array.ndim not in (1, 2) or array.shape[-1] != self.observation_size:
            raise SparError(
                f"observation of shape {array.shape} given",
                f"this policy takes [{self.observation_size}] or a batch of it",
            )
        finite = np.isfinite(array).reshape(-1, self.observation_size).all(axis=0)
        if not finite.all():
            where = self.names()[int(finite.argmin())]
            raise SparError(f"the observation holds NaN or infinity ({where})", "check where it comes from")
        return array

    def _of_parts(self, observation: Mapping[Any, Any]) -> NDArray[np.float32]:
        if self.layout is None:
            raise SparError(
                f"a dictionary is given, and this policy takes vectors [{self.observation_size}]",
                "if it was trained on dictionaries, its folder is of before it held their layout: run `dvc repro`",
            )
        wanted, given = self.parts(), dict(_leaves(observation))
        takes = "this policy takes " + ", ".join(f"'{path}' {list(shape)}" for path, shape in wanted.items())
        missing = [path for path in wanted if path not in given]
        unknown = [path for path in given if path not in wanted]
        if missing:
            raise SparError(f"the observation has no part '{missing[0]}'", takes)
        if unknown and not self.chosen:
            raise SparError(f"the observation has an unknown part '{unknown[0]}'", takes)
        batches: dict[tuple[int, ...], str] = {}
        for path, shape in wanted.items():
            leaf = np.shape(_numbers(given[path], path))
            batch = leaf[: len(leaf) - len(shape)]
            if leaf[len(batch) :] != shape or len(batch) > 1:
                raise SparError(f"part '{path}' of the observation has the shape {list(leaf)}", takes)
            batches.setdefault(batch, path)
        if len(batches) > 1:
            (one, first), (two, second), *_ = batches.items()
            raise SparError(
                f"part '{first}' of the observation has the batch shape {list(one)}, and part '{second}' {list(two)}",
                "give every part the same number of rows",
            )
        return self.layout.flatten(observation)


def _leaves(observation: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each leaf of a nested dictionary."""
    for name, value in observation.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _numbers(value: Any, path: str) -> NDArray[np.float32]:
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        what = f"part '{path}' of the observation" if path else "the observation"
        raise SparError(f"{what} is not an array of numbers, but of type {type(value).__name__}") from None
