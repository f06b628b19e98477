"""Put a MuJoCo environment into the simulator states that a D4RL file recorded.

D4RL files hold positions and velocities (``infos/qpos``, ``infos/qvel``). Adroit's scenes differ from episode
to episode in more than these: the door's frame, the hammer's board, relocate's ball and target, the pen's
wanted direction. Where the file holds none of them they follow from the observation at the stillest row of
the episode; ``door_body_pos``, ``board_pos``, ``desired_orien`` and ``target_pos`` are used where it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.data.d4rl_file import Arrays, open_d4rl, read_flags
from spar_core.errors import SparError

# The parts of a scene that positions do not hold: the model's field, the environment's name for its index, the
# dimensions of the observation that follow it, with which sign, and the recorded array, where there is one.
# Sign 0 stands for a direction. Layouts from the environments' ``_get_obs``. Relocate's recorded ``obj_pos`` is
# where the ball is, not where its body starts, so it is not used (https://github.com/Farama-Foundation/D4RL,
# issue 196: a ball in the air).
SCENES: dict[str, tuple[tuple[str, str, slice, int, str], ...]] = {
    "AdroitHandDoor": (("body_pos", "door_body_id", slice(32, 35), 1, "door_body_pos"),),
    "AdroitHandHammer": (("body_pos", "target_body_id", slice(42, 45), 1, "board_pos"),),
    "AdroitHandPen": (("body_quat", "target_obj_body_id", slice(36, 39), 0, "desired_orien"),),
    "AdroitHandRelocate": (
        ("body_pos", "obj_body_id", slice(30, 33), -1, ""),
        ("site_pos", "target_obj_site_id", slice(33, 36), -1, "target_pos"),
    ),
}
STATES = ("infos/qpos", "infos/qvel")
# What of an environment is needed to set a state; kitchen and the mazes hide or lack it.
NEEDED = ("set_state", "_get_obs", "model", "data")
DOWN = 1e-6 - 1.0
# MuJoCo's own limit (mjMAXVAL). It resets itself at numbers beyond, and writes a log into the working directory.
HUGE = 1e10


@contextmanager
def recorded_arrays(path: Path) -> Iterator[Arrays | None]:
    """The arrays of a file that ``read_d4rl`` accepts, opened: flat ones by name, states as ``infos/...``.

    Yields None where the file lacks the simulator's positions or velocities, or holds something else under
    their names.

    Raises:
        SparError: see :func:`spar_core.data.d4rl_file.open_d4rl`.
    """
    parts = [f"infos/{key}" for parts in SCENES.values() for *_, key in parts if key]
    with open_d4rl(path, (*STATES, *parts)) as arrays:
        yield arrays if all(name in arrays for name in STATES) else None


class RecordedStates:
    """An environment, and the rows of a file to set it to."""

    def __init__(self, env: Any, arrays: Arrays) -> None:
        """Take a reset environment and what ``recorded_arrays`` yields.

        States are set in the simulator, but steps go through the environment's wrappers, since they may change
        rewards and ends.

        Raises:
            SparError: the states or the parts of a scene are not of the environment's size, or an end is NaN.
        """
        self._wrapped, self.env, self.arrays = env, env.unwrapped, arrays
        sizes = tuple(int(np.prod(arrays[name].shape[1:])) for name in STATES)
        if sizes != (self.env.model.nq, self.env.model.nv):
            raise SparError(
                f"the file's states have {sizes[0]} positions and {sizes[1]} velocities, but the environment "
                f"has {self.env.model.nq} and {self.env.model.nv}",
                "correct 'env_id' in the dataset's entry",
            )
        name = type(self.env).__name__
        self.family = next((family for family in SCENES if name.startswith(family)), "")
        self.parts = SCENES.get(self.family, ())
        self._check_parts()
        self.rewards = np.asarray(arrays["rewards"][()], dtype=np.float64).reshape(-1)
        terminals, timeouts = read_flags(arrays, "terminals"), read_flags(arrays, "timeouts")
        assert terminals is not None  # open_d4rl asks for them
        self.terminals = terminals
        self.ends = terminals.copy() if timeouts is None else terminals | timeouts
        self.ends[-1] = True
        self.starts = np.concatenate([[0], np.flatnonzero(self.ends)[:-1] + 1])
        self._scenes: dict[int, list[np.ndarray]] = {}

    def _check_parts(self) -> None:
        for field, index, *_, key in self.parts:
            name, size = f"infos/{key}", getattr(self.env.model, field)[getattr(self.env, index)].size
            if name in self.arrays and self.arrays[name].shape[1] != size:
                raise SparError(
                    f"'{name}' holds {self.arrays[name].shape[1]} numbers a step, but the environment has {size}",
                    "correct 'env_id' in the dataset's entry",
                )

    def usable(self, rows: np.ndarray, *, following: bool = False) -> np.ndarray:
        """Those of the rows that can be simulated and compared; ``following``: also the observation after them."""
        kept = [row for row in rows.tolist() if self._is_sound(row) and not (following and _bad(self.following(row)))]
        return np.array(kept, dtype=int)

    def _is_sound(self, row: int) -> bool:
        names = ["observations", "actions", *STATES, *(f"infos/{key}" for *_, key in self.parts)]
        found = [self.row(name, row) for name in names if name in self.arrays]
        return not any(_bad(values) for values in (*found, self.rewards[row]))

    def row(self, name: str, row: int) -> np.ndarray:
        """One row of an array, as D4RL stored it (float32), in float64."""
        return np.asarray(self.arrays[name][row]).astype(np.float64)

    def following(self, row: int) -> np.ndarray:
        """The recorded observation [D] after a row, which must not be the last of its episode."""
        known = "next_observations" in self.arrays
        return self.row("next_observations", row) if known else self.row("observations", row + 1)

    @property
    def inferred(self) -> list[str]:
        """The parts of the scene that are found from observations, by the environment's names."""
        return [index for _, index, *_, key in self.parts if f"infos/{key}" not in self.arrays]

    def place(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Set the scene and the state of a row. Its observation [D], and the same with the places of before."""
        scene = self._scene(row)
        for (field, index, *_), value in zip(self.parts, scene, strict=True):
            getattr(self.env.model, field)[getattr(self.env, index)] = value
        lagging = self._lagging(row)
        return self.set(*(self.row(name, row) for name in STATES)), lagging

    def _lagging(self, row: int) -> np.ndarray:
        """The observation [D] of a row's state with the places that bodies had before the last sub-step.

        MuJoCo moves the joints last, so the places in an observation are one sub-step older than the positions.
        Right after a reset they are not, but there nothing moves.
        """
        import mujoco

        qpos, qvel = (self.row(name, row) for name in STATES)
        before = qpos.copy()
        mujoco.mj_integratePos(self.env.model, before, qvel, -self.env.model.opt.timestep)
        self.set(before, qvel)
        self.env.data.qpos[:] = qpos
        return np.array(self.env._get_obs(), dtype=np.float64)

    def set(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Set positions and velocities; the observation [D] of them."""
        self.env.data.qacc_warmstart[:] = 0.0  # else the result depends on which row was replayed before
        self.env.set_state(np.asarray(qpos, dtype=np.float64), np.asarray(qvel, dtype=np.float64))
        return np.array(self.env._get_obs(), dtype=np.float64)

    def step(self, row: int) -> tuple[np.ndarray, float, bool]:
        """Take a row's action: the observation [D], the reward, and whether it is terminal."""
        seen, reward, terminated, *_ = self._wrapped.step(self.row("actions", row))
        return np.array(seen, dtype=np.float64), float(np.squeeze(reward)), bool(terminated)

    def step_as_recorded(self, row: int) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Take a row's action from where the simulation is, and again after a float32 copy of that state.

        Returns both observations [D] and both rewards: they differ by what D4RL's way of recording loses.
        """
        kept = [np.array(x, dtype=np.float32) for x in (self.env.data.qpos, self.env.data.qvel)]
        seen, reward, _ = self.step(row)
        self.set(*kept)
        again, reward_again, _ = self.step(row)
        return seen, again, reward, reward_again

    def _scene(self, row: int) -> list[np.ndarray]:
        """The values of the scene's parts in the episode of a row."""
        if not self.parts:
            return []
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        if episode not in self._scenes:
            start = self.starts[episode]
            stop = self.starts[episode + 1] if episode + 1 < len(self.starts) else len(self.ends)
            # The stillest row, where it matters least which sub-step the observed places belong to.
            speeds = np.abs(self.arrays["infos/qvel"][start:stop]).max(axis=1)
            order = start + np.argsort(speeds, kind="stable")
            still = next(other for other in order.tolist() if self._is_sound(other))
            self._scenes[episode] = self._scene_of(still)
        return self._scenes[episode]

    def _scene_of(self, still: int) -> list[np.ndarray]:
        """The values of the scene's parts, from one row."""
        seen = self.row("observations", still)
        gap = seen - self._lagging(still)
        values = []
        for field, index, where, sign, key in self.parts:
            if f"infos/{key}" in self.arrays:
                values.append(self.row(f"infos/{key}", still))
            elif sign:
                values.append(getattr(self.env.model, field)[getattr(self.env, index)] + sign * gap[where])
            else:
                values.append(turn_to(seen[where]))
        return values


def _bad(values: np.ndarray) -> bool:
    """Whether a number is NaN, infinite or beyond what MuJoCo takes."""
    return not bool((np.abs(values) < HUGE).all())


def turn_to(direction: np.ndarray) -> np.ndarray:
    """A quaternion [4] (w, x, y, z) that turns the z axis into a direction [3]."""
    x, y, z = direction / max(float(np.linalg.norm(direction)), 1e-9)
    turn = np.array([1.0 + z, -y, x, 0.0]) if z > DOWN else np.array([0.0, 1.0, 0.0, 0.0])
    return turn / np.linalg.norm(turn)
