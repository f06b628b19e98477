"""Random layouts of episodes, empty and repeated ones among them, from three formats to what training sees."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spar_core.artifacts import read_json
from spar_core.data.loading import MANIFEST, load_dataset
from spar_core.data.readers.minari_io import write_minari
from stages.download import download
from stages.layout import Layout
from tests.test_data_d4rl import HIGH, LOW, make_episodes, write_flat

DATASET = "mine/any-v0"
# Steps, whether the episode is terminated, and whether it is a copy of the one before.
layouts = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=2, max_size=7)


def episodes_of(layout: list[tuple[int, bool, bool]]) -> list:
    """Episodes in which every number says where it belongs; a copy repeats the one before it."""
    found = []
    for number, (steps, terminated, copy) in enumerate(layout):
        found.append(found[-1] if copy and found else make_episodes([(steps, terminated)], seed=number)[0])
    return found


def store(folder, source: str, episodes: list) -> dict:
    """Write the episodes in one format; the entry that reads them."""
    if source == "npz":
        (folder / "data").mkdir()
        for number, e in enumerate(episodes):
            values = {"observations": e.observations, "actions": e.actions, "rewards": e.rewards}
            np.savez(folder / f"data/{number:02d}.npz", **values, terminated=e.terminated)
        return {"source": "npz", "path": "data"}
    if source == "minari":
        (folder / "data").mkdir()
        write_minari(folder / "data", DATASET, episodes, action_low=LOW, action_high=HIGH)
        return {"source": "minari", "path": "data"}
    write_flat(folder / "data.hdf5", episodes)
    return {"source": "d4rl_hdf5", "path": "data.hdf5"}


@pytest.mark.parametrize("source", ["npz", "minari", "d4rl_hdf5"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts, seed=st.integers(0, 5))
def test_what_goes_in_comes_out(tmp_path_factory, source, layout, seed):
    folder = tmp_path_factory.mktemp("layout")
    episodes = [e for e in episodes_of(layout) if source == "npz" or e.steps]  # the others cannot hold an empty one
    kept = [e for e in episodes if e.steps]
    different = {e.observations.tobytes() for e in kept}
    if len(different) < 2:
        return
    entry = Layout(folder).dataset_entry(DATASET)
    entry.parent.mkdir(parents=True)
    values = {"title": "t", "heldout_share": 0.4, "split_seed": seed}
    entry.write_text(yaml.safe_dump({**values, **store(folder, source, episodes)}))
    download(Layout(folder), DATASET, 1)
    manifest = read_json(Layout(folder).data(DATASET) / MANIFEST)
    data = load_dataset(Layout(folder).minari_root, Layout(folder).data(DATASET), DATASET)

    assert manifest["episodes"] == len(data.lengths) == len(kept)
    assert manifest["steps"] == data.n_steps == sum(e.steps for e in kept)
    assert manifest["empty_episodes_dropped"] == len(episodes) - len(kept)
    assert manifest["duplicate_episodes"] == len(kept) - len(different)
    assert manifest["terminated_episodes"] == sum(e.terminated for e in kept) == data.terminated.sum()
    np.testing.assert_allclose(data.episode_returns, [e.rewards.sum() for e in kept], rtol=1e-4, atol=1e-5)
    assert manifest["returns"]["mean"] == pytest.approx(np.mean([e.rewards.sum() for e in kept]), abs=1e-5)
    # Each step's observation and next observation are its own episode's, the last one included.
    rows = data.observation_index
    for name, of in (("observations", slice(None, -1)), ("next", slice(1, None))):
        wanted = data.scaler.standardise(np.concatenate([e.observations[of] for e in kept]))
        np.testing.assert_array_equal(data.observations[rows + (name == "next")], wanted)
    # Copies of an episode are held out together or not at all.
    sides = {(e.observations.tobytes(), bool(held)) for e, held in zip(kept, data.heldout, strict=True)}
    assert len(sides) == len(different) and 0 < data.heldout.sum() < len(kept)
