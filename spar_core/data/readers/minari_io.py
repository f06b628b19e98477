"""Write Minari datasets reproducibly, byte for byte, and read them.

Minari's storage class writes the files, so ``minari.load_dataset`` opens the result if ``MINARI_DATASETS_PATH`` names
our root folder. The storage class stores no times. Minari's ``create_dataset_from_buffers`` is not used, because it
depends on that environment variable and needs the names of authors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.ends import flags
from spar_core.data.environments.flatten import ObservationLayout, observation_layout
from spar_core.data.environments.ids import stored_spec
from spar_core.data.episodes import Episode, Episodes
from spar_core.data.limits import check_claim
from spar_core.data.names import NUMBERS, check_continuous
from spar_core.data.readers.minari_check import MAIN, check_arrays, check_minari, damaged
from spar_core.errors import SparError

if TYPE_CHECKING:
    from minari import EpisodeData, MinariDataset

CHUNK = 256  # episodes handed to the storage at a time
# Episodes that are read before the file is closed and opened again. Until then, HDF5 keeps facts about every episode in
# memory, which for many short episodes take several times the memory of the data.
READ = 64
# Bytes on disk that HDF5 needs for an episode beside its numbers: 14 to 20 KB were measured for 50 and 1000 steps.
EPISODE_BYTES = 24_000


@dataclass(frozen=True)
class MinariFacts:
    """Facts that a Minari dataset states about itself.

    Attributes:
        dataset_id: its id.
        env_id: id of the environment that it was collected in; None if it names none.
        env_kwargs: keyword arguments of the environment that the dataset names for evaluation; if it names none, of
            the one that it was collected in.
        max_episode_steps: time limit of that environment in steps; None if it has none.
        action_low: lower bounds [A] of the actions.
        action_high: upper bounds [A] of the actions.
        inner_terminations: number of steps marked as terminal that are not the last of their episode; these marks are
            ignored.
        inner_truncations: the same for truncations.
        observation_layout: which columns of the vector hold which part of its dictionary observations, for the
            manifest; None if its observations are vectors.
    """

    dataset_id: str
    env_id: str | None
    env_kwargs: dict[str, Any]
    max_episode_steps: int | None
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    inner_terminations: int = 0
    inner_truncations: int = 0
    observation_layout: list[dict[str, Any]] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about marks that are ignored."""
        found = (("terminations", self.inner_terminations), ("truncations", self.inner_truncations))
        return tuple(
            f"{count} {name} inside episodes are ignored: an episode of Minari ends with its last step"
            for name, count in found
            if count
        )


def write_minari(
    folder: Path,
    dataset_id: str,
    episodes: Sequence[Episode] | Episodes,
    *,
    action_low: NDArray[np.float32],
    action_high: NDArray[np.float32],
    env_id: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    description: str = "",
) -> None:
    """Write episodes as a Minari dataset.

    Equal episodes give equal bytes with the same versions of Minari and h5py. Observations are stored as flat vectors,
    even if those of the environment are dictionaries. The ``stops`` of an episode are terminations inside it.

    Args:
        folder: an empty folder, such as the draft of :func:`~spar_core.artifacts.new_artifact`, which becomes
            ``<root>/<dataset_id>``.
        dataset_id: Minari id of the dataset.
        episodes: raw episodes, at least one.
        action_low: lower bounds [A] of the actions.
        action_high: upper bounds [A] of the actions.
        env_id: id of the evaluation environment, registered with Gymnasium; None if there is none.
        env_kwargs: its keyword arguments.
        description: text for the metadata.

    Raises:
        SparError: the disk has too little free space.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    _check_room(folder, episodes)
    spec = None if env_id is None else stored_spec(env_id, env_kwargs or {})
    storage = MinariStorage.new(
        (folder / "data").resolve(),  # Minari 0.5.4 joins a relative path to itself.
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
        stops = never if episode.stops is None else episode.stops
        return EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=stops | last if episode.terminated else stops,
            truncations=never if episode.terminated else last,
        )

    for start in range(0, len(episodes), CHUNK):
        stop = min(start + CHUNK, len(episodes))
        storage.update_episodes(buffer(episodes[number]) for number in range(start, stop))


def _check_room(folder: Path, episodes: Sequence[Episode] | Episodes) -> None:
    """Check for free space before writing, because HDF5 ends the process if the disk is full when it closes a file."""
    numbers = sum(e.observations.size + e.actions.size + e.rewards.size for e in episodes)
    needed, free = 4 * numbers + EPISODE_BYTES * len(episodes), shutil.disk_usage(folder).free
    if needed > free:
        raise SparError(
            f"{folder.parent} has {free / 1e6:.0f} MB of free space, but the dataset needs about {needed / 1e6:.0f} MB",
            "free space on that disk",
        )


def read_minari(
    folder: Path, *, observation_keys: Sequence[str] | None = None, ours: bool = False
) -> tuple[Episodes, MinariFacts]:
    """Read a Minari dataset.

    Dictionary observations become vectors (see :mod:`spar_core.data.environments.flatten`). Episodes are read one at a
    time into the final arrays, so that reading takes little more memory than these arrays.

    Args:
        folder: folder of the dataset, such as ``<root>/mujoco/hopper/medium-v0``, in which Minari keeps ``data``.
        observation_keys: parts of a dictionary observation to take, in this order; None takes all, sorted by name.
        ours: whether the project wrote the dataset, so that its files may be links to DVC's cache, and terminations
            inside an episode are its ``stops``.

    Raises:
        SparError: the dataset does not exist, is damaged, was written by a newer version of Minari, contains a link to
            a file outside its folder (unless it is ``ours``), or declares more than it can hold; or its observations or
            actions are not vectors of numbers.
    """
    data = folder / "data"
    if not data.is_dir():
        raise SparError(f"there is no Minari dataset in {folder}", "check its id or 'path', or fetch it again")
    check_minari(folder, ours)
    from minari import MinariDataset

    name = folder.name
    with damaged(name, data):
        check_arrays(data / MAIN)
        dataset = MinariDataset(data)
        name = dataset.spec.dataset_id
        steps, count = int(dataset.total_steps), int(dataset.total_episodes)
    layout = _layout(dataset, observation_keys)
    with damaged(name, data):
        room = 4 * ((steps + count) * layout.size + steps * (dataset.action_space.shape[0] + 1))
        check_claim(f"Minari dataset '{name}'", room, sum(file.stat().st_size for file in data.rglob("*")))
        episodes, *inner = _fill(dataset, layout, steps, count, ours)
    return episodes, _facts(dataset, layout, *inner)


def _layout(dataset: MinariDataset, observation_keys: Sequence[str] | None) -> ObservationLayout:
    """The layout of the dataset's observations; actions that are not vectors raise a SparError."""
    from gymnasium.spaces import Box

    name, actions = dataset.spec.dataset_id, dataset.action_space
    if not isinstance(actions, Box) or len(actions.shape) != 1:
        kind = f"{actions.shape} arrays" if isinstance(actions, Box) else f"a {type(actions).__name__} space"
        raise SparError(
            f"the actions of Minari dataset '{name}' are {kind}, not one vector",
            "choose a dataset whose actions are vectors: no other is supported",
        )
    check_continuous(f"the action space of Minari dataset '{name}'", actions.dtype)
    return observation_layout(dataset.observation_space, observation_keys, f"Minari dataset '{name}'")


