"""A prepared dataset from disk into memory, as every training stage sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.data.episodes import Episode, episode_digest, episodes_digest
from spar_core.data.minari_io import read_minari
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
    episodes, _ = read_minari(minari_root, dataset_id)
    if episodes_digest([episode_digest(episode) for episode in episodes]) != manifest["digest"]:
        raise SparError(
            f"the episodes of '{dataset_id}' are not those of its manifest",
            f"run `python -m stages.download --dataset {dataset_id}` again",
        )
    heldout = np.zeros(len(episodes), dtype=bool)
    heldout[split["heldout"]] = True
    return from_episodes(episodes, heldout, scaler)


def from_episodes(episodes: list[Episode], heldout: np.ndarray, scaler: Scaler) -> Dataset:
    """Put raw episodes one after the other; ``heldout`` [E] bool marks those that are never fitted to."""
    return Dataset(
        observations=scaler.standardise(np.concatenate([episode.observations for episode in episodes])),
        actions=scaler.actions_to_unit(np.concatenate([episode.actions for episode in episodes])),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        lengths=np.array([episode.steps for episode in episodes], dtype=np.int64),
        terminated=np.array([episode.terminated for episode in episodes], dtype=bool),
        heldout=heldout,
        scaler=scaler,
    )
