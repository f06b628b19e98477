"""Arrays of users' files: each is understood, named by the entry, or refused by name; flags end episodes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from spar_core.data.ends import read_ends
from spar_core.data.names import USUAL, Naming
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.minari_io import read_minari
from spar_core.data.readers.npz_io import read_npz
from spar_core.errors import SparError
from stages.download import run
from tests.test_bad_data import LAYOUT, minari_dataset, refused, write_npz
from tests.test_data_d4rl import assert_same, make_episodes, write_flat
from tests.test_data_download import entry

# Three episodes, of which the second is cut, in rows of flat arrays.
STEPS = sum(steps for steps, _ in LAYOUT)
ENDS = np.isin(np.arange(STEPS), [3, 8, 9])
TERMINALS = np.isin(np.arange(STEPS), [3, 9])


def flat_npz(folder: Path, **flags) -> Path:
    """All episodes in one file, with next observations."""
    episodes = make_episodes(LAYOUT)
    folder.mkdir(parents=True)
    arrays = {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "next_observations": np.concatenate([e.observations[1:] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
    }
    np.savez(folder / "all.npz", **{name: array for name, array in {**arrays, **flags}.items() if array is not None})
    return folder


def flat_hdf5(path: Path, **flags) -> Path:
    """The same in D4RL's layout, with these flags alone."""
    return write_flat(path, make_episodes(LAYOUT), tuple({"terminals", "timeouts"} - flags.keys()), **flags)


# Each marks the same three ends.
FLAGS = [
    {"terminals": TERMINALS, "timeouts": ENDS & ~TERMINALS},
    {"terminations": TERMINALS, "truncations": ENDS & ~TERMINALS},
    {"terminated": TERMINALS.astype(np.float64), "truncated": (ENDS & ~TERMINALS)[:, None]},
    {"terminals": TERMINALS, "dones": ENDS},
    {"dones": ENDS, "timeouts": ENDS & ~TERMINALS},
    {"done": ENDS.astype(np.uint8), "terminal": TERMINALS.astype(np.int64), "timeout": ENDS & ~TERMINALS},
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(flags))
def test_flags_by_any_name_end_the_same_episodes(tmp_path, flags):
    episodes = make_episodes(LAYOUT)
    found, report = read_npz(flat_npz(tmp_path / "a", **flags))
    assert_same(found, episodes)
    assert report.files == 1 and report.unmarked_cuts == 0 and not report.notes
    found, d4rl = read_d4rl(flat_hdf5(tmp_path / "x.hdf5", **flags))
    assert_same(found, episodes)
    assert not d4rl.notes and set(d4rl.names.values()) >= flags.keys()


def test_dones_alone_are_terminal_and_said_to_be(tmp_path):
    for found, report in (
        read_npz(flat_npz(tmp_path / "a", dones=ENDS)),
        read_d4rl(flat_hdf5(tmp_path / "x.hdf5", dones=ENDS)),
    ):
        assert found.lengths.tolist() == [4, 5, 1] and found.terminated.all()
        assert "'dones' was taken for terminal states" in report.notes[0]
        assert "write 'arrays: {timeouts: dones}'" in report.notes[0]
    cuts = Naming({"timeouts": "dones"})
    for found, report in (read_npz(tmp_path / "a", cuts), read_d4rl(tmp_path / "x.hdf5", naming=cuts)):
        assert found.lengths.tolist() == [4, 5, 1] and not found.terminated.any() and not report.notes


def test_one_flag_of_a_file_is_about_its_last_step(tmp_path):
    """The names of one-episode files, with one value each."""
    second = {"dones": True, "terminated": None}
    assert read_npz(write_npz(tmp_path / "a", **second))[0].terminated.tolist() == [True, True, True]
    second = {"dones": True, "truncated": True, "terminated": None}
    assert read_npz(write_npz(tmp_path / "b", **second))[0].terminated.tolist() == [True, False, True]


def test_inner_terminals_cut_a_file_in_two(tmp_path):
    folder = write_npz(tmp_path / "a", terminated=np.array([0, 0, 1, 0, 1]))
    found, report = read_npz(folder)
    assert found.lengths.tolist() == [4, 3, 2, 1] and found.terminated.all()
    # The first of the two ends before an observation that the file does not hold; the last row is the second's.
    assert found.last_known.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(found[2].observations[-1], make_episodes(LAYOUT)[1].observations[-1])
    assert report.files == 3 and "001.npz: 'terminated' alone ends the episodes in it" in report.notes[0]


def test_every_usual_name(tmp_path):
    """Each name in the table, one after the other, gives the same episodes."""
    usual = {meaning: meaning for meaning in ("observations", "actions", "rewards", "terminals", "timeouts")}
    with np.load(flat_npz(tmp_path / "a", **FLAGS[0]) / "all.npz") as stored:
        arrays = {name: stored[name] for name in usual}
    for meaning in usual:
        for number, name in enumerate(USUAL[meaning]):
            folder = tmp_path / f"{meaning}-{number}"
            folder.mkdir()
            np.savez(folder / "x.npz", **{name if key == meaning else key: array for key, array in arrays.items()})
            found, report = read_npz(folder)
            assert found.lengths.tolist() == [4, 5, 1] and found.terminated.tolist() == [True, False, True]
            assert report.names[meaning] == name


