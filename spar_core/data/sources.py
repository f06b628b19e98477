"""Collect the checked episodes of a dataset entry, whichever source it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.artifacts import digest_file
from spar_core.data.entry import (
    BuiltinEntry,
    D4rlEntry,
    Entry,
    FileEntry,
    MinariEntry,
    NpzEntry,
    OgbenchEntry,
    WaypointsEntry,
    behaviour_folder,
    local_path,
    source_digest,
)
from spar_core.data.environments import ogbench
from spar_core.data.environments.actions import Bounds, check_bounds, joined_bounds, narrowed_bounds
from spar_core.data.environments.environment import (
    EnvironmentFacts,
    check_shapes,
    environment_facts,
    equivalence,
    require_time_limit,
)
from spar_core.data.environments.ids import in_module, register, resolved
from spar_core.data.environments.replay import replay_check
from spar_core.data.episodes import ActionReport, DropReport, Episodes, bound_actions, drop_unusable
from spar_core.data.generators.behaviour import read_index, roll_out
from spar_core.data.generators.waypoints import roll_out_waypoints
from spar_core.data.names import unusual
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.fetch import check_sha256, fetch, sha256_of
from spar_core.data.readers.minari_fetch import ensure_minari
from spar_core.data.readers.minari_io import MinariFacts, read_minari
from spar_core.data.readers.npz_io import read_npz
from spar_core.data.readers.ogbench_npz import Read, files_of, read_ogbench
from spar_core.errors import SparError

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Verdict:
    """Whether the evaluation environment is the one that the data comes from.

    Attributes:
        kind: see :func:`spar_core.data.environments.environment.equivalence`; or ``replayed`` if replaying the
            recorded simulator states showed that the two environments agree.
        not_evaluated: why no policy is rolled out; None if policies are.
        replay: a :class:`~spar_core.data.environments.replay_report.ReplayReport` as plain values; None if nothing
            was replayed.
    """

    kind: str
    not_evaluated: str | None = None
    replay: dict[str, Any] | None = None


@dataclass(frozen=True)
class Collected:
    """Checked episodes with actions inside the bounds, and facts about them.

    Attributes:
        episodes: the episodes in the order of the source.
        environment: the evaluation environment and its action bounds.
        equivalence: whether policies may be evaluated in that environment.
        actions: how many action values were clipped.
        dropped: how many episodes were left out.
        provenance: facts about the source for the manifest; they depend on the source alone.
        inputs: digests of source files, by name.
        notes: lines about what can be read in two ways.
        heldout: numbers of the episodes that the source itself holds out; None leaves the choice to the entry.
    """

    episodes: Episodes
    environment: EnvironmentFacts
    equivalence: Verdict
    actions: ActionReport
    dropped: DropReport
    provenance: dict[str, Any]
    inputs: dict[str, str]
    notes: tuple[str, ...] = ()
    heldout: list[int] | None = None


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
    facts = _environment(entry, entry.env_id)
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
    return _finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, inputs)


def _waypoints(entry: WaypointsEntry, workers: int, report: Report | None) -> Collected:
    facts = _environment(entry, entry.env_id)
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
    return _finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, {})


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
        verdict = _verdict(entry, facts.env_id, None)
        environment = replace(_no_environment(episodes, data_bounds), observation_layout=facts.observation_layout)
    else:
        # Raise an error that the ids alone show before the environment is made.
        equivalence(facts.env_id, env_id, entry.allow_environment_mismatch)
        environment = _minari_environment(entry, env_id, facts)
        verdict = _verdict(entry, facts.env_id, environment.env_id)
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
    return _finish(entry, episodes, environment, verdict, provenance, inputs, facts.notes)


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
    environment = _file_environment(entry, episodes)
    data_env_id = entry.data_env_id or environment.env_id
    verdict = _verdict(entry, data_env_id, environment.env_id)
    provenance = {
        "data_env_id": data_env_id,
        "folder": Path(entry.path).name,
        "files": found.files,
        "unmarked_cuts": found.unmarked_cuts,
        "arrays": found.names,
        **_ignored(entry),
    }
    inputs = {Path(entry.path).name: source_digest(entry, *roots)}
    return _finish(entry, episodes, environment, verdict, provenance, inputs, found.notes)


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
    environment = _file_environment(entry, episodes)
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
    verdict = _verdict(entry, data_env_id, environment.env_id, path)
    return _finish(entry, episodes, environment, verdict, provenance, {name: digest_file(path)}, found.notes)


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
    environment = _no_environment(read.episodes, (-ones, ones))
    version = ogbench.installed()
    if entry.env_id is None or version is None:
        why = entry.not_evaluated or f"the package ogbench is not installed: {ogbench.INSTALL}"
        verdict = Verdict("none", why)
        notes.append("rewards were not compared with the environment's")
    else:
        environment = environment_facts(entry.env_id, kwargs)
        reading = ogbench.check_rewards(task, read.qpos, read.buttons, read.episodes.rewards[: len(read.qpos)])
        verdict = Verdict("same", None, {"reading": reading, "ogbench": version})
    collected = _finish(entry, read.episodes, environment, verdict, provenance, read.files, tuple(notes))
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


def _verdict(entry: Entry, data_env_id: str | None, env_id: str | None, path: Path | None = None) -> Verdict:
    """Whether policies may be rolled out; a D4RL file at ``path`` is replayed if it holds simulator states."""
    kind = equivalence(data_env_id, env_id, entry.allow_environment_mismatch)
    if kind == "none":
        return Verdict(kind, entry.not_evaluated or "no environment is named for it")
    replay = None
    if path is not None and isinstance(entry, D4rlEntry) and kind in ("documented", "unverified"):
        assert env_id is not None
        cuts = entry.terminals_are_truncations
        replay = replay_check(path, env_id, entry.env_kwargs, terminals_are_truncations=cuts, naming=entry.naming)
    if kind != "unverified":
        return Verdict(kind, None, None if replay is None else replay.to_dict())
    differs = f"'{env_id}' is not known to be the environment that the data comes from, '{data_env_id}'"
    if path is None:
        return Verdict(kind, differs)
    if replay is None:
        return Verdict(kind, f"{differs}, and the file holds no simulator states that could show it")
    if replay.agrees:
        return Verdict("replayed", None, replay.to_dict())
    return Verdict(kind, f"{differs}: {replay.reading}", replay.to_dict())


def _environment(entry: Entry, env_id: str) -> EnvironmentFacts:
    """The environment of an id, with what the entry says of it."""
    return environment_facts(str(in_module(entry.env_module, env_id)), entry.env_kwargs, entry.observation_keys)


def _file_environment(entry: D4rlEntry | NpzEntry, episodes: Episodes) -> EnvironmentFacts:
    """The entry's environment; without one, facts of the data, whose bounds the entry sets."""
    if entry.env_id is not None:
        return _environment(entry, entry.env_id)
    unbounded = np.full(episodes.action_size, np.inf, np.float32)
    return _no_environment(episodes, (-unbounded, unbounded))


