"""Dataset entries: the keys of ``datasets/<id>.yaml``.

An entry names one of six sources. ``builtin`` rolls out behaviour policies that lie in the repository, and
``waypoints`` rolls out a planner in a maze. ``minari`` takes any Minari dataset, local or remote. ``d4rl_hdf5``
converts a file in D4RL's layout, ``npz`` converts a folder of episodes, and ``ogbench`` reads a single task of OGBench.

:mod:`spar_core.data.entry_files` finds and reads the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from spar_core.data.environments import ogbench
from spar_core.data.local_path import local_path
from spar_core.data.names import Meaning, Naming
from spar_core.data.ogbench import Task, task_of
from spar_core.errors import SparError
from spar_core.settings import Settings

# Keys of an entry that change nothing in its data.
DESCRIBING = frozenset({"title", "description", "license", "settings", "digest"})


class CommonEntry(Settings):
    """The keys of every entry."""

    title: str = Field(description="one line for tables and reports")
    description: str = Field("", description="where the data comes from and what to know about it")
    license: str = Field("", description="licence of the data")
    env_id: str | None = Field(
        None,
        description="Gymnasium id of the evaluation environment; null if the data has none, in which case networks are "
        "trained on it but no policy is rolled out",
    )
    not_evaluated: str | None = Field(
        None, description="why there is no evaluation environment, for the report; only where env_id is null"
    )
    env_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of the evaluation environment, with max_episode_steps for its time limit",
    )
    env_module: str | None = Field(
        None,
        exclude_if=lambda module: module is None,  # Data without one keep their digests.
        description="Python module whose import registers the environment; env_id: MODULE:NAME-v0 says the same",
    )
    observation_keys: list[str] | None = Field(
        None,
        min_length=1,
        description="parts of a dictionary observation that make up the observation vector, in this order, such as "
        "observation or achieved_goal/kettle; null takes every part, sorted by name",
    )
    reward_shift: Literal["none", "iql", "cql", "rebrac"] = Field(
        "none",
        description="how training scales and shifts the rewards: a name in spar_core/data/reward_shift.py; returns are "
        "reported as they were logged",
    )
    reference: str | None = Field(
        None, description="row of reference_scores.yaml that normalises returns; null reports raw returns only"
    )
    heldout_share: float = Field(
        0.1, gt=0.0, lt=1.0, description="share of the episodes that no network is ever fitted to"
    )
    split_seed: int = Field(0, ge=0, description="seed that chooses the held-out episodes")
    out_of_bounds_actions: Literal["clip", "refuse"] = Field(
        "refuse",
        description="refuse or clip actions outside the bounds; excesses up to 1e-6 of the range are rounding errors "
        "and always clipped; the manifest counts what was clipped",
    )
    not_finite: Literal["refuse", "drop_episodes"] = Field(
        "refuse",
        description="refuse data with a NaN or an infinity, or drop the episodes that hold one; the manifest counts "
        "them",
    )
    allow_environment_mismatch: bool = Field(
        False, description="accept data of another version of the environment; the manifest says so"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of this dataset's cells: a tree over params.yaml and the study, such as "
        "{critics: {iql: {expectile: 0.9}}}",
    )

    def recipe(self, *left_out: str) -> dict[str, Any]:
        """The keys that say how the data are made, as plain values, for digests; without those of ``left_out``."""
        return self.model_dump(mode="json", exclude={*DESCRIBING, *left_out})

    @model_validator(mode="after")
    def _one_module(self) -> CommonEntry:
        if self.env_module is not None and ":" in (self.env_id or ""):
            raise ValueError("'env_module' and 'env_id' both name a module; remove 'env_module'")
        return self

    @model_validator(mode="after")
    def _one_reason(self) -> CommonEntry:
        if self.not_evaluated is not None and self.env_id is not None:
            raise ValueError(
                "'not_evaluated' says why there is no environment, but 'env_id' names one; remove one of the two"
            )
        return self


class GeneratedEntry(CommonEntry):
    """Keys of the sources that roll out policies of this repository; nothing is downloaded."""

    steps: int = Field(gt=0, description="environment steps in all")
    digest: str | None = Field(
        None, description="digest of the episodes that should come out; download says so if they have another"
    )


class BuiltinEntry(GeneratedEntry):
    """Rollouts of actor snapshots that lie in the repository."""

    source: Literal["builtin"]
    env_id: str = Field(description="Gymnasium id of the environment that the data is collected and evaluated in")
    behaviour: str = Field(description="folder of snapshots with its index.yaml, relative to the project root")
    seed: int = Field(0, ge=0, description="seed of the policy of each episode, its initial state and its action noise")
    noise: float = Field(
        1.0, ge=0.0, description="factor on the standard deviation of the policies' Gaussian; 0 gives their mean action"
    )


class WaypointsEntry(GeneratedEntry):
    """Rollouts of a planner with a PD controller in a point maze."""

    source: Literal["waypoints"]
    env_id: str = Field(description="Gymnasium id of the point maze that the data is collected and evaluated in")
    seed: int = Field(0, ge=0, description="seed of starts, goals and action noise")
    p_gain: float = Field(10.0, gt=0.0, description="action per metre of distance to the next waypoint")
    d_gain: float = Field(-1.0, le=0.0, description="action per metre a second of velocity")
    noise: float = Field(
        0.5,
        ge=0.0,
        description="standard deviation of the Gaussian noise on every action, in units of the action box [-1, 1]",
    )


class MinariEntry(CommonEntry):
    """A Minari dataset; ``env_id`` defaults to the environment that the dataset itself names."""

    source: Literal["minari"]
    dataset: str | None = Field(
        None, description="Minari id, such as mujoco/hopper/medium-v0, or a remote path, such as hf://owner/dataset-v0"
    )
    path: str | None = Field(
        None, description="folder of a local Minari dataset, relative to the project root; instead of dataset"
    )
    action_low: float | list[float] | None = Field(
        None,
        exclude_if=lambda bounds: bounds is None,
        description="lower bounds of the actions, one number or one a dimension; null means the environment's or the "
        "dataset's",
    )
    action_high: float | list[float] | None = Field(
        None, exclude_if=lambda bounds: bounds is None, description="upper bounds of the actions, likewise"
    )

    @model_validator(mode="after")
    def _one_place(self) -> MinariEntry:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either 'dataset' or 'path'")
        return self


class FileEntry(CommonEntry):
    """Keys of the sources whose files do not describe their environment."""

    data_env_id: str | None = Field(None, description="environment that the data was collected in; null means env_id")
    action_low: float | list[float] = Field(
        -1.0,
        description="lower bounds of the actions, one number or one a dimension; where env_id is set, the default is "
        "the environment's",
    )
    action_high: float | list[float] = Field(1.0, description="upper bounds of the actions, likewise")
    # Both are left out of digests and manifests where they say nothing.
    arrays: dict[Meaning, str] = Field(
        default_factory=dict,
        exclude_if=lambda names: not names,
        description="names of arrays that are not called as usual, such as {terminals: crashed}; the keys are "
        "observations, next_observations, actions, rewards, terminals, timeouts and dones",
    )
    ignored_arrays: list[str] = Field(
        default_factory=list, exclude_if=lambda names: not names, description="names of arrays that are left out"
    )

    @field_validator("arrays")
    @classmethod
    def _one_meaning(cls, arrays: dict[Meaning, str]) -> dict[Meaning, str]:
        twice = sorted({name for name in arrays.values() if list(arrays.values()).count(name) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' stands there twice, but an array has one meaning")
        return arrays

    @property
    def naming(self) -> Naming:
        """What the entry says about the arrays of its files."""
        return Naming({str(meaning): name for meaning, name in self.arrays.items()}, self.ignored_arrays)


class NpzEntry(FileEntry):
    """A folder of ``.npz`` files in the order of their names, or one such file."""

    source: Literal["npz"]
    path: str = Field(
        description="local folder of files, or one file, relative to the project root; ${VARIABLE} is expanded"
    )


class D4rlEntry(FileEntry):
    """A flat HDF5 file in D4RL's layout, given by ``path`` or by ``url``."""

    source: Literal["d4rl_hdf5"]
    path: str | None = Field(
        None, description="local file, relative to the project root; ${VARIABLE} is expanded; instead of url"
    )
    url: str | None = Field(
        None, description="address to download the file from; it is kept in the user's cache folder"
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="expected SHA-256 of the file, checked whenever the file is read"
    )
    terminals_are_truncations: bool = Field(
        False, description="whether the file's terminals mark cuts instead of terminal states"
    )
    ignore_timeouts: bool = Field(False, description="whether to ignore the file's timeouts because they are wrong")
    max_episode_steps: int | None = Field(
        None, gt=0, description="length in steps at which episodes are cut, for files without timeouts"
    )
    comparable_to_d4rl: bool = Field(
        False, description="whether this is D4RL's original file, so that its scores may stand beside D4RL scores"
    )

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


