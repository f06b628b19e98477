"""D4RL's Adroit environments under ids of their own: ``spar/AdroitHandDoor-v0`` and its three siblings.

gymnasium-robotics took the four over from D4RL as ``AdroitHand...-v1``. Models, resets, observations, bonuses
and successes are the same, as reading both sides shows; for the door, replaying D4RL's demonstrations shows it
too. Three things are not:

- Door, hammer and relocate: D4RL's reward *subtracts* 0.1 times the distance from the palm to the handle, hammer
  or ball, as gymnasium-robotics 1.2.0 does. Its 1.2.1 to 1.4.2 *add* it
  (https://github.com/Farama-Foundation/Gymnasium-Robotics/pull/220).
- Pen: D4RL's episode ends, as terminated, once the pen is below 0.075 m. gymnasium-robotics' goes on.
- Pen: D4RL's time limit is 100 steps, gymnasium-robotics' 200. The others have 200 in both.

Sources: D4RL, ``d4rl/hand_manipulation_suite/{door,hammer,relocate,pen}_v0.py`` and ``__init__.py``;
gymnasium-robotics 1.4.2, ``envs/adroit_hand/adroit_*.py``. D4RL calls ``goal_achieved`` in ``info`` what
gymnasium-robotics calls ``success``; the latter is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NAMESPACE = "spar/"

# Where observations [..., D] hold the way from palm to object, in metres, by the names of the ``-v1``
# environments without their version. Pen's reward has no such term.
PALM_TO_OBJECT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "AdroitHandDoor": lambda seen: seen[..., 35:38],
    "AdroitHandHammer": lambda seen: seen[..., 33:36] - seen[..., 36:39],
    "AdroitHandRelocate": lambda seen: seen[..., 30:33],
}
PALM_WEIGHT = 0.1
# Where observations hold the pen's height in metres, and the height below which it counts as dropped.
PEN_HEIGHT = 26
DROPPED = 0.075

TIME_LIMITS = {"AdroitHandDoor": 200, "AdroitHandHammer": 200, "AdroitHandRelocate": 200, "AdroitHandPen": 100}


def register() -> None:
    """Register the four environments with Gymnasium, once.

    ``gymnasium.make`` takes the same keyword arguments as for the ``-v1`` environments, except that rewards are
    always dense, as D4RL's are: see ``spar_core.data.environments.adroit_wrapper``.
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


def palm_distance(family: str, observations: np.ndarray) -> np.ndarray | None:
    """Distances [...] from palm to object in observations [..., D], in metres.

    ``family`` is an id without its version; None for all but ``AdroitHandDoor``, ``-Hammer`` and ``-Relocate``.
    """
    way = PALM_TO_OBJECT.get(family)
    return None if way is None else np.linalg.norm(way(observations), axis=-1)
