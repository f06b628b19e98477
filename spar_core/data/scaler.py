"""Standardised observations, and actions mapped to [-1, 1].

Both maps are part of every artifact, so that a policy acts on raw observations and returns raw actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# A dimension that never changes would be divided by zero; this leaves it at zero after centring.
SMALLEST_STD = 1e-3


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of observations [D]; low and high bound of actions [A]; float32."""

    observation_mean: np.ndarray
    observation_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray

    @classmethod
    def fit(cls, observations: np.ndarray, action_low: np.ndarray, action_high: np.ndarray) -> Scaler:
        """Fit to observations [n, D] (of the training episodes only) and the environment's action bounds."""
        wide = np.asarray(observations, dtype=np.float64)
        return cls(
            wide.mean(0).astype(np.float32),
            np.maximum(wide.std(0), SMALLEST_STD).astype(np.float32),
            np.asarray(action_low, dtype=np.float32),
            np.asarray(action_high, dtype=np.float32),
        )

    def standardise(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations [..., D] to standardised ones, float32."""
        return (np.asarray(observations, dtype=np.float32) - self.observation_mean) / self.observation_std

    def actions_to_unit(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions [..., A] to [-1, 1], float32; values outside the bounds are not clipped here."""
        span = self.action_high - self.action_low
        return (2.0 * (np.asarray(actions, dtype=np.float32) - self.action_low) / span - 1.0).astype(np.float32)

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
