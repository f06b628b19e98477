"""Collect the checked episodes of a dataset entry, whichever source it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.artifacts import digest_file
from spar_core.data.entry import (
    BuiltinEntry,
    D4rlEntry,
    Entry,
    MinariEntry,
    NpzEntry,
    WaypointsEntry,
    behaviour_folder,
    local_path,
    source_digest,
)
from spar_core.data.environments.environment import (
    EnvironmentFacts,
    check_bounds,
    check_shapes,
    environment_facts,
    equivalence,
)
from spar_core.data.environments.replay import replay_check
from spar_core.data.episodes import ActionReport, DropReport, Episodes, bound_actions, drop_unusable
from spar_core.data.generators.behaviour import read_index, roll_out
from spar_core.data.generators.waypoints import roll_out_waypoints
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.fetch import check_sha256, fetch, sha256_of
from spar_core.data.readers.minari_fetch import ensure_minari
from spar_core.data.readers.minari_io import MinariFacts, read_minari
from spar_core.data.readers.npz_io import read_npz
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
    """

    episodes: Episodes
    environment: EnvironmentFacts
    equivalence: Verdict
    actions: ActionReport
    dropped: DropReport
    provenance: dict[str, Any]
    inputs: dict[str, str]


def collect(entry: Entry, root: Path, *, workers: int = 1, report: Report | None = None) -> Collected:
    """Collect the episodes of an entry: generate, download or read them, and check them.

    Args:
        entry: the dataset's entry.
        root: project root, which the entry's relative paths start from.
        workers: processes that roll out generated data.
        report: called with (steps so far, steps in all) while data is generated.

    Raises:
        SparError: the source is missing, cannot be read or holds unusable data, or the environment does not match it.
    """
    if isinstance(entry, BuiltinEntry):
        return _builtin(entry, root, workers, report)
    if isinstance(entry, WaypointsEntry):
        return _waypoints(entry, workers, report)
    if isinstance(entry, MinariEntry):
        return _minari(entry, root)
    if isinstance(entry, NpzEntry):
        return _npz(entry, root)
    return _d4rl(entry, root)


def _builtin(entry: BuiltinEntry, root: Path, workers: int, report: Report | None) -> Collected:
    folder = behaviour_folder(entry, root)
    facts = environment_facts(entry.env_id, entry.env_kwargs, entry.observation_keys)
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
    inputs = {entry.behaviour: source_digest(entry, root)}
    return _finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, inputs)


