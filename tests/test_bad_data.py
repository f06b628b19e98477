"""Damaged, hostile and half-finished files: one clear line each, and never an out-of-memory kill."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from spar_core.data.d4rl_file import open_d4rl
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.fetch import check_sha256
from spar_core.data.readers.minari_io import read_minari, write_minari
from spar_core.data.readers.npz_io import read_npz
from spar_core.errors import SparError
from tests.test_data_d4rl import HIGH, LOW, assert_same, make_episodes, write_flat

LAYOUT = [(4, True), (5, False), (1, True)]


def refused(read, match: str) -> None:
    with pytest.raises(SparError, match=match) as error:
        read()
    assert "\n" not in str(error.value)


def write_npz(folder: Path, **replace) -> Path:
    """Three episodes, one file each; ``replace`` changes arrays of the second."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, e in enumerate(make_episodes(LAYOUT)):
        arrays = {
            "observations": e.observations,
            "actions": e.actions,
            "rewards": e.rewards,
            "terminated": e.terminated,
        }
        if number == 1:
            arrays = {name: value for name, value in {**arrays, **replace}.items() if value is not None}
        np.savez(folder / f"{number:03d}.npz", **arrays)
    return folder


def minari_dataset(root: Path) -> Path:
    folder = root / "mine/toy-v0"
    folder.mkdir(parents=True)
    write_minari(folder, "mine/toy-v0", make_episodes(LAYOUT), action_low=LOW, action_high=HIGH)
    return folder


# --- D4RL's layout ---


def test_hdf5_bomb(tmp_path):
    """A few kilobytes that declare terabytes, written by nobody."""
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("observations",))
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (10, 10**12), "f4", chunks=(1, 1024), compression="gzip")
    assert path.stat().st_size < 100_000
    refused(lambda: read_d4rl(path), "'observations' of x.hdf5 claims to hold 37252.9 GiB")


def test_hdf5_larger_than_memory(tmp_path, monkeypatch):
    class Small:
        total = 1000

    monkeypatch.setattr("psutil.virtual_memory", lambda: Small)
    path = write_flat(tmp_path / "x.hdf5", make_episodes([(300, True), (300, True)]))
    refused(lambda: read_d4rl(path), "needs .* of memory, and this machine has")


def test_hdf5_from_outside_the_file(tmp_path):
    write_flat(tmp_path / "other.hdf5", make_episodes(LAYOUT))
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("rewards", "actions"))
    with h5py.File(path, "a") as file:
        file["actions"] = h5py.ExternalLink("other.hdf5", "actions")
        file["rewards"] = make_episodes(LAYOUT)[0].rewards
    refused(lambda: read_d4rl(path), "'actions' is a link to another file")
    with h5py.File(path, "a") as file:
        del file["actions"]
        (tmp_path / "raw.bin").write_bytes(np.zeros((10, 2), np.float32).tobytes())
        file.create_dataset("actions", (10, 2), "f4", external=[(str(tmp_path / "raw.bin"), 0, 80)])
    refused(lambda: read_d4rl(path), "'actions' lies in another file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([b"a"] * 10), "'rewards' holds .*S1, not numbers"),
        (np.zeros(10, complex), "'rewards' holds complex128, not numbers"),
        (np.zeros((2, 5), np.float32), r"'rewards' has shape \(2, 5\), expected \[steps\]"),
        (h5py.Empty("f4"), "'rewards' is a group or empty"),
    ],
)
def test_hdf5_of_another_type(tmp_path, values, message):
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), rewards=values)
    refused(lambda: read_d4rl(path), message)


def test_hdf5_with_groups_and_without_steps(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("observations",))
    with h5py.File(path, "a") as file:
        file["observations/achieved_goal"] = np.zeros((10, 2))
    refused(lambda: read_d4rl(path), "'observations' is a group")
    empty = {name: np.zeros((0, 2), np.float32) for name in ("observations", "actions", "next_observations")}
    none = {name: np.zeros(0, np.float32) for name in ("rewards", "terminals", "timeouts")}
    refused(
        lambda: read_d4rl(write_flat(tmp_path / "y.hdf5", make_episodes(LAYOUT), **empty, **none)), "holds no steps"
    )


@pytest.mark.parametrize("name", ["terminals", "timeouts"])
def test_hdf5_with_flags_that_are_nan(tmp_path, name):
    flags = np.zeros(10, np.float32)
    flags[6] = np.nan
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), **{name: flags})
    refused(lambda: read_d4rl(path), f"'{name}' of x.hdf5 is NaN at step 6; .*write 0 or 1")
    flags[6] = 0.0
    write_flat(path, make_episodes(LAYOUT), **{name: flags})
    assert read_d4rl(path)[1].rows == 10
    # A file without the flags in question must not be refused for them.
    assert read_d4rl(write_flat(path, make_episodes(LAYOUT), ("timeouts",)))[1].rows == 10


