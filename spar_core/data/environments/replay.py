"""Whether an environment reproduces a D4RL file: recorded simulator states, set and stepped again.

For a sample of steps the recorded state is set in today's environment and the recorded action is taken. Three
things are compared with the file: the observation of the set state, the observation after the step, and the
reward. Each has a verdict of its own, because each fails for reasons of its own: another layout, another
simulator or model, another reward function.

The same environment does not reproduce its own data exactly either. D4RL records states in float32 and without
the solver's warm start; ``floor`` measures what that alone does. Contact forces in observations (Ant, Humanoid)
belong to the step before a state, so setting the state does not bring them back, while a step from it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.data.environments.adroit import PALM_WEIGHT, palm_distance
from spar_core.data.environments.environment import check_shapes, environment_facts, make_env
from spar_core.data.environments.replay_states import NEEDED, RecordedStates, recorded_arrays
from spar_core.errors import SparError
from spar_core.evenly import evenly

# Contacts magnify the differences between releases of MuJoCo, so the 95% quantile decides, not the largest
# error. A hundredth of a standard deviation is a tenth of what a changed friction does (Walker2d-v5: 0.12), and
# thousands of times what float32 does to steps without contacts (below 1e-5).
OBSERVATION_TOLERANCE = 0.01
# Of the recorded rewards' standard deviation. A reward is computed from one step, so nothing accumulates in it.
REWARD_TOLERANCE = 1e-3
# Where float32 alone does more than that, an environment is held to what it reproduces of itself.
FLOOR_FACTOR = 3.0
# An environment that ends episodes where the file goes on, or the other way about, is another task; a few steps
# lie on the border.
OTHER_ENDS = 0.01
# A dimension that does not vary has no standard deviation to measure in: its errors count in its own units.
STILL = 1e-6
# For simulations that blow up: JSON holds no infinity.
LARGEST = 1e6


@dataclass(frozen=True)
class Errors:
    """Absolute errors over the steps: median, 95% quantile and largest."""

    median: float
    p95: float
    largest: float


@dataclass(frozen=True)
class ReplayReport:
    """What replaying a file showed.

    Errors of observations are in standard deviations of the dimension, and a step's is that of its worst
    dimension. Errors of rewards are in the reward's units.

    Attributes:
        steps: steps compared, none of them the last of an episode.
        inferred: parts of the scene that were found from observations, by the environment's names.
        set_state: the observation right after a recorded state is set.
        one_step: the observation after one step from there; ``steps_off`` is the share of steps above the
            tolerance.
        floor: what ``one_step`` would be had this environment recorded the data, in float32.
        worst_set: dimensions whose 95% quantile is above the tolerance, and it: at most 5, worst first.
        worst_step: likewise after the step; ``dimensions_off`` is how many they are, and
            ``constant_dimensions_off`` for how many of these the file holds one value only.
        reward: the reward; ``reward_floor`` is what float32 states do to it.
        reward_scale: the standard deviation of the recorded rewards.
        reward_other_sign: ``reward`` if the environment subtracted what it adds for the distance of palm and
            object; None for all but gymnasium-robotics' door, hammer and relocate.
        terminals: steps compared that the file marks terminal, at most a tenth of the steps asked for.
        terminals_reproduced: those at which the environment terminates as well.
        terminal_reward: the rewards of those steps; None where there are none.
        false_terminals: of ``steps``, those at which the environment terminates and the file does not.
        observations_agree: the observation is the same function of the state. Also where setting a state
            does not bring it back and a step from there does.
        dynamics_agree: a step leads to the same observation.
        rewards_agree: a step earns the same reward, also at terminals.
        ends_agree: the environment terminates where the file does (unless those are cuts), and only there.
        agrees: all four.
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
        """For JSON: the same input gives the same text."""
        return asdict(self)


def replay_check(
    path: Path,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int = 500,
    terminals_are_truncations: bool = False,
) -> ReplayReport | None:
    """Replay evenly spread steps of a D4RL file in an environment.

    Args:
        path: the HDF5 file, which ``read_d4rl`` accepts.
        env_id: the environment, made by ``make_env``.
        env_kwargs: its keyword arguments.
        steps: how many steps to replay; 500 take about a second.
        terminals_are_truncations: ``terminals`` mark cuts, so the environment need not terminate at them.

    Returns:
        None where the file holds no simulator states or none that are numbers, or the environment has no way
        to set one (kitchen, the mazes).

    Raises:
        SparError: the file cannot be read, has no episode of two steps, or its observations, actions or
            states are not of the environment's size; or the environment cannot be made.
    """
    facts = environment_facts(env_id, env_kwargs)
    env = make_env(env_id, env_kwargs)
    try:
        if not all(hasattr(env.unwrapped, name) for name in NEEDED):
            return None
        env.reset(seed=0)  # Adroit's pen knows its length only after a reset
        with recorded_arrays(path) as arrays:
            if arrays is None:
                return None
            check_shapes(facts, arrays["observations"].shape[1], arrays["actions"].shape[1])
            return _judge(env_id, RecordedStates(env, arrays), steps, terminals_are_truncations)
    finally:
        env.close()


