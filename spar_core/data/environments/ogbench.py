"""OGBench's single tasks under ids of their own, such as ``spar/cube-single-singletask-task2-v0``.

They are OGBench's environments with three changes (:mod:`spar_core.data.environments.ogbench_wrapper`):

- The reward of a step is 1 if it solves the task and 0 otherwise, so that an episode, which ends there, returns its
  success. The literature reports the share of successes alone. Rewards for training come from the data.
- What a maze draws from NumPy's global generator, its start above all, is drawn from a state of the environment's own,
  which ``reset(seed=...)`` sets. OGBench's own mazes start elsewhere at every reset with the same seed.
- ``info`` holds ``success`` alone; OGBench's holds some dozen arrays a step.

``success_timing`` is OGBench's keyword: with ``pre``, a step reports the success of the state before its action (since
version 1.2.0; the reward of the data means the same state), with ``post`` that of the state after it.
"""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.ogbench import Task
from spar_core.errors import SparError
from spar_core.evenly import evenly

OURS = re.compile(r"spar/([a-z0-9-]+-singletask-task[1-5]-v0)")
PACKAGE = "ogbench"
CHECKED = 1000  # stored states whose rewards are compared, at most
INSTALL = "run `pip install ogbench`, on Python 3.11 or 3.12"


def installed() -> str | None:
    """The version of the package ogbench; None if it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def is_task(name: str) -> bool:
    """Whether an id is one of those that :func:`register` knows."""
    return OURS.fullmatch(name) is not None


def register(name: str) -> None:
    """Register one task with Gymnasium.

    Args:
        name: an id for which :func:`is_task` is true.

    Raises:
        SparError: the package ogbench is not installed, or has no such task.
    """
    import gymnasium
    from gymnasium.envs.registration import WrapperSpec

    _import(name)
    theirs = name.removeprefix("spar/")
    if theirs not in gymnasium.registry:
        raise SparError(f"OGBench {installed()} has no environment '{theirs}'", "correct 'task' in the dataset's entry")
    spec = gymnasium.spec(theirs)
    module = "spar_core.data.environments.ogbench_wrapper"
    gymnasium.register(
        name,
        entry_point=f"{module}:make_task",
        max_episode_steps=spec.max_episode_steps,
        kwargs={"maker": str(spec.entry_point), **spec.kwargs},
        additional_wrappers=(WrapperSpec("OgbenchTask", f"{module}:OgbenchTask", {}),),
        disable_env_checker=True,
    )


def check_rewards(
    task: Task,
    qpos: NDArray[np.float32],
    buttons: NDArray[np.int64] | None,
    rewards: NDArray[np.float32],
) -> str:
    """Compare rewards with the environment's own at stored states, half of which solve the task, if there are so many.

    Args:
        task: the task.
        qpos: positions in the simulator, [N, Q].
        buttons: states of the buttons, [N, B]; None for a task without buttons.
        rewards: of the data, [N].

    Returns:
        A sentence that says how many states were compared.

    Raises:
        SparError: a reward differs, or the environment cannot be made.
    """
    import gymnasium

    _import(task.env_id)
    done = np.flatnonzero(rewards == 0)
    some = evenly(done, CHECKED // 2)
    rows = np.concatenate([some, evenly(np.flatnonzero(rewards != 0), CHECKED - len(some))])
    state = np.random.get_state()
    env = gymnasium.make(task.env_id.removeprefix("spar/"), disable_env_checker=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a precision that is lowered: see the wrapper
            env.reset(seed=0)
        theirs = np.array(
            [_reward(env.unwrapped, qpos[row], None if buttons is None else buttons[row]) for row in rows]
        )
    finally:
        np.random.set_state(state)
        env.close()
    wrong = np.flatnonzero(theirs != rewards[rows])
    if len(wrong):
        first = wrong[0]
        raise SparError(
            f"OGBench {installed()} rewards {len(wrong)} of {len(rows)} stored states of {task.name} otherwise than "
            f"ogbench_tasks.yaml says (step {rows[first]}: {theirs[first]:g}, not {rewards[rows[first]]:g})",
            "install the version of ogbench that requirements.txt names",
        )
    return f"the rewards of {len(rows)} stored states, {len(some)} of which solve the task, are the environment's"


def _reward(task: Any, qpos: NDArray[np.float32], buttons: NDArray[np.int64] | None) -> float:
    """The environment's reward at a state of its simulator; velocities play no part in it."""
    still = np.zeros(task.model.nv)
    task.set_state(qpos.astype(np.float64), still, *(() if buttons is None else (buttons,)))
    if hasattr(task, "compute_reward"):
        return float(task.compute_reward())
    return float(task.compute_success()) - 1.0


def _import(name: str) -> None:
    try:
        # It looks for a display that state observations do not need, and says that it found none.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ogbench  # noqa: F401
    except ImportError as error:
        raise SparError(f"the environment '{name}' cannot be made: {error}", INSTALL) from None
