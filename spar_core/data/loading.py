"""A prepared dataset from disk into memory, as every training stage sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.data.episodes import Episodes, episode_digest, episodes_digest
from spar_core.data.readers.minari_io import read_minari
from spar_core.data.reward_shift import shift_rewards
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError

KIND = "dataset"
SPLIT, SCALER, MANIFEST = "split.json", "scaler.json", "manifest.json"


def load_dataset(minari_root: Path, data_folder: Path, dataset_id: str) -> Dataset:
    """Load what the ``download`` stage wrote, standardised by the stored scaler.

    Args:
        minari_root: the project's Minari root, which holds the episodes.
        data_folder: split, scaler and manifest of the dataset.
        dataset_id: such as ``builtin/halfcheetah-replay-v0``.

    Raises:
        SparError: a part is missing or damaged, or the parts do not belong together.
    """
    read_meta(data_folder, KIND)
    split, manifest = read_json(data_folder / SPLIT), read_json(data_folder / MANIFEST)
    scaler = Scaler.from_dict(read_json(data_folder / SCALER))
    episodes, _ = read_minari(minari_root / dataset_id)
    episodes.last_known[split["last_observation_unknown"]] = False
    if episodes_digest([episode_digest(episode) for episode in episodes]) != manifest["digest"]:
        raise SparError(
            f"the episodes of '{dataset_id}' are not those of its manifest",
            f"run `python -m stages.download --dataset {dataset_id}` again",
        )
    heldout = np.zeros(len(episodes), dtype=bool)
    heldout[split["heldout"]] = True
    return from_episodes(episodes, heldout, scaler, manifest["reward_shift"])


def from_episodes(episodes: Episodes, heldout: np.ndarray, scaler: Scaler, reward_shift: str = "none") -> Dataset:
    """Standardise raw episodes **in place** (they take most of the memory there is, and are not kept twice).

    Args:
        episodes: raw; their observations and actions are overwritten, and belong to the dataset then.
        heldout: [E] bool, those that are never fitted to.
        scaler: how to standardise.
        reward_shift: a name of ``spar_core.data.reward_shift``.
    """
    logged = None if reward_shift == "none" else episodes.returns
    return Dataset(
        observations=scaler.standardise(episodes.observations, in_place=True),
        actions=scaler.actions_to_unit(episodes.actions, in_place=True),
        rewards=shift_rewards(episodes.rewards, reward_shift),
        lengths=episodes.lengths,
        terminated=episodes.terminated,
        heldout=heldout,
        scaler=scaler,
        last_known=None if episodes.last_known.all() else episodes.last_known,
        logged_returns=logged,
    )
