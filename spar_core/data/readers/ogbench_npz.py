"""Find OGBench's files, and read them into episodes with the rewards of one task.

An episode of a file holds one state more than it has steps: the action of its last row leads to a state that is not
stored. So that action is dropped, and the last row is the observation after the last step. ``terminals`` mark last rows
and nothing else: every episode was cut. Where a state solves the task, its step stops values, and the episode goes on.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.artifacts import digest_file, digest_value
from spar_core.data.episodes import Episodes
from spar_core.data.limits import check_claim
from spar_core.data.names import NUMBERS, listed
from spar_core.data.ogbench import STATES, Task
from spar_core.data.readers.fetch import fetch
from spar_core.errors import SparError, reason_of

VARIABLE = "OGBENCH_DATA"
DEFAULT = "~/.ogbench/data"  # where OGBench's own loader keeps its files
SERVERS = (
    "https://rail.eecs.berkeley.edu/datasets/ogbench",
    "https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main",
)
NEEDED = ("observations", "actions", "terminals", "qpos")
KNOWN = (*NEEDED, "qvel", "button_states")
# Arrays of OGBench's loader, which no file of OGBench holds.
CONVERTED = ("next_observations", "rewards", "masks", "valids")
CLOSE = 1e-3  # largest difference between an observed position and the one in qpos, in the units of the observation
AGAIN = "fetch the file again, or make it again with OGBench's own scripts"


@dataclass(frozen=True)
class Stored:
    """The arrays of one file, whose E episodes have R rows each.

    Attributes:
        observations: [E, R, D] float32.
        actions: [E, R, A] float32.
        qpos: [E, R, Q] float32.
        buttons: [E, R, B] int64; None for a task without buttons.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    qpos: NDArray[np.float32]
    buttons: NDArray[np.int64] | None


@dataclass(frozen=True)
class Read:
    """What was read for one task.

    Attributes:
        episodes: those to train on, then those of the validation file.
        training: number of the episodes to train on.
        qpos: positions in the simulator at the steps of the training episodes, [n, Q].
        buttons: states of the buttons there, [n, B]; None for a task without buttons.
        files: digest of each file, by name.
    """

    episodes: Episodes
    training: int
    qpos: NDArray[np.float32]
    buttons: NDArray[np.int64] | None
    files: dict[str, str]


def local_files(task: Task, folder: Path | None) -> tuple[Path, Path | None] | None:
    """The task's file and its validation file, where they lie on this machine; None if they do not.

    Args:
        task: the task.
        folder: the entry's own; None means the folder that ``OGBENCH_DATA`` names, else OGBench's own.

    Raises:
        SparError: the entry's folder, or the one that ``OGBENCH_DATA`` names, lacks the file or does not exist.
    """
    named = os.environ.get(VARIABLE)
    place = folder or Path(named or DEFAULT).expanduser()
    path, validation = place / f"{task.file}.npz", place / f"{task.file}-val.npz"
    if path.is_file():
        return path, validation if validation.is_file() else None
    if folder is not None or named:
        whose = "'path' in the dataset's entry" if folder is not None else f"the variable {VARIABLE}"
        raise SparError(f"{path} does not exist", f"put it there, or correct {whose}")
    return None


def files_of(task: Task, folder: Path | None) -> tuple[Path, Path | None]:
    """The same, downloaded where they do not lie on this machine.

    Raises:
        SparError: as :func:`local_files`, or neither OGBench's server nor its mirror gives the files.
    """
    found = local_files(task, folder)
    return found or (_fetch(f"{task.file}.npz"), _fetch(f"{task.file}-val.npz"))


def files_digest(task: Task, folder: Path | None) -> str:
    """Digest of the content of local files, or of the name of those that are downloaded."""
    found = local_files(task, folder)
    if found is None:
        return digest_value({"ogbench": task.file})
    return digest_value([None if path is None else digest_file(path) for path in found])


