"""Make the evaluation environment of a dataset, and check that the data comes from the same one.

In MuJoCo's locomotion families, the version of an environment matters. D4RL data was collected in ``-v2`` environments,
which Gymnasium no longer contains. The ``-v4`` environments reproduce them, while ``-v5`` changes Walker2d's foot
friction and Hopper's reward at terminal steps. So D4RL's ``-v2`` data is evaluated in ``-v4``, and ``-v5`` data (such
as Minari's ``mujoco/*``) in ``-v5``. Other pairs are refused unless the entry allows them.

Dictionary observations become one vector (see :mod:`spar_core.data.environments.flatten`).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from spar_core.data.environments.actions import space_bounds
from spar_core.data.environments.flatten import observation_layout
from spar_core.data.environments.ids import bare, in_module, module_of, register, resolved
from spar_core.errors import SparError, others_code

if TYPE_CHECKING:
    import gymnasium

# MuJoCo's locomotion families.
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
OLD_VERSIONS = {1, 2, 3}  # versions that Gymnasium no longer contains
SUCCESSOR_OF_OLD = 4  # the version that reproduces them

SET_LIMIT = "set 'env_kwargs: {max_episode_steps: N}' in the dataset's entry"  # what to do about a missing time limit

Equivalence = Literal["none", "same", "documented", "mismatch", "unverified"]


@dataclass(frozen=True)
class EnvironmentFacts:
    """Facts about an environment that its data must agree with.

    Attributes:
        env_id: its Gymnasium id; None if the dataset has no environment.
        env_kwargs: keyword arguments that it was made with.
        observation_size: D; without an environment, that of the data.
        action_low: lower bounds [A].
        action_high: upper bounds [A].
        max_episode_steps: its time limit in steps; None if it has none.
        observation_layout: for the manifest, which columns of the vector hold which part of a dictionary observation;
            None if observations are vectors.
    """

    env_id: str | None
    env_kwargs: dict[str, Any]
    observation_size: int
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    max_episode_steps: int | None = None
    observation_layout: list[dict[str, Any]] | None = None


def make_env(
    env_id: str | None, kwargs: Mapping[str, Any] | None = None, observation_keys: Sequence[str] | None = None
) -> gymnasium.Env[Any, Any]:
    """Make a Gymnasium environment whose observations are one vector [D].

    Dictionary observations become a float32 vector. Observations that are vectors are not changed.

    Args:
        env_id: its Gymnasium id.
        kwargs: keyword arguments of ``gymnasium.make``, which may include ``max_episode_steps``.
        observation_keys: parts of a dictionary observation to take, in this order; None takes all, sorted by name.

    Raises:
        SparError: the dataset has no environment (``env_id`` is None), the id is not registered, a package that it
            needs is missing, the environment does not accept ``kwargs``, or its observations are not
            vectors or dictionaries of vectors.
    """
    env = _make(env_id, kwargs)
    try:
        layout = observation_layout(env.observation_space, observation_keys, f"'{env_id}'")
    except SparError:
        close(env)
        raise
    if layout.plain:
        return env
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation

    return TransformObservation(env, layout.flatten, Box(-np.inf, np.inf, (layout.size,), np.float32))


def _make(env_id: str | None, kwargs: Mapping[str, Any] | None) -> gymnasium.Env[Any, Any]:
    if env_id is None:
        raise SparError("this dataset has no environment", "set 'env_id' in its entry to evaluate policies")
    import gymnasium

    register(env_id)
    cannot = f"the environment '{env_id}' cannot be made"
    with others_code(cannot, "check 'env_id' and 'env_kwargs' in the dataset's entry"), warnings.catch_warnings():
        # D4RL data needs old versions of environments, so hide the advice to use a newer one.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            env = gymnasium.make(env_id, **dict(kwargs or {}))
        except gymnasium.error.UnregisteredEnv:
            raise _unregistered(env_id) from None
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:  # The message says what to install.
            raise SparError(f"{cannot}: {error}") from None
    # A maze writes its model into the temporary folder, reads it once, and would leave it there.
    leftover = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if leftover is not None:
        Path(leftover).unlink(missing_ok=True)
    return env


def close(env: Any) -> None:
    """Close an environment. An error that it raises then is ignored, since it changes no result."""
    with suppress(Exception, SystemExit):
        env.close()


def _unregistered(env_id: str) -> SparError:
    import gymnasium

    module = module_of(env_id)
    close = difflib.get_close_matches(bare(env_id), sorted(gymnasium.registry), n=1, cutoff=0.8)
    if close:
        hint = f"did you mean '{in_module(module, close[0])}'?"
    elif module:
        hint = f"`import {module}` does not register it: correct 'env_id' or 'env_module' in the dataset's entry"
    else:
        hint = (
            "install the package that registers it, and set 'env_module: MODULE' in the dataset's entry, or "
            f"'env_id: MODULE:{env_id}', with the module that does so when it is imported"
        )
    return SparError(f"the environment '{env_id}' is not registered with Gymnasium", hint)


def environment_facts(
    env_id: str, kwargs: Mapping[str, Any] | None = None, observation_keys: Sequence[str] | None = None
) -> EnvironmentFacts:
    """Facts about the environment that :func:`make_env` makes from the same arguments.

    Raises:
        SparError: the environment cannot be made, its observations do not fit into one vector, or its actions are not a
            vector of floats. The bounds of the actions may be infinite.
    """
    env = _make(env_id, kwargs)
    try:
        layout = observation_layout(env.observation_space, observation_keys, f"'{env_id}'")
        low, high = space_bounds(env.action_space, f"'{env_id}'")
        limit = env.spec.max_episode_steps if env.spec else None
    finally:
        close(env)
    parts = None if layout.plain else layout.to_list()
    # A name without a version is written with it, because its meaning changes with the next version.
    found = in_module(module_of(env_id), resolved(env_id))
    return EnvironmentFacts(found, dict(kwargs or {}), layout.size, low, high, limit, parts)


def equivalence(data_env_id: str | None, env_id: str | None, allow_mismatch: bool) -> Equivalence:
    """How the environment that the data comes from is related to the evaluation environment.

    Args:
        data_env_id: environment that the data comes from; None if it is not known.
        env_id: evaluation environment; None if the dataset has none.
        allow_mismatch: whether the entry accepts another environment.

    Returns:
        ``none``: the dataset has no environment. ``same``: the ids name one environment, or ``data_env_id`` is not
        known.
        ``documented``: ``env_id`` is the version that reproduces D4RL's old locomotion environment. ``mismatch``: the
        ids differ, and the entry allows that. ``unverified``: the ids differ outside the locomotion families, where
        only the data can show whether the environments agree.

    Raises:
        SparError: the ids differ within the locomotion families, and ``allow_mismatch`` is false.
    """
    if env_id is None:
        return "none"
    if data_env_id is None:
        return "same"
    # As Gymnasium reads them, whichever module registers them.
    data_env_id, env_id = resolved(data_env_id), resolved(env_id)
    if data_env_id == env_id:
        return "same"
    if matching_env(data_env_id) == env_id:
        return "documented"
    if allow_mismatch:
        return "mismatch"
    if _family(data_env_id) and _family(env_id):
        raise _differs(data_env_id, env_id)
    return "unverified"


def _differs(data_env_id: str, env_id: str) -> SparError:
    return SparError(
        f"the data comes from '{data_env_id}' and would be evaluated in '{env_id}'",
        f"set 'env_id: {matching_env(data_env_id)}' in the dataset's entry, or "
        "'allow_environment_mismatch: true' to accept the difference, which every report will state",
    )


def _family(env_id: str) -> bool:
    """Whether an id such as ``Hopper-v4`` belongs to a locomotion family."""
    match = re.fullmatch(r"(\w+)-v\d+", env_id)
    return match is not None and match[1] in FAMILIES


def matching_env(data_env_id: str) -> str:
    """The id of the environment in which data from ``data_env_id`` is evaluated."""
    match = re.fullmatch(r"(\w+)-v(\d+)", data_env_id)
    if match and match[1] in FAMILIES and int(match[2]) in OLD_VERSIONS:
        return f"{match[1]}-v{SUCCESSOR_OF_OLD}"
    return data_env_id


def check_shapes(facts: EnvironmentFacts, observation_size: int, action_size: int) -> None:
    """Make sure that data with observations [D] and actions [A] of these sizes fits an environment.

    Raises:
        SparError: a size is not the environment's.
    """
    wanted = (facts.observation_size, len(facts.action_low))
    if (observation_size, action_size) != wanted:
        raise SparError(
            f"the data has {observation_size}-dimensional observations and {action_size}-dimensional actions, "
            f"but '{facts.env_id}' has {wanted[0]} and {wanted[1]}",
            "correct 'env_id' or 'env_kwargs' in the dataset's entry",
        )


def require_time_limit(facts: EnvironmentFacts, longest: int) -> None:
    """Make sure that every episode of a policy ends; ``longest`` is the number of steps of the data's longest episode.

    Raises:
        SparError: the environment has no time limit.
    """
    if facts.max_episode_steps is None:
        raise SparError(
            f"'{facts.env_id}' has no time limit, so an episode of a policy might never end",
            f"{SET_LIMIT} (the longest episode of the data has {longest} steps)",
        )