UNKNOWN = [
    ({"mask": np.zeros(STEPS)}, "holds 'mask', and nothing says what that means; .*ignored_arrays: .mask."),
    ({"rews": np.zeros(STEPS)}, "holds 'rewards' and 'rews', which both mean rewards"),
    ({"dones": ~ENDS}, "step 3 is terminal, but not an end in 'dones'"),
    ({"timeouts": np.arange(STEPS)}, "'timeouts' of .* is 2 at step 2; write 0 or 1"),
    ({"actions": np.zeros((STEPS, 2), np.int64)}, "'actions' of .* holds int64, so the actions are choices"),
    ({"terminals": TERMINALS.reshape(5, 2)}, r"'terminals' has shape \(5, 2\)"),
    ({"actions": np.zeros((STEPS, 2), bool)}, "'actions' of .* holds bool, so the actions are choices"),
]


@pytest.mark.parametrize(("changed", "message"), UNKNOWN)
def test_refused_by_name(tmp_path, changed, message):
    flags = {**FLAGS[0], **changed}
    refused(lambda: read_npz(flat_npz(tmp_path / "a", **flags)), message)
    refused(lambda: read_d4rl(write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), **changed)), message)


def test_the_entry_names_and_ignores_arrays(tmp_path):
    odd = {"crashed": TERMINALS, "out_of_time": ENDS & ~TERMINALS, "mask": np.zeros(3)}
    folder = flat_npz(tmp_path / "a", **odd)
    path = flat_hdf5(tmp_path / "x.hdf5", **odd)
    naming = Naming({"terminals": "crashed", "timeouts": "out_of_time"}, ("mask",))
    for found, report in (read_npz(folder, naming), read_d4rl(path, naming=naming)):
        assert_same(found, make_episodes(LAYOUT))
        assert report.names["timeouts"] == "out_of_time"
    wrong = Naming({"terminals": "crash"}, ("mask", "out_of_time"))
    message = "says that 'crash' holds the terminals, but .* has no such array; did you mean 'crashed'"
    refused(lambda: read_npz(folder, wrong), message)
    refused(lambda: read_d4rl(path, naming=wrong), message)


def test_what_d4rl_and_ogbench_hold_beside(tmp_path):
    beside = {"infos/qpos": np.zeros((STEPS, 2)), "qvel": np.zeros((3, 2)), "metadata/algorithm": np.bytes_(b"SAC")}
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), **beside)
    assert_same(read_d4rl(path)[0], make_episodes(LAYOUT))
    assert_same(read_npz(flat_npz(tmp_path / "a", **FLAGS[0], **beside))[0], make_episodes(LAYOUT))


def test_arrays_in_groups(tmp_path):
    """The error names a group's arrays, and the entry may name one of them."""
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("rewards",))
    with h5py.File(path, "a") as file:
        file["rewards/dense"], file["flags/seen"] = np.zeros(STEPS), np.zeros(STEPS)
    refused(lambda: read_d4rl(path), "'rewards' is a group of 'rewards/dense', not an array")
    rewards = {"rewards": "rewards/dense"}
    refused(lambda: read_d4rl(path, naming=Naming(rewards)), "holds 'flags/seen', and nothing says")
    assert read_d4rl(path, naming=Naming(rewards, ("flags/seen",)))[0].rewards.sum() == 0.0


# --- the order of rows ---


@pytest.mark.parametrize(("shift", "message"), [(0, "of the same rows"), (2, "two rows later")])
def test_arrays_shifted_against_each_other(tmp_path, shift, message):
    """Observations one row off from the next observations, in files that mark their cuts and in others."""
    episodes = make_episodes([(9, True), (8, False), (9, True)])
    seen = np.concatenate([e.observations[:-1] for e in episodes])
    after = np.roll(seen, -shift, axis=0)
    for left_out in ((), ("timeouts",)):
        path = write_flat(tmp_path / "x.hdf5", episodes, left_out, next_observations=after)
        refused(
            lambda: read_d4rl(path), f"x.hdf5: next_observations are the observations {message} at 2. of .* shifted"
        )
    second = {"observations": seen[:5], "next_observations": after[:5]}
    if shift == 0:
        refused(lambda: read_npz(write_npz(tmp_path / "a", **second)), "001.npz: next_observations are the obs")


def test_rows_that_are_shuffled(tmp_path):
    episodes = make_episodes([(9, True), (8, False), (9, True)])
    order = np.random.default_rng(0).permutation(26)
    path = write_flat(tmp_path / "x.hdf5", episodes)
    with h5py.File(path, "a") as file:
        for name in list(file):
            file[name][...] = file[name][()][order]
    refused(lambda: read_d4rl(path), "next_observations are not the following rows' .* not in the order of time")
    found, _ = read_d4rl(path, max_episode_steps=1)  # each row for itself
    assert len(found) == 26 and found.last_known.all()


