"""Measure how fast this device trains each part and steps an environment, for some seconds each, on made data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spar_core.anchors.mlp import MLPAnchor
from spar_core.critics.iql import IQLCritic
from spar_core.data.dataset import Dataset
from spar_core.data.environments.environment import make_env
from spar_core.data.scaler import Scaler
from spar_core.errors import Interrupted
from spar_core.improvement.base import Frozen
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.reporter import Reporter

# Observations and actions of HalfCheetah and Walker2d, and steps of the made data.
SIZES, STEPS = (17, 6), 10_000
# Updates before the clock starts, and seconds that it runs.
WARM, SECONDS = 5, 3.0
ENVIRONMENT = "HalfCheetah-v5"


@dataclass(frozen=True)
class Rate:
    """Seconds of one update of all seeds of a group, and seconds that a rule takes to draw one state's candidates."""

    update: float
    state: float = 0.0


class Clock(Reporter):
    """Asks to stop once ``seconds`` have passed since update ``WARM``."""

    def __init__(self, seeds: Sequence[int], seconds: float) -> None:
        super().__init__(list(seeds))
        self.ticks: list[float] = []
        self.stopping = lambda: len(self.ticks) > WARM and time.perf_counter() - self.ticks[WARM - 1] > seconds

    def advance(self, steps: int) -> None:
        self.ticks.append(time.perf_counter())


def made_data() -> Dataset:
    """Random episodes of 500 steps."""
    rng, episodes = np.random.default_rng(0), STEPS // 500
    observations, actions = SIZES
    scaler = Scaler(
        np.zeros(observations, np.float32),
        np.ones(observations, np.float32),
        np.full(actions, -1.0, np.float32),
        np.full(actions, 1.0, np.float32),
    )
    return Dataset(
        rng.normal(size=(STEPS + episodes, observations)).astype(np.float32),
        np.tanh(rng.normal(size=(STEPS, actions))).astype(np.float32),
        rng.normal(size=STEPS).astype(np.float32),
        np.full(episodes, 500, np.int64),
        np.zeros(episodes, bool),
        np.arange(episodes) % 10 == 0,
        scaler,
    )


def training_rate(
    family: str, settings: Mapping[str, Any], seeds: int, device: str, seconds: float = SECONDS
) -> Rate | None:
    """Time the updates of a part with these settings, its ``kind`` among them; None for one that trains nothing.

    Args:
        family: ``anchor``, ``residual``, ``critic`` or ``improvement``.
        settings: of the part; its number of steps does not count.
        seeds: of the group, which train side by side in this process, on one thread.
        device: a Torch device.
        seconds: that the updates are timed for.
    """
    values = {name: value for name, value in settings.items() if name != "kind"}
    if "steps" not in values:
        return None
    # So many that the clock ends the loop; a loop of this length is compiled on a CUDA device, as a long study's is.
    values["steps"] = 10_000_000
    if "warm_start_steps" in values:
        values["warm_start_steps"] = 0
    clock = Clock(range(seeds), seconds)
    context = Context(made_data(), clock.seeds, clock, device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = _parts(context) if family in ("residual", "improvement") else None
        begun = time.perf_counter()
        if family == "anchor":
            member = load_member(family, settings["kind"])
            member.clone(context, member.Settings(**values))
        elif family == "critic":
            member = load_member(family, settings["kind"])
            member.fit(context, member.Settings(**values))
        elif parts is not None and family == "residual":
            fit_residual(context, parts.anchor, ResidualSettings(**values))
        elif parts is not None:
            member = load_member(family, settings["kind"])
            member.fit(context, parts, member.Settings(**values))
    except Interrupted:
        if device != "cpu":
            torch.cuda.synchronize()
        ended = time.perf_counter()
    finally:
        torch.set_num_threads(threads)
    update = (ended - clock.ticks[WARM - 1]) / (len(clock.ticks) - WARM)
    if "states" not in values:
        return Rate(update)
    drawn = min(int(values["states"]), len(context.dataset.train_steps))
    return Rate(update, max(0.0, clock.ticks[0] - begun - update) / drawn)


def _parts(context: Context) -> Frozen:
    """Frozen parts, trained for a few steps, since only their sizes count."""
    device, quiet = context.device, Context.quiet(context.dataset, context.seeds, context.device)
    anchor_settings, critic_settings = MLPAnchor.Settings(steps=2), IQLCritic.Settings(steps=2, warm_start_steps=0)
    residual_settings = ResidualSettings(steps=2)
    anchor = MLPAnchor.restore(anchor_settings, MLPAnchor.clone(quiet, anchor_settings).tensors, device)
    residual = ResidualModel.restore(residual_settings, fit_residual(quiet, anchor, residual_settings).tensors, device)
    critic = IQLCritic.restore(critic_settings, IQLCritic.fit(quiet, critic_settings).tensors, device)
    return Frozen(anchor, residual, critic)


def environment_rate(seconds: float = 1.0) -> float:
    """Seconds of one step of ``ENVIRONMENT`` with random actions."""
    env = make_env(ENVIRONMENT, {}, None)
    env.action_space.seed(0)
    env.reset(seed=0)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            env.reset()
    env.close()
    return (time.perf_counter() - begun) / steps
