"""Linear maps of sparse rewards for training, as published methods use them.

A critic learns little from rewards that are zero almost everywhere. Each method that reports results on AntMaze
therefore trains on ``scale * reward + shift``. Returns are reported as they were logged.

- ``iql``: every step that is not at the goal costs one. Implicit Q-learning (Kostrikov et al. 2022, arXiv 2110.06169;
  ``train_offline.py`` of the authors' code). The authors saw no difference from ``cql``.
- ``cql``: rewards of 0 and 1 become -2 and 2. Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779;
  ``d4rl/examples/cql_antmaze_new.py`` of the authors' code).
- ``rebrac``: rewards are multiplied by 100. ReBRAC (Tarasov et al. 2023, arXiv 2305.09836; the authors' code, which
  takes the factor from LAPO).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# (scale, shift) for each value of ``reward_shift`` in a dataset's entry.
REWARD_SHIFTS = {"none": (1.0, 0.0), "iql": (1.0, -1.0), "cql": (4.0, -2.0), "rebrac": (100.0, 0.0)}


def shift_rewards(rewards: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """``scale * reward + shift`` for rewards [N].

    Raises:
        KeyError: ``name`` is not in ``REWARD_SHIFTS``.
    """
    scale, shift = REWARD_SHIFTS[name]
    return (np.float32(scale) * rewards + np.float32(shift)).astype(np.float32)
