"""The files of dataset entries, and the digest of what an entry's data is made from.

An entry is a file ``datasets/<id>.yaml``, or one of several that a family file describes, which differ in a few words
(:mod:`spar_core.data.family`).
"""

from __future__ import annotations

import re
from pathlib import Path

from spar_core.artifacts import digest_file, digest_folder, digest_value
from spar_core.data.entry import SOURCES, BuiltinEntry, Entry, MinariEntry, OgbenchEntry, WaypointsEntry
from spar_core.data.environments import ogbench
from spar_core.data.family import FAMILY, entry_values, members_of
from spar_core.data.local_path import local_path
from spar_core.data.readers.ogbench_npz import files_digest
from spar_core.errors import SparError
from spar_core.settings import nearest, parse

DATASETS = "datasets"
BEHAVIOUR = "behaviour"  # datasets/behaviour/ holds snapshots of policies, not dataset entries.
# Our datasets can be opened with Minari itself. Minari requires the version at the end of an id, and at least two
# characters before the first slash.
ID_PATTERN = re.compile(r"([a-z0-9_-]{2,}(/[a-z0-9_-]+)*/)?[a-z0-9_-]+-v[0-9]+")


def dataset_ids(folder: Path) -> list[str]:
    """Ids of all entries below the ``datasets`` folder, those of family files included, sorted."""
    ids: set[str] = set()
    for path in folder.rglob("*.yaml"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name.startswith(f"{BEHAVIOUR}/"):
            continue
        if path.name.endswith(FAMILY):
            above = path.parent.relative_to(folder)
            ids.update((above / member).as_posix() for member in members_of(path))
        else:
            ids.add(name)
    return sorted(ids)


def check_id(dataset_id: str) -> None:
    """Refuse an id that cannot be both a path below ``datasets/`` and a Minari id.

    Raises:
        SparError: the id has characters other than ``a-z0-9_-/``, a first part of one character, or no ``-v<number>``
            at its end.
    """
    if not ID_PATTERN.fullmatch(dataset_id):
        raise SparError(
            f"'{dataset_id}' is not a dataset id",
            "use lower-case letters, digits, '_', '-' and '/', and end with a version such as '-v0'",
        )


def load_entry(path: Path) -> Entry:
    """Read and validate ``datasets/<id>.yaml``.

    Raises:
        SparError: the entry does not exist (the line names the nearest one), or it is not valid.
    """
    folder = next((parent for parent in path.parents if parent.name == DATASETS), path.parent)
    dataset_id = path.relative_to(folder).with_suffix("").as_posix()
    values = entry_values(path)
    if values is None:
        known = dataset_ids(folder)
        hint = nearest(dataset_id, known) if known else f"{folder} holds no entries"
        raise SparError(f"there is no dataset '{dataset_id}' ({path} does not exist)", hint)
    check_id(dataset_id)
    source = values.get("source")
    if source is None:
        raise SparError(f"{path}: key 'source' is missing", f"choose from: {', '.join(sorted(SOURCES))}")
    if not isinstance(source, str) or source not in SOURCES:
        raise SparError(f"{path}: source = {source!r} is not known", nearest(str(source), list(SOURCES)))
    return parse(SOURCES[source], values, str(path))


def behaviour_folder(entry: BuiltinEntry, root: Path) -> Path:
    """The folder of snapshots of a built-in dataset.

    Raises:
        SparError: the folder or its ``index.yaml`` does not exist.
    """
    folder = root / entry.behaviour
    if not (folder / "index.yaml").is_file():
        raise SparError(f"{folder / 'index.yaml'} does not exist", "check 'behaviour' in the dataset's entry")
    return folder


def source_digest(entry: Entry, *roots: Path) -> str:
    """Digest of what the entry's data is made from, which changes when a local file changes.

    Local files and folders are digested by their content. A Minari id and a URL (with its ``sha256``) are digested as
    text. Generated data needs no digest beside its entry. For OGBench, the version of its package counts too, since its
    environment checks the rewards. ``roots`` are as in :func:`local_path`.

    Raises:
        SparError: the local source does not exist.
    """
    if isinstance(entry, BuiltinEntry):
        return digest_folder(behaviour_folder(entry, roots[0]))
    if isinstance(entry, WaypointsEntry):
        return digest_value({})
    if isinstance(entry, OgbenchEntry):
        return digest_value([files_digest(entry.single_task, entry.folder(*roots)), ogbench.installed()])
    if entry.path is not None:
        path = local_path(entry.path, *roots)
        return digest_folder(path) if path.is_dir() else digest_file(path)
    if isinstance(entry, MinariEntry):
        return digest_value({"minari": entry.dataset})
    return digest_value({"url": entry.url, "sha256": entry.sha256})
