"""Minari datasets: written the same to the byte every time, and read back.

Minari's own storage class does the writing, so that ``minari.load_dataset`` opens the result wherever
``MINARI_DATASETS_PATH`` names our root. It stores no times; ``create_dataset_from_buffers`` around it would
ask for global state (the environment variable) and for authors, and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spar_core.data.episodes import Episode
from spar_core.errors import SparError
from spar_core.settings import nearest

if TYPE_CHECKING:
    from minari import MinariDataset

CHUNK = 256  # episodes handed to the storage at a time


@dataclass(frozen=True)
class MinariFacts:
    """What a Minari dataset says of itself: its environment, if any, and the action bounds [A] float32."""

    dataset_id: str
    env_id: str | None
    action_low: np.ndarray
    action_high: np.ndarray


def write_minari(
    folder: Path,
    dataset_id: str,
    episodes: Sequence[Episode],
    *,
    action_low: np.ndarray,
    action_high: np.ndarray,
    env_id: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    description: str = "",
) -> None:
    """Write episodes as the Minari dataset ``dataset_id`` into ``folder`` (which becomes ``<root>/<id>``).

    The same episodes give the same bytes with the same versions of Minari and h5py. ``folder`` must exist
    and be empty; hand in the draft of ``new_artifact`` to make it appear whole or not at all.
    ``action_low`` and ``action_high`` [A] bound the actions; ``env_id``, where there is one, must be
    registered with Gymnasium.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    spec = None
    if env_id is not None:
        registered = gymnasium.spec(env_id)
        spec = dataclasses.replace(registered, kwargs={**registered.kwargs, **(env_kwargs or {})})
    storage = MinariStorage.new(
        (folder / "data").resolve(),  # Minari 0.5.4 doubles relative paths
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, episodes[0].observations.shape[1:], np.float32),
        action_space=gymnasium.spaces.Box(action_low, action_high, dtype=np.float32),
        env_spec=spec,
        data_format="hdf5",
    )
    storage.update_metadata(
        {"dataset_id": dataset_id, "minari_version": minari.__version__, "description": description}
    )

    def buffer(episode: Episode) -> EpisodeBuffer:
        last = np.zeros(episode.steps, dtype=bool)
        last[-1] = True
        never = np.zeros(episode.steps, dtype=bool)
        return EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=last if episode.terminated else never,
            truncations=never if episode.terminated else last,
        )

    for start in range(0, len(episodes), CHUNK):
        storage.update_episodes(buffer(episode) for episode in episodes[start : start + CHUNK])


def read_minari(root: Path, dataset_id: str) -> tuple[list[Episode], MinariFacts]:
    """Read ``<root>/<dataset_id>``.

    Raises:
        SparError: it is not there (the line names the nearest local id), is damaged, or has observations or
            actions other than vectors.
    """
    data = root / dataset_id / "data"
    if not data.is_dir():
        hint = nearest(dataset_id, local_ids(root)) if local_ids(root) else f"{root} holds no datasets"
        raise SparError(f"there is no Minari dataset '{dataset_id}' in {root}", hint)
    from minari import MinariDataset

    with _damaged(dataset_id):
        dataset = MinariDataset(data)
    return _episodes(dataset), _facts(dataset)


def local_ids(root: Path) -> list[str]:
    """Ids of the Minari datasets below ``root``, sorted."""
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in root.rglob("data/metadata.json"))


@contextmanager
def _damaged(dataset_id: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SparError(
            f"Minari dataset '{dataset_id}' cannot be read: {reason}", "delete its folder and fetch it again"
        ) from None


def _episodes(dataset: MinariDataset) -> list[Episode]:
    from gymnasium.spaces import Box

    dataset_id = dataset.spec.dataset_id
    for name, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            kind = f"{space.shape} arrays" if isinstance(space, Box) else f"a {type(space).__name__} space"
            raise SparError(
                f"the {name} of Minari dataset '{dataset_id}' are {kind}, not one vector",
                "only vectors are supported so far; flatten them into a dataset of your own",
            )
    with _damaged(dataset_id):
        return [
            Episode(
                np.asarray(episode.observations, dtype=np.float32),
                np.asarray(episode.actions, dtype=np.float32),
                np.asarray(episode.rewards, dtype=np.float32),
                bool(len(episode.terminations) and episode.terminations[-1]),
            )
            for episode in dataset.iterate_episodes()
        ]


def _facts(dataset: MinariDataset) -> MinariFacts:
    space = dataset.action_space
    return MinariFacts(
        dataset.spec.dataset_id,
        dataset.env_spec.id if dataset.env_spec else None,
        np.asarray(space.low, dtype=np.float32),
        np.asarray(space.high, dtype=np.float32),
    )