def _fetch(name: str) -> Path:
    reasons = []
    for server in SERVERS:
        try:
            return fetch(f"{server}/{name}")
        except SparError as error:
            reasons.append(str(error).partition(";")[0])
    raise SparError("; ".join(reasons), f"put {name} into {DEFAULT}, or into a folder that {VARIABLE} names")


def read_ogbench(task: Task, path: Path, validation: Path | None) -> Read:
    """Read the files of a task.

    Args:
        task: the task.
        path: the file to train on.
        validation: the file of held-out episodes; None if there is none. OGBench's scripts write one without arrays of
            rows if they make fewer than ten episodes; such a file counts as none.

    Raises:
        SparError: a file is damaged, lacks an array, or is not one of the task's environment; its rows do not form
            episodes of equal length; or ``qpos`` is of other states than the observations.
    """
    parts = [_read(task, path)]
    held = None if validation is None or _is_empty(validation) else validation
    if held is not None:
        parts.append(_read(task, held))
    both = [_episodes(task, part) for part in parts]
    first = parts[0]
    return Read(
        _joined(both),
        len(both[0]),
        _steps(first.qpos),
        None if first.buttons is None else _steps(first.buttons),
        {file.name: digest_file(file) for file in (path, held) if file is not None},
    )


def _steps(values: NDArray[Any]) -> NDArray[Any]:
    """Rows of steps [E * (R - 1), ...] of values [E, R, ...]."""
    return values[:, :-1].reshape(-1, values.shape[-1])


def _episodes(task: Task, part: Stored) -> Episodes:
    count, rows = part.observations.shape[:2]
    rewards = task.rewards(_steps(part.qpos), None if part.buttons is None else _steps(part.buttons))
    stops = rewards == 0
    return Episodes(
        part.observations.reshape(count * rows, -1),
        _steps(part.actions),
        rewards,
        np.full(count, rows - 1, np.int64),
        stops.reshape(count, rows - 1)[:, -1].copy(),
        np.ones(count, bool),
        stops,
    )


def _joined(parts: list[Episodes]) -> Episodes:
    if len(parts) == 1:
        return parts[0]
    names = ("observations", "actions", "rewards", "lengths", "terminated", "last_known", "stops")
    return Episodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _is_empty(path: Path) -> bool:
    arrays = _arrays(path, ("observations",))
    return arrays["observations"].size == 0


def _read(task: Task, path: Path) -> Stored:
    needed = (*NEEDED, "button_states") if task.environment.buttons else NEEDED
    arrays = _arrays(path, needed)
    _check_kinds(task, path.name, arrays)
    count, rows = _episodes_of(path.name, arrays["terminals"])

    def split(name: str, kind: Any) -> NDArray[Any]:
        return arrays[name].astype(kind, copy=False).reshape(count, rows, -1)

    stored = Stored(
        split("observations", np.float32),
        split("actions", np.float32),
        split("qpos", np.float32),
        split("button_states", np.int64) if task.environment.buttons else None,
    )
    _check_states(task, path.name, stored)
    return stored


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The needed arrays of a file; it must hold no array that OGBench's files do not have."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in CONVERTED:
            if name in infos:
                raise SparError(
                    f"{path.name} holds '{name}', so it is what OGBench's loader returned, not a file of OGBench",
                    "give the stored file, in which each episode has one row more than steps",
                )
        missing = [name for name in needed if name not in infos]
        if missing:
            raise SparError(
                f"{path.name} has no array '{missing[0]}'; it holds {listed(infos)}",
                "rewards are computed from the simulator's states, so fetch the file as OGBench publishes it",
            )
        strange = [name for name in infos if name not in KNOWN]
        if strange:
            raise SparError(f"{path.name} holds {listed(strange)}, which no file of OGBench has", AGAIN)
        members = [infos[name] for name in needed]
        check_claim(path.name, sum(info.file_size for info in members), sum(info.compress_size for info in members))
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in needed}
    except SparError:
        raise
    except Exception as error:  # For a damaged archive, zipfile, zlib and NumPy each raise errors of their own.
        raise SparError(f"{path.name} cannot be read as .npz ({reason_of(error)})", AGAIN) from None


