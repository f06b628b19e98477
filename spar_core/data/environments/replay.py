"""Check whether an environment reproduces a D4RL file: set recorded simulator states, and step from them.

For a sample of steps, the recorded state is set in today's environment and the recorded action is taken. Three things
are compared with the file: the observation of the set state, the observation after the step, and the reward. Each has
a verdict of its own, because each has causes of its own to fail: another layout of the observation, another simulator
or model, another reward function.

Even the environment that recorded the data does not reproduce it exactly, because D4RL records states in float32 and
without the solver's warm start. ``floor`` measures the effect of that alone. Contact forces in observations (Ant,
Humanoid) belong to the step before a state. Setting the state does not restore them, but a step from it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.environments.adroit import PALM_WEIGHT, palm_distance
from spar_core.data.environments.environment import check_shapes, close, environment_facts, make_env
from spar_core.data.environments.ids import bare
from spar_core.data.environments.replay_report import OBSERVATION_TOLERANCE, Errors, ReplayReport, in_words
from spar_core.data.environments.replay_states import NEEDED, RecordedStates, recorded_arrays
from spar_core.data.names import AS_USUAL, Naming
from spar_core.errors import SparError, others_code
from spar_core.evenly import evenly

# Largest 95% quantile of reward errors with which rewards agree, in standard deviations of the recorded rewards. It is
# small because a reward is computed from one step, so errors do not accumulate in it.
REWARD_TOLERANCE = 1e-3
# If float32 states alone cause larger errors than a tolerance, errors up to this multiple of theirs are allowed.
FLOOR_FACTOR = 3.0
# Largest share of steps at which only one of environment and file terminates. A few steps lie at the border of a
# terminal state; more of them mean another task.
OTHER_ENDS = 0.01
# A dimension with a smaller standard deviation counts as constant, and its errors are in its own units.
STILL = 1e-6
# Upper limit of an error, for simulations that diverge: JSON holds no infinity.
LARGEST = 1e6


def replay_check(
    path: Path,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int = 500,
    terminals_are_truncations: bool = False,
    naming: Naming = AS_USUAL,
) -> ReplayReport | None:
    """Replay evenly spread steps of a D4RL file in an environment.

    Args:
        path: an HDF5 file that :func:`~spar_core.data.readers.d4rl_hdf5.read_d4rl` accepts.
        env_id: id of the environment, for :func:`~spar_core.data.environments.environment.make_env`.
        env_kwargs: its keyword arguments.
        steps: how many steps to replay; 500 take about a second.
        terminals_are_truncations: whether the file's ``terminals`` mark cuts, at which the environment need not
            terminate.
        naming: what the dataset's entry says about the names of arrays.

    Returns:
        The comparison; None if the file holds no usable simulator states, or the environment has no way to set one
        (kitchen, the mazes).

    Raises:
        SparError: the file cannot be read or has no episode of two steps; the sizes of its observations, actions or
            states are not the environment's; or the environment cannot be made.
    """
    facts = environment_facts(env_id, env_kwargs)
    env = make_env(env_id, env_kwargs)
    try:
        if not all(hasattr(env.unwrapped, name) for name in NEEDED):
            return None
        with others_code(f"'{env_id}' cannot be reset", "check 'env_id' and 'env_kwargs' in the dataset's entry"):
            env.reset(seed=0)  # Adroit's pen sets its length at the first reset.
        with recorded_arrays(path, naming) as arrays:
            if arrays is None:
                return None
            check_shapes(facts, arrays["observations"].shape[1], arrays["actions"].shape[1])
            return _judge(env_id, RecordedStates(env, arrays), steps, terminals_are_truncations)
    finally:
        close(env)


def _judge(env_id: str, states: RecordedStates, steps: int, cuts: bool) -> ReplayReport | None:
    """Replay a sample of steps and judge the errors; ``cuts`` says that the file's terminals are cuts."""
    rows = evenly(np.flatnonzero(~states.ends), steps)
    if len(rows) == 0:
        raise SparError("no episode of the file has two steps, so there is nothing to replay", "use another file")
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
    facts: dict[str, Any] = {
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
    return ReplayReport(env_id=env_id, **facts, reading=in_words(env_id, allowed, facts))


def _other_sign(env_id: str, seen: NDArray[np.float64], reward_error: NDArray[np.float64]) -> Errors | None:
    """Errors of rewards if the environment gave the distance from palm to object the other sign.

    Args:
        env_id: the environment.
        seen: observations [n, D] after the steps.
        reward_error: errors [n] with the environment's own sign.

    Returns:
        None if the reward has no such term.
    """
    distance = palm_distance(bare(env_id).partition("-")[0], seen)
    return None if distance is None else _summary(reward_error - 2.0 * PALM_WEIGHT * distance)


def _errors_of(difference: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute differences [..., D] in units of ``scale`` [D], at most ``LARGEST``."""
    errors: NDArray[np.float64] = np.abs(difference / scale)
    return np.minimum(np.nan_to_num(errors, nan=LARGEST), LARGEST)


def _summary(errors: NDArray[np.float64]) -> Errors:
    """Median, 95% quantile and largest of errors [n], rounded to four digits."""
    high = np.quantile(_errors_of(errors, np.ones(1)), [0.5, 0.95, 1.0])
    return Errors(*(float(f"{x:.4g}") for x in high))


def _worst(errors: NDArray[np.float64]) -> list[tuple[int, float]]:
    """The worst five dimensions of errors [n, D] whose 95% quantile is above the tolerance, with that quantile."""
    high = np.quantile(errors, 0.95, axis=0)
    order = np.argsort(-high, kind="stable")[:5]
    return [(int(d), float(f"{high[d]:.4g}")) for d in order if high[d] > OBSERVATION_TOLERANCE]
