"""Rollouts of a planner with a PD controller in a point maze; nothing is downloaded.

The method is the one that D4RL published for its maze2d data (``d4rl/pointmaze/waypoint_controller.py`` and
``scripts/generation/generate_maze2d_datasets.py``): plan a path of cells from the point to the goal, push the point
along their centres with a PD controller, clip its action, add Gaussian noise, and clip again. Two things differ. D4RL
moves each waypoint by up to 0.2 m at random, and here waypoints are the centres of the cells. D4RL's episodes continue
with a new goal, and here an episode ends at its goal, so the environment must terminate there.

The start, the goal and the noise of episode i depend only on (seed, i). The data are the same on every x86-64 machine
with FMA: see :mod:`spar_core.data.generators.rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.environments.actions import space_bounds
from spar_core.data.environments.environment import make_env
from spar_core.data.episodes import Episode
from spar_core.data.generators.maze_plan import Cell, MazePlan
from spar_core.data.generators.rollouts import Roll, collect_episodes, on_grid, run_episode
from spar_core.errors import SparError

# Distance at which a waypoint counts as reached, as a share of a cell's width. It is ``solve_thresh`` of D4RL's
# controller, whose cells are one metre wide.
REACHED = 0.1


class WaypointController:
    """A PD controller that pushes a point from waypoint to waypoint, without noise.

    Args:
        waypoints: [W, 2] in metres, the goal last.
        p_gain: action per metre to the waypoint.
        d_gain: action per metre a second of velocity.
        reached: distance in metres at which a waypoint counts as reached.
    """

    def __init__(self, waypoints: NDArray[np.float64], p_gain: float, d_gain: float, reached: float) -> None:
        self._waypoints, self._next = waypoints, 0
        self._p_gain, self._d_gain, self._reached = p_gain, d_gain, reached

    def push(self, position: NDArray[np.float64], velocity: NDArray[np.float64]) -> NDArray[np.float64]:
        """The action [2] within [-1, 1] at a position [2] in metres, with a velocity [2] in metres a second."""
        last = len(self._waypoints) - 1
        if self._next < last and np.linalg.norm(self._waypoints[self._next] - position) < self._reached:
            self._next += 1
        push: NDArray[np.float64] = self._p_gain * (self._waypoints[self._next] - position) + self._d_gain * velocity
        return np.clip(push, -1.0, 1.0)


@dataclass(frozen=True)
class _Recipe:
    """Everything that an episode depends on besides its number."""

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
        task: Any = env.unwrapped
        plan = MazePlan(task.maze.maze_map)
        low, high = space_bounds(env.action_space, f"'{self.env_id}'")

        def roll(number: int) -> Episode:
            rng = np.random.default_rng([self.seed, number])
            first, _ = env.reset(seed=int(rng.integers(2**31)))
            controller = WaypointController(
                plan_waypoints(plan, task.maze, task.data.qpos, task.goal),
                self.p_gain,
                self.d_gain,
                REACHED * task.maze.maze_size_scaling,
            )

            def act(_: NDArray[np.float32]) -> NDArray[np.float32]:
                # Read the state from the simulation, because `observation_keys` may leave parts of it out.
                push = controller.push(task.data.qpos, task.data.qvel)
                return np.clip(on_grid(push + self.noise * rng.standard_normal(2)), low, high).astype(np.float32)

            return run_episode(env, first, act, self.steps)

        return roll


def plan_waypoints(
    plan: MazePlan, maze: Any, position: NDArray[np.float64], goal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Waypoints [W, 2] in metres: the centres of the cells between ``position`` and ``goal`` [2], and the goal itself.

    Raises:
        SparError: the position or the goal lies in a wall, or no path connects them.
    """

    def cell(place: NDArray[np.float64]) -> Cell:
        row, column = maze.cell_xy_to_rowcol(place)
        return int(row), int(column)

    start, end = cell(position), cell(goal)
    centres = [maze.cell_rowcol_to_xy(np.array(between)) for between in plan.path(start, end)[1:-1]]
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
    """Roll out the planner in a point maze until there are exactly ``steps`` steps.

    The last episode is cut to make the count exact.

    Args:
        env_id: id of a PointMaze, whose time limit applies.
        steps: environment steps in all.
        seed: seed of starts, goals and noise.
        p_gain: action per metre to the next waypoint; D4RL's is 10.
        d_gain: action per metre a second of velocity; D4RL's is -1.
        noise: standard deviation of the noise added to every action; D4RL's is 0.5.
        env_kwargs: keyword arguments of the environment; ``continuing_task`` must be false.
        observation_keys: parts of the observation to keep, in this order; None keeps all, sorted by name.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Raises:
        SparError: the environment cannot be made, has no maze, does not have two-dimensional actions, or does not
            terminate at the goal.
    """
    keys = None if observation_keys is None else tuple(observation_keys)
    recipe = _Recipe(env_id, dict(env_kwargs or {}), keys, steps, seed, p_gain, d_gain, noise)
    _check_maze(recipe)
    return collect_episodes(recipe, steps=steps, workers=workers, report=report)


def _check_maze(recipe: _Recipe) -> None:
    env = make_env(recipe.env_id, recipe.env_kwargs, recipe.observation_keys)
    task: Any = env.unwrapped
    actions = env.action_space.shape or ()
    env.close()
    if not hasattr(task, "maze"):
        raise SparError(
            f"'{recipe.env_id}' has no maze to plan in", "set 'env_id' to a point maze, such as PointMaze_UMaze-v3"
        )
    if actions != (2,):
        raise SparError(
            f"'{recipe.env_id}' has no point to push: its actions have the shape {actions}, not (2,)",
            "set 'env_id' to a point maze, such as PointMaze_UMaze-v3",
        )
    if task.continuing_task:
        raise SparError(
            f"an episode of '{recipe.env_id}' does not end when its goal is reached",
            "set 'continuing_task: false' in the 'env_kwargs' of the dataset's entry",
        )
