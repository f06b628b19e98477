"""Standardised observations, and actions mapped to [-1, 1].

Both maps are part of every artifact, so that a policy acts on raw observations and returns raw actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# A dimension that hardly changes would be divided by nearly zero.
SMALLEST_STD = 1e-3
# A dimension that never changes in the data tells a network nothing, and must not disturb it where the environment
# does change it (D4RL's ant has contact forces that are all zero). Divided by this it counts as zero whatever it
# is, and a policy from outside still gets the raw number back.
IGNORED = 1e30


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of observations [D]; low and high bound of actions [A]; float32."""

    observation_mean: np.ndarray
    observation_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray

    @classmethod
    def fit(
        cls,
        observations: np.ndarray,
        action_low: np.ndarray,
        action_high: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> Scaler:
        """Fit to the ``rows`` (default: all) of observations [n, D] (those of the training episodes only) and to the
        environment's action bounds."""
        size = observations.shape[1]
        mean, std = np.empty(size), np.empty(size)
        for dimension in range(size):  # one at a time: all of them in float64 would be twice the data
            column = observations[:, dimension] if rows is None else observations[rows, dimension]
            mean[dimension], std[dimension] = column.mean(dtype=np.float64), column.std(dtype=np.float64)
            std[dimension] = IGNORED if np.ptp(column) == 0.0 else max(std[dimension], SMALLEST_STD)
        bounds = (np.asarray(bound, dtype=np.float32) for bound in (action_low, action_high))
        return cls(mean.astype(np.float32), std.astype(np.float32), *bounds)

    def standardise(self, observations: np.ndarray, *, in_place: bool = False) -> np.ndarray:
        """Raw observations [..., D] to standardised ones, float32; ``in_place`` only for arrays of float32."""
        raw = np.asarray(observations, dtype=np.float32)
        out = np.subtract(raw, self.observation_mean, out=raw if in_place else None)
        return np.divide(out, self.observation_std, out=out)

    def actions_to_unit(self, actions: np.ndarray, *, in_place: bool = False) -> np.ndarray:
        """Raw actions [..., A] to [-1, 1], float32; values outside the bounds are not clipped here."""
        span = self.action_high - self.action_low
        raw = np.asarray(actions, dtype=np.float32)
        out = np.subtract(raw, self.action_low, out=raw if in_place else None)
        np.multiply(out, np.float32(2.0), out=out)
        np.divide(out, span, out=out)
        return np.subtract(out, np.float32(1.0), out=out)

    def actions_from_unit(self, actions: np.ndarray) -> np.ndarray:
        """Actions in [-1, 1] to raw ones, clipped to the bounds, float32."""
        raw = self.action_low + (np.asarray(actions, dtype=np.float32) + 1.0) * (
            0.5 * (self.action_high - self.action_low)
        )
        return np.clip(raw, self.action_low, self.action_high).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scaler:
        """The inverse of :meth:`to_dict` (exact: float32 survives JSON)."""
        return cls(**{name: np.asarray(values[name], dtype=np.float32) for name in cls.__dataclass_fields__})
