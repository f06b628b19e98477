"""Adam on stacks of networks, and the settings of every network that is trained by it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.settings import Settings
from spar_core.training.networks import Stack

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function with Torch's compiler, for inputs of fixed shapes.

    The compiler chooses no kernel by measuring its speed, because another run might choose another kernel, which rounds
    differently.
    """
    return torch.compile(function, dynamic=False, options={"deterministic": True})


class Adam:
    """Adam (Kingma and Ba 2015) on whole stacks: the gradients of each stack are gathered into one flat buffer.

    This class calls the fused kernel of ``torch.optim.Adam(fused=True)`` directly. Constructing Torch's optimiser would
    import Torch's compiler, which costs every process of every stage a second or two.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, learning_rate: float, *stacks: Stack, decay_steps: int | None = None) -> None:
        """Prepare to optimise all weights of ``stacks``.

        Args:
            learning_rate: the learning rate, or its initial value if it decays.
            *stacks: the networks to optimise.
            decay_steps: step at which the learning rate reaches zero along half a cosine (Loshchilov and Hutter 2017);
                None keeps it constant. The weights after the last step are used, so the last steps should be small.
        """
        self.stacks, self.learning_rate, self.decay_steps = stacks, learning_rate, decay_steps
        self.done = 0
        self.gradients = [torch.zeros_like(stack.flat) for stack in stacks]
        self.first_moments = [torch.zeros_like(stack.flat) for stack in stacks]
        self.second_moments = [torch.zeros_like(stack.flat) for stack in stacks]
        self.steps = [torch.zeros((), device=stack.flat.device) for stack in stacks]
        # On a CUDA device, the learning rate is a tensor, so that a captured step sees its changes.
        device = stacks[0].flat.device
        self.rate: float | Tensor = 0.0 if device.type == "cpu" else torch.zeros((), device=device)
        self._apply, self._rule = self._move, fused
        for stack in stacks:
            for leaf in stack.leaves.values():
                leaf.requires_grad_()

    def compile(self) -> None:
        """Compile the Adam step, gradient gathering included, instead of calling Torch's fused kernel."""
        from torch.optim.adam import adam

        self.rate = torch.zeros((), device=self.stacks[0].flat.device)
        self._rule = functools.partial(adam, foreach=False, capturable=True)
        self._apply = compiled(self._move)
        # A compiled update must not compile this step once more.
        self.step = torch.compiler.disable(self.step)  # type: ignore[method-assign]

    def minimise(self, loss: Tensor) -> None:
        """Take one step down the gradient of a scalar loss."""
        self.prepare()
        self.step(loss)

    def prepare(self) -> None:
        """Set the learning rate of the next step; this runs on the host, before the step."""
        rate = self.learning_rate
        if self.decay_steps:
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.done / self.decay_steps)))
        self.done += 1
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate

    def step(self, loss: Tensor) -> None:
        """Take the step; this runs on the device, and a CUDA graph may replay it (:mod:`spar_core.training.loop`)."""
        leaves = [leaf for stack in self.stacks for leaf in stack.leaves.values()]
        self._apply(torch.autograd.grad(loss, leaves))

    def state_dict(self) -> dict[str, Tensor]:
        """Number of steps, moments, and the optimised weights, for checkpoints."""
        state = {"done": torch.tensor(self.done)}
        for i, stack in enumerate(self.stacks):
            moments = {"first": self.first_moments[i], "second": self.second_moments[i]}
            state |= {f"{i}.{name}": value for name, value in {**stack.state_dict(), **moments}.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state from :meth:`state_dict`, in place."""
        self.done = int(state["done"])
        for i, stack in enumerate(self.stacks):
            stack.load_state_dict({"flat": state[f"{i}.flat"]})
            self.first_moments[i].copy_(state[f"{i}.first"])
            self.second_moments[i].copy_(state[f"{i}.second"])
            self.steps[i].fill_(self.done)

    @torch.no_grad()
    def _move(self, gradients: Sequence[Tensor]) -> None:
        """Gather the gradients of all leaves, and apply Adam's rule."""
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
    """A step of Adam by Torch's fused kernel; the last of ``state`` are the numbers of steps."""
    torch._foreach_add_(state[-1], 1)
    torch._fused_adam_(*state, **settings)


class OptimiserSettings(Settings):
    """Adam (Kingma and Ba 2015) on minibatches, and the width of the networks."""

    steps: int = Field(6000, gt=0, description="optimiser steps")
    batch_size: PositiveInt = Field(256, description="steps of the dataset in a minibatch")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    hidden: tuple[PositiveInt, ...] = Field((256, 256), description="width of each hidden layer")

    def adam(self, *stacks: Stack) -> Adam:
        """An optimiser of the given networks, before its first step."""
        return Adam(self.learning_rate, *stacks)


class DecayingSettings(OptimiserSettings):
    """Optimiser settings with a learning rate that may decay to zero, which reduces noise in the final weights."""

    cosine_decay: bool = Field(True, description="let the learning rate fall to zero along half a cosine")

    def adam(self, *stacks: Stack) -> Adam:
        return Adam(self.learning_rate, *stacks, decay_steps=self.steps if self.cosine_decay else None)
