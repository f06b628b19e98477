"""The maps between raw and standardised observations, and between raw actions and [-1, 1].

Every policy artifact holds both maps, so that a policy takes raw observations and returns raw actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Lower limit of the standard deviation, so that a dimension that hardly changes is not divided by nearly zero.
SMALLEST_STD = 1e-3
# Standard deviation of a dimension that never changes in the data, such as the contact forces of D4RL's ant, which are
# all zero. A network learns nothing about such a dimension, so the environment must not disturb it there: divided by
# this number, any value becomes zero. An external policy still gets the raw value back, by multiplication.
IGNORED = 1e30


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of the observations, and bounds of the actions.

    A dimension of the actions whose two bounds are equal is zero for every network, and that bound for the environment.

    Attributes:
        observation_mean: [D].
        observation_std: [D], positive.
        action_low: [A].
        action_high: [A].
    """

    observation_mean: NDArray[np.float32]
    observation_std: NDArray[np.float32]
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        observations: NDArray[np.floating],
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        rows: NDArray[np.bool_] | None = None,
    ) -> Scaler:
        """Compute mean and standard deviation of each observation dimension.

        Args:
            observations: [n, D], raw.
            action_low: [A], lower bounds of the environment's actions.
            action_high: [A], upper bounds of the environment's actions.
            rows: [n], rows to use (those of the training episodes); None uses all.
        """
        size = observations.shape[1]
        mean, std = np.empty(size), np.empty(size)
        for dimension in range(size):  # one at a time: a float64 copy of all dimensions takes twice the data's memory
            column = observations[:, dimension] if rows is None else observations[rows, dimension]
            mean[dimension], std[dimension] = column.mean(dtype=np.float64), column.std(dtype=np.float64)
            std[dimension] = IGNORED if np.ptp(column) == 0.0 else max(std[dimension], SMALLEST_STD)
        bounds = (np.asarray(bound, dtype=np.float32) for bound in (action_low, action_high))
        return cls(mean.astype(np.float32), std.astype(np.float32), *bounds)

    def standardise(self, observations: ArrayLike, *, in_place: bool = False) -> NDArray[np.float32]:
        """Standardise raw observations [..., D]; ``in_place`` overwrites them, and needs a float32 array."""
        raw = np.asarray(observations, dtype=np.float32)
        out: NDArray[np.float32] = np.subtract(raw, self.observation_mean, out=raw if in_place else None)
        np.divide(out, self.observation_std, out=out)
        return out

    def actions_to_unit(self, actions: ArrayLike, *, in_place: bool = False) -> NDArray[np.float32]:
        """Map raw actions [..., A] to [-1, 1] without clipping; ``in_place`` overwrites them, and needs float32."""
        span = self.action_high - self.action_low
        only = span == 0.0
        raw = np.asarray(actions, dtype=np.float32)
        out: NDArray[np.float32] = np.subtract(raw, self.action_low, out=raw if in_place else None)
        np.multiply(out, np.float32(2.0), out=out)
        np.divide(out, np.where(only, np.float32(1.0), span), out=out)
        np.subtract(out, np.float32(1.0), out=out)
        out[..., only] = 0.0
        return out

    def actions_from_unit(self, actions: ArrayLike) -> NDArray[np.float32]:
        """Map actions [..., A] in [-1, 1] to raw actions, and clip those to the bounds."""
        raw = self.action_low + (np.asarray(actions, dtype=np.float32) + 1.0) * (
            0.5 * (self.action_high - self.action_low)
        )
        clipped: NDArray[np.float32] = np.clip(raw, self.action_low, self.action_high).astype(np.float32)
        return clipped

    def to_dict(self) -> dict[str, list[float]]:
        """The arrays as plain lists, for JSON."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scaler:
        """The inverse of :meth:`to_dict`, which is exact because JSON preserves float32 numbers."""
        return cls(**{name: np.asarray(values[name], dtype=np.float32) for name in cls.__dataclass_fields__})
