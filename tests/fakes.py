"""Small data, known critics and decoders, and helpers that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spar_core import registry
from spar_core.anchors.base import Anchor
from spar_core.anchors.mlp import MLPAnchor
from spar_core.artifacts import write_meta
from spar_core.critics.base import Critic
from spar_core.critics.iql import IQLCritic
from spar_core.data.dataset import Dataset
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.improvement.base import Frozen, Improvement
from spar_core.interface import Interface
from spar_core.policy import KIND as POLICY_KIND
from spar_core.policy import save_policy
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted, Part
from spar_core.training.networks import Stack
from spar_core.training.reporter import Reporter

ROOT = Path(__file__).resolve().parents[1]

# Odd sizes, so that rows of parameters need padding and vector loops have tails.
OBSERVATION_SIZE, ACTION_SIZE = 5, 3
TINY = {
    "steps": 12,
    "warm_start_steps": 9,
    "batch_size": 7,
    "hidden": (13, 11),
    "states": 40,
    "candidates": 5,
    "refreshes": 2,
}
# What the rule ``auto`` chooses from.
CANDIDATES = ("spar_proj", "spar_mlp")


# --- data ---


def dataset_from(
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    lengths: Sequence[int],
    terminated: Sequence[bool],
    heldout: Sequence[bool],
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Dataset:
    """A dataset whose scaler leaves observations as they are."""
    d, a = observations.shape[1], actions.shape[1]
    scaler = Scaler(
        np.zeros(d, np.float32),
        np.ones(d, np.float32),
        np.full(a, bounds[0], np.float32),
        np.full(a, bounds[1], np.float32),
    )
    return Dataset(
        np.asarray(observations, np.float32),
        np.asarray(actions, np.float32),
        np.asarray(rewards, np.float32),
        np.asarray(lengths, np.int64),
        np.asarray(terminated, bool),
        np.asarray(heldout, bool),
        scaler,
    )


def toy_dataset(episodes: int = 10, seed: int = 0, sizes: tuple[int, int] = (OBSERVATION_SIZE, ACTION_SIZE)) -> Dataset:
    """Random episodes of 6 to 19 steps, every other one terminated, every fifth one held out."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 20, episodes)
    n = int(lengths.sum())
    observations = rng.normal(size=(n + episodes, sizes[0]))
    actions = np.tanh(rng.normal(size=(n, sizes[1])))
    rewards = actions[:, 0] + 0.1 * rng.normal(size=n)
    number = np.arange(episodes)
    return dataset_from(observations, actions, rewards, lengths, number % 2 == 0, number % 5 == 0)


def observations_for(seeds: int, batch: int = 9, size: int = OBSERVATION_SIZE, scale: float = 1.0) -> Tensor:
    """The same random observations for every seed, [S, B, D]."""
    draw = torch.randn(batch, size, generator=torch.Generator().manual_seed(11)) * scale
    return draw.expand(seeds, -1, -1).clone()


# --- members ---


def kinds(family: str) -> list[str]:
    return sorted(registry.FAMILIES[family])


def tiny_settings(member: Any, /, **values: Any) -> Any:
    """Settings of a member, with budgets of a few steps wherever it has such a key."""
    small = {key: value for key, value in TINY.items() if key in member.Settings.model_fields}
    if "callable" in member.Settings.model_fields and "onnx" not in values:
        small["callable"] = "tests.external_policy:act"
    if "member" in member.Settings.model_fields and "member" not in values:
        small["member"] = {"kind": "mlp", **tiny_settings(MLPAnchor).model_dump()}
    if "decision" in member.Settings.model_fields:
        small["candidates"] = {
            kind: tiny_settings(load_member("improvement", kind)).model_dump() for kind in CANDIDATES
        }
        small["fqe"] = {"steps": 5, "hidden": (13, 11), "batch_size": 7}
    return member.Settings(**{**small, **values})


def row_of(tensors: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in tensors.items()}


@dataclass(frozen=True)
class Parts:
    """Fitted frozen parts of a group of seeds, from which those of fewer seeds can be had."""

    seeds: tuple[int, ...]
    anchor: Fitted
    residual: Fitted
    critic: Fitted

    def settings(self, part: str) -> Any:
        if part == "residual":
            return ResidualSettings(**{k: v for k, v in TINY.items() if k in ResidualSettings.model_fields})
        return tiny_settings({"anchor": MLPAnchor, "critic": IQLCritic}[part])

    def frozen(self, seeds: Sequence[int], device: str = "cpu") -> Frozen:
        rows = [self.seeds.index(seed) for seed in seeds]

        def tensors(part: str) -> dict[str, Tensor]:
            return {name: value[rows].clone() for name, value in getattr(self, part).tensors.items()}

        return Frozen(
            MLPAnchor.restore(self.settings("anchor"), tensors("anchor"), device),
            ResidualModel.restore(self.settings("residual"), tensors("residual"), device),
            IQLCritic.restore(self.settings("critic"), tensors("critic"), device),
        )


def fit_parts(dataset: Dataset, seeds: Sequence[int]) -> Parts:
    """Fit the registered defaults for a few steps."""
    parts = Parts(tuple(seeds), Fitted(), Fitted(), Fitted())
    anchor = MLPAnchor.fit(Context.quiet(dataset, seeds), parts.settings("anchor"))
    restored = MLPAnchor.restore(parts.settings("anchor"), anchor.tensors)
    residual = fit_residual(Context.quiet(dataset, seeds), restored, parts.settings("residual"))
    critic = IQLCritic.fit(Context.quiet(dataset, seeds), parts.settings("critic"))
    return Parts(tuple(seeds), anchor, residual, critic)


