"""The frame of every critic that learns by temporal differences.

A critic names its networks and its objective; the warm start by observed returns, the loop with a slowly
following target copy of the Q networks, the curve, the stop at divergence and the calibration are here.
Bootstrapping goes through truncations and stops at terminations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field, NonNegativeInt
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, StackedSettings
from spar_core.critics.warm_start import beyond_rewards, stop_if, warm_start
from spar_core.training.checkpoints import Kept
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import Adam, Stack
from spar_core.training.randomness import Minibatches
from spar_core.training.reporter import Reporter, is_curve_point

# The summed loss at the steps [S, B], and values [S] for the curve, "critic/q_mean" among them.
StepsLoss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Objective:
    """What a critic minimises, and what that changes on its way besides the critic: an actor, random streams."""

    loss: StepsLoss
    kept: Mapping[str, Kept] = field(default_factory=dict)
    # Whether an update can be captured: it draws nothing and reads nothing back.
    capture: bool = True


class TDSettings(StackedSettings):
    # Steps of regression on observed returns before the first temporal difference; 0 leaves them out.
    warm_start_steps: NonNegativeInt = 5000
    target_rate: float = Field(0.005, gt=0, le=1)


class TDCritic(StackedCritic):
    """A critic that is warm-started by observed returns, and then learns by temporal differences."""

    Settings = TDSettings
    # Values below -1 times the bound on what rewards allow count as divergence. A critic that is pushed down
    # on purpose gets more room.
    room_below: ClassVar[float] = 1.0

    @abstractmethod
    def objective(self, problem: Problem, target: Stack) -> Objective:
        """The loss to minimise, given the target copy of the Q networks. What it needs besides (an actor) is
        its own, and is gone with it."""

    @classmethod
    def fit(cls, context: Context, settings: TDSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        problem = Problem.of(dataset, settings, seeds, device)
        critic = cls.fresh(problem)
        adam = Adam(settings.learning_rate, critic.networks, critic.state_value)
        warm_start(critic, problem, settings.warm_start_steps, adam, report)
        critic._learn(problem, settings, adam, report)
        return critic.finish(problem, report)

    def _learn(self, problem: Problem, settings: TDSettings, adam: Adam, report: Reporter) -> None:
        """Temporal differences, with a slowly following target copy of the Q networks."""
        target = self.networks.copy()
        objective = self.objective(problem, target)
        device, steps = problem.device, problem.dataset.bootstrap_steps
        batches = Minibatches(steps, problem.seeds, settings.batch_size, "critic/batches", device)
        bound = beyond_rewards(problem)

        def update(picked: Tensor) -> dict[str, Tensor]:
            loss, info = objective.loss(picked)
            adam.step(loss)
            target.flat.lerp_(self.networks.flat.detach(), settings.target_rate)
            return info

        run = Update(update, adam, device, settings.steps, capture=objective.capture)
        parts = {"adam": adam, "target": target, "batches": batches, **objective.kept}
        for step in resumable(report, "temporal_differences", settings.steps, **parts):
            info = run(batches.next())
            if is_curve_point(step, settings.steps):
                means = info["critic/q_mean"]
                allowed = (means < bound) & (means > -self.room_below * bound)
                what = f"mean Q is {means.abs().max().item():.3g} at step {step}"
                stop_if(not bool(allowed.all()), what, "lower its learning_rate or raise warm_start_steps")
                report.log(settings.warm_start_steps + step, info)
