"""Random streams: one generator per (seed, purpose), so that no seed's draws depend on its neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on ``seed`` and ``purpose`` alone."""
    word = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(word[:8], "little") >> 1)


class Streams(list[torch.Generator]):
    """Generators whose states can be kept and taken back."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"states": torch.stack([generator.get_state() for generator in self])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for generator, bits in zip(self, state["states"], strict=True):
            # A copy of its own: the state is read from the start of its storage.
            generator.set_state(bits.clone())


def streams(seeds: Sequence[int], purpose: str) -> Streams:
    """One generator a seed."""
    return Streams(stream(seed, purpose) for seed in seeds)


def normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal draws [S, *shape], each seed's slice from its own generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


class Minibatches:
    """Minibatch indices, drawn uniformly with replacement from ``choices``, separately for each seed.

    Draws are made for ``block`` steps at a time because a call per step and seed costs more than the draw.
    """

    def __init__(
        self, choices: np.ndarray | Tensor, seeds: Sequence[int], batch_size: int, purpose: str, block: int = 64
    ) -> None:
        self.choices = torch.as_tensor(choices)
        self.generators = streams(seeds, purpose)
        self.batch_size = batch_size
        self.block = block
        self._drawn = torch.empty(len(seeds), 0, batch_size, dtype=torch.long)
        self._used = 0

    def next(self) -> Tensor:
        """Indices [S, B] of the next step."""
        if self._used == self._drawn.shape[1]:
            shape = (self.block, self.batch_size)
            picks = [torch.randint(len(self.choices), shape, generator=g) for g in self.generators]
            self._drawn, self._used = self.choices[torch.stack(picks)], 0
        self._used += 1
        return self._drawn[:, self._used - 1]

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.generators.state_dict(), "drawn": self._drawn, "used": torch.tensor(self._used)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.generators.load_state_dict(state)
        self._drawn, self._used = state["drawn"], int(state["used"])
