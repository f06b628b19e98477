"""The evaluation environment of a dataset, and whether it is the one that the data comes from.

In MuJoCo's locomotion families the version is part of the data's identity. Gymnasium no longer holds the
``-v2`` environments that D4RL data was collected in; ``-v4`` reproduces them, while ``-v5`` changes
Walker2d's foot friction and Hopper's reward at terminal steps. So D4RL ``-v2`` data belongs to ``-v4``,
``-v5`` data (Minari's ``mujoco/*``) to ``-v5``, and other pairs are refused unless the entry allows them.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spar_core.errors import SparError

if TYPE_CHECKING:
    import gymnasium

FAMILIES = {
    "HalfCheetah",
    "Hopper",
    "Walker2d",
    "Ant",
    "Humanoid",
    "HumanoidStandup",
    "InvertedPendulum",
    "InvertedDoublePendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
}
ROBOTICS = ("Adroit", "AntMaze", "FrankaKitchen", "Fetch", "Hand", "PointMaze")
OLD_VERSIONS = {1, 2, 3}
SUCCESSOR_OF_OLD = 4


@dataclass(frozen=True)
class EnvironmentFacts:
    """What data is checked against: D observations, and the bounds [A] of actions, float32.

    ``env_id`` is None where a dataset has no environment; ``observation_size`` is then the data's own.
    """

    env_id: str | None
    env_kwargs: dict[str, Any]
    observation_size: int
    action_low: np.ndarray
    action_high: np.ndarray
    max_episode_steps: int | None = None


def make_env(env_id: str | None, kwargs: Mapping[str, Any] | None = None) -> gymnasium.Env:
    """Make a Gymnasium environment.

    Raises:
        SparError: the dataset has no environment (``env_id`` is None), the id is not registered, a package
            that it needs is missing, or the environment does not accept ``kwargs``.
    """
    if env_id is None:
        raise SparError("this dataset has no environment", "set 'env_id' in its entry to evaluate policies")
    import gymnasium

    if env_id not in gymnasium.registry:
        _register_robotics()
    try:
        with warnings.catch_warnings():
            # D4RL data needs the older versions; the advice to upgrade would be wrong.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            return gymnasium.make(env_id, **dict(kwargs or {}))
    except gymnasium.error.UnregisteredEnv:
        close = difflib.get_close_matches(env_id, sorted(gymnasium.registry), n=1, cutoff=0.8)
        hint = f"did you mean '{close[0]}'?" if close else "install the package that registers it"
        if env_id.startswith(ROBOTICS):
            hint = "run `pip install gymnasium-robotics`, or check the id"
        raise SparError(f"the environment '{env_id}' is not registered with Gymnasium", hint) from None
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise SparError(f"the environment '{env_id}' cannot be made: {error}") from None


def _register_robotics() -> None:
    """Adroit, AntMaze and Kitchen are registered by importing gymnasium-robotics, where it is installed."""
    try:
        import gymnasium_robotics
    except ImportError:
        return
    import gymnasium

    gymnasium.register_envs(gymnasium_robotics)


def environment_facts(env_id: str, kwargs: Mapping[str, Any] | None = None) -> EnvironmentFacts:
    """Sizes and bounds of an environment.

    Raises:
        SparError: it cannot be made, its observations are not one vector, or its actions are not a bounded
            vector.
    """
    from gymnasium.spaces import Box

    env = make_env(env_id, kwargs)
    try:
        observations, actions, spec = env.observation_space, env.action_space, env.spec
    finally:
        env.close()
    if not isinstance(observations, Box) or len(observations.shape) != 1:
        kind = type(observations).__name__
        raise SparError(
            f"the observations of '{env_id}' are a {kind} space, not one vector",
            "wrap the environment in gymnasium's FlattenObservation and register that",
        )
    if not isinstance(actions, Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise SparError(f"the actions of '{env_id}' are not a bounded vector", "only such actions are supported")
    return EnvironmentFacts(
        env_id,
        dict(kwargs or {}),
        observations.shape[0],
        actions.low.astype(np.float32),
        actions.high.astype(np.float32),
        spec.max_episode_steps if spec else None,
    )


def check_version(data_env_id: str | None, env_id: str | None, allow: bool) -> bool:
    """Whether data of one environment is to be evaluated in one that differs: the ``environment_mismatch``.

    Data whose environment is not known, and datasets without an environment, never mismatch.

    Raises:
        SparError: they differ, and ``allow`` is false.
    """
    if data_env_id is None or env_id is None or env_id == matching_env(data_env_id):
        return False
    if not allow:
        raise SparError(
            f"the data comes from '{data_env_id}' and would be evaluated in '{env_id}'",
            f"set 'env_id: {matching_env(data_env_id)}' in the dataset's entry, or "
            "'allow_environment_mismatch: true' to accept this, which every report will say",
        )
    return True


def matching_env(data_env_id: str) -> str:
    """The environment that data of ``data_env_id`` is evaluated in."""
    match = re.fullmatch(r"(\w+)-v(\d+)", data_env_id)
    if match and match[1] in FAMILIES and int(match[2]) in OLD_VERSIONS:
        return f"{match[1]}-v{SUCCESSOR_OF_OLD}"
    return data_env_id


def check_shapes(facts: EnvironmentFacts, observation_size: int, action_size: int) -> None:
    """Make sure that data with D-dimensional observations and A-dimensional actions fits an environment.

    Raises:
        SparError: it does not.
    """
    wanted = (facts.observation_size, len(facts.action_low))
    if (observation_size, action_size) != wanted:
        raise SparError(
            f"the data has {observation_size}-dimensional observations and {action_size}-dimensional actions, "
            f"but '{facts.env_id}' has {wanted[0]} and {wanted[1]}",
            "correct 'env_id' or 'env_kwargs' in the dataset's entry",
        )


def check_bounds(facts: EnvironmentFacts, low: np.ndarray, high: np.ndarray) -> None:
    """Make sure that the action bounds [A] that a dataset names are those of the environment.

    Raises:
        SparError: they differ.
    """
    if not (np.allclose(facts.action_low, low, atol=1e-6) and np.allclose(facts.action_high, high, atol=1e-6)):
        raise SparError(
            f"the data's action bounds {np.round(low, 4).tolist()} to {np.round(high, 4).tolist()} are not "
            f"those of '{facts.env_id}'",
            "correct 'env_id' or 'env_kwargs' in the dataset's entry",
        )
