"""A policy of somebody else's, for the anchor ``external``."""

from __future__ import annotations

import numpy as np

from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE

WEIGHT = np.random.default_rng(7).normal(size=(OBSERVATION_SIZE, ACTION_SIZE)).astype(np.float32) / 2


def act(observations: np.ndarray) -> np.ndarray:
    """Actions [B, A] in the bounds [-1, 1] of the toy dataset."""
    return np.tanh(observations @ WEIGHT)
