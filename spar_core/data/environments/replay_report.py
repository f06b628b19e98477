"""What replaying a D4RL file in an environment showed, as numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spar_core.data.environments.adroit import PALM_WEIGHT

# Largest 95% quantile of the observation errors, in standard deviations, with which two environments agree. The largest
# error says less, because contacts magnify differences between releases of MuJoCo. This tolerance is a tenth of the
# effect of a changed friction (Walker2d-v5: 0.12), and thousands of times the effect of float32 on steps without
# contacts (below 1e-5).
OBSERVATION_TOLERANCE = 0.01


@dataclass(frozen=True)
class Errors:
    """Absolute errors over the steps: median, 95% quantile and largest."""

    median: float
    p95: float
    largest: float


@dataclass(frozen=True)
class ReplayReport:
    """What replaying a file showed.

    Errors of observations are in standard deviations of each dimension, and the error of a step is that of its worst
    dimension. Errors of rewards are in the units of the reward.

    Attributes:
        env_id: the environment.
        steps: number of steps compared, none of them the last of its episode.
        inferred: names of the scene's parts that were computed from observations because the file lacks them.
        set_state: errors of the observation right after a recorded state is set.
        one_step: errors of the observation one step later.
        floor: errors that float32 states alone cause one step later; even the environment that recorded the file would
            have them.
        steps_off: share of the steps whose observation one step later is off by more than the tolerance.
        dimensions_off: number of dimensions whose 95% quantile one step later is above the tolerance.
        constant_dimensions_off: how many of these dimensions hold a single value in the file.
        worst_set: dimensions whose 95% quantile after setting a state is above the tolerance, with that quantile; at
            most five, the worst first.
        worst_step: the same one step later.
        reward: errors of the reward.
        reward_floor: errors of the reward that float32 states alone cause.
        reward_scale: standard deviation of the recorded rewards.
        reward_other_sign: errors of the reward if the environment subtracted what it adds for the distance from palm to
            object; None except for gymnasium-robotics' door, hammer and relocate.
        terminals: number of terminal steps compared, at most a tenth of the steps asked for.
        terminals_reproduced: at how many of them the environment terminates.
        terminal_reward: errors of the reward at these steps; None if there are none.
        false_terminals: at how many of ``steps`` the environment terminates although the file does not.
        observations_agree: whether the observation is the same function of the state. This also counts as shown if only
            the observation one step later agrees.
        dynamics_agree: whether a step leads to the same observation.
        rewards_agree: whether a step earns the same reward, also at terminal steps.
        ends_agree: whether the environment terminates where the file does, unless the file's terminals are cuts, and
            nowhere else.
        agrees: whether all four agree.
        reading: the verdict in words.
    """

    env_id: str
    steps: int
    inferred: list[str]
    set_state: Errors
    one_step: Errors
    floor: Errors
    steps_off: float
    dimensions_off: int
    constant_dimensions_off: int
    worst_set: list[tuple[int, float]]
    worst_step: list[tuple[int, float]]
    reward: Errors
    reward_floor: Errors
    reward_scale: float
    reward_other_sign: Errors | None
    terminals: int
    terminals_reproduced: int
    terminal_reward: Errors | None
    false_terminals: int
    observations_agree: bool
    dynamics_agree: bool
    rewards_agree: bool
    ends_agree: bool
    agrees: bool
    reading: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; equal reports give equal text."""
        return asdict(self)


def in_words(env_id: str, allowed: float, facts: Mapping[str, Any]) -> str:
    """The verdict in words.

    Args:
        env_id: the environment.
        allowed: largest 95% quantile of reward errors with which rewards agree.
        facts: the fields of the :class:`ReplayReport` that come before ``reading``, by name.
    """
    step, reward, other, last = (facts[name] for name in ("one_step", "reward", "reward_other_sign", "terminal_reward"))
    parts = {"observations": "observations", "dynamics": "steps", "rewards": "rewards", "ends": "ends of episodes"}
    wrong = [words for name, words in parts.items() if not facts[f"{name}_agree"]]
    said = [
        f"{env_id} does not reproduce the file's {', '.join(wrong)}." if wrong else f"{env_id} reproduces the file."
    ]
    said.append(
        f"Of {facts['steps']} steps, 95% come within {step.p95:.2g} standard deviations of the recorded next "
        f"observation (allowed: {OBSERVATION_TOLERANCE}), the furthest within {step.largest:.2g}."
    )
    if not facts["dynamics_agree"]:
        listed = ", ".join(str(dimension) for dimension, _ in facts["worst_step"])
        said.append(f"{facts['dimensions_off']} dimensions of the observation differ, most of all {listed}.")
        if facts["constant_dimensions_off"]:
            constant = facts["constant_dimensions_off"]
            said.append(f"For {constant} of them the file holds one value only, and errors are in their own units.")
        if not facts["observations_agree"]:
            said.append("They differ as soon as the recorded state is set, before any step.")
    if facts["rewards_agree"]:
        said.append(f"Rewards agree: 95% within {reward.p95:.2g}.")
    else:
        said.append(f"Rewards differ: 95% within {reward.p95:.2g}, allowed are {allowed:.2g}.")
        if other and other.p95 <= allowed:
            said.append(
                f"This release of gymnasium-robotics adds {PALM_WEIGHT} times the distance of palm and object, which "
                f"D4RL subtracts: with D4RL's sign, 95% are within {other.p95:.2g}."
            )
        elif last and last.p95 > allowed >= reward.p95:
            said.append(f"They differ at terminal steps only, half of them by {last.median:.2g} or more.")
    if not facts["ends_agree"]:
        said.append(
            f"It terminates at {facts['terminals_reproduced']} of {facts['terminals']} steps that the file marks "
            f"terminal, and at {facts['false_terminals']} where the file goes on."
        )
    return " ".join(said)
