"""A dataset as tensors on the training device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spar_core.data.dataset import Dataset


@dataclass(frozen=True)
class DeviceData:
    """The arrays of a :class:`~spar_core.data.dataset.Dataset` that minibatches are gathered from.

    Attributes:
        observations: [N + E, D] float32, standardised; rows ``index`` and ``index + 1`` are a step's observation and
            its next observation.
        actions: [N, A] float32 in [-1, 1].
        rewards: [N] float32, the rewards of training.
        alive: [N] float32, 0 if no reward after the step counts for its value (it ended in a terminal state, or is one
            of the dataset's ``stops``), and 1 otherwise, also if the episode was cut there.
        index: [N] int64, the observation row of each step.
        episode: [N] int64, the number of each step's episode in the whole dataset.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    index: Tensor
    episode: Tensor

    @classmethod
    def of(cls, dataset: Dataset, device: str = "cpu") -> DeviceData:
        """Copy a dataset's arrays to a Torch device."""

        def move(array: NDArray[Any]) -> Tensor:
            return torch.as_tensor(array).to(device)

        return cls(
            move(dataset.observations),
            move(dataset.actions),
            move(dataset.rewards),
            move((~dataset.step_terminated).astype(np.float32)),
            move(dataset.observation_index),
            move(dataset.episode_number),
        )

    def at(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [..., D] and actions [..., A] of the steps [...]."""
        return self.observations[self.index[steps]], self.actions[steps]
