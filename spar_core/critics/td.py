"""The frame of every critic that learns by temporal differences.

A critic names its networks and its objective. This module holds the rest: the warm start by observed returns, the loop
with a slowly following target copy of the Q networks, the learning curve, the stop at divergence, and the calibration.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field, NonNegativeInt
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, StackedSettings
from spar_core.critics.warm_start import beyond_rewards, stop_if, warm_start
from spar_core.training.checkpoints import Kept
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Info, Loss, minimise
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Minibatches


@dataclass(frozen=True)
class Objective:
    """What a critic minimises.

    Attributes:
        loss: takes steps [S, B] and gives the summed loss, and values [S] for the curve, "critic/q_mean" among them.
        kept: what the loss changes besides the critic, by name, such as an actor or random streams.
        capture: whether an update may be captured as a CUDA graph: it draws nothing and reads nothing back.
    """

    loss: Loss
    kept: Mapping[str, Kept] = field(default_factory=dict)
    capture: bool = True


class TDSettings(StackedSettings):
    """Settings of every critic that learns by temporal differences."""

    steps: NonNegativeInt = Field(10_000, description="steps of temporal differences")
    warm_start_steps: NonNegativeInt = Field(
        5000, description="steps of regression on observed returns, before any bootstrapping"
    )
    target_rate: float = Field(0.005, gt=0, le=1, description="how fast the target networks follow, per step")


class TDCritic(StackedCritic):
    """A critic that is warm-started by observed returns, and then learns by temporal differences."""

    # A mean value below -room_below times the bound on what rewards allow counts as divergence. A critic that is
    # pushed down on purpose gets more room.
    room_below: ClassVar[float] = 1.0
    settings: TDSettings

    @abstractmethod
    def objective(self, problem: Problem, target: Stack) -> Objective:
        """The loss to minimise, given the target copy of the Q networks."""

    @classmethod
    def fit(cls, context: Context, settings: TDSettings) -> Fitted:
        problem = Problem.of(context, settings)
        critic = cls.fresh(problem)
        adam = settings.adam(critic.networks, critic.state_value)
        warm_start(critic, problem, settings.warm_start_steps, adam)
        critic.learn(problem, adam)
        return critic.finish(problem)

    def learn(self, problem: Problem, adam: Adam, name: str = "temporal_differences") -> None:
        """Take the steps of temporal differences.

        Args:
            problem: what the critic is fitted to.
            adam: holds the networks that are trained.
            name: of the loop; it names the checkpoint.

        Raises:
            SparError: the mean value left what rewards allow.
        """
        context, settings = problem.context, self.settings
        target, bound = self.networks.copy(), beyond_rewards(problem)
        objective = self.objective(problem, target)
        choices, purpose = context.dataset.bootstrap_steps, "critic/batches"

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
            {"batches": Minibatches(choices, context.seeds, settings.batch_size, purpose, context.device)},
            name=name,
            steps=settings.steps,
            logged_from=settings.warm_start_steps,
            after=follow,
            curve=curve,
            kept={"target": target, **objective.kept},
            capture=objective.capture,
        )


def mean_errors(q: Tensor, v: Tensor, q_errors: Tensor, v_errors: Tensor) -> tuple[Tensor, Tensor, Info]:
    """Mean errors of Q and of V, [S] each, and the values for the learning curve.

    Args:
        q: values of the Q networks, [S, M, B].
        v: values of the V networks, [S, M, B].
        q_errors: error of each of ``q``.
        v_errors: error of each of ``v``.
    """
    q_loss, v_loss = per_seed_mean(q_errors), per_seed_mean(v_errors)
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "critic/v_mean": per_seed_mean(v.detach()),
    }
    return q_loss, v_loss, info