def test_a_last_row_that_contradicts_the_next_observation(tmp_path):
    second = make_episodes(LAYOUT)[1]
    arrays = {"observations": second.observations, "next_observations": second.observations[1:]}
    assert_same(read_npz(write_npz(tmp_path / "a", **arrays))[0], make_episodes(LAYOUT))
    wrong = second.observations[1:].copy()
    wrong[-1] += 1.0
    folder = write_npz(tmp_path / "b", **{**arrays, "next_observations": wrong})
    refused(lambda: read_npz(folder), "001.npz: the last row of observations is not that of next_observations")


# --- Minari ---


def test_minari_with_an_unknown_array_and_with_choices(tmp_path):
    folder = minari_dataset(tmp_path)
    metadata = folder / "data/metadata.json"
    whole = metadata.read_text()
    metadata.write_text(whole.replace('"float32\\", \\"shape\\": [2]', '"int64\\", \\"shape\\": [2]'))
    assert metadata.read_text() != whole
    refused(lambda: read_minari(folder), "the action space of .*toy-v0' holds int64, so the actions are choices")
    metadata.write_text(whole)
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        file["episode_0/terminals"] = np.ones(4)
    refused(lambda: read_minari(folder), "main_data.hdf5 holds 'terminals' in its episodes, which Minari does not read")


def test_minari_flags(tmp_path):
    folder = minari_dataset(tmp_path)
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        file["episode_1/truncations"][2] = True
    _, facts = read_minari(folder)
    assert facts.inner_truncations == 1 and "1 truncations inside episodes are ignored" in facts.notes[0]
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        del file["episode_1/terminations"]
        file["episode_1/terminations"] = np.array([0, 0, 0, 0, np.nan])
    refused(lambda: read_minari(folder), "'terminations' of episode 1 is NaN at step 4")


# --- what the user sees ---


def test_download_says_what_was_read(tmp_path, capsys):
    layout = entry(tmp_path, "x-v0", source="npz", path="logs", ignored_arrays=["mask"])
    flat_npz(tmp_path / "logs", dones=ENDS, mask=np.zeros(1))
    run(["--dataset", "x-v0", "--root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    episodes = make_episodes(LAYOUT)
    assert lines[0].startswith("x-v0: 10 steps in 3 episodes")
    assert lines[1].startswith("read: observations [3] from -") and "actions [2] from -0." in lines[1]
    assert f"(the first {episodes[0].rewards[0]:.6g}, the last {episodes[2].rewards[-1]:.6g})" in lines[1]
    assert lines[2] == "ends: 3 in a terminal state, 0 cut"
    assert lines[3].startswith("note: all.npz: 'dones' was taken for terminal states")
    manifest = yaml.safe_load((layout.data("x-v0") / "manifest.json").read_text())
    names = {name: name for name in ("observations", "next_observations", "actions", "rewards", "dones")}
    assert manifest["source"]["arrays"] == names and manifest["source"]["ignored_arrays"] == ["mask"]


def test_manifests_of_usual_files_say_nothing_new(tmp_path, capsys):
    """Results of files in D4RL's layout keep their bytes."""
    write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT))
    layout = entry(tmp_path, "x-v0", source="d4rl_hdf5", path="x.hdf5")
    run(["--dataset", "x-v0", "--root", str(tmp_path)])
    assert "ends: 2 in a terminal state, 1 cut\n" in capsys.readouterr().out
    text = "".join(path.read_text() for path in layout.data("x-v0").iterdir())
    assert '"arrays"' not in text and "ignored_arrays" not in text
    written = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("terminals",), my_flag=TERMINALS)
    entry(tmp_path, "x-v0", source="d4rl_hdf5", path=written.name, arrays={"terminals": "my_flag"})
    run(["--dataset", "x-v0", "--root", str(tmp_path)])
    assert "taken: terminals from 'my_flag'\n" in capsys.readouterr().out
    assert '"my_flag"' in (layout.data("x-v0") / "manifest.json").read_text()


def test_actions_that_may_be_choices_are_pointed_out(tmp_path, capsys):
    entry(tmp_path, "x-v0", source="npz", path="logs")
    flat_npz(tmp_path / "logs", **FLAGS[0], actions=np.sign(np.concatenate([e.actions for e in make_episodes(LAYOUT)])))
    run(["--dataset", "x-v0", "--root", str(tmp_path)])
    assert "note: every action is a whole number; if the actions are choices," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"terminal": "x"}, "arrays.terminal"),
        ({"terminals": "x", "timeouts": "x"}, "'x' stands there twice, but an array has one meaning"),
        (["x"], "arrays = "),
    ],
)
def test_arrays_of_an_entry(tmp_path, arrays, message):
    entry(tmp_path, "x-v0", source="npz", path="logs", arrays=arrays)
    with pytest.raises(SparError, match=message):
        run(["--dataset", "x-v0", "--root", str(tmp_path)])


def test_flags_of_no_file():
    ends = read_ends({}, {}, "x", 3)
    assert not ends.marked.any() and ends.timeouts is None and not ends.note