def _check_kinds(task: Task, where: str, arrays: dict[str, NDArray[Any]]) -> None:
    facts = task.environment
    sizes = {
        "observations": facts.observation_size,
        "actions": facts.action_size,
        "qpos": facts.qpos_size,
        "button_states": facts.buttons,
    }
    rows = len(arrays["terminals"]) if arrays["terminals"].ndim else 0
    for name, array in arrays.items():
        wanted = NUMBERS if name == "terminals" else "iu" if name == "button_states" else "f"
        if array.dtype.kind not in wanted:
            hint = "pixels are not supported" if name == "observations" and array.ndim > 2 else AGAIN
            raise SparError(f"{where}: '{name}' holds {array.dtype}", hint)
        shape = (rows,) if name == "terminals" else (rows, sizes[name])
        if array.shape != shape:
            raise SparError(
                f"{where}: '{name}' has shape {array.shape}, but {rows} rows of {task.environment_name} need {shape}",
                f"correct 'task' in the dataset's entry, or {AGAIN}",
            )


def _episodes_of(where: str, terminals: NDArray[Any]) -> tuple[int, int]:
    """The number of episodes and the rows of each, which are the same for all."""
    if not np.isin(terminals, (0, 1)).all():
        raise SparError(f"{where}: 'terminals' hold a value that is neither 0 nor 1", AGAIN)
    last = np.flatnonzero(terminals)
    if not len(last) or last[-1] != len(terminals) - 1:
        raise SparError(f"{where}: the last row is not terminal, so the file was cut off", AGAIN)
    lengths = np.diff(last, prepend=-1)
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd) or lengths[0] < 2:
        number = int(odd[0]) if len(odd) else 0
        raise SparError(
            f"{where}: episode {number} has {lengths[number]} rows, and episode 0 has {lengths[0]}; those of OGBench "
            "have equally many, one more than steps",
            AGAIN,
        )
    return len(last), int(lengths[0])


def _check_states(task: Task, where: str, stored: Stored) -> None:
    """Make sure that qpos and buttons are finite, and of the states that the same rows observe."""
    bad = ~np.isfinite(stored.qpos).all(axis=-1)
    if bad.any():
        episode, row = np.argwhere(bad)[0]
        raise SparError(f"{where}: 'qpos' holds a NaN or an infinity in episode {episode}, row {row}", AGAIN)
    for thing in task.environment.objects:
        size = len(thing.minus)
        at = stored.qpos[..., thing.qpos : thing.qpos + size]
        seen = stored.observations[..., thing.observed : thing.observed + size]
        _check_same(where, "qpos", np.abs((at - np.array(thing.minus)) * thing.times - seen) > CLOSE)
    if stored.buttons is not None:
        if not np.isin(stored.buttons, range(STATES)).all():
            raise SparError(f"{where}: 'button_states' hold a value that is neither 0 nor 1", AGAIN)
        assert task.environment.buttons_observed is not None
        first = task.environment.buttons_observed + np.arange(task.environment.buttons) * (STATES + 2)
        lit = stored.observations[..., first + 1] > 0.5
        _check_same(where, "button_states", lit != (stored.buttons == 1))


def _check_same(where: str, name: str, differs: NDArray[np.bool_]) -> None:
    rows = differs.any(axis=-1)
    if rows.any():
        episode, row = np.argwhere(rows)[0]
        raise SparError(
            f"{where}: '{name}' is of another state than 'observations' in {int(rows.sum())} of {rows.size} rows, the "
            f"first in episode {episode}, row {row}: the arrays are shifted, or belong to other data",
            AGAIN,
        )