def _no_environment(episodes: Episodes, bounds: Bounds) -> EnvironmentFacts:
    return EnvironmentFacts(None, {}, episodes.observation_size, *bounds)


def _wanted_bounds(entry: Entry) -> tuple[Any, Any]:
    """The bounds of actions that the entry sets; None where it sets none."""
    if not isinstance(entry, FileEntry | MinariEntry):
        return None, None
    low, high = entry.action_low, entry.action_high
    if isinstance(entry, FileEntry) and entry.env_id is not None:
        # Their defaults hold only without an environment.
        given = entry.model_fields_set
        return low if "action_low" in given else None, high if "action_high" in given else None
    return low, high


def _finish(
    entry: Entry,
    episodes: Episodes,
    environment: EnvironmentFacts,
    verdict: Verdict,
    provenance: dict[str, Any],
    inputs: dict[str, str],
    notes: tuple[str, ...] = (),
) -> Collected:
    usable, dropped = drop_unusable(episodes, entry.not_finite)
    if 0 in (usable.observation_size, usable.action_size):
        raise SparError(
            f"the data has {usable.observation_size}-dimensional observations and {usable.action_size}-dimensional "
            "actions; both must have at least one dimension",
            "check its source",
        )
    check_shapes(environment, usable.observation_size, usable.action_size)
    owner = "the data" if environment.env_id is None else f"'{environment.env_id}'"
    own = environment.action_low, environment.action_high
    low, high = narrowed_bounds(own, _wanted_bounds(entry), owner)
    environment = replace(environment, action_low=low, action_high=high)
    check_bounds((low, high), usable.actions, owner)
    bounded, actions = bound_actions(usable, low, high, entry.out_of_bounds_actions)
    if verdict.not_evaluated is None:
        require_time_limit(environment, int(usable.lengths.max(initial=0)))
    return Collected(bounded, environment, verdict, actions, dropped, provenance, inputs, notes)
