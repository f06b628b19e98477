"""Set a MuJoCo environment to the simulator states that a D4RL file recorded.

D4RL files hold positions and velocities (``infos/qpos``, ``infos/qvel``). In Adroit, the scene also differs from
episode to episode: the door's frame, the hammer's board, relocate's ball and target, and the direction that the pen
should have. If the file holds these (``door_body_pos``, ``board_pos``, ``desired_orien``, ``target_pos``), they are
used. Otherwise they are computed from the observation at the row of the episode where the scene moves least.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.d4rl_file import Arrays, names_of, open_d4rl
from spar_core.data.ends import read_ends
from spar_core.data.names import AS_USUAL, Naming
from spar_core.errors import SparError, others_code


@dataclass(frozen=True)
class ScenePart:
    """A part of a scene that differs between episodes and is not among the positions.

    Attributes:
        field: array of MuJoCo's model that holds it.
        index: attribute of the environment that holds its row in that array.
        seen: dimensions of the observation that depend on it.
        sign: 1 or -1, the sign with which they do; 0 if they hold a direction instead of a place.
        recorded: name of its recorded array below ``infos/``; empty if there is none.
    """

    field: str
    index: str
    seen: slice
    sign: int
    recorded: str

    @property
    def array(self) -> str:
        """Name of its recorded array in the file."""
        return f"infos/{self.recorded}"


# The dimensions are read from each environment's ``_get_obs``. Relocate's recorded ``obj_pos`` is not used, because it
# is the place of the ball and not the place where its body starts (https://github.com/Farama-Foundation/D4RL, issue
# 196: a ball in the air).
SCENES: dict[str, tuple[ScenePart, ...]] = {
    "AdroitHandDoor": (ScenePart("body_pos", "door_body_id", slice(32, 35), 1, "door_body_pos"),),
    "AdroitHandHammer": (ScenePart("body_pos", "target_body_id", slice(42, 45), 1, "board_pos"),),
    "AdroitHandPen": (ScenePart("body_quat", "target_obj_body_id", slice(36, 39), 0, "desired_orien"),),
    "AdroitHandRelocate": (
        ScenePart("body_pos", "obj_body_id", slice(30, 33), -1, ""),
        ScenePart("site_pos", "target_obj_site_id", slice(33, 36), -1, "target_pos"),
    ),
}
STATES = ("infos/qpos", "infos/qvel")
# Attributes of an environment that setting a state needs. Kitchen and the mazes hide or lack them.
NEEDED = ("set_state", "_get_obs", "model", "data")
NO_REPLAY = "correct 'env_id' in the dataset's entry, or set 'allow_environment_mismatch: true' to replay nothing"
DOWN = 1e-6 - 1.0  # A direction whose z component is not above this points straight down.
# MuJoCo's own limit (mjMAXVAL). Beyond it, MuJoCo resets its state and writes a log into the working directory.
HUGE = 1e10


@contextmanager
def recorded_arrays(path: Path, naming: Naming = AS_USUAL) -> Iterator[Arrays | None]:
    """Yield the arrays of an open D4RL file by name, simulator states as ``infos/...``.

    Yields None if the file lacks the simulator's positions or velocities, or holds something else under their names.

    Raises:
        SparError: see :func:`spar_core.data.d4rl_file.open_d4rl`.
    """
    parts = [part.array for parts in SCENES.values() for part in parts if part.recorded]
    with open_d4rl(path, (*STATES, *parts), naming) as arrays:
        yield arrays if all(name in arrays for name in STATES) else None


class RecordedStates:
    """An environment, and a file whose rows it can be set to.

    States are set in the simulator, but steps go through the environment's wrappers, which may change rewards and ends.
    """

    def __init__(self, env: Any, arrays: Arrays) -> None:
        """Check that the file's states fit the environment.

        Args:
            env: a MuJoCo environment that has been reset.
            arrays: the arrays that :func:`recorded_arrays` yields.

        Raises:
            SparError: the size of the states or of a part of the scene is not the environment's, or an end of an
                episode is NaN.
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
        ends = read_ends(arrays, names_of(arrays), Path(arrays["rewards"].file.filename).name, len(self.rewards))
        self.terminals = ends.terminals
        self.ends = ends.marked.copy()
        self.ends[-1] = True
        self.starts = np.concatenate([[0], np.flatnonzero(self.ends)[:-1] + 1])
        self._scenes: dict[int, list[NDArray[np.float64]]] = {}

    def _check_parts(self) -> None:
        for part in self.parts:
            size = self._in_model(part).size
            if part.array in self.arrays and self.arrays[part.array].shape[1] != size:
                raise SparError(
                    f"'{part.array}' holds {self.arrays[part.array].shape[1]} numbers a step, but the environment has "
                    f"{size}",
                    "correct 'env_id' in the dataset's entry",
                )

    def _in_model(self, part: ScenePart) -> NDArray[np.float64]:
        """The values of a scene's part in MuJoCo's model, as a view that can be written to."""
        values: NDArray[np.float64] = getattr(self.env.model, part.field)[getattr(self.env, part.index)]
        return values

    def usable(self, rows: NDArray[np.int64], *, following: bool = False) -> NDArray[np.int64]:
        """The rows whose numbers MuJoCo accepts; with ``following``, also those of the observation after each row."""
        kept = [row for row in rows.tolist() if self._is_sound(row) and not (following and _bad(self.following(row)))]
        return np.array(kept, dtype=int)

    def _is_sound(self, row: int) -> bool:
        names = ["observations", "actions", *STATES, *(part.array for part in self.parts)]
        found = [self.row(name, row) for name in names if name in self.arrays]
        return not any(_bad(values) for values in (*found, self.rewards[row]))

    def row(self, name: str, row: int) -> NDArray[np.float64]:
        """One row of an array, converted from the file's float32."""
        return np.asarray(self.arrays[name][row]).astype(np.float64)

    def following(self, row: int) -> NDArray[np.float64]:
        """The recorded observation [D] after a row, which must not be the last of its episode."""
        known = "next_observations" in self.arrays
        return self.row("next_observations", row) if known else self.row("observations", row + 1)

    @property
    def inferred(self) -> list[str]:
        """Names of the scene's parts that are computed from observations because the file lacks them."""
        return [part.index for part in self.parts if part.array not in self.arrays]

    def place(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Set the scene and the state of a row.

        Returns:
            The observation [D] of that state, and the observation [D] with the places of bodies one sub-step earlier
            (see :meth:`_lagging`).
        """
        for part, value in zip(self.parts, self._scene(row), strict=True):
            self._in_model(part)[:] = value
        lagging = self._lagging(row)
        return self.set(*(self.row(name, row) for name in STATES)), lagging

    def _lagging(self, row: int) -> NDArray[np.float64]:
        """The observation [D] of a row's state, with the places that bodies had before the last sub-step.

        MuJoCo moves the joints at the end of a sub-step. So the places of bodies in an observation are one sub-step
        older than the joints' positions. Right after a reset they are not, but then nothing moves.
        """
        import mujoco

        qpos, qvel = (self.row(name, row) for name in STATES)
        before = qpos.copy()
        mujoco.mj_integratePos(self.env.model, before, qvel, -self.env.model.opt.timestep)
        self.set(before, qvel)
        self.env.data.qpos[:] = qpos
        return np.array(self.env._get_obs(), dtype=np.float64)

    def set(self, qpos: NDArray[np.floating], qvel: NDArray[np.floating]) -> NDArray[np.float64]:
        """Set positions and velocities, and return the observation [D] of this state."""
        with others_code("the environment cannot be set to a recorded state", NO_REPLAY):
            self.env.data.qacc_warmstart[:] = 0.0  # Otherwise the result depends on the row that was replayed before.
            self.env.set_state(np.asarray(qpos, dtype=np.float64), np.asarray(qvel, dtype=np.float64))
            return np.array(self.env._get_obs(), dtype=np.float64)

    def step(self, row: int) -> tuple[NDArray[np.float64], float, bool]:
        """Take a row's action, and return the observation [D], the reward, and whether the environment terminates."""
        action = self.row("actions", row)
        with others_code("the environment cannot take a step from a recorded state", NO_REPLAY):
            seen, reward, terminated, *_ = self._wrapped.step(action)
            return np.array(seen, dtype=np.float64), float(np.squeeze(reward)), bool(terminated)

    def step_as_recorded(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        """Take a row's action from the current state, and again from a float32 copy of that state.

        Returns:
            Both observations [D] and both rewards. They differ by the precision that D4RL's recording loses.
        """
        kept = [np.array(x, dtype=np.float32) for x in (self.env.data.qpos, self.env.data.qvel)]
        seen, reward, _ = self.step(row)
        self.set(*kept)
        again, reward_again, _ = self.step(row)
        return seen, again, reward, reward_again

    def _scene(self, row: int) -> list[NDArray[np.float64]]:
        """The values of the scene's parts in the episode of a row."""
        if not self.parts:
            return []
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        if episode not in self._scenes:
            start = self.starts[episode]
            stop = self.starts[episode + 1] if episode + 1 < len(self.starts) else len(self.ends)
            # At the row with the lowest speeds, it matters least which sub-step the observed places belong to.
            speeds = np.abs(self.arrays["infos/qvel"][start:stop]).max(axis=1)
            order = start + np.argsort(speeds, kind="stable")
            still = next(other for other in order.tolist() if self._is_sound(other))
            self._scenes[episode] = self._scene_of(still)
        return self._scenes[episode]

    def _scene_of(self, still: int) -> list[NDArray[np.float64]]:
        """The values of the scene's parts, as recorded at row ``still`` or computed from its observation."""
        seen = self.row("observations", still)
        gap = seen - self._lagging(still)
        values = []
        for part in self.parts:
            if part.array in self.arrays:
                values.append(self.row(part.array, still))
            elif part.sign:
                values.append(self._in_model(part) + part.sign * gap[part.seen])
            else:
                values.append(turn_to(seen[part.seen]))
        return values


def _bad(values: NDArray[np.float64]) -> bool:
    """Whether a value is NaN, infinite, or larger than MuJoCo accepts."""
    return not bool((np.abs(values) < HUGE).all())


def turn_to(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A quaternion [4] (w, x, y, z) that turns the z axis into ``direction`` [3]."""
    x, y, z = direction / max(float(np.linalg.norm(direction)), 1e-9)
    turn = np.array([1.0 + z, -y, x, 0.0]) if z > DOWN else np.array([0.0, 1.0, 0.0, 0.0])
    unit: NDArray[np.float64] = turn / np.linalg.norm(turn)
    return unit
