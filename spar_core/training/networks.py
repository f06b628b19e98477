"""Many small networks side by side: every weight carries a leading dimension, one row a network.

Seeds (and the twins of a critic) are that dimension, so one ``baddbmm`` trains them together. What a row
computes must not depend on the rows beside it, to the last bit. Two things make that true here: every
random draw comes from the row's own stream, and every layer is padded with zeros to whole vector registers, so
that each row lies at the same alignment. Without that, the optimiser's scalar tail rounds differently, and so do
the matrix products (MKL picks its kernel by the alignment of the matrices, and by their number where there is
one column).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Floats in one 512-bit vector register; the sizes of layers are padded to a multiple of it.
VECTOR = 16
# Rows a forward pass takes at once: the activations of a few thousand rows stay in the processor's cache.
CHUNK = 4096
# For Torch's compiler: pick no kernel by a measurement. Another run might pick another one, and round otherwise.
COMPILER: dict[str, Any] = {"deterministic": True}


def padded(size: int) -> int:
    """The next multiple of ``VECTOR``."""
    return -(-size // VECTOR) * VECTOR


@dataclass(frozen=True)
class MLPShape:
    """Sizes of a multilayer perceptron with ReLU units, and layer norm (without gains) before each of them."""

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    layer_norm: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter of one network."""
        sizes = (self.inputs, *self.hidden, self.outputs)
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            shapes[f"{i}.weight"] = (fan_in, fan_out)
            shapes[f"{i}.bias"] = (1, fan_out)
        return shapes


class Stack:
    """``n`` networks of one shape, with their parameters in one flat buffer [n, P].

    The padded ``leaves`` are views of ``flat``, so an optimiser step or a target update is a single call;
    ``parameters`` are the parts of the leaves that are not padding. Padding is zero, gets zero gradients, and
    stays zero.
    """

    def __init__(self, shape: MLPShape, n: int, device: str = "cpu") -> None:
        self.shape, self.n = shape, n
        sizes = (shape.inputs, *shape.hidden, shape.outputs)
        wide: dict[str, tuple[int, int]] = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            wide[f"{i}.weight"] = (padded(fan_in), padded(fan_out))
            wide[f"{i}.bias"] = (1, padded(fan_out))
        self.flat = torch.zeros(n, sum(a * b for a, b in wide.values()), device=device)
        self.leaves: dict[str, Tensor] = {}
        self.parameters: dict[str, Tensor] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        start = 0
        for name, (rows, columns) in wide.items():
            end = start + rows * columns
            fan_in, fan_out = shape.parameters()[name]
            self.spans[name] = (start, end)
            self.leaves[name] = self.flat[:, start:end].view(n, rows, columns)
            self.parameters[name] = self.leaves[name][:, :fan_in, :fan_out]
            start = end

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs [n, B, inputs] to outputs [n, B, outputs]."""
        p, last = self.leaves, len(self.shape.hidden)
        x = _pad(x)
        for i, width in enumerate(self.shape.hidden):
            x = torch.baddbmm(p[f"{i}.bias"], x, p[f"{i}.weight"])
            if self.shape.layer_norm:
                x = _pad(F.layer_norm(x[..., :width], (width,)))
            x = F.relu_(x)
        return torch.baddbmm(p[f"{last}.bias"], x, p[f"{last}.weight"])[..., : self.shape.outputs]

    def initialise(self, generators: Sequence[torch.Generator], *, zero_last: bool = False) -> Stack:
        """Draw uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) weights; rows are shared out over the generators.

        With ``zero_last`` the last layer starts at zero, and with it the output.
        """
        rows_each = self.n // len(generators)
        for row in range(self.n):
            generator = generators[row // rows_each]
            for name, dims in self.shape.parameters().items():
                layer = name.split(".")[0]
                if zero_last and layer == str(len(self.shape.hidden)):
                    continue
                bound = 1.0 / math.sqrt(self.shape.parameters()[f"{layer}.weight"][0])
                draw = torch.rand(dims, generator=generator) * (2 * bound) - bound
                self.parameters[name][row].copy_(draw)
        return self

    def copy(self) -> Stack:
        """A frozen copy, as target networks need."""
        twin = Stack(self.shape, self.n, str(self.flat.device))
        twin.flat.copy_(self.flat)
        return twin

    def state(self, prefix: str, seeds: int) -> dict[str, Tensor]:
        """Named tensors for saving; the first dimension is the seed, and where a seed has several networks
        (twins) the second one counts them."""
        members = self.n // seeds
        tensors = {}
        for name, value in self.parameters.items():
            lead = (seeds, members) if members > 1 else (seeds,)
            tensors[f"{prefix}.{name}"] = value.detach().cpu().reshape(*lead, *value.shape[1:]).contiguous()
        return tensors

    def state_dict(self) -> dict[str, Tensor]:
        """All weights, padding included, for checkpoints."""
        return {"flat": self.flat}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.flat.copy_(state["flat"])

    @classmethod
    def restore(cls, shape: MLPShape, tensors: Mapping[str, Tensor], prefix: str, device: str = "cpu") -> Stack:
        """The frozen inverse of :meth:`state`."""
        rank = 3 if tensors[f"{prefix}.0.weight"].dim() == 3 else 4
        lead = tensors[f"{prefix}.0.weight"].shape[: rank - 2]
        stack = cls(shape, math.prod(lead), device)
        for name, view in stack.parameters.items():
            view.copy_(tensors[f"{prefix}.{name}"].reshape(view.shape))
        return stack


def _pad(x: Tensor) -> Tensor:
    """Zeros after the features, up to a whole number of vector registers."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    return F.pad(x, (0, missing)) if missing else x


