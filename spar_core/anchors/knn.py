r"""Nearest neighbours in state space. Nothing is trained; steps of the data are stored.

.. math:: \pi(s) = \frac{1}{k} \sum_{i \in N_k(s)} a_i

over the k stored steps whose standardised observations lie nearest (Euclidean distance). A sample is the action of one
of them. The memory is a random part of the training steps, drawn once a seed.

At the dataset's own steps the step's own episode is left out (``act_on_steps``). Its neighbours in time lie closest, so
with them the residuals and their radius would be those of a policy that knows the answer.

Source: the nearest-neighbour rule (Cover and Hart 1967; for cloning as in VINN, Pari et al. 2022, with equal
weights in place of a softmax of distances).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor, ClonedSettings
from spar_core.data.device import DeviceData
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.randomness import stream

# Rows whose distances to the whole memory are computed at once.
ROWS = 512


class KNNAnchorSettings(ClonedSettings):
    """Settings of nearest neighbours."""

    neighbours: PositiveInt = Field(5, description="k, neighbours whose actions are averaged")
    memory: PositiveInt = Field(20_000, description="training steps that are stored, drawn once a seed")


class KNNAnchor(Anchor):
    """The memory of each seed: observations [M, D], actions [M, A] and episode numbers [M]."""

    Settings = KNNAnchorSettings
    stochastic = True

    def __init__(self, neighbours: int, observations: Tensor, actions: Tensor, episodes: Tensor) -> None:
        self.neighbours = min(neighbours, observations.shape[1])
        # Each seed gets a copy, because the address at which a matrix starts decides how its products round.
        self.observations = [row.clone() for row in observations]
        self.actions, self.episodes = actions, episodes

    @classmethod
    def clone(cls, context: Context, settings: KNNAnchorSettings) -> Fitted:
        dataset, seeds = context.dataset, context.seeds
        train = torch.as_tensor(dataset.train_steps)
        n = min(settings.memory, len(train))
        picks = [train[torch.randperm(len(train), generator=stream(s, "anchor/memory"))[:n]] for s in seeds]
        data = DeviceData.of(dataset)  # on the CPU: the tensors are saved
        chosen = [(*data.at(steps), data.episode[steps]) for steps in picks]
        names = ("observations", "actions", "episodes")
        return Fitted({name: torch.stack(rows) for name, rows in zip(names, zip(*chosen, strict=True), strict=True)})

    @classmethod
    def restore(cls, settings: KNNAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> KNNAnchor:
        names = ("observations", "actions", "episodes")
        return cls(settings.neighbours, *(tensors[name].to(device) for name in names))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return self._neighbours(observations).mean(dim=2)

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return _one_of(self._neighbours(observations), generators)

    @torch.no_grad()
    def act_on_steps(self, data: DeviceData, steps: Tensor) -> Tensor:
        return self._neighbours(data.observations[data.index[steps]], data.episode[steps]).mean(dim=2)

    @torch.no_grad()
    def sample_on_steps(self, data: DeviceData, steps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return _one_of(self._neighbours(data.observations[data.index[steps]], data.episode[steps]), generators)

    def _neighbours(self, observations: Tensor, episodes: Tensor | None = None) -> Tensor:
        """Actions [S, B, k, A] of the nearest steps. With ``episodes`` [S, B], each row's own episode is left out."""
        found = []
        for row, memory in enumerate(self.observations):
            half_squares = memory.square().sum(-1) / 2
            parts = []
            for start in range(0, observations.shape[1], ROWS):
                here = observations[row, start : start + ROWS].clone()
                # |s - m|^2 / 2 without |s|^2 / 2, which is the same for all of the memory.
                distance = torch.addmm(half_squares, here, memory.T, alpha=-1.0)
                if episodes is not None:
                    own = episodes[row, start : start + ROWS].unsqueeze(1) == self.episodes[row]
                    # A memory of that one episode alone is kept, since nothing would be left.
                    distance = distance.masked_fill(own & ~own.all(dim=1, keepdim=True), float("inf"))
                parts.append(distance.topk(self.neighbours, largest=False, sorted=False).indices)
            found.append(self.actions[row][torch.cat(parts)])
        return torch.stack(found)


def _one_of(actions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One action [S, B, A] drawn from each k of [S, B, k, A]."""
    picks = [torch.randint(actions.shape[2], actions.shape[1:2], generator=g) for g in generators]
    index = torch.stack(picks).to(actions.device)[..., None, None].expand(-1, -1, 1, actions.shape[-1])
    return actions.gather(2, index).squeeze(2)
