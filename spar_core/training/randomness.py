"""Random streams: one generator for each seed and purpose, so that a seed's draws do not depend on other seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator whose draws depend only on ``seed`` and ``purpose``."""
    word = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(word[:8], "little") >> 1)


class Streams(list[torch.Generator]):
    """A list of generators that can be part of a checkpoint."""

    def state_dict(self) -> dict[str, Tensor]:
        """The states of all generators, for checkpoints."""
        return {"states": torch.stack([generator.get_state() for generator in self])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the states from :meth:`state_dict`, in place."""
        for generator, bits in zip(self, state["states"], strict=True):
            # Torch reads a state from the start of its storage, so it needs a copy with a storage of its own.
            generator.set_state(bits.clone())


def streams(seeds: Sequence[int], purpose: str) -> Streams:
    """One generator for each seed."""
    return Streams(stream(seed, purpose) for seed in seeds)


def normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal draws [S, *shape]; each seed's draws come from its own generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


class Draws:
    """Random tensors [S, ...], one for each step; each seed's draws come from its own stream.

    They are drawn for several steps at once, because a call for each step and seed takes longer than the draw itself,
    and so does a transfer to the device.

    Args:
        seeds: the S seeds.
        purpose: purpose of the streams.
        draw: maps a generator and a number of steps n to draws [n, ...] on the CPU.
        device: the device of the tensors.
        block: number of steps drawn at a time; it does not change the draws.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        purpose: str,
        draw: Callable[[torch.Generator, int], Tensor],
        device: str = "cpu",
        block: int = 64,
    ) -> None:
        self.generators = streams(seeds, purpose)
        self.draw, self.device, self.block = draw, device, block
        self._drawn: Tensor | None = None
        self._used = block

    def next(self) -> Tensor:
        """The draws of the next step, [S, ...]."""
        if self._drawn is None or self._used == self.block:
            parts = [self.draw(generator, self.block) for generator in self.generators]
            drawn, self._used = torch.stack(parts, dim=1), 0
            # Copying from pinned memory does not block, so drawing overlaps with the steps on the device.
            on_device = torch.device(self.device).type == "cuda"
            self._drawn = drawn.pin_memory().to(self.device, non_blocking=True) if on_device else drawn
        self._used += 1
        return self._drawn[self._used - 1]

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the streams and the draws that are not used yet, for checkpoints."""
        drawn = {} if self._drawn is None else {"drawn": self._drawn}
        return {**self.generators.state_dict(), **drawn, "used": torch.tensor(self._used)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state from :meth:`state_dict`, in place."""
        self.generators.load_state_dict(state)
        self._drawn = state["drawn"].to(self.device) if "drawn" in state else None
        self._used = int(state["used"])


def gaussian(*shape: int) -> Callable[[torch.Generator, int], Tensor]:
    """A ``draw`` function for :class:`Draws`, of standard normal draws with the given shape."""
    return lambda generator, n: torch.stack([torch.randn(shape, generator=generator) for _ in range(n)])


def uniform(*shape: int) -> Callable[[torch.Generator, int], Tensor]:
    """A ``draw`` function for :class:`Draws`, of uniform draws from [0, 1) with the given shape."""
    return lambda generator, n: torch.stack([torch.rand(shape, generator=generator) for _ in range(n)])


class Minibatches(Draws):
    """Minibatches [S, B] of steps, drawn uniformly with replacement from ``choices`` [n]."""

    def __init__(
        self,
        choices: NDArray[np.int64] | Tensor,
        seeds: Sequence[int],
        batch_size: int,
        purpose: str,
        device: str = "cpu",
        block: int = 64,
    ) -> None:
        of = torch.as_tensor(choices)

        def draw(generator: torch.Generator, n: int) -> Tensor:
            return of[torch.randint(len(of), (n, batch_size), generator=generator)]

        super().__init__(seeds, purpose, draw, device, block)