class Adam:
    """Adam (Kingma and Ba 2015) over whole stacks: gradients are gathered into one flat buffer a stack.

    This is the fused kernel behind ``torch.optim.Adam(fused=True)``, called directly: constructing the
    optimiser imports Torch's compiler, which costs every process of every stage a second or two.

    With ``decay_steps`` the learning rate falls along half a cosine to zero at that step (Loshchilov and Hutter
    2017): the last step is what is kept, so it should not be a noisy one.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, learning_rate: float, *stacks: Stack, decay_steps: int | None = None) -> None:
        self.stacks, self.learning_rate, self.decay_steps = stacks, learning_rate, decay_steps
        self.done = 0
        self.gradients = [torch.zeros_like(stack.flat) for stack in stacks]
        self.first_moments = [torch.zeros_like(stack.flat) for stack in stacks]
        self.second_moments = [torch.zeros_like(stack.flat) for stack in stacks]
        self.steps = [torch.zeros((), device=stack.flat.device) for stack in stacks]
        # On a device a tensor, so that a captured step sees it change; and one that is compiled.
        device = stacks[0].flat.device
        self.rate: float | Tensor = 0.0 if device.type == "cpu" else torch.zeros((), device=device)
        self._apply, self._rule = self._move, fused
        for stack in stacks:
            for leaf in stack.leaves.values():
                leaf.requires_grad_()

    def compile(self) -> None:
        """Let Torch's compiler make kernels of the formulas, in place of the fused one: there gathering the gradients,
        and the step itself, are one."""
        from torch.optim.adam import adam

        self.rate = torch.zeros((), device=self.stacks[0].flat.device)
        self._rule = functools.partial(adam, foreach=False, capturable=True)
        self._apply = torch.compile(self._move, dynamic=False, options=COMPILER)
        # What is compiled around it ends at the gradients.
        self.step = torch.compiler.disable(self.step)  # type: ignore[method-assign]

    def minimise(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss."""
        self.prepare()
        self.step(loss)

    def prepare(self) -> None:
        """What is done on the host before a step: the learning rate falls."""
        rate = self.learning_rate
        if self.decay_steps:
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.done / self.decay_steps)))
        self.done += 1
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate

    def step(self, loss: Tensor) -> None:
        """What is done on the device; a graph may replay it (:mod:`spar_core.training.loop`)."""
        leaves = [leaf for stack in self.stacks for leaf in stack.leaves.values()]
        self._apply(torch.autograd.grad(loss, leaves))

    def state_dict(self) -> dict[str, Tensor]:
        """Steps and moments, and the weights that are optimised, for checkpoints."""
        state = {"done": torch.tensor(self.done)}
        for i, stack in enumerate(self.stacks):
            moments = {"first": self.first_moments[i], "second": self.second_moments[i]}
            state |= {f"{i}.{name}": value for name, value in {**stack.state_dict(), **moments}.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])
        for i, stack in enumerate(self.stacks):
            stack.load_state_dict({"flat": state[f"{i}.flat"]})
            self.first_moments[i].copy_(state[f"{i}.first"])
            self.second_moments[i].copy_(state[f"{i}.second"])
            self.steps[i].fill_(self.done)

    @torch.no_grad()
    def _move(self, gradients: Sequence[Tensor]) -> None:
        parts = iter(gradients)
        for stack, buffer in zip(self.stacks, self.gradients, strict=True):
            torch.cat([next(parts).reshape(stack.n, -1) for _ in stack.leaves], dim=1, out=buffer)
        self._rule(
            [stack.flat for stack in self.stacks],
            self.gradients,
            self.first_moments,
            self.second_moments,
            [],
            self.steps,
            lr=self.rate,
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            weight_decay=0.0,
            eps=self.EPSILON,
            amsgrad=False,
            maximize=False,
        )


def fused(*state: Any, **settings: Any) -> None:
    """A step of Adam by Torch's own kernel; the last of ``state`` are the counts of steps."""
    torch._foreach_add_(state[-1], 1)
    torch._fused_adam_(*state, **settings)


def per_seed_mean(values: Tensor) -> Tensor:
    """Mean of each row of [S, ...], [S]. Row by row, because a reduction over a larger tensor may be split
    differently and then rounds differently; on a device at once, in one kernel: matrix products may round differently
    beside other seeds there anyway."""
    if values.is_cuda:
        return values.flatten(1).mean(dim=1)
    return torch.stack([row.mean() for row in values])
