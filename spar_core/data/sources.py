"""Collect the checked episodes of a dataset entry, whichever source it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.artifacts import digest_file
from spar_core.data.collected import (
    Collected,
    Verdict,
    environment_of,
    file_environment,
    finish,
    no_environment,
    verdict_of,
)
from spar_core.data.entry import (
    BuiltinEntry,
    D4rlEntry,
    Entry,
    FileEntry,
    MinariEntry,
    NpzEntry,
    OgbenchEntry,
    WaypointsEntry,
)
from spar_core.data.entry_files import behaviour_folder, source_digest
from spar_core.data.environments import ogbench
from spar_core.data.environments.actions import joined_bounds
from spar_core.data.environments.environment import (
    EnvironmentFacts,
    check_shapes,
    environment_facts,
    equivalence,
)
from spar_core.data.environments.ids import in_module, register, resolved
from spar_core.data.episodes import Episodes
from spar_core.data.generators.behaviour import read_index, roll_out
from spar_core.data.generators.waypoints import roll_out_waypoints
from spar_core.data.local_path import local_path
from spar_core.data.names import unusual
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.fetch import check_sha256, fetch, sha256_of
from spar_core.data.readers.minari_fetch import ensure_minari
from spar_core.data.readers.minari_io import MinariFacts, read_minari
from spar_core.data.readers.npz_io import read_npz
from spar_core.data.readers.ogbench_npz import Read, files_of, read_ogbench
from spar_core.errors import SparError

Report = Callable[[int, int], None]


def collect(entry: Entry, *roots: Path, workers: int = 1, report: Report | None = None) -> Collected:
    """Collect the episodes of an entry: generate, download or read them, and check them.

    Args:
        entry: the dataset's entry.
        roots: project root, which the entry's relative paths start from, and further ones for files that are not there.
        workers: processes that roll out generated data.
        report: called with (steps so far, steps in all) while data is generated.

    Raises:
        SparError: the source is missing, cannot be read or holds unusable data, or the environment does not match it.
    """
    if isinstance(entry, BuiltinEntry):
        return _builtin(entry, roots[0], workers, report)
    if isinstance(entry, WaypointsEntry):
        return _waypoints(entry, workers, report)
    if isinstance(entry, MinariEntry):
        return _minari(entry, *roots)
    if isinstance(entry, NpzEntry):
        return _npz(entry, *roots)
    if isinstance(entry, OgbenchEntry):
        return _ogbench(entry, *roots)
    return _d4rl(entry, *roots)


def _builtin(entry: BuiltinEntry, root: Path, workers: int, report: Report | None) -> Collected:
    folder = behaviour_folder(entry, root)
    facts = environment_of(entry, entry.env_id)
    episodes, policies = roll_out(
        folder,
        str(facts.env_id),
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
    provenance = {"data_env_id": facts.env_id, "behaviour": behaviour}
    inputs = {entry.behaviour: source_digest(entry, root)}
    return finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, inputs)


def _waypoints(entry: WaypointsEntry, workers: int, report: Report | None) -> Collected:
    facts = environment_of(entry, entry.env_id)
    episodes = roll_out_waypoints(
        str(facts.env_id),
        steps=entry.steps,
        seed=entry.seed,
        p_gain=entry.p_gain,
        d_gain=entry.d_gain,
        noise=entry.noise,
        env_kwargs=entry.env_kwargs,
        observation_keys=entry.observation_keys,
        workers=workers,
        report=report,
    )
    recipe = {name: getattr(entry, name) for name in ("p_gain", "d_gain", "noise", "seed")}
    provenance = {"data_env_id": facts.env_id, **recipe}
    return finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, {})


def _minari(entry: MinariEntry, *roots: Path) -> Collected:
    if entry.path is not None:
        folder, name = local_path(entry.path, *roots), entry.path
    else:
        assert entry.dataset is not None
        minari_root, local_id = ensure_minari(entry.dataset)
        folder, name = minari_root / local_id, entry.dataset
    episodes, facts = read_minari(folder, observation_keys=entry.observation_keys)
    env_id = entry.env_id
    if env_id is None and entry.not_evaluated is None:
        env_id = facts.env_id
    data_bounds = facts.action_low, facts.action_high
    if env_id is None:
        verdict = verdict_of(entry, facts.env_id, None)
        environment = replace(no_environment(episodes, data_bounds), observation_layout=facts.observation_layout)
    else:
        # Raise an error that the ids alone show before the environment is made.
        equivalence(facts.env_id, env_id, entry.allow_environment_mismatch)
        environment = _minari_environment(entry, env_id, facts)
        verdict = verdict_of(entry, facts.env_id, environment.env_id)
        if len(facts.action_low) == len(environment.action_low):
            own = environment.action_low, environment.action_high
            low, high = joined_bounds(own, data_bounds, environment.env_id)
            environment = replace(environment, action_low=low, action_high=high)
    provenance = {
        "data_env_id": facts.env_id,
        "minari_id": facts.dataset_id,
        "inner_terminations": facts.inner_terminations,
    }
    inputs = {name: source_digest(entry, *roots)}
    return finish(entry, episodes, environment, verdict, provenance, inputs, facts.notes)


def _minari_environment(entry: MinariEntry, env_id: str, facts: MinariFacts) -> EnvironmentFacts:
    """The evaluation environment; the dataset's own arguments, such as its maze, apply if its id is the dataset's."""
    env_id = str(in_module(entry.env_module, env_id))
    register(env_id)
    if facts.env_id is None or resolved(env_id) != resolved(facts.env_id):
        return environment_facts(env_id, entry.env_kwargs, entry.observation_keys)
    kwargs = {**facts.env_kwargs, **entry.env_kwargs}
    environment = environment_facts(env_id, kwargs, entry.observation_keys)
    limit, usual = facts.max_episode_steps, environment.max_episode_steps
    # Data is often collected with a time limit that no episode reaches. An evaluation would take needlessly long with
    # it, so only a limit below the environment's usual one is taken over.
    if limit and usual and limit < usual and "max_episode_steps" not in entry.env_kwargs:
        return environment_facts(env_id, {**kwargs, "max_episode_steps": limit}, entry.observation_keys)
    return environment


def _npz(entry: NpzEntry, *roots: Path) -> Collected:
    equivalence(entry.data_env_id or entry.env_id, entry.env_id, entry.allow_environment_mismatch)
    episodes, found = read_npz(local_path(entry.path, *roots), entry.naming)
    environment = file_environment(entry, episodes)
    data_env_id = entry.data_env_id or environment.env_id
    verdict = verdict_of(entry, data_env_id, environment.env_id)
    provenance = {
        "data_env_id": data_env_id,
        "folder": Path(entry.path).name,
        "files": found.files,
        "unmarked_cuts": found.unmarked_cuts,
        "arrays": found.names,
        **_ignored(entry),
    }
    inputs = {Path(entry.path).name: source_digest(entry, *roots)}
    return finish(entry, episodes, environment, verdict, provenance, inputs, found.notes)


def _d4rl(entry: D4rlEntry, *roots: Path) -> Collected:
    # Raise an error that the entry alone shows before the file is downloaded.
    equivalence(entry.data_env_id or entry.env_id, entry.env_id, entry.allow_environment_mismatch)
    if entry.path is not None:
        path, name = local_path(entry.path, *roots), Path(entry.path).name
        check_sha256(path, entry.sha256)
    else:
        assert entry.url is not None
        path, name = fetch(entry.url, entry.sha256), entry.url
    episodes, found = read_d4rl(
        path,
        terminals_are_truncations=entry.terminals_are_truncations,
        ignore_timeouts=entry.ignore_timeouts,
        max_episode_steps=entry.max_episode_steps,
        naming=entry.naming,
    )
    environment = file_environment(entry, episodes)
    data_env_id = entry.data_env_id or environment.env_id
    provenance = {
        "data_env_id": data_env_id,
        "file": name,
        "sha256": sha256_of(path),
        "rows": found.rows,
        "unmarked_cuts": found.unmarked_cuts,
        "kinds": found.kinds,
        # A file whose arrays are all called as usual has nothing to say here.
        **({"arrays": found.names} if unusual(found.names) or "dones" in found.names else {}),
        **_ignored(entry),
    }
    # Check the shapes first: with a wrong environment the replay would fail with a less clear error.
    check_shapes(environment, episodes.observation_size, episodes.action_size)
    verdict = verdict_of(entry, data_env_id, environment.env_id, path)
    return finish(entry, episodes, environment, verdict, provenance, {name: digest_file(path)}, found.notes)


def _ogbench(entry: OgbenchEntry, *roots: Path) -> Collected:
    task = entry.single_task
    read = read_ogbench(task, *files_of(task, entry.folder(*roots)))
    kwargs = {"success_timing": entry.success_timing, **entry.env_kwargs}
    provenance: dict[str, Any] = {
        "data_env_id": task.env_id.removeprefix("spar/"),
        "task": task.name,
        "files": read.files,
        "training_episodes": read.training,
        "released_episodes": task.release.episodes,
        "stopped_steps": 0 if read.episodes.stops is None else int(read.episodes.stops.sum()),
    }
    notes = _notes(read, task.release.episodes)
    ones = np.ones(read.episodes.action_size, np.float32)
    environment = no_environment(read.episodes, (-ones, ones))
    version = ogbench.installed()
    if entry.env_id is None or version is None:
        why = entry.not_evaluated or f"the package ogbench is not installed: {ogbench.INSTALL}"
        verdict = Verdict("none", why)
        notes.append("rewards were not compared with the environment's")
    else:
        environment = environment_facts(entry.env_id, kwargs)
        reading = ogbench.check_rewards(task, read.qpos, read.buttons, read.episodes.rewards[: len(read.qpos)])
        verdict = Verdict("same", None, {"reading": reading, "ogbench": version})
    collected = finish(entry, read.episodes, environment, verdict, provenance, read.files, tuple(notes))
    if len(collected.episodes) < len(read.episodes):
        raise SparError(
            f"{task.file}.npz or its validation file holds a NaN or an infinity", "fetch the files of OGBench again"
        )
    held = list(range(read.training, len(read.episodes)))
    return replace(collected, heldout=held or None)


def _notes(read: Read, released: int) -> list[str]:
    """What a reader of scores has to know."""
    notes = []
    if read.training != released:
        notes.append(
            f"{read.training} of the {released} episodes that OGBench publishes: scores do not compare with published "
            "ones"
        )
    if read.training == len(read.episodes):
        notes.append("there is no validation file, so a share of the episodes is held out")
    return notes


def _ignored(entry: FileEntry) -> dict[str, Any]:
    return {"ignored_arrays": entry.ignored_arrays} if entry.ignored_arrays else {}
