"""Random streams: one generator per (seed, purpose), so that no seed's draws depend on its neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

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


class Draws:
    """Random tensors [S, ...], one a step, each seed's from its own stream, drawn some steps ahead.

    A call per step and seed costs more than the draw of a minibatch, and on a device each transfer costs too.

    Args:
        seeds: one stream each.
        purpose: of the streams.
        draw: takes a generator and a number of steps n, and gives [n, ...] on the CPU.
        device: where the tensors are wanted.
        block: steps drawn at a time; it changes no draw.
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
        """The next step's."""
        if self._drawn is None or self._used == self.block:
            parts = [self.draw(generator, self.block) for generator in self.generators]
            drawn, self._used = torch.stack(parts, dim=1), 0
            # From pinned memory the copy waits for nothing: the next draws overlap with the steps that take these.
            on_device = torch.device(self.device).type == "cuda"
            self._drawn = drawn.pin_memory().to(self.device, non_blocking=True) if on_device else drawn
        self._used += 1
        return self._drawn[self._used - 1]

    def state_dict(self) -> dict[str, Tensor]:
        drawn = {} if self._drawn is None else {"drawn": self._drawn}
        return {**self.generators.state_dict(), **drawn, "used": torch.tensor(self._used)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.generators.load_state_dict(state)
        self._drawn = state["drawn"].to(self.device) if "drawn" in state else None
        self._used = int(state["used"])


def gaussian(*shape: int) -> Callable[[torch.Generator, int], Tensor]:
    """For :class:`Draws`: standard normal draws of a shape."""
    return lambda generator, n: torch.stack([torch.randn(shape, generator=generator) for _ in range(n)])


def uniform(*shape: int) -> Callable[[torch.Generator, int], Tensor]:
    """For :class:`Draws`: draws of [0, 1) of a shape."""
    return lambda generator, n: torch.stack([torch.rand(shape, generator=generator) for _ in range(n)])


class Minibatches(Draws):
    """Minibatch indices [S, B], drawn uniformly with replacement from ``choices``."""

    def __init__(
        self,
        choices: np.ndarray | Tensor,
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
