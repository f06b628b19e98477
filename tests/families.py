"""Small fakes of every remote dataset family, in the exact format that the real ones have on disk.

D4RL's files are laid out as their publishers laid them out (arrays, types, simulator states, metadata groups), and
filled by rollouts of the nearest environment there is, or with numbers where there is none. Minari datasets are
written by Minari itself from rollouts of the environment that the real one names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from spar_core.data.environments.environment import make_env

Arrays = dict[str, np.ndarray]


def write_hdf5(path: Path, arrays: Arrays, metadata: dict[str, Any] | None = None) -> None:
    """Arrays compressed as D4RL's are; names with slashes become groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
        for name, value in (metadata or {}).items():
            file[f"metadata/{name}"] = value


def gym_mujoco(env_id: str, steps: int = 360, **kwargs: Any) -> Arrays:
    """`*-v2` of Gym-MuJoCo: cut at random as the real files are at 1000, with next observations and states."""
    return _rolled_out(env_id, steps, limit=45, following=True, **kwargs)


def adroit(env_id: str, steps: int = 300) -> Arrays:
    """`*-v1` of hand_dapg: no next observations, ends marked by timeouts."""
    return _rolled_out(env_id, steps, limit=50, following=False)


def _rolled_out(env_id: str, steps: int, limit: int, following: bool, **kwargs: Any) -> Arrays:
    env = make_env(env_id, kwargs)
    rng = np.random.default_rng(0)
    names = (
        "observations",
        "next_observations",
        "actions",
        "rewards",
        "terminals",
        "timeouts",
        "infos/qpos",
        "infos/qvel",
    )
    rows: dict[str, list] = {name: [] for name in names}
    observation, _ = env.reset(seed=0)
    length = 0
    for _ in range(steps):
        data = env.unwrapped.data
        rows["infos/qpos"].append(data.qpos.copy())
        rows["infos/qvel"].append(data.qvel.copy())
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        rows["observations"].append(observation)
        rows["actions"].append(action)
        observation, reward, terminated, _, _ = env.step(action)
        length += 1
        rows["next_observations"].append(observation)
        rows["rewards"].append(reward)
        rows["terminals"].append(terminated)
        rows["timeouts"].append(length == limit and not terminated)
        if terminated or length == limit:
            observation, _ = env.reset(seed=len(rows["rewards"]))
            length = 0
    env.close()
    kinds = {"terminals": bool, "timeouts": bool, "infos/qpos": np.float64, "infos/qvel": np.float64}
    arrays = {name: np.asarray(values, kinds.get(name, np.float32)) for name, values in rows.items()}
    if not following:
        del arrays["next_observations"]
    return arrays


def ant_without_contact_forces(steps: int = 360) -> Arrays:
    """D4RL's ant: the 84 contact forces of its 111 observations are all zero."""
    arrays = gym_mujoco("Ant-v4", steps, use_contact_forces=True, contact_cost_weight=0.0)
    for name in ("observations", "next_observations"):
        arrays[name][:, 27:] = 0.0
    return arrays


def numbers(
    observations: int, actions: int, steps: int, limit: int, *, at_goal: tuple[int, int] | None = None
) -> Arrays:
    """Numbers in the layout of the files that no environment here can fill: no next observations.

    ``at_goal`` is a stretch of steps that are at the goal: rewarded, and terminal one by one, as in AntMaze.
    """
    rng = np.random.default_rng(1)
    rewards, terminals = np.zeros(steps, np.float32), np.zeros(steps, bool)
    if at_goal:
        rewards[slice(*at_goal)] = 1.0
        terminals[slice(*at_goal)] = True
    return {
        "observations": rng.normal(size=(steps, observations)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        "rewards": rewards,
        "terminals": terminals,
        "timeouts": (np.arange(1, steps + 1) % limit == 0),
        "infos/goal": np.zeros((steps, 2), np.float32),
    }


def minari_dataset(
    minari_id: str,
    env_id: str,
    *,
    episodes: int = 6,
    limit: int = 30,
    infos: Callable[[gymnasium.Env], dict[str, np.ndarray]] = lambda env: {},
    data_format: str = "hdf5",
    **kwargs: Any,
) -> list[float]:
    """Roll random actions out and let Minari write them below MINARI_DATASETS_PATH; returns of the episodes.

    Observations keep the environment's float64 and its dictionaries, as in the real datasets.
    """
    make_env(env_id, kwargs).close()  # registers gymnasium-robotics
    env = gymnasium.make(env_id, **kwargs)
    rng = np.random.default_rng(0)
    buffers, returns = [], []
    for number in range(episodes):
        seen, actions, rewards, noted = [env.reset(seed=number)[0]], [], [], [infos(env)]
        terminated = False
        while not terminated and len(rewards) < limit + number:
            actions.append(rng.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype))
            observation, reward, terminated, _, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(float(reward))
            noted.append(infos(env))
        last = np.arange(len(rewards)) == len(rewards) - 1
        buffers.append(
            EpisodeBuffer(
                observations=_stacked(seen),
                actions=np.stack(actions),
                rewards=rewards,
                terminations=last & terminated,
                truncations=last & (not terminated),
                infos=_stacked(noted) if noted[0] else None,
            )
        )
        returns.append(sum(rewards))
    minari.create_dataset_from_buffers(minari_id, buffers, env=env, data_format=data_format)
    env.close()
    return returns


def _stacked(values: list[Any]) -> Any:
    """A list of (nested dictionaries of) arrays as one (nested dictionary of) array."""
    if isinstance(values[0], dict):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    return np.stack(values)
