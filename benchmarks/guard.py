"""What the guard of an exported policy costs in return, and what it saves where the environment has changed.

Rolls the committee of a policy, its anchor, and the policy behind the guard out in the policy's MuJoCo environment and
in changed ones, and prints a table: `python -m benchmarks.guard artifacts/policy/<dataset>/.../<seeds>`.
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

from spar_core.artifacts import read_json
from spar_core.data.environments.environment import make_env
from spar_core.data.loading import MANIFEST, load_dataset
from spar_core.evaluation.rollouts import Block, EvaluationSettings, roll_out
from spar_core.guard import Guard, fit_guard
from spar_core.policy import Policy, load_policy
from stages.layout import Layout

Change = Callable[[Any, np.ndarray], Any]


@dataclass
class Guarded:
    """A policy behind a guard: the anchor acts where the distance is beyond the limit."""

    policy: Policy
    anchor: Policy
    guard: Guard
    limit: float
    beyond: list[float] = field(default_factory=list)

    def act(self, observations: np.ndarray) -> np.ndarray:
        far = self.guard.distance(self.policy.scaler.standardise(observations)) > self.limit
        self.beyond.append(float(far.mean()))
        if not far.any():
            return self.policy.act(observations)
        return np.where(far[:, None], self.anchor.act(observations), self.policy.act(observations))


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


def _model(env: Any, name: str, factor: float, rows: Any = slice(None)) -> Any:
    getattr(env.unwrapped.model, name)[rows] *= factor
    return env


CHANGES: dict[str, Change] = {
    "none": lambda env, std: env,
    "gravity x 1.5": lambda env, std: _gravity(env, 1.5),
    "gravity x 0.7": lambda env, std: _gravity(env, 0.7),
    "masses x 1.5": lambda env, std: _model(env, "body_mass", 1.5),
    "friction x 0.3": lambda env, std: _model(env, "geom_friction", 0.3),
    "motors x 0.6": lambda env, std: _model(env, "actuator_gear", 0.6),
    "sensors drift by 1 std": lambda env, std: Sensors(env, std, bias=1.0),
    "sensor noise of 0.3 std": lambda env, std: Sensors(env, std, noise=0.3),
    "first sensor stuck at 0": lambda env, std: Sensors(env, std, stuck=0),
}


def _gravity(env: Any, factor: float) -> Any:
    env.unwrapped.model.opt.gravity[:] *= factor
    return env


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
    parser.add_argument("--limits", type=float, nargs="+", default=[1.0, 2.0])
    args = parser.parse_args()
    folder = args.policy.resolve()
    root = next(parent for parent in folder.parents if parent.name == "artifacts").parent
    dataset = "/".join(folder.relative_to(root / "artifacts" / "policy").parts[:-4])
    layout = Layout(root)
    manifest = read_json(layout.data(dataset) / MANIFEST)
    environment = manifest["environment"]
    data = load_dataset(layout.minari_root, layout.data(dataset), dataset)
    guards = {centres: fit_guard(data, centres=centres) for centres in args.centres}
    policy, anchor = load_policy(folder), load_policy(folder.parents[1] / "anchor" / folder.name)
    first = EvaluationSettings().first_env_seed
    seeds = range(first, first + args.episodes)
    print("| change | anchor | policy |" + "".join(f" K={k}, limit {m:g} |" for k in guards for m in args.limits))
    print("|---|" + "--:|" * (2 + len(guards) * len(args.limits)))
    for name, change in CHANGES.items():
        kwargs = (environment["env_id"], environment["env_kwargs"], environment["observation_keys"])
        make = partial(changed_env, change, data.scaler.observation_std, *kwargs)
        cells = [_cell(returns(one.act, make, seeds)) for one in (anchor, policy)]
        for guard in guards.values():
            for limit in args.limits:
                behind = Guarded(policy, anchor, guard, limit)
                cells.append(_cell(returns(behind.act, make, seeds)) + f" ({100 * np.mean(behind.beyond):.0f}%)")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cell(values: np.ndarray) -> str:
    """Mean return and its standard error."""
    return f"{values.mean():.0f} ± {values.std(ddof=1) / np.sqrt(len(values)):.0f}"


if __name__ == "__main__":
    sys.exit(main())
