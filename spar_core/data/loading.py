"""Load a prepared dataset from disk into the form that every training stage uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.data.episodes import Episodes, episode_digest, episodes_digest
from spar_core.data.readers.minari_io import read_minari
from spar_core.data.reward_shift import shift_rewards
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError

KIND = "dataset"
SPLIT, SCALER, MANIFEST = "split.json", "scaler.json", "manifest.json"


@dataclass(frozen=True)
class DataPlace:
    """Where a prepared dataset lies. Each worker process loads the dataset from there.

    Attributes:
        minari_root: the folder of Minari datasets, which holds the episodes.
        folder: holds ``split.json``, ``scaler.json`` and ``manifest.json``.
        dataset: id.
    """

    minari_root: Path
    folder: Path
    dataset: str

    def load(self) -> Dataset:
        """The dataset; see :func:`load_dataset`."""
        return load_dataset(self.minari_root, self.folder, self.dataset)


def load_dataset(minari_root: Path, data_folder: Path, dataset_id: str) -> Dataset:
    """Load a dataset that the ``download`` stage wrote, standardised by its stored scaler.

    Args:
        minari_root: the project's Minari folder, which holds the episodes.
        data_folder: folder with the dataset's ``split.json``, ``scaler.json`` and ``manifest.json``.
        dataset_id: id of the dataset, such as ``builtin/halfcheetah-replay-v0``.

    Raises:
        SparError: a file is missing or damaged, or the episodes are not those of the manifest.
    """
    read_meta(data_folder, KIND)
    split, manifest = read_json(data_folder / SPLIT), read_json(data_folder / MANIFEST)
    scaler = Scaler.from_dict(read_json(data_folder / SCALER))
    episodes, _ = read_minari(minari_root / dataset_id, ours=True)
    episodes.last_known[split["last_observation_unknown"]] = False
    if episodes_digest([episode_digest(episode) for episode in episodes]) != manifest["digest"]:
        raise SparError(
            f"the episodes of '{dataset_id}' in {minari_root} do not match the digest in its manifest",
            f"run `python -m stages.download --dataset {dataset_id}` again",
        )
    heldout = np.zeros(len(episodes), dtype=bool)
    heldout[split["heldout"]] = True
    return from_episodes(episodes, heldout, scaler, manifest["reward_shift"])


def from_episodes(
    episodes: Episodes, heldout: NDArray[np.bool_], scaler: Scaler, reward_shift: str = "none"
) -> Dataset:
    """Standardise raw episodes **in place**: a large dataset takes most of the memory and cannot be copied.

    Args:
        episodes: raw episodes; their observations and actions are overwritten and become the dataset's.
        heldout: [E], episodes that no network is ever fitted to.
        scaler: maps observations and actions.
        reward_shift: a name in :data:`spar_core.data.reward_shift.REWARD_SHIFTS`.

    Raises:
        KeyError: ``reward_shift`` is not such a name.
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
        stops=episodes.stops,
    )