def _judge(env_id: str, states: RecordedStates, steps: int, cuts: bool) -> ReplayReport | None:
    """Replay a sample of steps, and the verdicts on it; ``cuts``: the file's terminals are cuts."""
    rows = evenly(np.flatnonzero(~states.ends), steps)
    if len(rows) == 0:
        raise SparError("no episode of the file has two steps, so there is nothing to replay")
    rows = states.usable(rows, following=True)
    if len(rows) == 0:
        return None
    wanted = np.stack([states.following(row) for row in rows.tolist()])
    scale = wanted.std(axis=0)
    constant = scale < STILL
    scale[constant] = 1.0
    seen = np.empty_like(wanted)
    set_error, floor = np.empty_like(wanted), np.empty_like(wanted)
    reward, reward_floor, done = np.empty(len(rows)), np.empty(len(rows)), np.empty(len(rows), bool)
    for i, row in enumerate(rows.tolist()):
        recorded = states.row("observations", row)
        set_error[i] = min((_errors_of(x - recorded, scale) for x in states.place(row)), key=np.max)
        seen[i], reward[i], done[i] = states.step(row)
        first, again, reward_first, reward_again = states.step_as_recorded(row)
        floor[i], reward_floor[i] = _errors_of(again - first, scale), reward_again - reward_first
    reward -= states.rewards[rows]
    step_error = _errors_of(seen - wanted, scale)

    last = states.usable(evenly(np.flatnonzero(states.terminals), max(1, steps // 10)))
    outcomes = []
    for row in last.tolist():
        states.place(row)
        outcomes.append(states.step(row)[1:])
    last_reward = np.array([paid for paid, _ in outcomes]) - states.rewards[last]

    found = [_summary(x.max(axis=1)) for x in (set_error, step_error, floor)]
    paid, paid_floor = _summary(reward), _summary(reward_floor)
    paid_last = _summary(last_reward) if len(last) else None
    reward_scale = float(f"{states.rewards[np.isfinite(states.rewards)].std():.4g}")
    allowed = max(REWARD_TOLERANCE * (reward_scale or 1.0), FLOOR_FACTOR * paid_floor.p95)
    dynamics = found[1].p95 <= max(OBSERVATION_TOLERANCE, FLOOR_FACTOR * found[2].p95)
    missed = sum(not ended for _, ended in outcomes)
    verdicts = {
        "observations_agree": dynamics or found[0].p95 <= OBSERVATION_TOLERANCE,
        "dynamics_agree": dynamics,
        "rewards_agree": max(paid.p95, paid_last.p95 if paid_last else 0.0) <= allowed,
        "ends_agree": done.sum() <= OTHER_ENDS * len(rows) and (cuts or missed <= OTHER_ENDS * len(last)),
    }
    off = np.quantile(step_error, 0.95, axis=0) > OBSERVATION_TOLERANCE
    facts = {
        "steps": len(rows),
        "inferred": states.inferred,
        "set_state": found[0],
        "one_step": found[1],
        "floor": found[2],
        "steps_off": round(float((step_error.max(axis=1) > OBSERVATION_TOLERANCE).mean()), 4),
        "dimensions_off": int(off.sum()),
        "constant_dimensions_off": int((off & constant).sum()),
        "worst_set": _worst(set_error),
        "worst_step": _worst(step_error),
        "reward": paid,
        "reward_floor": paid_floor,
        "reward_scale": reward_scale,
        "reward_other_sign": _other_sign(env_id, seen, reward),
        "terminals": len(last),
        "terminals_reproduced": len(last) - missed,
        "terminal_reward": paid_last,
        "false_terminals": int(done.sum()),
        **verdicts,
        "agrees": all(verdicts.values()),
    }
    return ReplayReport(env_id=env_id, **facts, reading=_reading(env_id, allowed, facts))


def _reading(env_id: str, allowed: float, facts: Mapping[str, Any]) -> str:
    """The verdict in words; ``allowed`` is the largest error of rewards that agree."""
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


def _other_sign(env_id: str, seen: np.ndarray, reward_error: np.ndarray) -> Errors | None:
    """Errors [n] of rewards if the distance of palm and object in observations [n, D] had the other sign."""
    distance = palm_distance(env_id.partition("-")[0], seen)
    return None if distance is None else _summary(reward_error - 2.0 * PALM_WEIGHT * distance)


def _errors_of(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Absolute differences [..., D] in units of ``scale`` [D], bounded."""
    return np.minimum(np.nan_to_num(np.abs(difference / scale), nan=LARGEST), LARGEST)


def _summary(errors: np.ndarray) -> Errors:
    """Errors [n] in three numbers of four digits."""
    high = np.quantile(_errors_of(errors, np.ones(1)), [0.5, 0.95, 1.0])
    return Errors(*(float(f"{x:.4g}") for x in high))


def _worst(errors: np.ndarray) -> list[tuple[int, float]]:
    """Dimensions of errors [n, D] above the tolerance in more than 5% of the steps."""
    high = np.quantile(errors, 0.95, axis=0)
    order = np.argsort(-high, kind="stable")[:5]
    return [(int(d), float(f"{high[d]:.4g}")) for d in order if high[d] > OBSERVATION_TOLERANCE]