class OgbenchEntry(CommonEntry):
    """A single task of OGBench; ``env_id`` defaults to the task's own environment."""

    source: Literal["ogbench"]
    task: str = Field(description="as OGBench's loader names it, such as cube-single-play-singletask-task2-v0")
    path: str | None = Field(
        None,
        description="folder of OGBench's files, relative to the project root; null means the folder that the variable "
        "OGBENCH_DATA names, else ~/.ogbench/data, else they are downloaded",
    )
    success_timing: Literal["pre", "post"] = Field(
        "pre",
        description="whether an evaluation reports the success of the state before an action, as OGBench does since "
        "1.2.0, or after it, as OGBench 1.1.0 did",
    )

    @model_validator(mode="before")
    @classmethod
    def _own_environment(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("task"), str):
            return values
        try:
            task = task_of(values["task"])
        except SparError as error:
            raise ValueError(str(error)) from None
        return values if values.get("not_evaluated") else {"env_id": task.env_id, **values}

    @model_validator(mode="after")
    def _no_reference_returns(self) -> OgbenchEntry:
        if self.reference not in (None, ogbench.PACKAGE):
            raise ValueError(f"'reference' is '{self.reference}', but the return of a task of OGBench is its success")
        return self

    @property
    def single_task(self) -> Task:
        """What ``task`` names."""
        return task_of(self.task)

    def folder(self, *roots: Path) -> Path | None:
        """The folder that ``path`` names; None without ``path``. ``roots`` are as in :func:`local_path`."""
        return None if self.path is None else local_path(self.path, *roots)


Entry = BuiltinEntry | WaypointsEntry | MinariEntry | D4rlEntry | NpzEntry | OgbenchEntry
SOURCES: dict[str, type[Entry]] = {
    "builtin": BuiltinEntry,
    "waypoints": WaypointsEntry,
    "minari": MinariEntry,
    "d4rl_hdf5": D4rlEntry,
    "npz": NpzEntry,
    "ogbench": OgbenchEntry,
}