def test_hdf5_that_cannot_be_opened(tmp_path, monkeypatch):
    refused(lambda: read_d4rl(tmp_path), f"{tmp_path} is not a file; check 'path'")
    refused(lambda: check_sha256(tmp_path, "0" * 64), f"{tmp_path} cannot be read .Is a directory")
    refused(lambda: check_sha256(tmp_path / "none", "0" * 64), "none cannot be read .No such file")
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT))
    refused(lambda: read_d4rl(path / "y.hdf5"), "y.hdf5 cannot be read .Not a directory|y.hdf5 does not exist")

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, who may read everything
    refused(lambda: read_d4rl(path), "x.hdf5 cannot be read .Permission denied")
    refused(lambda: check_sha256(path, "0" * 64), "x.hdf5 cannot be read .Permission denied")


def test_hdf5_group_in_another_file(tmp_path):
    """The states that are replayed lie in a group, which may be a link itself."""
    episodes = make_episodes(LAYOUT)
    path = write_flat(tmp_path / "x.hdf5", episodes, infos=h5py.ExternalLink("other.hdf5", "infos"))
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["infos/qpos"] = np.zeros((10, 2))

    def read():
        with open_d4rl(path, ("infos/qpos",)):
            pass

    refused(read, "'infos/qpos' lies in another file")
    assert read_d4rl(path)[1].rows == 10


# --- a folder of .npz episodes ---


def test_npz_episodes_come_back(tmp_path):
    episodes = make_episodes(LAYOUT)
    assert_same(read_npz(write_npz(tmp_path / "a"))[0], episodes)
    # With next_observations instead of the last row, the second episode is the same.
    second = episodes[1]
    split = {"observations": second.observations[:-1], "next_observations": second.observations[1:]}
    assert_same(read_npz(write_npz(tmp_path / "b", **split))[0], episodes)
    found, _ = read_npz(write_npz(tmp_path / "c", observations=second.observations[:-1]))
    assert found.last_known.tolist() == [True, False, True]
    np.testing.assert_array_equal(found[1].observations[-1], second.observations[-2])
    # No word on the end means a cut; flags by step count by their last one.
    assert not read_npz(write_npz(tmp_path / "d", terminated=None))[0].terminated[1]
    assert read_npz(write_npz(tmp_path / "e", terminated=np.array([0, 0, 0, 0, 1])))[0].terminated[1]


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"rewards": None}, "001.npz has no array 'rewards'"),
        ({"rewards": np.zeros(3)}, "001.npz: .* do not fit together"),
        ({"observations": np.zeros(5)}, "001.npz: .* do not fit together"),
        ({"observations": np.zeros((6, 4))}, "episode 1 has observations"),
        ({"actions": np.array(["left"] * 5)}, "'actions' holds <U4, not numbers"),
        ({"actions": np.array([{}] * 5, dtype=object)}, "001.npz cannot be read as .npz .*allow_pickle"),
        ({"observations": np.zeros((5, 3)), "next_observations": np.zeros((4, 3))}, "001.npz: next_observations"),
        ({"terminated": np.zeros(4, bool)}, r"001.npz: 'terminated' has shape \(4,\) for 5 steps"),
        ({"terminated": np.zeros(0, bool)}, r"001.npz: 'terminated' has shape \(0,\) for 5 steps"),
        ({"terminated": np.array([0, 0, 0, 0, np.nan])}, "'terminated' of 001.npz is NaN at step 4; write 0 or 1"),
        ({"terminated": np.float32(np.nan)}, "'terminated' of 001.npz is NaN at step 4; write 0 or 1"),
    ],
)
def test_npz_refused(tmp_path, replace, message):
    folder = write_npz(tmp_path / "mine", **replace)
    refused(lambda: read_npz(folder), message)


def test_npz_folders_and_files(tmp_path):
    refused(lambda: read_npz(tmp_path / "none"), "is neither a folder nor an .npz file")
    (tmp_path / "empty").mkdir()
    refused(lambda: read_npz(tmp_path / "empty"), "holds no .npz file")
    folder = write_npz(tmp_path / "mine")
    (folder / "001.npz").write_bytes((folder / "001.npz").read_bytes()[:200])
    refused(lambda: read_npz(folder), "001.npz cannot be read as .npz")
    (folder / "001.npz").write_bytes(b"")
    refused(lambda: read_npz(folder), "001.npz cannot be read as .npz")


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(6, 1, "is encrypted"), (8, 99, "compression method is not supported")]
)
def test_npz_archives_of_another_kind(tmp_path, offset, value, message):
    """Members that are encrypted, or compressed in a way that is not known; offsets are those of ZIP headers."""
    folder = write_npz(tmp_path / "mine")
    data = bytearray((folder / "001.npz").read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset + shift] = value
            start = data.find(signature, start + 1)
    (folder / "001.npz").write_bytes(data)
    refused(lambda: read_npz(folder), f"001.npz cannot be read as .npz .*{message}")


