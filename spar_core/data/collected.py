"""What every source has to give: checked episodes, their environment, and whether policies may be judged in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.data.entry import D4rlEntry, Entry, FileEntry, MinariEntry, NpzEntry
from spar_core.data.environments.actions import Bounds, check_bounds, narrowed_bounds
from spar_core.data.environments.environment import (
    EnvironmentFacts,
    check_shapes,
    environment_facts,
    equivalence,
    require_time_limit,
)
from spar_core.data.environments.ids import in_module
from spar_core.data.environments.replay import replay_check
from spar_core.data.episodes import ActionReport, DropReport, Episodes, bound_actions, drop_unusable
from spar_core.errors import SparError


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


def verdict_of(entry: Entry, data_env_id: str | None, env_id: str | None, path: Path | None = None) -> Verdict:
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


def environment_of(entry: Entry, env_id: str) -> EnvironmentFacts:
    """The environment of an id, with what the entry says of it."""
    return environment_facts(str(in_module(entry.env_module, env_id)), entry.env_kwargs, entry.observation_keys)


def file_environment(entry: D4rlEntry | NpzEntry, episodes: Episodes) -> EnvironmentFacts:
    """The entry's environment; without one, facts of the data, whose bounds the entry sets."""
    if entry.env_id is not None:
        return environment_of(entry, entry.env_id)
    unbounded = np.full(episodes.action_size, np.inf, np.float32)
    return no_environment(episodes, (-unbounded, unbounded))


def no_environment(episodes: Episodes, bounds: Bounds) -> EnvironmentFacts:
    """Facts of data without an environment, whose actions lie within ``bounds``."""
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


def finish(
    entry: Entry,
    episodes: Episodes,
    environment: EnvironmentFacts,
    verdict: Verdict,
    provenance: dict[str, Any],
    inputs: dict[str, str],
    notes: tuple[str, ...] = (),
) -> Collected:
    """Check the episodes, and bring their actions inside the bounds.

    Args:
        entry: of the dataset.
        episodes: as the source gives them.
        environment: where policies are rolled out, or facts of the data alone.
        verdict: whether policies may be judged in it.
        provenance: facts about the source for the manifest.
        inputs: digests of source files, by name.
        notes: lines about what can be read in two ways.

    Raises:
        SparError: no episode is usable, shapes or bounds do not fit, or an episode of a policy might never end.
    """
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