def save_rule(
    folder: Path,
    kind: str,
    parts: Parts,
    dataset: Dataset,
    scaler: Scaler,
    names: tuple[int, ...] | None = None,
    interface: Interface | None = None,
) -> Improvement:
    """Fit a rule on frozen parts for a few steps, write the policy artifact, and return the rule.

    The artifact calls the seeds ``names``, or what they are. Without ``interface`` observations are vectors.
    """
    member, seeds = load_member("improvement", kind), parts.seeds
    settings = tiny_settings(member)
    fitted = member.fit(Context.quiet(dataset, seeds), parts.frozen(seeds), settings)
    saved = {
        "anchor": Part("mlp", parts.settings("anchor"), parts.anchor.tensors),
        "residual": Part("residual", parts.settings("residual"), parts.residual.tensors),
        "improvement": Part(kind, settings, fitted.tensors),
    }
    if member.acts_with_critic(settings):
        saved["critic"] = Part("iql", parts.settings("critic"), parts.critic.tensors)
    folder.mkdir(parents=True)
    takes = interface or Interface(dataset.observation_size)
    called = names or seeds
    whole = save_policy(folder, parts=saved, fitted=fitted, seeds=called, scaler=scaler, interface=takes)
    write_meta(folder, POLICY_KIND, params={}, inputs={}, shapes=whole.shapes(), seeds=list(called))
    return member.restore(parts.frozen(seeds), settings, fitted.tensors)


def tensors_within(value: Any) -> Iterator[Tensor]:
    """Every tensor that an object holds, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Stack):
        yield value.flat
        yield from value.parameters.values()
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_within(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_within(item)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from tensors_within(vars(value))


def assert_same_seed(alone: Fitted, row: int, beside: Fitted, beside_row: int, seed: int) -> None:
    """One seed's weights, metrics and curves are the same to the last bit in both results."""
    assert alone.tensors.keys() == beside.tensors.keys()
    for name in alone.tensors:
        assert torch.equal(alone.tensors[name][row], beside.tensors[name][beside_row]), name
    assert alone.metrics.keys() == beside.metrics.keys()
    for name in alone.metrics:
        assert repr(alone.metrics[name][row]) == repr(beside.metrics[name][beside_row]), name
    curves = [[repr(r) for r in fitted.curves if r[1] == seed] for fitted in (alone, beside)]
    assert curves[0] == curves[1]


# --- fakes with known answers ---


class ConstantAnchor(Anchor):
    """Always the same action [A], for S seeds."""

    def __init__(self, action: Sequence[float]) -> None:
        self.action = torch.tensor(action, dtype=torch.float32)

    @classmethod
    def clone(cls, *args: Any) -> Fitted:
        raise NotImplementedError

    @classmethod
    def restore(cls, *args: Any) -> ConstantAnchor:
        raise NotImplementedError

    def act(self, observations: Tensor) -> Tensor:
        return self.action.expand(*observations.shape[:2], -1).clone()


class LinearDecoder:
    """A residual model G(s, a_b, z) = J z, with J [A, Z] and a radius that it stays far inside of."""

    def __init__(self, jacobian: Sequence[Sequence[float]], seeds: int, radius: float) -> None:
        self.jacobian = torch.tensor(jacobian, dtype=torch.float32)
        self.latent_size = self.jacobian.shape[1]
        self.radius = torch.full((seeds, self.jacobian.shape[0]), radius)

    def decode(self, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
        return latents @ self.jacobian.T


class KnownCritic(Critic):
    """Values given by a function of (observations, actions); V is zero."""

    def __init__(self, function: Any) -> None:
        self.function = function

    @classmethod
    def fit(cls, *args: Any) -> Fitted:
        raise NotImplementedError

    @classmethod
    def restore(cls, *args: Any) -> KnownCritic:
        raise NotImplementedError

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.function(observations, actions)

    def uncertainty(self, observations: Tensor, actions: Tensor) -> Tensor:
        return observations.new_zeros(observations.shape[:2])

    def v(self, observations: Tensor) -> Tensor:
        return observations.new_zeros(observations.shape[:2])


def quadratic(optimum: Sequence[float], curvature: float) -> KnownCritic:
    """Q = -curvature / 2 |a - optimum|^2, whose gradient is curvature (optimum - a)."""
    best = torch.tensor(optimum, dtype=torch.float32)
    return KnownCritic(lambda observations, actions: -0.5 * curvature * (actions - best).square().sum(-1))


# --- jobs of workers (module level, so that other processes can import them) ---


@dataclass(frozen=True)
class FitToyAnchor:
    """Fit the MLP anchor to the toy dataset."""

    steps: int

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        settings = tiny_settings(MLPAnchor, steps=self.steps)
        return MLPAnchor.fit(Context(toy_dataset(), seeds, report, "cpu"), settings)


def refuse_seed_one(seeds: Sequence[int], report: Reporter) -> list[int]:
    """Raise what the user can mend, in the worker that has seed 1."""
    if 1 in seeds:
        raise SparError("the rewards hold a NaN", "mend the file")
    return list(seeds)


def die_with_seed_zero(seeds: Sequence[int], report: Reporter) -> list[int]:
    """Be killed, as for want of memory, in the worker that has seed 0."""
    if 0 in seeds:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(seeds)
