"""Dataset entries: what ``datasets/<id>.yaml`` may say, and where its data comes from.

An entry names one of three sources. ``builtin`` rolls out behaviour policies that lie in the repository,
``minari`` takes any Minari dataset, local or remote, and ``d4rl_hdf5`` converts a file in D4RL's layout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from spar_core.artifacts import digest_file, digest_folder, digest_value
from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, nearest, parse

DATASETS = "datasets"
BEHAVIOUR = "behaviour"  # Snapshots lie in datasets/behaviour/; they are no dataset entries.
# The version at the end, and two letters before a slash, are what Minari asks of an id: our datasets open
# with Minari itself.
ID_PATTERN = re.compile(r"([a-z0-9_-]{2,}(/[a-z0-9_-]+)*/)?[a-z0-9_-]+-v[0-9]+")


class CommonEntry(Settings):
    """What every entry may say.

    Attributes:
        title: one line for tables and reports.
        description: where the data comes from and what to know about it.
        license: licence of the data.
        env_id: Gymnasium id of the evaluation environment. Null means that the data has none: it can be
            prepared and trained on, but no stage can evaluate a policy on it.
        env_kwargs: keyword arguments of the evaluation environment.
        reference: row of ``reference_scores.yaml`` that normalises returns; null for raw returns only.
        heldout_share: share of the episodes that no network is ever fitted to.
        split_seed: seed of the choice of held-out episodes.
        out_of_bounds_actions: ``refuse`` or ``clip`` actions outside the bounds. Excesses up to 1e-6 are
            rounding noise and are always clipped; whatever is clipped is counted in the manifest.
        allow_environment_mismatch: accept data of another environment version; the manifest says so.
    """

    title: str
    description: str = ""
    license: str = ""
    env_id: str | None = None
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    reference: str | None = None
    heldout_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    split_seed: int = Field(default=0, ge=0)
    out_of_bounds_actions: Literal["clip", "refuse"] = "refuse"
    allow_environment_mismatch: bool = False


class BuiltinEntry(CommonEntry):
    """Rollouts of actor snapshots; nothing is downloaded.

    Attributes:
        behaviour: folder of snapshots with its ``index.yaml``, relative to the project root.
        steps: environment steps in all.
        seed: seed of the policies drawn, the initial states and the action noise.
        noise: factor on the standard deviation of the policies' Gaussian; 0 gives their mean actions.
    """

    source: Literal["builtin"]
    env_id: str
    behaviour: str
    steps: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    noise: float = Field(default=1.0, ge=0.0)


class MinariEntry(CommonEntry):
    """A Minari dataset; ``env_id`` defaults to the environment that the dataset itself names.

    Attributes:
        dataset: Minari id, such as ``mujoco/hopper/medium-v0``, or a remote path with ``://``.
    """

    source: Literal["minari"]
    dataset: str


class D4rlEntry(CommonEntry):
    """A flat HDF5 file in D4RL's layout, given by ``path`` or by ``url``.

    Attributes:
        path: local file, relative to the project root; ``${VARIABLE}`` is expanded.
        url: where to download the file from; it is kept in the user's cache folder.
        sha256: expected SHA-256 of the file, checked whenever it is read.
        data_env_id: environment that the data was collected in; default ``env_id``.
        terminals_are_truncations: the file's terminals mark cuts, not terminal states.
        ignore_timeouts: the file's timeouts are wrong and are not ends of episodes.
        max_episode_steps: cut episodes at this length, for files that do not mark their timeouts.
        action_low, action_high: action bounds, used only where ``env_id`` is null.
        comparable_to_d4rl: this is the original file, so that scores may stand beside D4RL scores.
    """

    source: Literal["d4rl_hdf5"]
    path: str | None = None
    url: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    data_env_id: str | None = None
    terminals_are_truncations: bool = False
    ignore_timeouts: bool = False
    max_episode_steps: int | None = Field(default=None, gt=0)
    action_low: float = -1.0
    action_high: float = 1.0
    comparable_to_d4rl: bool = False

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://", "file://")):
            raise ValueError("must start with http://, https:// or file://")
        return url

    @model_validator(mode="after")
    def _one_place(self) -> D4rlEntry:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either 'path' or 'url'")
        return self


Entry = BuiltinEntry | MinariEntry | D4rlEntry
SOURCES: dict[str, type[CommonEntry]] = {
    "builtin": BuiltinEntry,
    "minari": MinariEntry,
    "d4rl_hdf5": D4rlEntry,
}


def dataset_ids(folder: Path) -> list[str]:
    """Ids of all entries below the ``datasets`` folder, sorted."""
    ids = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(name for name in ids if not name.startswith(f"{BEHAVIOUR}/"))


def check_id(dataset_id: str) -> None:
    """Refuse ids that cannot be a path and a Minari id at once.

    Raises:
        SparError: other characters than ``a-z0-9_-/``, a first folder of one letter, or no ``-v<number>``
            at the end.
    """
    if not ID_PATTERN.fullmatch(dataset_id):
        raise SparError(
            f"'{dataset_id}' is no dataset id",
            "use lower-case letters, digits, '_', '-' and '/', ending in a version such as '-v0'",
        )


def load_entry(path: Path) -> Entry:
    """Read and validate ``datasets/<id>.yaml``.

    Raises:
        SparError: there is no such entry (the line names the nearest one), or it is not valid.
    """
    folder = next((parent for parent in path.parents if parent.name == DATASETS), path.parent)
    dataset_id = path.relative_to(folder).with_suffix("").as_posix()
    if not path.is_file():
        known = dataset_ids(folder)
        hint = nearest(dataset_id, known) if known else f"{folder} holds no entries"
        raise SparError(f"there is no dataset '{dataset_id}' ({path} does not exist)", hint)
    check_id(dataset_id)
    values = load_yaml(path)
    source = values.get("source")
    if source is None:
        raise SparError(f"{path}: key 'source' is missing", f"choose from: {', '.join(sorted(SOURCES))}")
    if not isinstance(source, str) or source not in SOURCES:
        raise SparError(f"{path}: source = {source!r} is not known", nearest(str(source), list(SOURCES)))
    return parse(SOURCES[source], values, str(path))


def local_path(entry: D4rlEntry, root: Path) -> Path:
    """The local file of an entry with ``path``.

    Raises:
        SparError: the path uses a variable that is not set, or there is no such file.
    """
    assert entry.path is not None
    expanded = os.path.expandvars(entry.path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise SparError(
            f"the environment variable {unset[1]} is not set, which the path '{entry.path}' needs",
            f"set {unset[1]} to the folder that holds the file",
        )
    path = root / Path(expanded).expanduser()
    if not path.is_file():
        raise SparError(f"{path} does not exist", "check 'path' in the dataset's entry")
    return path


def behaviour_folder(entry: BuiltinEntry, root: Path) -> Path:
    """The folder of snapshots of a built-in dataset.

    Raises:
        SparError: there is no such folder, or it has no ``index.yaml``.
    """
    folder = root / entry.behaviour
    if not (folder / "index.yaml").is_file():
        raise SparError(f"{folder / 'index.yaml'} does not exist", "it should list the behaviour snapshots")
    return folder


def source_digest(entry: Entry, root: Path) -> str:
    """Digest of what the entry's data is made from, so that a changed local file is noticed.

    Local files are digested by content; a Minari id or a URL by its name (and ``sha256``) alone.

    Raises:
        SparError: the local source does not exist.
    """
    if isinstance(entry, BuiltinEntry):
        return digest_folder(behaviour_folder(entry, root))
    if isinstance(entry, MinariEntry):
        return digest_value({"minari": entry.dataset})
    if entry.path is not None:
        return digest_file(local_path(entry, root))
    return digest_value({"url": entry.url, "sha256": entry.sha256})
