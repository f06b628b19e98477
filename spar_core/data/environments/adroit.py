"""D4RL's Adroit environments under ids of their own: ``spar/AdroitHandDoor-v0`` and its three siblings.

gymnasium-robotics contains D4RL's four environments as ``AdroitHand...-v1``. Their models, resets, observations,
bonuses and successes are D4RL's, according to the code of both packages. For the door, replaying D4RL's demonstrations
confirms this. Three things differ:

- Door, hammer and relocate: D4RL's reward *subtracts* 0.1 times the distance from the palm to the handle, hammer
  or ball, and so does gymnasium-robotics 1.2.0. Versions 1.2.1 to 1.4.2 of gymnasium-robotics *add* it
  (https://github.com/Farama-Foundation/Gymnasium-Robotics/pull/220).
- Pen: D4RL's episode terminates when the pen is below 0.075 m. The episode of gymnasium-robotics continues.
- Pen: D4RL's time limit is 100 steps, and that of gymnasium-robotics 200. The other environments have 200 in both.

Sources: D4RL, ``d4rl/hand_manipulation_suite/{door,hammer,relocate,pen}_v0.py`` and ``__init__.py``;
gymnasium-robotics 1.4.2, ``envs/adroit_hand/adroit_*.py``. The key of ``info`` that D4RL names ``goal_achieved`` keeps
the name that gymnasium-robotics gives it, ``success``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMESPACE = "spar/"

# The vector from palm to object in metres [..., 3], from observations [..., D]. The keys are the ids of the ``-v1``
# environments without their version. Pen's reward has no such term.
PALM_TO_OBJECT: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "AdroitHandDoor": lambda seen: seen[..., 35:38],
    "AdroitHandHammer": lambda seen: seen[..., 33:36] - seen[..., 36:39],
    "AdroitHandRelocate": lambda seen: seen[..., 30:33],
}
PALM_WEIGHT = 0.1
PEN_HEIGHT = 26  # dimension of the observation that holds the pen's height in metres
DROPPED = 0.075  # height in metres below which the pen counts as dropped

TIME_LIMITS = {"AdroitHandDoor": 200, "AdroitHandHammer": 200, "AdroitHandRelocate": 200, "AdroitHandPen": 100}


def register() -> None:
    """Register the four environments with Gymnasium; those that are registered already are left alone.

    ``gymnasium.make`` takes the keyword arguments of the ``-v1`` environments, but refuses sparse rewards, which D4RL
    does not have (see :mod:`spar_core.data.environments.adroit_wrapper`).
    """
    import gymnasium
    from gymnasium.envs.registration import WrapperSpec

    for family, limit in TIME_LIMITS.items():
        name = f"{NAMESPACE}{family}-v0"
        if name in gymnasium.registry:
            continue
        module = f"adroit_{family.removeprefix('AdroitHand').lower()}"
        wrapper = WrapperSpec("AsInD4rl", "spar_core.data.environments.adroit_wrapper:AsInD4rl", {"family": family})
        gymnasium.register(
            name,
            entry_point=f"gymnasium_robotics.envs.adroit_hand.{module}:{family}Env",
            max_episode_steps=limit,
            additional_wrappers=(wrapper,),
        )


def palm_distance(family: str, observations: NDArray[Any]) -> NDArray[Any] | None:
    """Distances [...] from palm to object in metres.

    Args:
        family: id of the environment without its version.
        observations: [..., D].

    Returns:
        None unless ``family`` is ``AdroitHandDoor``, ``AdroitHandHammer`` or ``AdroitHandRelocate``.
    """
    to_object = PALM_TO_OBJECT.get(family)
    return None if to_object is None else np.linalg.norm(to_object(observations), axis=-1)
