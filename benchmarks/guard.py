"""What the guard of an exported policy costs in return, and what it saves where the environment has changed.

Rolls the committee of a policy, its anchor, and the policy behind the guard out in the policy's MuJoCo environment and
in changed ones, and prints a table: `python -m benchmarks.guard artifacts/policy/<dataset>/.../<seeds>`. Cells are mean
returns with standard errors, medians of the guard's outputs along the policy's own episodes, and in brackets the share
of steps at which the anchor acted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from spar_core.artifacts import read_json
from spar_core.data.environments.environment import make_env
from spar_core.data.loading import MANIFEST, load_dataset
from spar_core.evaluation.rollouts import Block, EvaluationSettings, roll_out
from spar_core.guard import Guard, fit_guard
from spar_core.policy import Policy, load_policy
from stages.layout import Layout

Change = Callable[[Any, np.ndarray], Any]


@dataclass
class Watched:
    """A policy whose guard is read at every step. Beyond the limit, the anchor acts."""

    policy: Policy
    anchor: Policy
    guard: Guard
    limit: float = np.inf
    distances: list[np.ndarray] = field(default_factory=list)
    corrections: list[np.ndarray] = field(default_factory=list)
    spreads: list[np.ndarray] = field(default_factory=list)
    beyond: list[np.ndarray] = field(default_factory=list)

    def act(self, observations: np.ndarray) -> np.ndarray:
        standardised = self.policy.scaler.standardise(observations)
        distance = self.guard.distance(standardised)
        wide = torch.from_numpy(standardised).expand(self.policy.members, -1, -1)
        each = self.policy.rule.act(wide)
        apart = (each - each.mean(dim=0)) / self.policy.rule.frozen.residual.radius.mean(dim=0)
        base = self.policy.rule.frozen.anchor.act(wide).clamp(-1.0, 1.0).mean(dim=0)
        correction = ((each.mean(dim=0) - base).numpy() / self.guard.reach) ** 2
        self.distances.append(distance)
        self.corrections.append(np.sqrt(correction.mean(axis=1)))
        self.spreads.append(apart.square().mean(dim=(0, 2)).sqrt().numpy())
        actions = self.policy.scaler.actions_from_unit(each.mean(dim=0).numpy())
        far = np.maximum(distance, self.corrections[-1]) > self.limit
        self.beyond.append(far)
        return np.where(far[:, None], self.anchor.act(observations), actions) if far.any() else actions


class Sensors(gymnasium.ObservationWrapper):
    """Observations with an error of the sensors, in standard deviations of the data.

    Args:
        env: its observations are vectors.
        std: standard deviations [D].
        bias: of all dimensions at the end of an episode of 1,000 steps, to which it grows from 0.
        noise: standard deviation of independent noise.
        stuck: a dimension that always reads 0.
    """

    def __init__(
        self, env: Any, std: np.ndarray, bias: float = 0.0, noise: float = 0.0, stuck: int | None = None
    ) -> None:
        super().__init__(env)
        self.std, self.bias, self.noise, self.stuck = std, bias, noise, stuck
        self.rng, self.steps = np.random.default_rng(0), 0

    def reset(self, **options: Any) -> Any:
        self.steps = 0
        return super().reset(**options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        self.steps += 1
        away = self.bias * self.steps / 1000 + self.noise * self.rng.normal(size=len(self.std))
        seen = observation + away * self.std
        if self.stuck is not None:
            seen[self.stuck] = 0.0
        return seen


def _model(env: Any, name: str, factor: float) -> Any:
    """The environment with an array of its MuJoCo model, or of the model's options, multiplied by a factor."""
    model = env.unwrapped.model
    getattr(model.opt if name == "gravity" else model, name)[:] *= factor
    return env


CHANGES: dict[str, Change] = {
    "none": lambda env, std: env,
    "gravity x 1.5": lambda env, std: _model(env, "gravity", 1.5),
    "gravity x 0.7": lambda env, std: _model(env, "gravity", 0.7),
    "masses x 1.5": lambda env, std: _model(env, "body_mass", 1.5),
    "friction x 0.3": lambda env, std: _model(env, "geom_friction", 0.3),
    "motors x 0.6": lambda env, std: _model(env, "actuator_gear", 0.6),
    "sensors drift by 1 std": lambda env, std: Sensors(env, std, bias=1.0),
    "sensor noise of 0.3 std": lambda env, std: Sensors(env, std, noise=0.3),
    "first sensor stuck at 0": lambda env, std: Sensors(env, std, stuck=0),
}


def changed_env(change: Change, std: np.ndarray, *arguments: Any) -> Any:
    """The environment of ``make_env(*arguments)`` with a change."""
    return change(make_env(*arguments), std)


def returns(act: Callable[[np.ndarray], np.ndarray], make: Callable[[], Any], seeds: Sequence[int]) -> np.ndarray:
    """Undiscounted returns [E] of the episodes with these environment seeds."""
    return np.array([one.total for one in roll_out(act, make, Block(None, 0, tuple(seeds)))])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="folder of a policy, below artifacts/policy of its project")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--centres", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--limits", type=float, nargs="*", default=[1.0, 2.0])
    args = parser.parse_args()
    folder = args.policy.resolve()
    root = next(parent for parent in folder.parents if parent.name == "artifacts").parent
    dataset = "/".join(folder.relative_to(root / "artifacts" / "policy").parts[:-4])
    layout = Layout(root)
    manifest = read_json(layout.data(dataset) / MANIFEST)
    environment = manifest["environment"]
    data = load_dataset(layout.minari_root, layout.data(dataset), dataset)
    policy, anchor = load_policy(folder), load_policy(folder.parents[1] / "anchor" / folder.name)
    guards = {centres: fit_guard(data, centres=centres, policy=policy) for centres in args.centres}
    first = EvaluationSettings().first_env_seed
    seeds = range(first, first + args.episodes)
    columns = [f"K = {centres}, limit {limit:g}" for centres in guards for limit in args.limits]
    columns = ["change", "anchor", "policy", "distance", "disagreement", "correction", *columns]
    print(f"| {' | '.join(columns)} |\n|---|{'--:|' * (len(columns) - 1)}")
    for name, change in CHANGES.items():
        kwargs = (environment["env_id"], environment["env_kwargs"], environment["observation_keys"])
        make = partial(changed_env, change, data.scaler.observation_std, *kwargs)
        watched = Watched(policy, anchor, guards[args.centres[-1]])
        cells = [_cell(returns(one.act, make, seeds)) for one in (anchor, watched)]
        seen = [np.concatenate(values) for values in (watched.distances, watched.spreads, watched.corrections)]
        cells += [f"{np.median(values):.2f}" for values in seen]
        for guard in guards.values():
            for limit in args.limits:
                behind = Watched(policy, anchor, guard, limit)
                share = _cell(returns(behind.act, make, seeds))
                cells.append(f"{share} ({100 * np.mean(np.concatenate(behind.beyond)):.0f}%)")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cell(values: np.ndarray) -> str:
    """Mean return and its standard error."""
    return f"{values.mean():.0f} ± {values.std(ddof=1) / np.sqrt(len(values)):.0f}"


if __name__ == "__main__":
    sys.exit(main())
