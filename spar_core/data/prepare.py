"""Prepare a dataset once: choose the held-out episodes, fit the scaler, and write the manifest that describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.alignment import alignment
from spar_core.data.collected import Collected
from spar_core.data.entry import D4rlEntry, Entry, FileEntry, MinariEntry, OgbenchEntry
from spar_core.data.episodes import Episodes, episode_digest, episodes_digest
from spar_core.data.reference import check_time_limit, normalised_score, reference
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Prepared:
    """The contents of ``split.json``, ``scaler.json`` and ``manifest.json``."""

    split: dict[str, Any]
    scaler: Scaler
    manifest: dict[str, Any]


def prepare(entry: Entry, dataset_id: str, data: Collected) -> Prepared:
    """Choose the held-out episodes, fit the scaler to the others, and describe the dataset.

    Raises:
        SparError: there are fewer than two different episodes, no step of those to train on shows what follows it, or
            the entry's reference scores do not exist or hold for another time limit.
    """
    digests = [episode_digest(episode) for episode in data.episodes]
    heldout = _heldout(entry, data, digests)
    apart = np.zeros(len(digests), bool)
    apart[heldout] = True
    _check_following(data.episodes, ~apart)
    # The scaler is fitted to the states in which a policy acts; it does not act after an episode's last step.
    rows = np.repeat(~apart, data.episodes.lengths + 1)
    rows[np.cumsum(data.episodes.lengths + 1) - 1] = False
    scaler = Scaler.fit(data.episodes.observations, data.environment.action_low, data.environment.action_high, rows)
    split = {
        "heldout": heldout,
        "episodes": len(digests),
        "heldout_share": entry.heldout_share if data.heldout is None else None,
        "split_seed": entry.split_seed,
        "last_observation_unknown": np.flatnonzero(~data.episodes.last_known).tolist(),
    }
    return Prepared(split, scaler, _manifest(entry, dataset_id, data, digests, rows, len(heldout)))


def _heldout(entry: Entry, data: Collected, digests: Sequence[str]) -> list[int]:
    """The held-out episodes: the source's own, or a share of all."""
    if data.heldout is None:
        return choose_heldout(digests, entry.heldout_share, entry.split_seed)
    apart = {digests[number] for number in data.heldout}
    inside = next((n for n, one in enumerate(digests) if one in apart and n not in set(data.heldout)), None)
    if inside is not None:
        raise SparError(
            f"episode {inside} of the data to train on is also in the validation file",
            "fetch both files again: none of the held-out episodes may be trained on",
        )
    return data.heldout


def _check_following(episodes: Episodes, train: NDArray[np.bool_]) -> None:
    """Make sure that a value can be learnt from the training episodes, which ``train`` [E] marks."""
    blind = ~episodes.last_known & ~episodes.terminated
    if (episodes.lengths - blind)[train].sum() == 0:
        raise SparError(
            f"no step of the {int(train.sum())} training episodes shows what follows it: each episode is one step, cut "
            "before an observation that is not known, so no value can be learnt",
            "mark every step as terminal if nothing follows it (a bandit's data), or write 'next_observations'",
        )


def choose_heldout(digests: Sequence[str], share: float, seed: int) -> list[int]:
    """Choose the held-out episodes: at least one, and never all.

    Copies of an episode are all held out or all trained on. Otherwise training would see held-out data.

    Args:
        digests: [E] digest of each episode's content.
        share: share of the different episodes to hold out.
        seed: seed of the choice.

    Returns:
        Numbers of the held-out episodes, sorted.

    Raises:
        SparError: there are fewer than two different episodes.
    """
    unique = list(dict.fromkeys(digests))
    if len(unique) < 2:
        copies = f", all {len(digests)} the same" if len(digests) > 1 else ""
        raise SparError(
            f"the dataset has {len(unique)} episode(s){copies}, but one is held out and one is needed to train on",
            "use a dataset of at least two different episodes",
        )
    count = min(max(1, round(share * len(unique))), len(unique) - 1)
    chosen = {unique[i] for i in np.random.default_rng(seed).permutation(len(unique))[:count]}
    return [number for number, digest in enumerate(digests) if digest in chosen]


