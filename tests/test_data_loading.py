"""From what a dataset says to what training and evaluation are handed: environment, ranking, memory."""

from __future__ import annotations

import json
import tracemalloc

import h5py
import numpy as np
import pytest

from spar_core.anchors.base import ClonedSettings
from spar_core.anchors.knobs import training_data
from spar_core.data.episodes import Episode, Episodes
from spar_core.data.loading import from_episodes
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.minari_io import read_minari, write_minari
from spar_core.data.scaler import Scaler
from stages.download import download
from stages.layout import Layout


@pytest.mark.parametrize(
    ("limit", "of_entry", "found"), [(77, {}, 77), (10**6, {}, 1000), (77, {"max_episode_steps": 300}, 300)]
)
def test_the_dataset_says_in_which_environment_it_is_evaluated(tmp_path, limit, of_entry, found):
    """Its own arguments and time limit, where they are of the same environment; the entry has the last word."""
    layout = Layout(tmp_path)
    folder = tmp_path / "local"
    folder.mkdir()
    rng = np.random.default_rng(0)
    episodes = [
        Episode(rng.normal(size=(5, 11)).astype("f4"), np.zeros((4, 3), "f4"), np.full(4, i, "f4"), False)
        for i in range(3)
    ]
    kwargs = {"forward_reward_weight": 2.0, "max_episode_steps": limit}
    write_minari(
        folder,
        "mine/toy-v0",
        episodes,
        action_low=-np.ones(3),
        action_high=np.ones(3),
        env_id="Hopper-v5",
        env_kwargs=kwargs,
    )
    path = folder / "data/metadata.json"
    metadata = json.loads(path.read_text())
    other = json.loads(metadata["env_spec"]) | {"id": "Hopper-v4", "kwargs": {"no_such_argument": 1}}
    path.write_text(json.dumps(metadata | {"eval_env_spec": json.dumps(other)}))
    entry = layout.dataset_entry("mine/toy-v0")
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"title": "t", "source": "minari", "path": "local", "env_kwargs": of_entry}))
    environment = download(layout, "mine/toy-v0", 1)["environment"]
    assert environment["env_kwargs"]["forward_reward_weight"] == 2.0 and environment["max_episode_steps"] == found


def test_failures_cut_short_are_not_ranked_above_successes_by_a_reward_shift():
    lengths = [50, 20, 50, 20]
    rewards = np.zeros(sum(lengths), np.float32)
    rewards[[49, 119]] = 1.0
    seen = np.zeros((sum(lengths) + 4, 1), np.float32)
    ends = np.array([True, False, True, False]), np.ones(4, bool)
    episodes = Episodes(seen, np.zeros((sum(lengths), 1), np.float32), rewards, np.array(lengths), *ends)
    scaler = Scaler(np.zeros(1, "f4"), np.ones(1, "f4"), -np.ones(1, "f4"), np.ones(1, "f4"))
    data = from_episodes(episodes, np.zeros(4, bool), scaler, "iql")
    assert data.episode_returns.tolist() == [-49.0, -20.0, -49.0, -20.0]
    best = training_data(data, ClonedSettings(top_share=0.5))
    assert best.terminated.all() and best.returns_as_logged.tolist() == [1.0, 1.0]


def test_loading_takes_little_more_memory_than_the_arrays(tmp_path):
    """Peak of what NumPy asks for, from the file to the standardised dataset, in shares of the arrays."""
    rng = np.random.default_rng(0)
    n, size = 400_000, 17  # many blocks of rows, as a real file has
    seen = rng.normal(size=(n + 1, size)).astype(np.float32)
    arrays = {"observations": seen[:-1], "next_observations": seen[1:], "actions": np.zeros((n, 6), np.float32)}
    arrays |= {"rewards": np.ones(n, np.float32), "terminals": np.zeros(n, bool)}
    arrays["timeouts"] = np.arange(1, n + 1) % 1000 == 0
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    bounds = np.full(6, -1, np.float32), np.full(6, 1, np.float32)

    def peak(load) -> tuple[Episodes, float]:
        tracemalloc.start()
        try:
            episodes = load()
            data = from_episodes(episodes, np.zeros(len(episodes), bool), scaler)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return episodes, most / (data.observations.nbytes + data.actions.nbytes + data.rewards.nbytes)

    scaler = Scaler.fit(seen, *bounds)
    episodes, share = peak(lambda: read_d4rl(tmp_path / "x.hdf5")[0])
    assert 1.0 <= share < 1.5
    (tmp_path / "mine/big-v0").mkdir(parents=True)
    write_minari(tmp_path / "mine/big-v0", "mine/big-v0", episodes, action_low=bounds[0], action_high=bounds[1])
    _, share = peak(lambda: read_minari(tmp_path / "mine/big-v0")[0])
    assert 1.0 <= share < 1.5
