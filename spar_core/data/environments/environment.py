"""The evaluation environment of a dataset, and whether it is the one that the data comes from.

In MuJoCo's locomotion families the version is part of the data's identity. Gymnasium no longer holds the
``-v2`` environments that D4RL data was collected in; ``-v4`` reproduces them, while ``-v5`` changes
Walker2d's foot friction and Hopper's reward at terminal steps. So D4RL ``-v2`` data belongs to ``-v4``,
``-v5`` data (Minari's ``mujoco/*``) to ``-v5``, and other pairs are refused unless the entry allows them.

Observations that are dictionaries are laid out as one vector: see ``spar_core.data.environments.flatten``.
"""

from __future__ import annotations

import difflib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spar_core.data.environments import adroit
from spar_core.data.environments.flatten import observation_layout
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
OLD_VERSIONS = {1, 2, 3}
SUCCESSOR_OF_OLD = 4
# The environments whose rewards gymnasium-robotics changed in its 1.2.1, under the same id.
CHANGED_REWARDS = ("AdroitHandDoor", "AdroitHandHammer", "AdroitHandRelocate")

Equivalence = Literal["none", "same", "documented", "mismatch", "unverified"]


@dataclass(frozen=True)
class EnvironmentFacts:
    """What data is checked against: D observations, and the bounds [A] of actions, float32.

    ``env_id`` is None where a dataset has no environment; ``observation_size`` is then the data's own.
    ``observation_layout`` says which part of a dictionary observation lies where in the vector, as plain
    values for the manifest; it is None where observations are vectors already.
    """

    env_id: str | None
    env_kwargs: dict[str, Any]
    observation_size: int
    action_low: np.ndarray
    action_high: np.ndarray
    max_episode_steps: int | None = None
    observation_layout: list[dict[str, Any]] | None = None


def make_env(
    env_id: str | None, kwargs: Mapping[str, Any] | None = None, observation_keys: Sequence[str] | None = None
) -> gymnasium.Env:
    """Make a Gymnasium environment whose observations are one vector [D].

    Dictionary observations are laid out as a float32 vector; vectors stay as they are.

    Args:
        env_id: its Gymnasium id.
        kwargs: keyword arguments, ``max_episode_steps`` among them.
        observation_keys: parts of a dictionary observation to take; null for all, sorted by name.

    Raises:
        SparError: the dataset has no environment (``env_id`` is None), the id is not registered, a package
            that it needs is missing, the environment does not accept ``kwargs``, or its observations cannot
            be laid out as one vector.
    """
    env = _make(env_id, kwargs)
    try:
        layout = observation_layout(env.observation_space, observation_keys, f"'{env_id}'")
    except SparError:
        env.close()
        raise
    if layout.plain:
        return env
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation

    return TransformObservation(env, layout.flatten, Box(-np.inf, np.inf, (layout.size,), np.float32))


def _make(env_id: str | None, kwargs: Mapping[str, Any] | None) -> gymnasium.Env:
    if env_id is None:
        raise SparError("this dataset has no environment", "set 'env_id' in its entry to evaluate policies")
    import gymnasium

    if env_id not in gymnasium.registry:
        _register_robotics(env_id)
        if env_id.startswith(adroit.NAMESPACE):
            adroit.register()
    try:
        with warnings.catch_warnings():
            # D4RL data needs the older versions; the advice to upgrade would be wrong.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            env = gymnasium.make(env_id, **dict(kwargs or {}))
    except gymnasium.error.UnregisteredEnv:
        close = difflib.get_close_matches(env_id, sorted(gymnasium.registry), n=1, cutoff=0.8)
        hint = f"did you mean '{close[0]}'?" if close else "install the package that registers it"
        raise SparError(f"the environment '{env_id}' is not registered with Gymnasium", hint) from None
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:  # it says itself what to install
        raise SparError(f"the environment '{env_id}' cannot be made: {error}") from None
    except SparError:
        raise
    except Exception as error:  # environments check their arguments each in its own way, or not at all
        lines = str(error).splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise SparError(
            f"the environment '{env_id}' cannot be made: {reason}",
            "check 'env_id' and 'env_kwargs' in the dataset's entry",
        ) from None
    # Every maze writes a model file into the temporary folder, reads it once and leaves it there.
    leftover = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if leftover is not None:
        Path(leftover).unlink(missing_ok=True)
    return env


def _register_robotics(env_id: str) -> None:
    """The mazes, Adroit and the kitchen are registered by importing gymnasium-robotics.

    The import prints a notice on the rewards of three Adroit environments. It is shown for these alone.
    """
    quiet = nullcontext() if env_id.startswith(CHANGED_REWARDS) else redirect_stderr(io.StringIO())
    try:
        with quiet:
            import gymnasium_robotics
    except ImportError as error:
        raise SparError(
            f"the environment '{env_id}' is not registered with Gymnasium, and gymnasium-robotics cannot be "
            f"imported ({error})",
            "run `pip install gymnasium-robotics`, or check the id",
        ) from None
    import gymnasium

    gymnasium.register_envs(gymnasium_robotics)


def environment_facts(
    env_id: str, kwargs: Mapping[str, Any] | None = None, observation_keys: Sequence[str] | None = None
) -> EnvironmentFacts:
    """Sizes and bounds of the environment that ``make_env`` makes from the same arguments.

    Raises:
        SparError: it cannot be made, its observations cannot be laid out as one vector, or its actions are
            not a bounded vector.
    """
    from gymnasium.spaces import Box

    env = _make(env_id, kwargs)
    try:
        actions, spec = env.action_space, env.spec
        layout = observation_layout(env.observation_space, observation_keys, f"'{env_id}'")
    finally:
        env.close()
    if not isinstance(actions, Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise SparError(f"the actions of '{env_id}' are not a bounded vector", "only such actions are supported")
    return EnvironmentFacts(
        env_id,
        dict(kwargs or {}),
        layout.size,
        actions.low.astype(np.float32),
        actions.high.astype(np.float32),
        spec.max_episode_steps if spec else None,
        None if layout.plain else layout.to_list(),
    )


def equivalence(data_env_id: str | None, env_id: str | None, allow_mismatch: bool) -> Equivalence:
    """How the environment that data comes from relates to the one that it is to be evaluated in.

    Returns:
        ``none``: the dataset has no environment. ``same``: the ids are equal, or where the data comes from is
        not known. ``documented``: D4RL's old locomotion data in the version that reproduces it.
        ``mismatch``: they differ, and the entry allows it. ``unverified``: they differ outside the locomotion
        families, where ids alone do not tell whether they agree; only the data can show that.

    Raises:
        SparError: they differ within the locomotion families, and ``allow_mismatch`` is false.
    """
    if env_id is None:
        return "none"
    if data_env_id is None or data_env_id == env_id:
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
        "'allow_environment_mismatch: true' to accept this, which every report will say",
    )


def _family(env_id: str) -> bool:
    """Whether an id such as ``Hopper-v4`` belongs to a locomotion family."""
    match = re.fullmatch(r"(\w+)-v\d+", env_id)
    return match is not None and match[1] in FAMILIES


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
