"""Ids of environments as Gymnasium reads them: ``[module:][namespace/]Name[-vN]``.

The module is imported first, because it registers the environment. It is no part of the name: ``toys:Toy-v0`` and, once
``toys`` is imported, ``Toy-v0`` are the same environment. A name without a version means the newest one.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from typing import TYPE_CHECKING, Any

from spar_core.data.environments import adroit, ogbench
from spar_core.errors import SparError, others_code

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

ROBOTICS = "gymnasium_robotics"
# gymnasium-robotics 1.2.1 changed the rewards of these environments without changing their ids.
CHANGED_REWARDS = ("AdroitHandDoor", "AdroitHandHammer", "AdroitHandRelocate")


def bare(env_id: str) -> str:
    """The id without its module."""
    return env_id.rpartition(":")[2]


def module_of(env_id: str) -> str | None:
    """The module that an id names; None if it names none."""
    return env_id.rpartition(":")[0] or None


def in_module(module: str | None, env_id: str | None) -> str | None:
    """The id with ``module`` as its module; the id itself where one of the two is None."""
    return env_id if module is None or env_id is None else f"{module}:{bare(env_id)}"


def resolved(env_id: str) -> str:
    """The id without its module and with a version, for comparisons.

    An id that nothing registers keeps what it has.
    """
    from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
    from gymnasium.error import Error

    try:
        namespace, name, version = parse_env_id(bare(env_id))
    except Error:
        return bare(env_id)
    if version is None:
        version = find_highest_version(namespace, name)
    return get_env_id(namespace, name, version)


def register(env_id: str) -> None:
    """Import what registers an environment: the module that its id names, else gymnasium-robotics for unknown ids.

    OGBench's single tasks have ids of our own, see :mod:`spar_core.data.environments.ogbench`.

    Raises:
        SparError: the import failed.
    """
    import gymnasium

    module, name = module_of(env_id), bare(env_id)
    if module is not None and module != ROBOTICS and ":" not in module:
        _import(module, env_id)
    elif name not in gymnasium.registry and ogbench.is_task(name):
        ogbench.register(name)
    elif name not in gymnasium.registry:
        _register_robotics(name)
        if name.startswith(adroit.NAMESPACE):
            adroit.register()


def stored_spec(env_id: str, kwargs: Mapping[str, Any]) -> EnvSpec | None:
    """What is registered under an id, with the keyword arguments of ``gymnasium.make``, for Minari's metadata.

    Returns:
        None where it cannot be written as JSON.

    Raises:
        SparError: what registers the environment cannot be imported.
    """
    import gymnasium

    register(env_id)
    registered, own = gymnasium.spec(resolved(env_id)), dict(kwargs)
    # The time limit is an argument of `gymnasium.make`, not of the environment itself.
    limit = own.pop("max_episode_steps", registered.max_episode_steps)
    maker: Any = registered.entry_point
    if callable(maker):
        maker = f"{maker.__module__}:{maker.__qualname__}"
    spec = dataclasses.replace(
        registered, entry_point=maker, kwargs={**registered.kwargs, **own}, max_episode_steps=limit
    )
    try:
        spec.to_json()
    except (TypeError, ValueError):
        return None
    return spec


def _import(module: str, env_id: str) -> None:
    hint = (
        "correct 'env_id' or 'env_module' in the dataset's entry, or install the module or add its folder to PYTHONPATH"
    )
    with others_code(f"the environment '{env_id}' cannot be made: `import {module}` failed", hint):
        importlib.import_module(module)


def _register_robotics(env_id: str) -> None:
    """Register the mazes, Adroit and the kitchen by importing gymnasium-robotics.

    The import prints a notice about the rewards of ``CHANGED_REWARDS``, which is hidden for other environments.
    """
    quiet = nullcontext() if env_id.startswith(CHANGED_REWARDS) else redirect_stderr(io.StringIO())
    try:
        with quiet:
            import gymnasium_robotics
    except ImportError as error:
        raise SparError(
            f"the environment '{env_id}' is not registered with Gymnasium, and gymnasium-robotics cannot be "
            f"imported ({error})",
            "run `pip install gymnasium-robotics`, or correct 'env_id' in the dataset's entry",
        ) from None
    import gymnasium

    gymnasium.register_envs(gymnasium_robotics)
