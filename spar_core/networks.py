"""Many small networks side by side: every weight carries a leading dimension, one row a network.

Seeds (and the twins of a critic) are that dimension, so one ``baddbmm`` trains them together. What a row
computes must not depend on the rows beside it, to the last bit. Two things make that true here: every
random draw comes from the row's own stream, and the parameters of a row lie in one padded stretch of a flat
buffer, so that the optimiser's vectorised loop meets each row at the same alignment (its scalar tail rounds
differently).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Floats in one 512-bit vector register; rows of the flat buffer are padded to a multiple of it.
VECTOR = 16


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

    ``parameters`` are views of ``flat``, so an optimiser step or a target update is a single call.
    """

    def __init__(self, shape: MLPShape, n: int, device: str = "cpu") -> None:
        self.shape, self.n = shape, n
        sizes = {name: math.prod(dims) for name, dims in shape.parameters().items()}
        width = -(-sum(sizes.values()) // VECTOR) * VECTOR
        self.flat = torch.zeros(n, width, device=device)
        self.parameters: dict[str, Tensor] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        start = 0
        for name, dims in shape.parameters().items():
            self.spans[name] = (start, start + sizes[name])
            self.parameters[name] = self.flat[:, start : start + sizes[name]].view(n, *dims)
            start += sizes[name]

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs [n, B, inputs] to outputs [n, B, outputs]."""
        p, last = self.parameters, len(self.shape.hidden)
        for i in range(last):
            x = torch.baddbmm(p[f"{i}.bias"], x, p[f"{i}.weight"])
            if self.shape.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = F.relu(x)
        return torch.baddbmm(p[f"{last}.bias"], x, p[f"{last}.weight"])

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

    @classmethod
    def restore(cls, shape: MLPShape, tensors: Mapping[str, Tensor], prefix: str, device: str = "cpu") -> Stack:
        """The frozen inverse of :meth:`state`."""
        rank = 3 if tensors[f"{prefix}.0.weight"].dim() == 3 else 4
        lead = tensors[f"{prefix}.0.weight"].shape[: rank - 2]
        stack = cls(shape, math.prod(lead), device)
        for name, view in stack.parameters.items():
            view.copy_(tensors[f"{prefix}.{name}"].reshape(view.shape))
        return stack


class Adam:
    """Adam (Kingma and Ba 2015) over whole stacks: gradients are gathered into one flat buffer a stack."""

    def __init__(self, learning_rate: float, *stacks: Stack) -> None:
        self.stacks = stacks
        for stack in stacks:
            stack.flat.grad = torch.zeros_like(stack.flat)
            for parameter in stack.parameters.values():
                parameter.requires_grad_()
        self.optimiser = torch.optim.Adam([stack.flat for stack in stacks], lr=learning_rate, fused=True)

    def minimise(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss."""
        parameters = [parameter for stack in self.stacks for parameter in stack.parameters.values()]
        gradients = iter(torch.autograd.grad(loss, parameters))
        for stack in self.stacks:
            for start, end in stack.spans.values():
                gradient = next(gradients)
                stack.flat.grad[:, start:end].copy_(gradient.reshape(stack.n, end - start))
        self.optimiser.step()


def per_seed_mean(values: Tensor) -> Tensor:
    """Mean of each row of [S, ...], [S]. Row by row, because a reduction over a larger tensor may be split
    differently and then rounds differently."""
    return torch.stack([row.mean() for row in values])
