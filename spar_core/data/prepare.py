"""What is fixed once per dataset: the held-out episodes, the scaler, and the manifest that describes it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spar_core.data.entry import D4rlEntry, Entry
from spar_core.data.episodes import episode_digest, episodes_digest
from spar_core.data.reference import normalised_score, reference
from spar_core.data.scaler import Scaler
from spar_core.data.sources import Collected
from spar_core.errors import SparError

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Prepared:
    """The contents of ``split.json``, ``scaler.json`` and ``manifest.json``."""

    split: dict[str, Any]
    scaler: Scaler
    manifest: dict[str, Any]


def prepare(entry: Entry, dataset_id: str, data: Collected) -> Prepared:
    """Choose the held-out episodes, fit the scaler on the others, and describe the dataset.

    Raises:
        SparError: there are fewer than two episodes, or the entry's reference scores do not exist.
    """
    heldout = choose_heldout(len(data.episodes), entry.heldout_share, entry.split_seed)
    # The states that a policy acts in: an episode's last observation is not one.
    apart = set(heldout)
    train = np.concatenate([episode.observations[:-1] for i, episode in enumerate(data.episodes) if i not in apart])
    scaler = Scaler.fit(train, data.environment.action_low, data.environment.action_high)
    split = {
        "heldout": heldout,
        "episodes": len(data.episodes),
        "heldout_share": entry.heldout_share,
        "split_seed": entry.split_seed,
    }
    return Prepared(split, scaler, _manifest(entry, dataset_id, data, train, len(heldout)))


def choose_heldout(episodes: int, share: float, seed: int) -> list[int]:
    """Sorted numbers of the held-out episodes: at least one, and never all.

    Raises:
        SparError: fewer than two episodes.
    """
    if episodes < 2:
        raise SparError(
            f"the dataset has {episodes} episode(s), but one is held out and one is needed to train on",
            "use a dataset of at least two episodes",
        )
    count = min(max(1, round(share * episodes)), episodes - 1)
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(episodes)[:count])


def _manifest(entry: Entry, dataset_id: str, data: Collected, train: np.ndarray, heldout: int) -> dict[str, Any]:
    episodes = data.episodes
    returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in episodes])
    lengths = np.array([episode.steps for episode in episodes])
    digests = [episode_digest(episode) for episode in episodes]
    terminated = sum(episode.terminated for episode in episodes)
    actions = np.concatenate([episode.actions for episode in episodes])
    return {
        "dataset": dataset_id,
        "source": {"kind": entry.source, **data.provenance},
        "digest": episodes_digest(digests),
        "environment": {
            "env_id": data.environment.env_id,
            "env_kwargs": data.environment.env_kwargs,
            "environment_mismatch": data.mismatch,
            "max_episode_steps": data.environment.max_episode_steps,
        },
        "episodes": len(episodes),
        "heldout_episodes": heldout,
        "steps": int(lengths.sum()),
        "observation_size": int(episodes[0].observations.shape[1]),
        "action_size": int(episodes[0].actions.shape[1]),
        "terminated_episodes": int(terminated),
        "truncated_episodes": len(episodes) - int(terminated),
        "duplicate_episodes": len(digests) - len(set(digests)),
        "lengths": {
            "mean": float(lengths.mean()),
            "shortest": int(lengths.min()),
            "longest": int(lengths.max()),
        },
        "returns": _returns(returns),
        "clipped_actions": {
            "count": data.actions.clipped,
            "share": data.actions.share,
            "largest_excess": data.actions.largest_excess,
        },
        "constant_observation_dimensions": np.flatnonzero(np.ptp(train, axis=0) == 0.0).tolist(),
        "constant_action_dimensions": np.flatnonzero(np.ptp(actions, axis=0) == 0.0).tolist(),
        "reference": _reference(entry, returns),
        "comparable_to_d4rl": isinstance(entry, D4rlEntry) and entry.comparable_to_d4rl and not data.mismatch,
    }


def _returns(returns: np.ndarray) -> dict[str, Any]:
    """Undiscounted episode returns in raw units, with a histogram of equal bins."""
    counts, edges = np.histogram(returns, bins=HISTOGRAM_BINS)
    return {
        "mean": float(returns.mean()),
        "median": float(np.median(returns)),
        "best": float(returns.max()),
        "worst": float(returns.min()),
        "histogram": {"counts": counts, "edges": edges},
    }


def _reference(entry: Entry, returns: Sequence[float] | np.ndarray) -> dict[str, Any] | None:
    """The entry's reference scores and the normalised scores of the data itself."""
    if entry.reference is None:
        return None
    row = reference(entry.reference)
    scores = normalised_score(np.asarray(returns), row)
    return {
        "family": entry.reference,
        **row.model_dump(),
        "normalised": {"mean": float(scores.mean()), "best": float(scores.max())},
    }
