"""The data of one call: arrays, episodes, a file, a folder or a Minari id, as an entry that the readers understand.

Arrays and episodes in memory are written as ``.npz`` files first. So they pass the same checks as a user's files, and
give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.data.collected import Collected
from spar_core.data.entry import SOURCES, Entry
from spar_core.data.entry_files import ID_PATTERN, check_id
from spar_core.data.names import NUMBERS, Naming
from spar_core.data.prepare import Prepared, prepare
from spar_core.data.sources import collect
from spar_core.data.summary import reading, summary
from spar_core.errors import SparError
from spar_core.settings import parse

# Folder of the files that data in memory are written to.
LOGS = "logs"
NOWHERE = "no environment is named"
HDF5 = (".hdf5", ".h5", ".hdf")
# What Minari's and Gymnasium's episodes hold beside arrays that are trained on.
BESIDE = ("id", "seed", "options", "info", "infos", "total_steps")
MINARI_FILES = ("data/main_data.hdf5", "data/metadata.json")


@dataclass(frozen=True)
class Source:
    """An entry, and where its relative paths start.

    Attributes:
        dataset: id.
        entry: how the data are read.
        root: folder that the entry's relative paths start from.
    """

    dataset: str
    entry: Entry
    root: Path


Data = Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str] | Source


@dataclass(frozen=True)
class Read:
    """A dataset that was read and checked, before anything of it is written."""

    collected: Collected
    prepared: Prepared

    def lines(self) -> list[str]:
        """What was read, and what can be read in two ways."""
        about, *more = summary(self.prepared.manifest)
        return [about, *reading(self.collected, self.prepared.manifest), *more]


def source_of(data: Data, scratch: Path, name: str | None = None, keys: Mapping[str, Any] | None = None) -> Source:
    """The entry of some data.

    Args:
        data: a dictionary of arrays of all steps; a list of episodes, each a dictionary of arrays or an object with
            such attributes; the path of an ``.npz`` file, of a folder of them, of an HDF5 file in D4RL's layout or of a
            Minari dataset; a Minari id; or a source, which stays as it is.
        scratch: an existing folder, in which arrays in memory are written to ``logs/``.
        name: id of the dataset; None makes one from the path.
        keys: further keys of the dataset's entry, such as ``env_id`` or ``action_low``.

    Raises:
        SparError: nothing of this kind can be read, an array is no array of numbers, or a key is wrong.
    """
    if isinstance(data, Source):
        if name or keys:
            raise SparError(f"{data.dataset} has an entry already", "leave out the name and further keys")
        return data
    if "settings" in (keys or {}):
        raise SparError("entry: 'settings' has no effect here", "give these settings as params")
    if isinstance(data, str | os.PathLike):
        given, suggested = _of_path(os.fspath(data))
        root = Path()
    else:
        said = keys or {}
        naming = Naming(said.get("arrays") or {}, said.get("ignored_arrays") or ())
        _write_logs(data, scratch / LOGS, naming)
        given, suggested, root = {"source": "npz", "path": LOGS}, LOGS, scratch
    dataset = name or _id_of(suggested)
    check_id(dataset)
    values = {"title": dataset, **given, **(keys or {})}
    if values["source"] != "minari" and values.get("env_id") is None:
        values.setdefault("not_evaluated", NOWHERE)
    return Source(dataset, parse(SOURCES[values["source"]], values, "entry"), root)


def read(source: Source) -> Read:
    """Read and check the data.

    Raises:
        SparError: as in :func:`spar_core.data.sources.collect` and :func:`spar_core.data.prepare.prepare`.
    """
    collected = collect(source.entry, source.root)
    return Read(collected, prepare(source.entry, source.dataset, collected))


def _of_path(text: str) -> tuple[dict[str, Any], str]:
    """Source and path of an entry, and what the dataset may be called."""
    path = Path(text).expanduser()
    if path.is_dir():
        if any((path / file).is_file() for file in MINARI_FILES):
            return {"source": "minari", "path": text}, path.name
        return {"source": "npz", "path": text}, path.name
    if path.suffix == ".npz":
        return {"source": "npz", "path": text}, path.stem
    if path.suffix in HDF5:
        return {"source": "d4rl_hdf5", "path": text}, path.stem
    if path.exists():
        raise SparError(f"{text} is neither .npz nor HDF5 ({', '.join(HDF5)})", "convert it to one of the two")
    if path.is_absolute() or not re.search(r"-v[0-9]+$", text):
        raise SparError(
            f"{text} does not exist", "give a file, a folder, or a Minari id such as mujoco/hopper/expert-v0"
        )
    return {"source": "minari", "dataset": text}, text


def _id_of(text: str) -> str:
    """A dataset id that resembles a text."""
    parts = [re.sub(r"[^a-z0-9_-]+", "-", part.lower()).strip("-") for part in text.split("://")[-1].split("/")]
    plain = "/".join(part for part in parts if part) or "data"
    versioned = plain if re.search(r"-v[0-9]+$", plain) else f"{plain}-v0"
    return versioned if ID_PATTERN.fullmatch(versioned) and "/" in versioned else f"mine/{versioned.replace('/', '-')}"


# --- data in memory ---


def _write_logs(data: Any, folder: Path, naming: Naming) -> None:
    """Write a dictionary of arrays as one file, or episodes as one file each."""
    folder.mkdir(parents=True)
    if isinstance(data, Mapping):
        np.savez(folder / "data.npz", **_arrays(data, "the data", naming))
        return
    if not isinstance(data, Sequence):
        kind = type(data).__name__
        raise SparError(f"data of type {kind} cannot be read", "give arrays, episodes, a path, or a Minari id")
    if not data:
        raise SparError("the list of episodes is empty", "give at least two different episodes")
    for number, episode in enumerate(data):
        values = episode if isinstance(episode, Mapping) else getattr(episode, "__dict__", None)
        if values is None:
            raise SparError(f"episode {number} is of type {type(episode).__name__}", "give dictionaries of arrays")
        kept = {name: value for name, value in values.items() if name not in BESIDE}
        np.savez(folder / f"{number:06}.npz", **_arrays(kept, f"episode {number}", naming))


def _arrays(values: Mapping[str, Any], where: str, naming: Naming) -> dict[str, Any]:
    """The arrays that have a meaning, by their names."""
    arrays = {}
    for name in naming.find([str(name) for name in values], where).values():
        value = values[name]
        if isinstance(value, Mapping):
            raise SparError(
                f"{where}: '{name}' is a dictionary of {', '.join(map(str, value))}",
                "join its arrays into one of shape [T + 1, D], or write a Minari dataset, which keeps the names",
            )
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            raise SparError(f"{where}: the rows of '{name}' differ in length", "give one row for each step") from None
        if array.dtype.kind not in NUMBERS:
            raise SparError(f"{where}: '{name}' holds {array.dtype}, not numbers", "give arrays of numbers")
        arrays[name] = array
    return arrays
