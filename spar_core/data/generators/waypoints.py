"""Rollouts of a planner with a PD controller in a point maze: nothing is downloaded.

The recipe is the one that D4RL published for its maze2d data (``d4rl/pointmaze/waypoint_controller.py`` and
``scripts/generation/generate_maze2d_datasets.py``): plan a path of cells from the point to the goal, push the
point along their centres with a PD controller, clip its action, add Gaussian noise, and clip again. Two things
differ: D4RL moves each waypoint by up to 0.2 m at random, and walks on from goal to goal. Here waypoints are the
centres themselves, and an episode ends when its goal is reached, so that the environment must end there.

The start, the goal and the noise of episode i depend on (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spar_core.data.environments.environment import make_env
from spar_core.data.episodes import Episode
from spar_core.data.generators.maze_plan import MazePlan
from spar_core.data.generators.rollouts import Roll, collect_episodes, run_episode
from spar_core.errors import SparError

# Share of a cell's width at which a waypoint counts as reached: ``solve_thresh`` of D4RL's controller, whose
# cells are one metre wide.
REACHED = 0.1


class WaypointController:
    """Pushes a point from waypoint to waypoint, without noise.

    Args:
        waypoints: [W, 2] metres, the goal last.
        p_gain: action per metre to the waypoint.
        d_gain: action per metre a second of velocity.
        reached: metres at which a waypoint counts as reached.
    """

    def __init__(self, waypoints: np.ndarray, p_gain: float, d_gain: float, reached: float) -> None:
        self._waypoints, self._next = waypoints, 0
        self._p_gain, self._d_gain, self._reached = p_gain, d_gain, reached

    def push(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """The action [2] within [-1, 1] for a position [2] in metres and a velocity [2] in metres a second."""
        last = len(self._waypoints) - 1
        if self._next < last and np.linalg.norm(self._waypoints[self._next] - position) < self._reached:
            self._next += 1
        push = self._p_gain * (self._waypoints[self._next] - position) + self._d_gain * velocity
        return np.clip(push, -1.0, 1.0)


@dataclass(frozen=True)
class _Recipe:
    """What a worker needs, besides an episode's number."""

    env_id: str
    env_kwargs: dict[str, Any]
    observation_keys: tuple[str, ...] | None
    steps: int
    seed: int
    p_gain: float
    d_gain: float
    noise: float

    def prepare(self) -> Roll:
        """Make the environment and read its maze, in a worker."""
        env = make_env(self.env_id, self.env_kwargs, self.observation_keys)
        task = env.unwrapped
        plan = MazePlan(task.maze.maze_map)
        low, high = env.action_space.low, env.action_space.high

        def roll(number: int) -> Episode:
            rng = np.random.default_rng([self.seed, number])
            first, _ = env.reset(seed=int(rng.integers(2**31)))
            controller = WaypointController(
                plan_waypoints(plan, task.maze, task.data.qpos, task.goal),
                self.p_gain,
                self.d_gain,
                REACHED * task.maze.maze_size_scaling,
            )

            def act(_: np.ndarray) -> np.ndarray:
                # The state is read from the simulation: `observation_keys` may leave parts of it out.
                push = controller.push(task.data.qpos, task.data.qvel)
                return np.clip(push + self.noise * rng.standard_normal(2), low, high).astype(np.float32)

            return run_episode(env, first, act, self.steps)

        return roll


def plan_waypoints(plan: MazePlan, maze: Any, position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Waypoints [W, 2] in metres: the centres of the cells between ``position`` and ``goal`` [2], and the goal.

    Raises:
        SparError: one of the two lies in a wall, or no path leads from one to the other.
    """
    start, end = (tuple(int(i) for i in maze.cell_xy_to_rowcol(place)) for place in (position, goal))
    centres = [maze.cell_rowcol_to_xy(np.array(cell)) for cell in plan.path(start, end)[1:-1]]
    return np.stack([*centres, goal])


def roll_out_waypoints(
    env_id: str,
    *,
    steps: int,
    seed: int,
    p_gain: float = 10.0,
    d_gain: float = -1.0,
    noise: float = 0.5,
    env_kwargs: Mapping[str, Any] | None = None,
    observation_keys: Sequence[str] | None = None,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Roll the planner out in a point maze until there are exactly ``steps`` steps.

    The last episode is cut to make the count exact.

    Args:
        env_id: a PointMaze; its time limit applies.
        steps: environment steps in all.
        seed: seed of starts, goals and noise.
        p_gain: action per metre to the next waypoint; D4RL's is 10.
        d_gain: action per metre a second of velocity; D4RL's is -1.
        noise: standard deviation of the noise added to every action; D4RL's is 0.5.
        env_kwargs: keyword arguments of the environment; ``continuing_task`` must be false.
        observation_keys: parts of the observation to keep; null for all, sorted by name.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Raises:
        SparError: the environment cannot be made, has no maze or no point that is pushed in two directions,
            or does not end at the goal.
    """
    keys = None if observation_keys is None else tuple(observation_keys)
    recipe = _Recipe(env_id, dict(env_kwargs or {}), keys, steps, seed, p_gain, d_gain, noise)
    _check_maze(recipe)
    return collect_episodes(recipe, steps=steps, workers=workers, report=report)


def _check_maze(recipe: _Recipe) -> None:
    env = make_env(recipe.env_id, recipe.env_kwargs, recipe.observation_keys)
    task, actions = env.unwrapped, env.action_space.shape
    env.close()
    if not hasattr(task, "maze"):
        raise SparError(
            f"'{recipe.env_id}' has no maze to plan in", "set 'env_id' to a point maze, such as PointMaze_UMaze-v3"
        )
    if actions != (2,):
        raise SparError(
            f"'{recipe.env_id}' has no point to push: its actions are {actions[0]}-dimensional",
            "set 'env_id' to a point maze, such as PointMaze_UMaze-v3",
        )
    if task.continuing_task:
        raise SparError(
            f"'{recipe.env_id}' goes on after its goal is reached",
            "set 'continuing_task: false' in the 'env_kwargs' of the dataset's entry",
        )
