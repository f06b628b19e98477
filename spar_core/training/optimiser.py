"""Settings that every network which learns by gradient steps has."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from spar_core.settings import Settings
from spar_core.training.networks import Adam, Stack


class OptimiserSettings(Settings):
    """Adam (Kingma and Ba 2015) on minibatches, and the width of the networks."""

    steps: int = Field(6000, gt=0, description="optimiser steps")
    batch_size: PositiveInt = Field(256, description="steps of the dataset in a minibatch")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    hidden: tuple[PositiveInt, ...] = Field((256, 256), description="width of each hidden layer")

    def adam(self, *stacks: Stack) -> Adam:
        """The optimiser of the given networks, before its first step."""
        return Adam(self.learning_rate, *stacks)


class DecayingSettings(OptimiserSettings):
    """The same, with a learning rate that may fall to zero, so that the weights which are kept are not noisy."""

    cosine_decay: bool = Field(True, description="let the learning rate fall to zero along half a cosine")

    def adam(self, *stacks: Stack) -> Adam:
        return Adam(self.learning_rate, *stacks, decay_steps=self.steps if self.cosine_decay else None)
