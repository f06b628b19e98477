"""The frame of every critic that learns by temporal differences.

A critic states its networks and its objective. The frame does the rest: the warm start by observed returns, the loop
with a slowly following target copy of the Q networks, the learning curve, the stop at divergence, and the calibration.
Bootstrapping goes through truncations and stops at terminations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, StackedSettings
from spar_core.critics.warm_start import beyond_rewards, stop_if, warm_start
from spar_core.training.checkpoints import Kept
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Info, minimise
from spar_core.training.networks import Stack
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Minibatches

# Takes steps [S, B]; gives the summed loss, and values [S] for the curve, "critic/q_mean" among them.
StepsLoss = Callable[[Tensor], tuple[Tensor, Info]]


@dataclass(frozen=True)
class Objective:
    """A critic's loss, and what the loss changes besides the critic.

    Attributes:
        loss: of the steps of a minibatch.
        kept: what else an update changes, such as an actor or random streams.
        capture: whether an update can be captured as a CUDA graph: it draws nothing and reads nothing back.
    """

    loss: StepsLoss
    kept: Mapping[str, Kept] = field(default_factory=dict)
    capture: bool = True


class TDSettings(StackedSettings):
    """Settings of every critic that learns by temporal differences."""

    warm_start_steps: int = Field(
        5000, ge=0, description="steps of regression on observed returns, before any bootstrapping"
    )
    target_rate: float = Field(0.005, gt=0, le=1, description="how fast the target networks follow, per step")


class TDCritic(StackedCritic):
    """A critic that is warm-started by observed returns, and then learns by temporal differences."""

    Settings = TDSettings
    # Values below -1 times the bound on what rewards allow count as divergence. A critic that is pushed down on purpose
    # gets more room.
    room_below: ClassVar[float] = 1.0

    @abstractmethod
    def objective(self, problem: Problem, target: Stack) -> Objective:
        """The loss to minimise, given the target copy of the Q networks."""

    @classmethod
    def fit(cls, context: Context, settings: Any) -> Fitted:
        problem = Problem.of(context, settings)
        critic = cls.fresh(problem)
        adam = settings.adam(critic.networks, critic.state_value)
        warm_start(critic, problem, settings.warm_start_steps, adam)
        critic.learn(problem, adam)
        return critic.finish(problem)

    def learn(self, problem: Problem, adam: Adam) -> None:
        """Temporal differences, with a slowly following target copy of the Q networks.

        Raises:
            SparError: the fit diverged.
        """
        context, settings, target = problem.context, problem.settings, self.networks.copy()
        objective = self.objective(problem, target)
        steps, purpose = context.dataset.bootstrap_steps, "critic/batches"
        batches = Minibatches(steps, context.seeds, settings.batch_size, purpose, context.device)
        bound = beyond_rewards(problem)

        def follow() -> None:
            target.flat.lerp_(self.networks.flat.detach(), settings.target_rate)

        def curve(step: int, info: Info) -> Info:
            means = info["critic/q_mean"]
            allowed = (means < bound) & (means > -self.room_below * bound)
            what = f"mean Q is {means.abs().max().item():.3g} at step {step}"
            stop_if(not bool(allowed.all()), what, "lower its learning_rate or raise warm_start_steps")
            return info

        minimise(
            objective.loss,
            context,
            adam,
            {"batches": batches},
            name="temporal_differences",
            steps=settings.steps,
            logged_from=settings.warm_start_steps,
            after=follow,
            curve=curve,
            kept={"target": target, **objective.kept},
            capture=objective.capture,
        )