def _fill(
    dataset: MinariDataset, layout: ObservationLayout, steps: int, count: int, ours: bool
) -> tuple[Episodes, int, int]:
    """Read all episodes, and count terminations and truncations that are not at the last step of their episode."""
    stops = np.zeros(steps, bool)
    observations = np.empty((steps + count, layout.size), np.float32)
    actions = np.empty((steps, dataset.action_space.shape[0]), np.float32)
    rewards = np.empty(steps, np.float32)
    lengths, terminated, inner, at = [], [], [0, 0], 0
    for number, stored in enumerate(_stored(dataset)):
        terminations = flags(np.asarray(stored.terminations), f"'terminations' of episode {number}")
        truncations = flags(np.asarray(stored.truncations), f"'truncations' of episode {number}")
        seen, length = layout.flatten(stored.observations), len(stored.rewards)
        for name in ("actions", "rewards"):
            kind = np.asarray(getattr(stored, name)).dtype
            if kind.kind not in NUMBERS:
                raise ValueError(f"the {name} of episode {number} hold {kind}, not numbers")
        found = (len(seen), len(stored.actions), len(terminations), len(truncations))
        if found != (length + 1, length, length, length) or at + length > steps or number >= count:
            raise ValueError(
                f"episode {number} holds {found[0]} observations, {found[1]} actions, {length} rewards, "
                f"{found[2]} terminations and {found[3]} truncations, or more than its metadata says"
            )
        observations[at + number : at + number + length + 1] = seen
        actions[at : at + length] = stored.actions
        rewards[at : at + length] = np.asarray(stored.rewards).reshape(length)
        stops[at : at + length] = terminations
        lengths.append(length)
        terminated.append(bool(length and terminations[-1]))
        inner[0] += int(terminations[:-1].sum())
        inner[1] += int(truncations[:-1].sum())
        at += length
    if at != steps or len(lengths) != count:
        raise ValueError(f"it holds {at} steps in {len(lengths)} episodes, but its metadata says {steps} in {count}")
    ends = np.array(lengths, np.int64), np.array(terminated, bool), np.ones(count, bool)
    kept = stops if ours and inner[0] else None
    return Episodes(observations, actions, rewards, *ends, kept), inner[0], inner[1]


def _stored(dataset: MinariDataset) -> Iterator[EpisodeData]:
    count = dataset.total_episodes
    for start in range(0, count, READ):
        yield from dataset.iterate_episodes(range(start, min(start + READ, count)))


def _facts(
    dataset: MinariDataset, layout: ObservationLayout, inner_terminations: int, inner_truncations: int
) -> MinariFacts:
    space, spec = dataset.action_space, dataset.env_spec
    named = _named_environment(dataset.storage.metadata)
    return MinariFacts(
        dataset.spec.dataset_id,
        spec.id if spec else None,
        named.get("kwargs") or {},
        named.get("max_episode_steps"),
        np.asarray(space.low, dtype=np.float32),
        np.asarray(space.high, dtype=np.float32),
        inner_terminations,
        inner_truncations,
        None if layout.plain else layout.to_list(),
    )


def _named_environment(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation environment as the dataset describes it; empty if the dataset names no environment.

    Some datasets name a variant of their environment for evaluation, such as the same maze with a fixed goal.
    """
    collected: dict[str, Any]
    stated: dict[str, Any]
    collected, stated = (json.loads(metadata.get(name) or "{}") or {} for name in ("env_spec", "eval_env_spec"))
    return stated if stated and collected and stated["id"] == collected["id"] else collected
