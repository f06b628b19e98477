"""Built-in data: deterministic rollouts of behaviour policies that lie in the repository as snapshots.

A snapshot is a tanh-squashed Gaussian actor: ``hidden.{i}``, ``mean`` and ``log_std``, each with a weight and
a bias, and ReLU between the hidden layers. ``index.yaml`` lists the snapshots of a folder.

The policy of episode i, its initial state and its action noise depend on (seed, i) alone, and episodes are
kept in their order, so any number of worker processes gives the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.data.environment import make_env
from spar_core.data.episodes import Episode
from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, parse

LOG_STD_RANGE = (-20.0, 2.0)
LARGEST_BLOCK = 64  # episodes handed to the workers at a time
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Snapshot(Settings):
    """One row of ``index.yaml``: the file, the training steps behind it, and its mean return."""

    file: str
    steps: int
    mean_return: float


class Index(Settings):
    """``index.yaml`` of a folder of snapshots."""

    snapshots: list[Snapshot]


@dataclass(frozen=True)
class Actor:
    """A stochastic policy in NumPy, float32: raw observation [D] to raw action [A]."""

    hidden: tuple[tuple[np.ndarray, np.ndarray], ...]
    mean: tuple[np.ndarray, np.ndarray]
    log_std: tuple[np.ndarray, np.ndarray]

    def act(self, observation: np.ndarray, noise: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """``tanh(mean + std * noise)`` mapped from [-1, 1] to the bounds ``low`` and ``high`` [A]."""
        features = observation
        for weight, bias in self.hidden:
            features = np.maximum(weight @ features + bias, np.float32(0.0))
        mean = self.mean[0] @ features + self.mean[1]
        std = np.exp(np.clip(self.log_std[0] @ features + self.log_std[1], *LOG_STD_RANGE))
        unit = np.tanh(mean + std * noise)
        return np.clip(low + np.float32(0.5) * (unit + np.float32(1.0)) * (high - low), low, high)


def read_index(folder: Path) -> Index:
    """Read ``index.yaml``.

    Raises:
        SparError: it is missing, not valid, empty, or names a file that is not there.
    """
    path = folder / "index.yaml"
    index = parse(Index, load_yaml(path), str(path))
    if not index.snapshots:
        raise SparError(f"{path} lists no snapshots")
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
        pairs = [tuple(tensors[f"{name}.{part}"].astype(np.float32) for part in ("weight", "bias")) for name in names]
    except (SafetensorError, OSError, KeyError) as error:
        raise SparError(f"{path} is not an actor snapshot ({error})", "restore it, e.g. from git") from None
    return Actor(tuple(pairs[:-2]), pairs[-2], pairs[-1])


@dataclass(frozen=True)
class _Recipe:
    """What a worker needs, besides an episode's number."""

    files: tuple[str, ...]
    env_id: str
    env_kwargs: dict[str, Any]
    steps: int
    seed: int
    noise: float


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
        folder: snapshots and their ``index.yaml``.
        env_id: environment; its time limit applies.
        steps: environment steps in all.
        seed: seed of policies, initial states and noise.
        noise: factor on the policies' standard deviation.
        env_kwargs: keyword arguments of the environment.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Returns:
        The episodes, and for each the position of its policy in ``index.yaml``.

    Raises:
        SparError: the snapshots or the environment cannot be loaded, or do not fit each other.
    """
    files = tuple(str((folder / snapshot.file).resolve()) for snapshot in read_index(folder).snapshots)
    recipe = _Recipe(files, env_id, dict(env_kwargs or {}), steps, seed, noise)
    _check_fit(recipe)
    episodes: list[Episode] = []
    policies: list[int] = []
    done = 0
    # A pool even for one worker: there alone can BLAS be held to one thread, which its sums depend on.
    spawn = multiprocessing.get_context("spawn")
    with _single_threaded(), ProcessPoolExecutor(workers, spawn, _start, (recipe,)) as pool:
        while done < steps:
            block = _block(done, len(episodes), steps, workers)
            for episode, policy in pool.map(_roll, range(len(episodes), len(episodes) + block)):
                episodes.append(_cut(episode, steps - done))
                policies.append(policy)
                done += episodes[-1].steps
                if report is not None:
                    report(done, steps)
                if done == steps:
                    break
    return episodes, policies


def _block(done: int, episodes: int, steps: int, workers: int) -> int:
    """Episodes to ask for next: enough for the rest by the mean length so far, little beyond it."""
    needed = workers if episodes == 0 else -(-(steps - done) * episodes // done)
    return max(1, min(needed, LARGEST_BLOCK))


def _cut(episode: Episode, limit: int) -> Episode:
    """The first ``limit`` steps; an episode that loses any is no longer terminated."""
    if episode.steps <= limit:
        return episode
    return Episode(episode.observations[: limit + 1], episode.actions[:limit], episode.rewards[:limit], False)


def _check_fit(recipe: _Recipe) -> None:
    env = make_env(recipe.env_id, recipe.env_kwargs)
    sizes = (env.observation_space.shape[0], env.action_space.shape[0])
    env.close()
    for file in recipe.files:
        actor = load_actor(Path(file))
        first = actor.hidden[0][0] if actor.hidden else actor.mean[0]
        found = (first.shape[1], actor.mean[0].shape[0])
        if found != sizes:
            raise SparError(
                f"{Path(file).name} maps {found[0]} observations to {found[1]} actions, but "
                f"'{recipe.env_id}' has {sizes[0]} and {sizes[1]}",
                "correct 'behaviour' or 'env_id' in the dataset's entry",
            )


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in this block see one thread; BLAS reads the variables when it is loaded."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# State of a worker process: the recipe, its actors and its environment.
_worker: tuple[_Recipe, list[Actor], Any] | None = None


def _start(recipe: _Recipe) -> None:
    global _worker
    env = make_env(recipe.env_id, recipe.env_kwargs)
    _worker = (recipe, [load_actor(Path(file)) for file in recipe.files], env)


def _roll(number: int) -> tuple[Episode, int]:
    """Episode ``number`` and its policy, from (seed, number) alone."""
    assert _worker is not None
    recipe, actors, env = _worker
    rng = np.random.default_rng([recipe.seed, number])
    policy = int(rng.integers(len(actors)))
    raw, _ = env.reset(seed=int(rng.integers(2**31)))
    low, high = env.action_space.low.astype(np.float32), env.action_space.high.astype(np.float32)
    observations, actions, rewards = [np.asarray(raw, dtype=np.float32)], [], []
    terminated = truncated = False
    # No episode is longer than the whole dataset, even where the environment has no time limit.
    while not (terminated or truncated) and len(actions) < recipe.steps:
        noise = rng.standard_normal(len(low), dtype=np.float32) * np.float32(recipe.noise)
        actions.append(actors[policy].act(observations[-1], noise, low, high))
        raw, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(np.asarray(raw, dtype=np.float32))
        rewards.append(reward)
    episode = Episode(
        np.stack(observations), np.stack(actions), np.asarray(rewards, dtype=np.float32), bool(terminated)
    )
    return episode, policy
