"""The training stages on made data of a given size, as functions that can be timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spar_core.anchors.mlp import MLPAnchor
from spar_core.critics.iql import IQLCritic
from spar_core.data.dataset import Dataset
from spar_core.data.scaler import Scaler
from spar_core.improvement.awr import AWRFromScratch
from spar_core.improvement.base import Frozen
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.improvement.spar_proj import SparProj
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.reporter import CURVE_POINTS, Reporter, is_curve_point

SIZES = (17, 6)  # observations and actions of HalfCheetah and Walker2d
# Updates that are left out of the timing: caches, and the memory of the allocator, settle.
WARM = 100
# Optimiser steps of an anchor in params.yaml.
BUDGET = 6000

Job = Callable[[Reporter], Any]


class Ticking(Reporter):
    """A reporter that calls ``tick`` after every update."""

    def __init__(self, seeds: Sequence[int], tick: Callable[[], None]) -> None:
        super().__init__(list(seeds))
        self.tick = tick

    def advance(self, steps: int) -> None:
        self.tick()


def made_data(steps: int) -> Dataset:
    """Random episodes of a thousand steps."""
    rng = np.random.default_rng(0)
    episodes = max(2, steps // 1000)
    n = 1000 * episodes
    scaler = Scaler(
        np.zeros(SIZES[0], np.float32),
        np.ones(SIZES[0], np.float32),
        np.full(SIZES[1], -1.0, np.float32),
        np.full(SIZES[1], 1.0, np.float32),
    )
    return Dataset(
        rng.normal(size=(n + episodes, SIZES[0])).astype(np.float32),
        np.tanh(rng.normal(size=(n, SIZES[1]))).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        np.full(episodes, 1000, np.int64),
        np.zeros(episodes, bool),
        np.arange(episodes) % 10 == 0,
        scaler,
    )


def jobs(steps: int, dataset: Dataset, seeds: Sequence[int], device: str = "cpu", **changed: Any) -> dict[str, Job]:
    """Stages by name, each a function of a reporter; ``changed`` replaces settings where a stage has them."""

    def settings(kind: Any, **values: Any) -> Any:
        known = {**values, **changed}
        return kind(**{name: value for name, value in known.items() if name in kind.model_fields})

    anchor_settings = settings(MLPAnchor.Settings, steps=steps)
    residual_settings = settings(ResidualSettings, steps=steps)
    critic_settings = settings(IQLCritic.Settings, steps=steps, warm_start_steps=0)

    def parts() -> tuple[MLPAnchor, Frozen]:
        """Frozen parts: trained for a few steps, since only their sizes count here."""
        few = {"steps": 2}
        quiet = Reporter(list(seeds))
        own = anchor_settings.model_copy(update=few)
        cloned = MLPAnchor.clone(Context(dataset, seeds, quiet, "cpu"), own).tensors
        mine = residual_settings.model_copy(update=few)
        modelled = fit_residual(Context(dataset, seeds, quiet), MLPAnchor.restore(own, cloned), mine).tensors
        theirs = critic_settings.model_copy(update=few)
        learned = IQLCritic.fit(Context(dataset, seeds, quiet, "cpu"), theirs).tensors
        anchor = MLPAnchor.restore(own, cloned, device)
        residual = ResidualModel.restore(mine, modelled, device)
        return anchor, Frozen(anchor, residual, IQLCritic.restore(theirs, learned, device))

    anchor, frozen = parts()

    def rule(kind: Any) -> Job:
        own = settings(kind.Settings, steps=steps)
        return lambda report: kind.fit(Context(dataset, seeds, report, device), frozen, own)

    return {
        "fit_bc": lambda report: MLPAnchor.clone(Context(dataset, seeds, report, device), anchor_settings),
        "fit_residual": lambda report: fit_residual(Context(dataset, seeds, report, device), anchor, residual_settings),
        "fit_critic": lambda report: IQLCritic.fit(Context(dataset, seeds, report, device), critic_settings),
        "awr_scratch": rule(AWRFromScratch),
        "spar_mlp": rule(SparMLP),
        "spar_proj": rule(SparProj),
    }


@dataclass(frozen=True)
class Timed:
    """Seconds of a job: of one update of all its seeds, before the first one's end, and altogether."""

    update: float
    first: float
    whole: float


def timed(job: Job, seeds: Sequence[int]) -> Timed:
    """Run a job of one loop of more than ``WARM`` updates.

    A point of the learning curve costs several updates, and a loop has a hundred whatever its length: an update's
    seconds are what they would be in a loop of ``BUDGET`` steps.
    """
    ticks: list[float] = []
    begun = time.perf_counter()
    job(Ticking(seeds, lambda: ticks.append(time.perf_counter())))
    whole = time.perf_counter() - begun
    steps = range(WARM + 1, len(ticks) + 1)
    took = np.diff(ticks)[WARM - 1 :]
    points = np.array([is_curve_point(step, len(ticks)) for step in steps])
    plain = took[~points].mean() if not points.all() else took.mean()
    update = plain + (took[points].mean() - plain) * CURVE_POINTS / BUDGET
    return Timed(float(update), ticks[0] - begun, whole)