def test_npz_damaged_inside(tmp_path):
    folder = write_npz(tmp_path / "mine")
    with np.load(folder / "001.npz") as stored:
        np.savez_compressed(folder / "001.npz", **{name: stored[name] for name in stored.files})
    data = bytearray((folder / "001.npz").read_bytes())
    with zipfile.ZipFile(folder / "001.npz") as archive:
        info = archive.getinfo("observations.npy")
    start = info.header_offset + 30 + len(info.filename) + int.from_bytes(data[info.header_offset + 28 :][:2], "little")
    data[start : start + info.compress_size] = b"\xff" * info.compress_size
    (folder / "001.npz").write_bytes(data)
    refused(lambda: read_npz(folder), "001.npz cannot be read as .npz .*while decompressing")


def test_links_in_a_circle(tmp_path):
    folder = write_npz(tmp_path / "mine")
    (folder / "a.npz").symlink_to(folder / "b.npz")
    (folder / "b.npz").symlink_to(folder / "a.npz")
    refused(lambda: read_npz(folder), "a.npz is a link that leads nowhere")


def test_npz_link_out_of_the_folder(tmp_path):
    folder = write_npz(tmp_path / "mine")
    (folder / "001.npz").rename(tmp_path / "elsewhere.npz")
    (folder / "001.npz").symlink_to(tmp_path / "elsewhere.npz")
    refused(lambda: read_npz(folder), "001.npz is a link to a file outside its folder")


def test_npz_bomb(tmp_path):
    """A header that declares 40 TB before a few bytes, in the archive's and in the array's own words."""
    folder = write_npz(tmp_path / "mine")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (5, 2 * 10**12)})
    with zipfile.ZipFile(folder / "001.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("observations", "rewards"):
            archive.writestr(f"{name}.npy", header.getvalue())
        archive.writestr("actions.npy", header.getvalue() + bytes(50_000_000))
    refused(lambda: read_npz(folder), "001.npz cannot be read as .npz|claims to hold")


# --- Minari ---


def test_minari_written_by_a_newer_version(tmp_path):
    folder = minari_dataset(tmp_path)
    metadata = json.loads((folder / "data/metadata.json").read_text())
    (folder / "data/metadata.json").write_text(json.dumps({**metadata, "minari_version": "99.1.0"}))
    refused(lambda: read_minari(folder), r"'mine/toy-v0' was written by Minari 99.1.0, but Minari 0.5\S* is installed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minari_version": "next"}, "its metadata is not Minari's"),
        ({"total_steps": 9}, "its metadata says"),
        ({"total_episodes": 2}, "it holds 9 steps in 2 episodes, but its metadata says 10 in 2"),
        ({"total_steps": 11}, "it holds 10 steps in 3 episodes, but its metadata says 11 in 3"),
        ({"total_steps": 10**15}, "claims to hold"),
        ({"total_episodes": 10**15}, "claims to hold"),
        ({"data_format": "parchment"}, "cannot be read"),
        ({"observation_space": '{"type": "Discrete", "start": 0, "n": 3, "dtype": "int64"}'}, "not one vector"),
        ({"action_space": '{"type": "Discrete", "start": 0, "n": 3, "dtype": "int64"}'}, "not one vector"),
    ],
)
def test_minari_metadata_that_lies(tmp_path, change, message):
    folder = minari_dataset(tmp_path)
    metadata = json.loads((folder / "data/metadata.json").read_text())
    (folder / "data/metadata.json").write_text(json.dumps({**metadata, **change}))
    refused(lambda: read_minari(folder), message)


def test_minari_damaged(tmp_path):
    folder = minari_dataset(tmp_path)
    main = folder / "data/main_data.hdf5"
    whole = main.read_bytes()
    with h5py.File(main, "a") as file:
        del file["episode_1/rewards"]
    refused(lambda: read_minari(folder), "'mine/toy-v0' cannot be read")
    main.write_bytes(whole)
    with h5py.File(main, "a") as file:
        del file["episode_1/actions"]
        file["episode_1/actions"] = np.zeros((4, 2), np.float32)
    refused(lambda: read_minari(folder), "episode 1 holds 6 observations, 4 actions, 5 rewards")
    main.write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_minari(folder), "cannot be read")
    (tmp_path / "elsewhere.hdf5").write_bytes(whole)
    main.unlink()
    main.symlink_to(tmp_path / "elsewhere.hdf5")
    refused(lambda: read_minari(folder), "main_data.hdf5 is a link to a file outside its folder")
    (folder / "data/metadata.json").write_text("{")
    main.unlink()
    refused(lambda: read_minari(folder), "cannot be read")
    refused(lambda: read_minari(tmp_path / "none"), "there is no Minari dataset")


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    """HDF5 itself ends in a crash there. What is asked for covers what is then written."""
    folder = minari_dataset(tmp_path)
    written = sum(file.stat().st_size for file in folder.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, written))
    bounds = {"action_low": LOW, "action_high": HIGH}
    (tmp_path / "other-v0").mkdir()
    refused(
        lambda: write_minari(tmp_path / "other-v0", "other-v0", make_episodes(LAYOUT), **bounds),
        "has 0 MB of free space, but the dataset needs about 0 MB; free space",
    )
    assert not list((tmp_path / "other-v0").iterdir())
