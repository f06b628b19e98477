"""From a dataset entry to checked episodes: the three sources behind one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.artifacts import digest_file
from spar_core.data.behaviour import read_index, roll_out
from spar_core.data.d4rl_hdf5 import read_d4rl
from spar_core.data.entry import (
    BuiltinEntry,
    D4rlEntry,
    Entry,
    MinariEntry,
    behaviour_folder,
    local_path,
    source_digest,
)
from spar_core.data.environment import (
    EnvironmentFacts,
    check_bounds,
    check_shapes,
    check_version,
    environment_facts,
)
from spar_core.data.episodes import ActionReport, Episode, bound_actions, check_episodes
from spar_core.data.fetch import check_sha256, fetch
from spar_core.data.minari_fetch import fetch_minari
from spar_core.errors import SparError

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Collected:
    """Checked episodes with actions inside the bounds, and what is known about them.

    Attributes:
        episodes: in the order of the source.
        environment: evaluation environment and action bounds.
        mismatch: the data comes from another environment, and the entry allows it.
        actions: what was clipped.
        provenance: facts for the manifest, a function of the source alone.
        inputs: digests of source files, by name.
    """

    episodes: list[Episode]
    environment: EnvironmentFacts
    mismatch: bool
    actions: ActionReport
    provenance: dict[str, Any]
    inputs: dict[str, str]


def collect(entry: Entry, root: Path, *, workers: int = 1, report: Report | None = None) -> Collected:
    """Get the episodes of an entry.

    Args:
        entry: what to get.
        root: project root that the entry's paths are relative to.
        workers: processes that roll out built-in data.
        report: called with (steps so far, steps in all) while built-in data is rolled out.

    Raises:
        SparError: the source cannot be had or is not as it should be, or the environment does not match it.
    """
    if isinstance(entry, BuiltinEntry):
        return _builtin(entry, root, workers, report)
    if isinstance(entry, MinariEntry):
        return _minari(entry, root)
    return _d4rl(entry, root)


def _builtin(entry: BuiltinEntry, root: Path, workers: int, report: Report | None) -> Collected:
    folder = behaviour_folder(entry, root)
    facts = environment_facts(entry.env_id, entry.env_kwargs)
    episodes, policies = roll_out(
        folder,
        entry.env_id,
        steps=entry.steps,
        seed=entry.seed,
        noise=entry.noise,
        env_kwargs=entry.env_kwargs,
        workers=workers,
        report=report,
    )
    counts = np.bincount(policies, minlength=1 + max(policies))
    behaviour = [
        {**snapshot.model_dump(), "episodes": int(counts[i]) if i < len(counts) else 0}
        for i, snapshot in enumerate(read_index(folder).snapshots)
    ]
    provenance = {"data_env_id": entry.env_id, "behaviour": behaviour}
    return _finish(entry, episodes, facts, False, provenance, {entry.behaviour: source_digest(entry, root)})


def _minari(entry: MinariEntry, root: Path) -> Collected:
    episodes, facts = fetch_minari(entry.dataset)
    env_id = entry.env_id or facts.env_id
    mismatch = check_version(facts.env_id, env_id, entry.allow_environment_mismatch)
    provenance = {"data_env_id": facts.env_id, "minari_id": facts.dataset_id}
    if env_id is None:
        environment = _no_environment(episodes, facts.action_low, facts.action_high)
    else:
        environment = environment_facts(env_id, entry.env_kwargs)
        if len(facts.action_low) == len(environment.action_low):
            check_bounds(environment, facts.action_low, facts.action_high)
    return _finish(entry, episodes, environment, mismatch, provenance, {entry.dataset: source_digest(entry, root)})


def _d4rl(entry: D4rlEntry, root: Path) -> Collected:
    data_env_id = entry.data_env_id or entry.env_id
    # Before the download: a mismatch that the entry alone shows should not cost one.
    mismatch = check_version(data_env_id, entry.env_id, entry.allow_environment_mismatch)
    environment = environment_facts(entry.env_id, entry.env_kwargs) if entry.env_id is not None else None
    if entry.path is not None:
        path, name = local_path(entry, root), Path(entry.path).name
        check_sha256(path, entry.sha256)
    else:
        assert entry.url is not None
        path, name = fetch(entry.url, entry.sha256), entry.url
    episodes, found = read_d4rl(
        path,
        terminals_are_truncations=entry.terminals_are_truncations,
        ignore_timeouts=entry.ignore_timeouts,
        max_episode_steps=entry.max_episode_steps,
    )
    if not episodes:
        raise SparError(f"{path.name} holds no episode of more than one step")
    if environment is None:
        size = episodes[0].actions.shape[1]
        low, high = (np.full(size, bound, np.float32) for bound in (entry.action_low, entry.action_high))
        environment = _no_environment(episodes, low, high)
    provenance = {
        "data_env_id": data_env_id,
        "file": name,
        "rows": found.rows,
        "dropped_last_steps": found.dropped_steps,
        "unmarked_cuts": found.unmarked_cuts,
    }
    return _finish(entry, episodes, environment, mismatch, provenance, {name: digest_file(path)})


def _no_environment(episodes: Sequence[Episode], low: np.ndarray, high: np.ndarray) -> EnvironmentFacts:
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise SparError("the data's action bounds are not finite and rising", "set 'env_id' in the entry")
    size = episodes[0].observations.shape[1] if episodes else 0
    return EnvironmentFacts(None, {}, size, low, high)


def _finish(
    entry: Entry,
    episodes: list[Episode],
    environment: EnvironmentFacts,
    mismatch: bool,
    provenance: dict[str, Any],
    inputs: dict[str, str],
) -> Collected:
    check_episodes(episodes)
    check_shapes(environment, episodes[0].observations.shape[1], episodes[0].actions.shape[1])
    bounded, actions = bound_actions(
        episodes, environment.action_low, environment.action_high, entry.out_of_bounds_actions
    )
    return Collected(bounded, environment, mismatch, actions, provenance, inputs)
