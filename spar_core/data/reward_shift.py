"""What published methods do to sparse rewards before they train on them, by name.

A critic learns little from rewards that are zero almost everywhere, and each method that reports on AntMaze maps
them by ``scale * reward + shift`` first. Only training sees the result: returns are reported as they were logged.

- ``iql``: a cost of one for every step that is not at the goal. Implicit Q-learning (Kostrikov et al. 2022, arXiv
  2110.06169; in the authors' code, ``train_offline.py``; they saw no difference to ``cql``).
- ``cql``: zeros and ones to -2 and 2. Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779; in the authors'
  code, ``d4rl/examples/cql_antmaze_new.py``).
- ``rebrac``: a hundred times the reward (Tarasov et al. 2023, arXiv 2305.09836; in the authors' code, which takes it
  from LAPO).
"""

from __future__ import annotations

import numpy as np

# (scale, shift) by name; the names are what ``reward_shift`` of a dataset's entry takes.
REWARD_SHIFTS = {"none": (1.0, 0.0), "iql": (1.0, -1.0), "cql": (4.0, -2.0), "rebrac": (100.0, 0.0)}


def shift_rewards(rewards: np.ndarray, name: str) -> np.ndarray:
    """``scale * reward + shift`` for rewards [N], float32.

    Raises:
        KeyError: no such name.
    """
    scale, shift = REWARD_SHIFTS[name]
    return (np.float32(scale) * rewards + np.float32(shift)).astype(np.float32)
