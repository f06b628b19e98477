"""Built-in data: reproducible rollouts of behaviour policies that lie in the repository as snapshots.

A snapshot is a tanh-squashed Gaussian actor with ReLU hidden layers. Its file holds the layers ``hidden.{i}``, ``mean``
and ``log_std``, each with a weight and a bias. ``index.yaml`` lists the snapshots of a folder.

The policy of episode i, its initial state and its action noise depend only on (seed, i). The data are the same on every
x86-64 machine with FMA: see :mod:`spar_core.data.generators.rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spar_core.data.environments.actions import space_bounds
from spar_core.data.environments.environment import environment_facts, make_env
from spar_core.data.episodes import Episode
from spar_core.data.generators.rollouts import Roll, collect_episodes, on_grid, run_episode
from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, parse

LOG_STD_RANGE = (-20.0, 2.0)
Layer = tuple[NDArray[np.float64], NDArray[np.float64]]  # weight [inputs, outputs] and bias [outputs]


class Snapshot(Settings):
    """One row of ``index.yaml``."""

    file: str = Field(description="name of the snapshot's safetensors file")
    steps: int = Field(description="training steps after which the snapshot was taken")
    mean_return: float = Field(description="mean return of the policy")


class Index(Settings):
    """``index.yaml`` of a folder of snapshots."""

    snapshots: list[Snapshot] = Field(description="the behaviour policies, from which each episode draws one")


@dataclass(frozen=True)
class Actor:
    """A stochastic policy in NumPy that maps raw observations [D] to raw actions [A]."""

    hidden: tuple[Layer, ...]
    mean: Layer
    log_std: Layer

    def act(
        self,
        observation: NDArray[np.float32],
        noise: NDArray[np.float64],
        low: NDArray[np.float32],
        high: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """The action [A] ``tanh(mean + std * noise)``, mapped from [-1, 1] to the bounds.

        Args:
            observation: [D].
            noise: [A], standard normal for the policy's own distribution, 0 for its mean action.
            low: lower bounds [A].
            high: upper bounds [A].
        """
        features = observation.astype(np.float64)
        for layer in self.hidden:
            features = np.maximum(linear(layer, features), 0.0)
        std = np.exp(np.clip(linear(self.log_std, features), *LOG_STD_RANGE))
        unit = on_grid(np.tanh(linear(self.mean, features) + std * noise))
        raw = (low + 0.5 * (unit + 1.0) * (high - low)).astype(np.float32)
        return np.clip(raw, low, high)


def linear(layer: Layer, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs of a layer for inputs [D], summed in the order of the inputs.

    A BLAS sums in an order that depends on the processor.
    """
    weight, bias = layer
    outputs: NDArray[np.float64] = np.add.reduce(weight * inputs[:, None], axis=0) + bias
    return outputs


def read_index(folder: Path) -> Index:
    """Read ``index.yaml``.

    Raises:
        SparError: the index is missing, not valid or empty, or it names a file that does not exist.
    """
    path = folder / "index.yaml"
    index = parse(Index, load_yaml(path), str(path))
    if not index.snapshots:
        raise SparError(f"{path} lists no snapshots", "add one below 'snapshots', or restore the file, e.g. from git")
    for snapshot in index.snapshots:
        if not (folder / snapshot.file).is_file():
            raise SparError(f"{path} lists '{snapshot.file}', which does not exist", "restore it, e.g. from git")
    return index


def load_actor(path: Path) -> Actor:
    """Load one snapshot.

    Raises:
        SparError: the file cannot be read or lacks a layer.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        layers = sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
        names = [*(f"hidden.{i}" for i in range(layers)), "mean", "log_std"]
        numbers = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        pairs = [(np.ascontiguousarray(numbers[f"{name}.weight"].T), numbers[f"{name}.bias"]) for name in names]
    except (SafetensorError, OSError, KeyError) as error:
        raise SparError(f"{path} is not an actor snapshot ({error})", "restore it, e.g. from git") from None
    return Actor(tuple(pairs[:-2]), pairs[-2], pairs[-1])


@dataclass(frozen=True)
class _Recipe:
    """Everything that an episode depends on besides its number."""

    files: tuple[str, ...]
    env_id: str
    env_kwargs: dict[str, Any]
    steps: int
    seed: int
    noise: float

    def draw(self, number: int) -> tuple[np.random.Generator, int]:
        """The random generator of an episode, and the number of its policy, which is the generator's first draw."""
        rng = np.random.default_rng([self.seed, number])
        return rng, int(rng.integers(len(self.files)))

    def prepare(self) -> Roll:
        """Load the policies and the environment, in a worker."""
        env = make_env(self.env_id, self.env_kwargs)
        low, high = space_bounds(env.action_space, f"'{self.env_id}'")
        actors = [load_actor(Path(file)) for file in self.files]

        def roll(number: int) -> Episode:
            rng, policy = self.draw(number)

            def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
                return actors[policy].act(observation, self.noise * rng.standard_normal(len(low)), low, high)

            first, _ = env.reset(seed=int(rng.integers(2**31)))
            return run_episode(env, first, act, self.steps)

        return roll


def roll_out(
    folder: Path,
    env_id: str,
    *,
    steps: int,
    seed: int,
    noise: float = 1.0,
    env_kwargs: Mapping[str, Any] | None = None,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> tuple[list[Episode], list[int]]:
    """Roll out the snapshots of ``folder`` until there are exactly ``steps`` steps.

    The policy is drawn uniformly for each episode. The last episode is cut to make the count exact.

    Args:
        folder: folder with the snapshots and their ``index.yaml``.
        env_id: id of the environment, whose time limit applies.
        steps: environment steps in all.
        seed: seed of policies, initial states and action noise.
        noise: factor on the policies' standard deviation.
        env_kwargs: keyword arguments of the environment.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Returns:
        The episodes, and for each the number of its policy in ``index.yaml``, from 0.

    Raises:
        SparError: the snapshots or the environment cannot be loaded, or their sizes differ.
    """
    files = tuple(str((folder / snapshot.file).resolve()) for snapshot in read_index(folder).snapshots)
    recipe = _Recipe(files, env_id, dict(env_kwargs or {}), steps, seed, noise)
    _check_fit(recipe)
    episodes = collect_episodes(recipe, steps=steps, workers=workers, report=report)
    return episodes, [recipe.draw(number)[1] for number in range(len(episodes))]


def _check_fit(recipe: _Recipe) -> None:
    facts = environment_facts(recipe.env_id, recipe.env_kwargs)
    sizes = (facts.observation_size, len(facts.action_low))
    for file in recipe.files:
        actor = load_actor(Path(file))
        first = actor.hidden[0][0] if actor.hidden else actor.mean[0]
        found = (first.shape[0], actor.mean[0].shape[1])
        if found != sizes:
            raise SparError(
                f"{Path(file).name} maps {found[0]}-dimensional observations to {found[1]}-dimensional actions, but "
                f"'{recipe.env_id}' has {sizes[0]} and {sizes[1]} dimensions",
                "correct 'behaviour' or 'env_id' in the dataset's entry",
            )
