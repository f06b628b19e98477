"""One update of a training loop, on a CUDA device as a graph that is captured once and then replayed.

An update of small networks is a hundred small kernels, and launching them one by one takes longer than running them; a
graph launches them all at once. In a long loop Torch's compiler makes fewer and larger kernels of them before. For that
an update may depend on nothing but its inputs and on tensors that it changes in place: random numbers are drawn outside
(:class:`spar_core.training.randomness.Draws`), nothing is read back, and what changes from step to step on the host (the
learning rate) goes in through a tensor. ``tests/test_updates.py`` checks that for the updates of every registered
member, on the CPU, where an update is a plain call.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spar_core.training.networks import COMPILER, Adam

Info = dict[str, Tensor]
# Plain calls before the capture: libraries set themselves up in the first ones.
WARM = 3
# Updates of a loop from which compiling pays: it takes some seconds, and saves some tenth of a millisecond an update.
COMPILED_FROM = 50_000


class Update:
    """Calls ``update(*inputs)``, which ends in ``adam.step(loss)`` and returns values for the curve.

    Args:
        update: one step on inputs of the same shapes each time.
        adam: its optimiser.
        device: where it runs.
        steps: of the whole loop, those before a checkpoint included.
        capture: whether it may be captured; one that reads values back may not.
    """

    def __init__(
        self, update: Callable[..., Info], adam: Adam, device: str, steps: int, *, capture: bool = True
    ) -> None:
        self.capture = capture and torch.device(device).type == "cuda"
        self.adam = adam
        self.update = compiled(update, adam) if self.capture and steps >= COMPILED_FROM and can_compile() else update
        self.calls = 0
        self.graph: Any = None
        self.inputs: tuple[Tensor, ...] = ()
        self.info: Info = {}

    def __call__(self, *inputs: Tensor) -> Info:
        """One update. The values returned are overwritten by the next one."""
        self.adam.prepare()
        if not self.capture:
            return self.update(*inputs)
        self.calls += 1
        if self.calls <= WARM:
            return self._aside(inputs)
        if self.graph is None:
            self._record(inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.info

    def _aside(self, inputs: tuple[Tensor, ...]) -> Info:
        """A plain call on a stream of its own, as a capture needs it before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            info = self.update(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return info

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Capture an update; nothing is computed by that."""
        self.inputs = tuple(value.clone() for value in inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.info = self.update(*self.inputs)


def can_compile() -> bool:
    """Whether what Torch's compiler needs for a CUDA device is here: Triton, and a C compiler for its launchers."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def compiled(update: Callable[..., Info], adam: Adam) -> Callable[..., Info]:
    """The update as kernels of Torch's compiler, the optimiser's step too."""
    # Products are float32 on purpose.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    # Each loop is compiled on its own; without this the compiler would count them as one that changes, and give up.
    torch.compiler.reset()
    adam.compile()
    return torch.compile(update, dynamic=False, options=COMPILER)