def _waypoints(entry: WaypointsEntry, workers: int, report: Report | None) -> Collected:
    facts = environment_facts(entry.env_id, entry.env_kwargs, entry.observation_keys)
    episodes = roll_out_waypoints(
        entry.env_id,
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
    provenance = {"data_env_id": entry.env_id, **recipe}
    return _finish(entry, Episodes.of(episodes), facts, Verdict("same"), provenance, {})


def _minari(entry: MinariEntry, root: Path) -> Collected:
    if entry.path is not None:
        folder, name = local_path(entry.path, root), entry.path
    else:
        assert entry.dataset is not None
        minari_root, local_id = ensure_minari(entry.dataset)
        folder, name = minari_root / local_id, entry.dataset
    episodes, facts = read_minari(folder, observation_keys=entry.observation_keys)
    env_id = entry.env_id
    if env_id is None and entry.not_evaluated is None:
        env_id = facts.env_id
    verdict = _verdict(entry, facts.env_id, env_id)
    if env_id is None:
        bounds = facts.action_low, facts.action_high
        environment = replace(_no_environment(episodes, *bounds), observation_layout=facts.observation_layout)
    else:
        environment = _minari_environment(entry, env_id, facts)
        if len(facts.action_low) == len(environment.action_low):
            check_bounds(environment, facts.action_low, facts.action_high)
    provenance = {
        "data_env_id": facts.env_id,
        "minari_id": facts.dataset_id,
        "inner_terminations": facts.inner_terminations,
    }
    return _finish(entry, episodes, environment, verdict, provenance, {name: source_digest(entry, root)})


def _minari_environment(entry: MinariEntry, env_id: str, facts: MinariFacts) -> EnvironmentFacts:
    """The evaluation environment; the dataset's own arguments, such as its maze, apply if its id is the dataset's."""
    if env_id != facts.env_id:
        return environment_facts(env_id, entry.env_kwargs, entry.observation_keys)
    kwargs = {**facts.env_kwargs, **entry.env_kwargs}
    environment = environment_facts(env_id, kwargs, entry.observation_keys)
    limit, usual = facts.max_episode_steps, environment.max_episode_steps
    # Data is often collected with a time limit that no episode reaches. An evaluation would take needlessly long with
    # it, so only a limit below the environment's usual one is taken over.
    if limit and usual and limit < usual and "max_episode_steps" not in entry.env_kwargs:
        return environment_facts(env_id, {**kwargs, "max_episode_steps": limit}, entry.observation_keys)
    return environment


def _npz(entry: NpzEntry, root: Path) -> Collected:
    data_env_id = entry.data_env_id or entry.env_id
    verdict = _verdict(entry, data_env_id, entry.env_id)
    episodes = read_npz(local_path(entry.path, root))
    provenance = {"data_env_id": data_env_id, "folder": Path(entry.path).name, "files": len(episodes)}
    inputs = {Path(entry.path).name: source_digest(entry, root)}
    return _finish(entry, episodes, _environment(entry, episodes), verdict, provenance, inputs)


def _d4rl(entry: D4rlEntry, root: Path) -> Collected:
    data_env_id = entry.data_env_id or entry.env_id
    # Raise an error that the entry alone shows before the file is downloaded.
    equivalence(data_env_id, entry.env_id, entry.allow_environment_mismatch)
    if entry.path is not None:
        path, name = local_path(entry.path, root), Path(entry.path).name
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
    provenance = {
        "data_env_id": data_env_id,
        "file": name,
        "sha256": sha256_of(path),
        "rows": found.rows,
        "unmarked_cuts": found.unmarked_cuts,
        "kinds": found.kinds,
    }
    environment = _environment(entry, episodes)
    # Check the shapes first: with a wrong environment the replay would fail with a less clear error.
    check_shapes(environment, episodes.observation_size, episodes.action_size)
    verdict = _verdict(entry, data_env_id, entry.env_id, path)
    return _finish(entry, episodes, environment, verdict, provenance, {name: digest_file(path)})


def _verdict(entry: Entry, data_env_id: str | None, env_id: str | None, path: Path | None = None) -> Verdict:
    """Whether policies may be rolled out; a D4RL file at ``path`` is replayed if it holds simulator states."""
    kind = equivalence(data_env_id, env_id, entry.allow_environment_mismatch)
    if kind == "none":
        return Verdict(kind, entry.not_evaluated or "no environment is named for it")
    replay = None
    if path is not None and isinstance(entry, D4rlEntry) and kind in ("documented", "unverified"):
        assert env_id is not None
        cuts = entry.terminals_are_truncations
        replay = replay_check(path, env_id, entry.env_kwargs, terminals_are_truncations=cuts)
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


def _environment(entry: D4rlEntry | NpzEntry, episodes: Episodes) -> EnvironmentFacts:
    """The entry's environment; without one, the facts that the entry's action bounds and the data give."""
    if entry.env_id is not None:
        return environment_facts(entry.env_id, entry.env_kwargs, entry.observation_keys)
    size = episodes.action_size
    low, high = (np.full(size, bound, np.float32) for bound in (entry.action_low, entry.action_high))
    return _no_environment(episodes, low, high)


def _no_environment(episodes: Episodes, low: NDArray[np.float32], high: NDArray[np.float32]) -> EnvironmentFacts:
    with np.errstate(over="ignore"):
        fits = np.isfinite(high - low).all() and (low < high).all()
    if not fits:
        raise SparError(
            f"the data's action bounds {low.tolist()} to {high.tolist()} are not finite and rising",
            "set 'env_id' in the dataset's entry, or for files 'action_low' and 'action_high'",
        )
    return EnvironmentFacts(None, {}, episodes.observation_size, low, high)


def _finish(
    entry: Entry,
    episodes: Episodes,
    environment: EnvironmentFacts,
    verdict: Verdict,
    provenance: dict[str, Any],
    inputs: dict[str, str],
) -> Collected:
    usable, dropped = drop_unusable(episodes, entry.not_finite)
    if 0 in (usable.observation_size, usable.action_size):
        raise SparError(
            f"the data has {usable.observation_size}-dimensional observations and {usable.action_size}-dimensional "
            "actions; both must have at least one dimension",
            "check its source",
        )
    check_shapes(environment, usable.observation_size, usable.action_size)
    low, high = environment.action_low, environment.action_high
    bounded, actions = bound_actions(usable, low, high, entry.out_of_bounds_actions)
    return Collected(bounded, environment, verdict, actions, dropped, provenance, inputs)
