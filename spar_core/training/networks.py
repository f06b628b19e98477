"""Many small networks side by side: the first dimension of every weight counts the networks.

The networks of all seeds (and the twins of a critic) lie along that dimension, so that one ``baddbmm`` computes them
all. The result of a network must not depend on the networks beside it, to the last bit. This holds for two reasons.
Every network draws its random numbers from its own stream. And every layer is padded with zeros to whole vector
registers, so that each network's weights have the same alignment in memory. With another alignment, the optimiser
rounds the last few elements of a row differently. Matrix products round differently too, because MKL chooses a kernel
by the alignment of the matrices, and for matrices of one column also by their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of floats in a 512-bit vector register; the sizes of layers are padded to a multiple of it.
VECTOR = 16
# Rows that a forward pass takes at once, so few that their activations stay in the processor's cache.
CHUNK = 4096


def padded(size: int) -> int:
    """The smallest multiple of ``VECTOR`` that is at least ``size``."""
    return -(-size // VECTOR) * VECTOR


@dataclass(frozen=True)
class MLPShape:
    """Shape of a multilayer perceptron with ReLU units.

    Attributes:
        inputs: number of inputs.
        hidden: width of each hidden layer.
        outputs: number of outputs.
        layer_norm: whether layer norm without gain and bias comes before each ReLU.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    layer_norm: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of one network, by name."""
        sizes = (self.inputs, *self.hidden, self.outputs)
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            shapes[f"{i}.weight"] = (fan_in, fan_out)
            shapes[f"{i}.bias"] = (1, fan_out)
        return shapes


class Stack:
    """``n`` networks of one shape, with their parameters in one flat buffer.

    An optimiser step or a target update is a single call on that buffer. The padding is zero, its gradients are zero,
    and so it stays zero.

    Attributes:
        shape: shape of each network.
        n: number of networks.
        flat: all parameters with their padding, [n, P].
        leaves: padded parameters by name, views of ``flat``; those of layer i are ``i.weight`` [n, inputs, outputs] and
            ``i.bias`` [n, 1, outputs].
        parameters: parameters by name without padding, views of ``leaves``.
        spans: first column of each parameter in ``flat``, and the column after its last one, by name.
    """

    def __init__(self, shape: MLPShape, n: int, device: str = "cpu") -> None:
        """Allocate ``n`` networks whose parameters are all zero."""
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
        """Map inputs [n, B, inputs] to outputs [n, B, outputs]."""
        p, last = self.leaves, len(self.shape.hidden)
        x = _pad(x, self.shape.inputs)
        for i, width in enumerate(self.shape.hidden):
            x = torch.baddbmm(p[f"{i}.bias"], x, p[f"{i}.weight"])
            if self.shape.layer_norm:
                x = _pad(F.layer_norm(x[..., :width], (width,)), width)
            x = F.relu_(x)
        return torch.baddbmm(p[f"{last}.bias"], x, p[f"{last}.weight"])[..., : self.shape.outputs]

    def initialise(self, generators: Sequence[torch.Generator], *, zero_last: bool = False) -> Stack:
        """Draw weights and biases uniformly from [-1/sqrt(fan_in), 1/sqrt(fan_in)).

        Args:
            generators: one for each seed; each draws for an equal number of successive networks.
            zero_last: leave the last layer zero, so that all outputs start at zero.
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
        """A copy without gradients, such as a target network."""
        twin = Stack(self.shape, self.n, str(self.flat.device))
        twin.flat.copy_(self.flat)
        return twin

    def state(self, prefix: str, seeds: int) -> dict[str, Tensor]:
        """Tensors for an artifact, by name.

        Args:
            prefix: put before each name, with a dot.
            seeds: S.

        Returns:
            [S, ...]; or [S, M, ...] if each seed has M > 1 networks, such as the twins of a critic.
        """
        members = self.n // seeds
        tensors = {}
        for name, value in self.parameters.items():
            lead = (seeds, members) if members > 1 else (seeds,)
            tensors[f"{prefix}.{name}"] = value.detach().cpu().reshape(*lead, *value.shape[1:]).contiguous()
        return tensors

    def state_dict(self) -> dict[str, Tensor]:
        """All weights with their padding, for checkpoints."""
        return {"flat": self.flat}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the weights from :meth:`state_dict`, in place."""
        self.flat.copy_(state["flat"])

    @classmethod
    def restore(cls, shape: MLPShape, tensors: Mapping[str, Tensor], prefix: str, device: str = "cpu") -> Stack:
        """Networks without gradients from the tensors that :meth:`state` returned."""
        rank = 3 if tensors[f"{prefix}.0.weight"].dim() == 3 else 4
        lead = tensors[f"{prefix}.0.weight"].shape[: rank - 2]
        stack = cls(shape, math.prod(lead), device)
        for name, view in stack.parameters.items():
            view.copy_(tensors[f"{prefix}.{name}"].reshape(view.shape))
        return stack


def _pad(x: Tensor, size: int) -> Tensor:
    """Append zeros to the last axis, of the given size, up to a whole number of vector registers."""
    # The size of a tensor that an exporter follows is a symbol, and ONNX divides negative integers otherwise.
    missing = padded(size) - size
    return F.pad(x, (0, missing)) if missing else x


def per_seed_mean(values: Tensor) -> Tensor:
    """Mean of ``values`` [S, ...] for each seed, [S].

    On the CPU, each seed's mean is computed by itself, because a reduction over a larger tensor may be split
    differently, and then rounds differently. On a CUDA device, one kernel computes all means, because matrix products
    there may round differently beside other seeds anyway.
    """
    if values.is_cuda:
        return values.flatten(1).mean(dim=1)
    return torch.stack([row.mean() for row in values])
