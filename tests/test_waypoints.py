"""The planner in point mazes: shortest ways round the walls, ends at the goal, and the same bytes every time."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from spar_core.data.entry_files import dataset_ids, load_entry
from spar_core.data.environments.environment import make_env
from spar_core.data.episodes import Episode, episode_digest
from spar_core.data.generators.maze_plan import MazePlan
from spar_core.data.generators.waypoints import WaypointController, plan_waypoints, roll_out_waypoints
from spar_core.errors import SparError

ROOT = Path(__file__).parents[1]
UMAZE, MEDIUM = "PointMaze_UMaze-v3", "PointMaze_Medium-v3"
ENDS = {"continuing_task": False}
STEPS = 1500

U = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
# Two ways round a block, equally long, and letters for starts and goals, which are free.
RING = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]


def test_a_path_goes_round_the_wall():
    assert MazePlan(U).path((1, 1), (3, 1)) == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert MazePlan(U).path((1, 2), (1, 2)) == [(1, 2)]


def test_of_equal_paths_always_the_same():
    # Up and down come before left and right.
    assert MazePlan(RING).path((1, 1), (3, 3)) == [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3)]
    assert MazePlan(RING).path((3, 3), (1, 1)) == [(3, 3), (2, 3), (1, 3), (1, 2), (1, 1)]


def brute_force(cells: list[list[int]], start: tuple[int, int], goal: tuple[int, int]) -> int | None:
    """Steps of a shortest path, by widening the set of cells that can be reached."""
    reached, steps = {start}, 0
    while goal not in reached:
        wider = reached | {
            (i + di, j + dj)
            for i, j in reached
            for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= i + di < len(cells) and 0 <= j + dj < len(cells[0]) and cells[i + di][j + dj] != 1
        }
        if wider == reached:
            return None
        reached, steps = wider, steps + 1
    return steps


def test_paths_of_random_mazes_are_shortest_and_free():
    rng = np.random.default_rng(0)
    lengths, without = [], 0
    for _ in range(15):
        cells = rng.choice([0, 1], size=(6, 7), p=[0.65, 0.35]).tolist()  # with openings in the outer wall
        free = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell == 0]
        plan = MazePlan(cells)
        for start, goal in itertools.product(free[::3], free[::4]):
            steps = brute_force(cells, start, goal)
            if steps is None:
                without += 1
                with pytest.raises(SparError, match="no path leads from cell"):
                    plan.path(start, goal)
                continue
            path = plan.path(start, goal)
            assert path[0] == start and path[-1] == goal and len(path) == steps + 1
            assert set(path) <= set(free)
            assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in itertools.pairwise(path))
            lengths.append(steps)
    assert max(lengths) > 8 and without > 0


@pytest.mark.parametrize(("start", "goal"), [((0, 0), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (9, 9)), ((-1, 0), (1, 1))])
def test_walls_and_outside_are_refused(start, goal):
    with pytest.raises(SparError, match="the maze has no free cell"):
        MazePlan(U).path(start, goal)


def test_waypoints_are_centres_and_the_goal():
    env = make_env(UMAZE, ENDS)
    maze = env.unwrapped.maze
    position, goal = np.array([-1.2, 0.9]), np.array([-0.8, -1.1])  # cells (1, 1) and (3, 1)
    waypoints = plan_waypoints(MazePlan(maze.maze_map), maze, position, goal)
    np.testing.assert_allclose(waypoints, [[0, 1], [1, 1], [1, 0], [1, -1], [0, -1], goal])
    near = plan_waypoints(MazePlan(maze.maze_map), maze, position, position + 0.1)
    np.testing.assert_allclose(near, [position + 0.1])
    env.close()


def test_controller():
    controller = WaypointController(np.array([[1.0, 0.0], [1.0, 1.0]]), p_gain=10.0, d_gain=-1.0, reached=0.1)
    velocity = np.array([0.3, -0.2])
    np.testing.assert_allclose(controller.push(np.array([0.95, -0.02]), velocity), [0.2, 1.0])  # already at the first
    np.testing.assert_allclose(controller.push(np.array([0.98, 0.97]), velocity), [-0.1, 0.5])
    np.testing.assert_allclose(controller.push(np.array([1.0, 1.0]), velocity), [-0.3, 0.2])  # the goal is the last
    far = WaypointController(np.array([[1.0, 0.0], [1.0, 1.0]]), 10.0, -1.0, 0.1)
    np.testing.assert_allclose(far.push(np.array([0.8, 0.0]), np.zeros(2)), [1.0, 0.0])  # clipped


@pytest.fixture(scope="module")
def umaze() -> list[Episode]:
    return roll_out_waypoints(UMAZE, steps=STEPS, seed=0, env_kwargs=ENDS)


@pytest.fixture(scope="module")
def medium() -> list[Episode]:
    return roll_out_waypoints(MEDIUM, steps=STEPS, seed=0, env_kwargs=ENDS)


def test_shapes_and_the_exact_number_of_steps(umaze):
    assert sum(episode.steps for episode in umaze) == STEPS
    for episode in umaze:
        assert episode.observations.shape == (episode.steps + 1, 8) and episode.actions.shape == (episode.steps, 2)
        assert {episode.observations.dtype, episode.actions.dtype, episode.rewards.dtype} == {np.dtype(np.float32)}
        assert np.abs(episode.actions).max() <= 1.0
    assert len({episode_digest(episode) for episode in umaze}) == len(umaze)


def test_an_episode_ends_at_its_goal_with_the_only_reward(umaze, medium):
    for episodes in (umaze, medium):
        whole = episodes[:-1]
        assert len(whole) > 5 and all(episode.terminated for episode in whole)
        for episode in whole:
            assert episode.rewards[-1] == 1.0 and episode.rewards[:-1].sum() == 0.0
            achieved, desired = episode.observations[:, :2], episode.observations[:, 2:4]
            distance = np.linalg.norm(achieved - desired, axis=1)
            assert distance[-1] <= 0.45 and (distance[:-1] > 0.45).all()
            assert (desired == desired[0]).all()
        assert not episodes[-1].terminated and episodes[-1].rewards.sum() == 0.0  # cut by the number of steps


def test_the_point_walks_the_planned_cells(medium):
    """The noise pushes it off the centres, but it visits the cells of a shortest path, and no others."""
    env = make_env(MEDIUM, ENDS)
    maze = env.unwrapped.maze
    plan = MazePlan(maze.maze_map)
    detours = []
    for episode in medium[:-1]:
        cells = [tuple(int(i) for i in maze.cell_xy_to_rowcol(place)) for place in episode.observations[:, :2]]
        goal = tuple(int(i) for i in maze.cell_xy_to_rowcol(episode.observations[0, 2:4]))
        assert all(maze.maze_map[i][j] != 1 for i, j in cells)
        visited = [cell for cell, _ in itertools.groupby(cells)]
        path = plan.path(cells[0], goal)
        assert set(visited) <= set(path)
        detours.append(np.linalg.norm(np.subtract(path[0], path[-1]), ord=1) + 1 < len(path))
    assert any(detours)  # some goals lie behind a wall
    env.close()


def test_the_same_bytes_for_any_number_of_workers(umaze):
    seen: list[tuple[int, int]] = []
    two = roll_out_waypoints(
        UMAZE, steps=STEPS, seed=0, env_kwargs=ENDS, workers=2, report=lambda done, of: seen.append((done, of))
    )
    assert [episode_digest(e) for e in two] == [episode_digest(e) for e in umaze]
    assert len(seen) == len(two) and seen[-1] == (STEPS, STEPS)
    # Episodes do not depend on how many steps there are in all, and do depend on the seed and the noise.
    few = roll_out_waypoints(UMAZE, steps=200, seed=0, env_kwargs=ENDS)
    assert [episode_digest(e) for e in few[:-1]] == [episode_digest(e) for e in umaze[: len(few) - 1]]
    other = roll_out_waypoints(UMAZE, steps=200, seed=1, env_kwargs=ENDS)
    calm = roll_out_waypoints(UMAZE, steps=200, seed=0, noise=0.0, env_kwargs=ENDS)
    assert len({episode_digest(episodes[0]) for episodes in (few, other, calm)}) == 3


def test_the_time_limit_cuts():
    kwargs = {**ENDS, "max_episode_steps": 20}
    episodes = roll_out_waypoints(MEDIUM, steps=205, seed=0, env_kwargs=kwargs)
    cut = [episode for episode in episodes if not episode.terminated]
    assert [episode.steps for episode in cut[:-1]] == [20] * (len(cut) - 1) and len(cut) > 5
    assert all(episode.rewards.sum() == 0.0 for episode in cut)
    assert sum(episode.steps for episode in episodes) == 205


def test_chosen_parts_leave_the_walk_unchanged():
    keys = ["observation", "desired_goal"]
    some = roll_out_waypoints(UMAZE, steps=100, seed=0, env_kwargs=ENDS, observation_keys=keys)
    all_parts = roll_out_waypoints(UMAZE, steps=100, seed=0, env_kwargs=ENDS)
    for one, other in zip(some, all_parts, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.observations, other.observations[:, [4, 5, 6, 7, 2, 3]])


def test_other_maps():
    """Any map that the environment takes."""
    cells = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, "g", 0, 0, 1], [1, 1, 1, 1, 1]]
    episodes = roll_out_waypoints(UMAZE, steps=400, seed=0, env_kwargs={**ENDS, "maze_map": cells})
    assert episodes[0].terminated
    assert np.abs(episodes[0].observations[0, 2:4] - [-1, -1]).max() <= 0.25  # the only goal
    assert np.abs(episodes[0].observations[0, :2] - [-1, 1]).max() <= 0.25


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("Hopper-v5", {}, "'Hopper-v5' has no maze"),
        ("AntMaze_UMaze-v4", ENDS, r"no point to push: its actions have the shape \(8,\), not \(2,\)"),
        (UMAZE, {}, "does not end when its goal is reached; set 'continuing_task: false'"),
        ("PointMaze_UMase-v3", ENDS, "did you mean 'PointMaze_UMaze-v3'"),
    ],
)
def test_refused(env_id, kwargs, message):
    with pytest.raises(SparError, match=message) as error:
        roll_out_waypoints(env_id, steps=10, seed=0, env_kwargs=kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset_id", [i for i in dataset_ids(ROOT / "datasets") if i.startswith("builtin/pointmaze")])
def test_shipped_entries(dataset_id):
    entry = load_entry(ROOT / "datasets" / f"{dataset_id}.yaml")
    episodes = roll_out_waypoints(entry.env_id, steps=300, seed=entry.seed, env_kwargs=entry.env_kwargs)
    assert sum(episode.steps for episode in episodes) == 300 and episodes[0].terminated
    assert "not D4RL" in entry.description
