"""Dataset entries: what ``datasets/<id>.yaml`` may say, and where its data comes from.

An entry names one of five sources. ``builtin`` rolls out behaviour policies that lie in the repository,
``waypoints`` a planner in a maze; ``minari`` takes any Minari dataset, local or remote; ``d4rl_hdf5`` converts a
file in D4RL's layout, and ``npz`` a folder of episodes.
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
# Keys of an entry that change nothing in its data.
DESCRIBING = frozenset({"title", "description", "license", "settings"})
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
            prepared and trained on, but no policy is rolled out on it.
        not_evaluated: why there is no environment, for the report; only where ``env_id`` is null.
        env_kwargs: keyword arguments of the evaluation environment.
        observation_keys: parts of a dictionary observation that make up the vector, in this order, such as
            ``observation`` or ``achieved_goal/kettle``; null takes all of them, sorted by name.
        reward_shift: a name in ``spar_core.data.reward_shift``: what training adds to rewards or scales them
            by. Returns are reported as they were logged.
        reference: row of ``reference_scores.yaml`` that normalises returns; null for raw returns only.
        heldout_share: share of the episodes that no network is ever fitted to.
        split_seed: seed of the choice of held-out episodes.
        out_of_bounds_actions: ``refuse`` or ``clip`` actions outside the bounds. Excesses up to 1e-6 are
            rounding noise and are always clipped; whatever is clipped is counted in the manifest.
        not_finite: ``refuse`` a NaN or an infinity, or ``drop_episodes`` that hold one, which are counted.
        allow_environment_mismatch: accept data of another environment version; the manifest says so.
        settings: a tree over params.yaml and the study, for the cells of this dataset alone, such as
            ``{critics: {iql: {expectile: 0.9}}}`` (``stages.params``).
    """

    title: str
    description: str = ""
    license: str = ""
    env_id: str | None = None
    not_evaluated: str | None = None
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    observation_keys: list[str] | None = Field(default=None, min_length=1)
    reward_shift: Literal["none", "iql", "cql", "rebrac"] = "none"
    reference: str | None = None
    heldout_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    split_seed: int = Field(default=0, ge=0)
    out_of_bounds_actions: Literal["clip", "refuse"] = "refuse"
    not_finite: Literal["refuse", "drop_episodes"] = "refuse"
    allow_environment_mismatch: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_reason(self) -> CommonEntry:
        if self.not_evaluated is not None and self.env_id is not None:
            raise ValueError("'not_evaluated' says why there is no environment, but 'env_id' names one")
        return self


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


class WaypointsEntry(CommonEntry):
    """Rollouts of a planner with a PD controller in a point maze; nothing is downloaded.

    Attributes:
        steps: environment steps in all.
        seed: seed of starts, goals and action noise.
        p_gain: force per metre of distance to the next waypoint.
        d_gain: force per metre a second of velocity.
        noise: standard deviation of the noise added to every action, in units of the action box [-1, 1].
    """

    source: Literal["waypoints"]
    env_id: str
    steps: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    p_gain: float = Field(default=10.0, gt=0.0)
    d_gain: float = Field(default=-1.0, le=0.0)
    noise: float = Field(default=0.5, ge=0.0)


class MinariEntry(CommonEntry):
    """A Minari dataset; ``env_id`` defaults to the environment that the dataset itself names.

    Attributes:
        dataset: Minari id, such as ``mujoco/hopper/medium-v0``, or a remote path with ``://``.
        path: folder of a local dataset, relative to the project root, instead of ``dataset``.
    """

    source: Literal["minari"]
    dataset: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> MinariEntry:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either 'dataset' or 'path'")
        return self


class FileEntry(CommonEntry):
    """What entries of files say that do not describe their environment themselves.

    Attributes:
        data_env_id: environment that the data was collected in; default ``env_id``.
        action_low, action_high: action bounds, used only where ``env_id`` is null.
    """

    data_env_id: str | None = None
    action_low: float = -1.0
    action_high: float = 1.0


class NpzEntry(FileEntry):
    """A folder of ``.npz`` files, one an episode, in the order of their names.

    Attributes:
        path: local folder, relative to the project root; ``${VARIABLE}`` is expanded.
    """

    source: Literal["npz"]
    path: str


class D4rlEntry(FileEntry):
    """A flat HDF5 file in D4RL's layout, given by ``path`` or by ``url``.

    Attributes:
        path: local file, relative to the project root; ``${VARIABLE}`` is expanded.
        url: where to download the file from; it is kept in the user's cache folder.
        sha256: expected SHA-256 of the file, checked whenever it is read.
        terminals_are_truncations: the file's terminals mark cuts, not terminal states.
        ignore_timeouts: the file's timeouts are wrong and are not ends of episodes.
        max_episode_steps: cut episodes at this length, for files that do not mark their timeouts.
        comparable_to_d4rl: this is the original file, so that scores may stand beside D4RL scores.
    """

    source: Literal["d4rl_hdf5"]
    path: str | None = None
    url: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    terminals_are_truncations: bool = False
    ignore_timeouts: bool = False
    max_episode_steps: int | None = Field(default=None, gt=0)
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


Entry = BuiltinEntry | WaypointsEntry | MinariEntry | D4rlEntry | NpzEntry
SOURCES: dict[str, type[CommonEntry]] = {
    "builtin": BuiltinEntry,
    "waypoints": WaypointsEntry,
    "minari": MinariEntry,
    "d4rl_hdf5": D4rlEntry,
    "npz": NpzEntry,
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


def local_path(path: str, root: Path) -> Path:
    """A path of an entry, with its variables filled in, below the project root if it is relative.

    Raises:
        SparError: it uses a variable that is not set, or there is no such file or folder.
    """
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise SparError(
            f"the environment variable {unset[1]} is not set, which the path '{path}' needs",
            f"set {unset[1]} to the folder that holds the file",
        )
    try:
        found = root / Path(expanded).expanduser()
        there = found.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that does not exist
        raise SparError(f"'{path}' is no path ({error})", "check 'path' in the dataset's entry") from None
    if not there:
        raise SparError(f"{found} does not exist", "check 'path' in the dataset's entry")
    return found


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

    Local files are digested by content; a Minari id or a URL by its name (and ``sha256``) alone, and what is
    generated by nothing, since its entry says it all.

    Raises:
        SparError: the local source does not exist.
    """
    if isinstance(entry, BuiltinEntry):
        return digest_folder(behaviour_folder(entry, root))
    if isinstance(entry, WaypointsEntry):
        return digest_value({})
    if entry.path is not None:
        path = local_path(entry.path, root)
        return digest_folder(path) if path.is_dir() else digest_file(path)
    if isinstance(entry, MinariEntry):
        return digest_value({"minari": entry.dataset})
    return digest_value({"url": entry.url, "sha256": entry.sha256})
