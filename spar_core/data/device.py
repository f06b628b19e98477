"""A dataset as tensors on the training device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spar_core.data.dataset import Dataset


@dataclass(frozen=True)
class DeviceData:
    """The arrays of a :class:`~spar_core.data.dataset.Dataset` that minibatches are gathered from.

    Attributes:
        observations: [N + E, D]; rows ``index`` and ``index + 1`` are a step's observation and the next.
        actions: [N, A] in [-1, 1].
        rewards: [N], raw.
        alive: [N], 0 where the step ended in a terminal state, else 1 (also where the episode was cut).
        index: [N], the observation row of each step.
        episode: [N], the number of each step's episode in the whole dataset.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    index: Tensor
    episode: Tensor

    @classmethod
    def of(cls, dataset: Dataset, device: str = "cpu") -> DeviceData:
        def move(array: np.ndarray) -> Tensor:
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
        """Observations [..., D] and actions [..., A] of the given steps."""
        return self.observations[self.index[steps]], self.actions[steps]