def _misaligned(entry: Entry, episodes: Episodes) -> dict[str, Any]:
    """The offset whose actions explain observations better than those of the same row, where there is one."""
    if not isinstance(entry, FileEntry | MinariEntry):
        return {}
    found = alignment(episodes)
    if found is None or not found.misaligned:
        return {}
    explained = {str(offset): round(value, 4) for offset, value in found.explained.items()}
    return {"misaligned": {"offset": found.best, "lead": round(found.lead, 4), "explained": explained}}


def _manifest(
    entry: Entry, dataset_id: str, data: Collected, digests: Sequence[str], rows: NDArray[np.bool_], heldout: int
) -> dict[str, Any]:
    episodes = data.episodes
    lengths, terminated = episodes.lengths, int(episodes.terminated.sum())
    return {
        "dataset": dataset_id,
        "source": {"kind": entry.source, **data.provenance},
        "digest": episodes_digest(digests),
        "environment": {
            "env_id": data.environment.env_id,
            "env_kwargs": data.environment.env_kwargs,
            "observation_keys": entry.observation_keys,
            "observation_layout": data.environment.observation_layout,
            "max_episode_steps": data.environment.max_episode_steps,
            "equivalence": data.equivalence.kind,
            "environment_mismatch": data.equivalence.kind == "mismatch",
            "replay": data.equivalence.replay,
            "not_evaluated": data.equivalence.not_evaluated,
        },
        "reward_shift": entry.reward_shift,
        **_misaligned(entry, episodes),
        "episodes": len(episodes),
        "heldout_episodes": heldout,
        "steps": episodes.steps,
        "observation_size": episodes.observation_size,
        "action_size": episodes.action_size,
        "terminated_episodes": terminated,
        "truncated_episodes": len(episodes) - terminated,
        "duplicate_episodes": len(digests) - len(set(digests)),
        "empty_episodes_dropped": data.dropped.empty,
        "not_finite_episodes_dropped": data.dropped.not_finite,
        "last_observation_unknown": int((~episodes.last_known).sum()),
        "lengths": {
            "mean": float(lengths.mean()),
            "shortest": int(lengths.min()),
            "longest": int(lengths.max()),
        },
        "returns": _returns(episodes.returns),
        "clipped_actions": {
            "count": data.actions.clipped,
            "share": data.actions.share,
            "largest_excess": data.actions.largest_excess,
        },
        "constant_observation_dimensions": _constant(episodes.observations, rows),
        "constant_action_dimensions": _constant(episodes.actions),
        "reference": _reference(entry, data),
        "comparable_to_d4rl": (
            isinstance(entry, D4rlEntry) and entry.comparable_to_d4rl and data.equivalence.kind != "mismatch"
        ),
    }


def _constant(values: NDArray[np.float32], rows: NDArray[np.bool_] | None = None) -> list[int]:
    """Columns of ``values`` [n, K] that hold one value in all of ``rows`` [n]; checked one by one to save memory."""
    columns = (values[:, i] if rows is None else values[rows, i] for i in range(values.shape[1]))
    return [i for i, column in enumerate(columns) if np.ptp(column) == 0.0]


def _returns(returns: NDArray[np.float64]) -> dict[str, Any]:
    """Summary of undiscounted episode returns [E] in raw units, with a histogram of equal bins."""
    counts, edges = np.histogram(returns, bins=HISTOGRAM_BINS)
    return {
        "mean": float(returns.mean()),
        "median": float(np.median(returns)),
        "best": float(returns.max()),
        "worst": float(returns.min()),
        "histogram": {"counts": counts, "edges": edges},
    }


def _logged_returns(entry: Entry, episodes: Episodes) -> NDArray[np.float64]:
    """What the reference scores normalise, [E]: returns, or for OGBench whether an episode solves the task anywhere."""
    if not isinstance(entry, OgbenchEntry):
        return episodes.returns
    return np.array([episode.stops is not None and episode.stops.any() for episode in episodes], np.float64)


def _reference(entry: Entry, data: Collected) -> dict[str, Any] | None:
    """The entry's reference scores, and the normalised scores of the data; None if the entry names no reference."""
    if entry.reference is None:
        return None
    row = reference(entry.reference)
    check_time_limit(entry.reference, data.environment.max_episode_steps)
    scores = normalised_score(_logged_returns(entry, data.episodes), row)
    return {
        "family": entry.reference,
        **row.model_dump(exclude={"note"}),
        "normalised": {"mean": float(scores.mean()), "best": float(scores.max())},
    }
