"""D4RL's flat layout: episodes come out as they went in, and damaged files are refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar_core.artifacts import digest_folder
from spar_core.data.episodes import Episode, Episodes, bound_actions, drop_unusable
from spar_core.data.loading import from_episodes
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.minari_io import read_minari, write_minari
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError

LOW, HIGH = np.full(2, -1, np.float32), np.full(2, 1, np.float32)


def make_episodes(layout: list[tuple[int, bool]], seed: int = 0) -> list[Episode]:
    """Random episodes of 3-dimensional observations and 2-dimensional actions."""
    rng = np.random.default_rng(seed)
    return [
        Episode(
            rng.normal(size=(steps + 1, 3)).astype(np.float32),
            rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
            rng.normal(size=steps).astype(np.float32),
            terminated,
        )
        for steps, terminated in layout
    ]


def write_flat(path: Path, episodes: list[Episode], leave_out: tuple[str, ...] = (), **replace) -> Path:
    """Write episodes in D4RL's layout."""
    ends = [np.arange(e.steps) == e.steps - 1 for e in episodes]
    arrays = {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "next_observations": np.concatenate([e.observations[1:] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
        "terminals": np.concatenate([end & e.terminated for end, e in zip(ends, episodes, strict=True)]),
        "timeouts": np.concatenate([end & (not e.terminated) for end, e in zip(ends, episodes, strict=True)]),
    }
    arrays.update(replace)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name not in leave_out:
                file[name] = values
    return path


def assert_same(found: Iterable[Episode], wanted: Iterable[Episode]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert (a.terminated, a.last_known) == (b.terminated, b.last_known)
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


layouts = st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(layout=layouts, seed=st.integers(0, 99))
def test_round_trip_to_dataset(tmp_path_factory, layout, seed):
    folder = tmp_path_factory.mktemp("round")
    episodes = make_episodes(layout, seed)
    flat, _ = read_d4rl(write_flat(folder / "flat.hdf5", episodes))
    assert_same(flat, episodes)
    (folder / "aa/b-v0").mkdir(parents=True)
    write_minari(folder / "aa/b-v0", "aa/b-v0", flat, action_low=LOW, action_high=HIGH)
    stored, facts = read_minari(folder / "aa/b-v0")
    assert_same(stored, episodes)
    assert facts.env_id is None and facts.dataset_id == "aa/b-v0"

    scaler = Scaler.fit(np.concatenate([e.observations for e in stored]), LOW, HIGH)
    data = from_episodes(stored, np.zeros(len(stored), dtype=bool), scaler)
    assert data.n_steps == sum(steps for steps, _ in layout) and data.last_known is None
    np.testing.assert_array_equal(data.terminated, [terminated for _, terminated in layout])
    np.testing.assert_allclose(data.episode_returns, [e.rewards.sum() for e in episodes], rtol=1e-4, atol=1e-5)
    # The row after each step's observation is that step's own next observation, never another episode's.
    following = np.concatenate([scaler.standardise(e.observations[1:]) for e in episodes])
    np.testing.assert_array_equal(data.observations[data.observation_index + 1], following)


@settings(max_examples=25, deadline=None)
@given(layout=layouts)
def test_without_next_observations(tmp_path_factory, layout):
    """Every step stays; the last observation is repeated and marked as unknown, and nothing bootstraps from it."""
    episodes = make_episodes(layout)
    path = write_flat(tmp_path_factory.mktemp("flat") / "x.hdf5", episodes, ("next_observations",))
    found, report = read_d4rl(path)
    wanted = [
        Episode(np.concatenate([e.observations[:-1], e.observations[-2:-1]]), e.actions, e.rewards, e.terminated, False)
        for e in episodes
    ]
    assert_same(found, wanted)
    assert report.unknown_last_observations == len(episodes)

    raw = np.concatenate([e.observations for e in found])
    data = from_episodes(found, np.zeros(len(layout), bool), Scaler.fit(raw, LOW, HIGH))
    ends = data.starts + data.lengths - 1
    blind = ends[[not terminated for _, terminated in layout]]
    assert sorted({*data.bootstrap_steps.tolist(), *blind.tolist()}) == list(range(data.n_steps))
    assert not set(data.bootstrap_steps) & set(blind)


@settings(max_examples=25, deadline=None)
@given(layout=layouts)
def test_without_timeouts_the_jumps_show_the_cuts(tmp_path_factory, layout):
    episodes = make_episodes(layout)
    path = write_flat(tmp_path_factory.mktemp("flat") / "x.hdf5", episodes, ("timeouts",))
    found, report = read_d4rl(path)
    assert_same(found, episodes)
    assert report.unmarked_cuts == sum(not terminated for _, terminated in layout[:-1])


def test_without_timeouts_or_next_observations(tmp_path):
    episodes = make_episodes([(5, False), (5, False), (3, True), (5, False), (2, False)])
    path = write_flat(tmp_path / "x.hdf5", episodes, ("timeouts", "next_observations"))
    with pytest.raises(SparError, match="max_episode_steps"):
        read_d4rl(path)
    found, _ = read_d4rl(path, max_episode_steps=5)
    assert [e.steps for e in found] == [5, 5, 3, 5, 2]
    assert [e.terminated for e in found] == [False, False, True, False, False]


def test_terminal_and_timeout_at_once_is_terminal(tmp_path):
    episodes = make_episodes([(3, True), (3, True)])
    both = np.array([0, 0, 1, 0, 0, 1], dtype=bool)
    found, _ = read_d4rl(write_flat(tmp_path / "x.hdf5", episodes, timeouts=both))
    assert_same(found, episodes)


def test_many_blocks_of_rows(tmp_path, monkeypatch):
    """Rows are read in blocks; where a block ends makes no difference."""
    episodes = make_episodes([(1, True), (7, False), (5, True), (1, False), (9, True), (4, False)])
    for known in ((), ("next_observations",)):
        path = write_flat(tmp_path / "x.hdf5", episodes, known)
        whole, _ = read_d4rl(path)
        for block in (1, 2, 3, 5, 26, 27):
            monkeypatch.setattr("spar_core.data.readers.flat.BLOCK", block)
            assert_same(read_d4rl(path)[0], whole)
        monkeypatch.undo()


def test_float64_and_a_trailing_axis_become_flat_float32(tmp_path):
    episodes = make_episodes([(4, True), (5, False)])
    rewards = np.concatenate([e.rewards for e in episodes]).astype(np.float64)[:, None]
    seen = np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float64)
    found, report = read_d4rl(write_flat(tmp_path / "x.hdf5", episodes, rewards=rewards, observations=seen))
    assert_same(found, episodes)
    assert report.kinds["observations"] == report.kinds["rewards"] == "float64" and report.kinds["actions"] == "float32"
    assert {found.observations.dtype, found.rewards.dtype} == {np.dtype(np.float32)}


def test_a_million_steps_take_seconds(tmp_path):
    n = 1_000_000
    observations = np.zeros((n + 1, 11), np.float32)
    ends = np.arange(1, n + 1) % 500 == 0
    with h5py.File(tmp_path / "big.hdf5", "w") as file:
        file["observations"], file["next_observations"] = observations[:-1], observations[1:]
        file["actions"], file["rewards"] = np.zeros((n, 3), np.float32), np.zeros(n, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(n, bool), ends
    start = time.perf_counter()
    episodes, _ = read_d4rl(tmp_path / "big.hdf5")
    assert len(episodes) == 2000 and time.perf_counter() - start < 20


def test_truncated_file(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes([(200, True)] * 5))
    whole = path.read_bytes()
    for share in (0.05, 0.5, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(SparError, match=r"x.hdf5 is truncated: it has [\d,]+ of [\d,]+ bytes; fetch") as error:
            read_d4rl(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": ("rewards",)}, "no array 'rewards'"),
        ({"rewards": np.zeros(3, np.float32)}, "differ in length"),
        ({"actions": np.zeros((8, 2, 2), np.float32)}, "expected \\[steps, size\\]"),
        ({"rewards": np.zeros((8, 2), np.float32)}, r"'rewards' has shape \(8, 2\), expected \[steps\]"),
    ],
)
def test_bad_layout(tmp_path, change, message):
    path = write_flat(tmp_path / "x.hdf5", make_episodes([(4, True), (4, False)]), **change)
    with pytest.raises(SparError, match=message):
        read_d4rl(path)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_nan_is_located_or_its_episode_dropped(name, value, kind):
    episodes = make_episodes([(4, True), (5, False), (0, False), (3, True)])
    getattr(episodes[1], name)[2] = value
    together = Episodes.of(episodes)
    with pytest.raises(SparError, match=f"{name} hold a.* {kind} in episode 1, step 2"):
        drop_unusable(together, "refuse")
    left, report = drop_unusable(together, "drop_episodes")
    assert_same(left, [episodes[0], episodes[3]])
    assert (report.empty, report.not_finite) == (1, 1)


def test_nothing_left_and_unfitting_episodes():
    with pytest.raises(SparError, match="no episodes"):
        Episodes.of([])
    with pytest.raises(SparError, match="no episodes"):
        drop_unusable(Episodes.of(make_episodes([(0, True), (0, False)])), "refuse")
    good = make_episodes([(4, True)])[0]
    with pytest.raises(SparError, match="episode 0 has observations"):
        Episodes.of([Episode(good.observations[:-1], good.actions, good.rewards, True)])
    other = Episode(np.zeros((3, 4), np.float32), np.zeros((2, 2), np.float32), np.zeros(2, np.float32), True)
    with pytest.raises(SparError, match="episode 1 has observations"):
        Episodes.of([good, other])


def test_actions_out_of_bounds():
    single = make_episodes([(4, True), (5, False)])
    episodes = Episodes.of(single)
    same, report = bound_actions(episodes, LOW, HIGH, "refuse")
    assert report.clipped == 0 and same is episodes
    episodes[0].actions[1, 1] = 1.0 + 1e-6  # rounding noise
    bounded, report = bound_actions(episodes, LOW, HIGH, "refuse")
    assert report.clipped == 1 and bounded[0].actions.max() <= 1.0
    episodes[1].actions[3, 0] = -1.5
    with pytest.raises(SparError, match=r"action -1.5 in episode 1, step 3, dimension 0 .* clip"):
        bound_actions(episodes, LOW, HIGH, "refuse")
    bounded, report = bound_actions(episodes, LOW, HIGH, "clip")
    assert (report.clipped, report.total, report.largest_excess) == (2, 18, pytest.approx(0.5))
    assert bounded[1].actions[3, 0] == -1.0 and episodes[1].actions[3, 0] == -1.5


def test_minari_bytes_do_not_depend_on_time(tmp_path):
    episodes = make_episodes([(4, True), (5, False)])
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_minari(tmp_path / name, "aa/b-v0", episodes, action_low=LOW, action_high=HIGH)
        digests.add(digest_folder(tmp_path / name))
        time.sleep(1.1)  # HDF5 stores whole seconds, where it stores times
    assert len(digests) == 1


def test_real_door_human():
    """The real file's flaws: terminals are cuts, and timeouts fire inside every demonstration."""
    folder = os.environ.get("SPAR_TEST_DATA")
    if not folder:
        pytest.skip("SPAR_TEST_DATA is not set")
    path = Path(folder) / "d4rl-door-human-v0.hdf5"
    episodes, report = read_d4rl(path, terminals_are_truncations=True, ignore_timeouts=True)
    episodes, dropped = drop_unusable(episodes, "refuse")
    assert (len(episodes), episodes.steps, report.rows) == (25, 6729, 6729) and dropped.empty == 0
    assert episodes.returns.mean() == pytest.approx(795.655, abs=0.001)
    # All are cuts, and none can be bootstrapped from, since the observation after the cut is not in the file.
    assert not episodes.terminated.any() and not episodes.last_known.any()
    data = from_episodes(episodes, np.zeros(25, bool), Scaler.fit(episodes.observations, -np.ones(28), np.ones(28)))
    assert data.n_steps == 6729 and len(data.bootstrap_steps) == 6729 - 25


@pytest.mark.parametrize(
    ("name", "steps", "episodes", "terminated"),
    [("halfcheetah", 100_000, 100, 0), ("hopper", 99_066, 193, 117), ("walker2d", 99_305, 198, 151)],
)
def test_replay_files(name, steps, episodes, terminated):
    folder = os.environ.get("SPAR_TEST_DATA")
    if not folder:
        pytest.skip("SPAR_TEST_DATA is not set")
    found, report = read_d4rl(Path(folder) / f"{name}-trpo-replay.hdf5")
    found, _ = drop_unusable(found, "refuse")
    assert (found.steps, len(found), found.terminated.sum()) == (steps, episodes, terminated)
    assert (report.unknown_last_observations, report.unmarked_cuts) == (0, 0)
    with h5py.File(Path(folder) / f"{name}-trpo-replay.hdf5") as file:
        assert found.returns.sum() == pytest.approx(file["rewards"][()].sum(dtype=np.float64))
