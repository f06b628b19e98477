"""Write ``spar_core/data/ogbench_tasks.yaml``: sizes and goals, read out of OGBench's environments.

Each environment is made as a single task, and reset once for every task: goals are constants there. The sizes of the
released files are those of OGBench's ``data_gen_scripts/commands.sh``, repository ``seohongpark/ogbench`` at 1d41409.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any

import numpy as np
import yaml

from spar_core.data.ogbench import TABLE

ARM, CUBE = 14, 7  # columns of qpos: of the arm, and of each cube, which come first
SEEN, CUBE_SEEN, BUTTON_SEEN = 19, 9, 4  # the same of an observation, and of a button
CENTRE, CUBE_TIMES, DRAWER_TIMES, WINDOW_TIMES = [0.425, 0.0, 0.0], 10.0, 18.0, 15.0
BALL = 15  # first column of qpos and of an observation that holds the ball's position


def _maze(navigate: tuple[int, int], stitch: tuple[int, int], explore: bool = False) -> dict[str, tuple[int, int]]:
    return {"navigate": navigate, "stitch": stitch, **({"explore": (10_000, 501)} if explore else {})}


def _both(episodes: int) -> dict[str, tuple[int, int]]:
    return {"play": (episodes, 1001), "noisy": (episodes, 1001)}


# Episodes, and rows of an episode, of the released files by type.
RELEASED = {
    **{f"pointmaze-{size}": _maze((1000, 1001), (5000, 201)) for size in ("medium", "large", "teleport")},
    "pointmaze-giant": _maze((500, 2001), (5000, 201)),
    **{f"antmaze-{size}": _maze((1000, 1001), (5000, 201), True) for size in ("medium", "large", "teleport")},
    "antmaze-giant": _maze((500, 2001), (5000, 201)),
    **{f"humanoidmaze-{size}": _maze((1000, 2001), (5000, 401)) for size in ("medium", "large")},
    "humanoidmaze-giant": _maze((1000, 4001), (10_000, 401)),
    "antsoccer-arena": _maze((1000, 1001), (5000, 201)),
    "antsoccer-medium": _maze((4000, 1001), (8000, 501)),
    "cube-single": _both(1000),
    "cube-double": _both(1000),
    "cube-triple": _both(3000),
    "cube-quadruple": _both(5000),
    "scene": _both(1000),
    "puzzle-3x3": _both(1000),
    "puzzle-4x4": _both(1000),
    "puzzle-4x5": _both(3000),
    "puzzle-4x6": _both(5000),
}


def facts_of(name: str) -> dict[str, Any]:
    """The row of one environment, as plain values."""
    import gymnasium

    warnings.filterwarnings("ignore", module="gymnasium")
    with redirect_stdout(io.StringIO()):
        import ogbench  # noqa: F401, registers the environments
    env = gymnasium.make(f"{name}-singletask-v0", disable_env_checker=True)
    task: Any = env.unwrapped
    state = np.random.get_state()
    try:
        default = int(task._reward_task_id) or None
        goals = []
        for number in range(1, 6):
            task._reward_task_id = number
            env.reset(seed=0)
            goals.append(_goal(name, task))
        assert env.spec is not None
        objects, cubes = _objects(name, len(goals[0].get("places", [])))
        facts = {
            "observation_size": int(env.observation_space.shape[0]),
            "action_size": int(env.action_space.shape[0]),
            "qpos_size": int(task.model.nq),
            "max_episode_steps": env.spec.max_episode_steps,
            "tolerance": float(getattr(task, "_goal_tol", 0.04)),
            **({"objects": objects} if objects else {}),
            **({"buttons_observed": SEEN + CUBE_SEEN * cubes} if "buttons" in goals[0] else {}),
            "default_task": default,
            "data": {kind: {"episodes": size[0], "rows": size[1]} for kind, size in RELEASED[name].items()},
            "tasks": goals,
        }
    finally:
        np.random.set_state(state)
        env.close()
    return facts


def _goal(name: str, task: Any) -> dict[str, Any]:
    if "maze" in name or "soccer" in name:
        return {"places": [_plain(task.cur_goal_xy)]}
    goal: dict[str, Any] = {}
    if not name.startswith("puzzle"):
        goal["places"] = [_plain(place) for place in task._data.mocap_pos]
    if name == "scene":
        goal["places"] += [_plain([task._target_drawer_pos]), _plain([task._target_window_pos])]
    if not name.startswith("cube"):
        goal["buttons"] = [int(state) for state in task._target_button_states]
    return goal


def _plain(values: Any) -> list[float]:
    return [float(value) for value in np.asarray(values, np.float64)]


def _objects(name: str, places: int) -> tuple[list[dict[str, Any]], int]:
    """The objects behind the places of a goal, and how many of them are cubes."""
    if "maze" in name or "soccer" in name:
        first = BALL if "soccer" in name else 0
        return [{"qpos": first, "observed": first, "minus": [0.0, 0.0]}], 0
    cubes = places - 2 if name == "scene" else places
    objects: list[dict[str, Any]] = [
        {"qpos": ARM + CUBE * i, "observed": SEEN + CUBE_SEEN * i, "minus": CENTRE, "times": CUBE_TIMES}
        for i in range(cubes)
    ]
    if name == "scene":
        slides, seen = ARM + CUBE * cubes + 2, SEEN + CUBE_SEEN * cubes + BUTTON_SEEN * 2
        objects.append({"qpos": slides, "observed": seen, "minus": [0.0], "times": DRAWER_TIMES})
        objects.append({"qpos": slides + 1, "observed": seen + 2, "minus": [0.0], "times": WINDOW_TIMES})
    return objects, cubes


class _Writer(yaml.SafeDumper):
    """One line for what belongs together, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Entry point of ``python -m scripts.ogbench_tasks``."""
    table = {name: facts_of(name) for name in RELEASED}
    head = (
        f"# The environments and single tasks of OGBench {version('ogbench')} (MIT licence), read out of the "
        "environments themselves by\n# `python -m scripts.ogbench_tasks`. spar_core/data/ogbench.py says what the "
        "keys mean.\n"
    )
    body = yaml.dump(table, Dumper=_Writer, sort_keys=False, default_flow_style=None, width=120)
    TABLE.write_text(head + body, encoding="utf-8")


if __name__ == "__main__":
    main()
