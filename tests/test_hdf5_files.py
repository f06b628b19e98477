"""HDF5 files that cannot be read as they are: each has a true sentence of its own. Legal files are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spar_core.data.hdf5 import explained, open_hdf5
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from spar_core.data.readers.minari_io import read_minari
from tests.test_bad_data import LAYOUT, minari_dataset, refused
from tests.test_data_d4rl import assert_same, make_episodes, write_flat

STEPS = sum(steps for steps, _ in LAYOUT)
NOWHERE = 32099  # a filter number that no package registers
# Holds a file open for writing; a new one of the `latest` version keeps a mark of that after the writer is killed.
WRITER = """
import sys, h5py
file = h5py.File(sys.argv[1], {"earliest": "a", "latest": "w"}[sys.argv[2]], libver=sys.argv[2])
file.flush()
print("open", flush=True)
sys.stdin.read()
"""


def with_filter(path: Path, group: str = "/") -> None:
    """Make rewards need a filter that is not there; values of other filters are stored in its name."""
    with h5py.File(path, "a") as file:
        values = file[group]["rewards"][()]
        del file[group]["rewards"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(values.shape)
        properties.set_deflate(4)
        space = h5py.h5s.create_simple(values.shape)
        made = h5py.h5d.create(file[group].id, b"rewards", h5py.h5t.IEEE_F32LE, space, properties)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values.astype(np.float32))
    # The message of a filter: its number (1, deflate) in two bytes, the length of its name, its flags, its values.
    data = path.read_bytes()
    name = data.index(b"deflate\0")
    at = name - 8
    assert data[at : at + 2] == b"\x01\x00"
    path.write_bytes(data[:at] + NOWHERE.to_bytes(2, "little") + data[at + 2 : name] + b"zstd-9\0\0" + data[name + 8 :])


def test_a_filter_that_is_not_installed(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT))
    with_filter(path)
    message = r"x.hdf5 is whole, but compressed with the HDF5 filter zstd-9 \(number 32099\).*pip install hdf5plugin"
    refused(lambda: read_d4rl(path), message)
    folder = minari_dataset(tmp_path)
    with_filter(folder / "data/main_data.hdf5", "episode_1")
    refused(lambda: read_minari(folder), "'mine/toy-v0' cannot be read: main_data.hdf5 is whole, but compressed with")


def test_a_file_that_is_being_written(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT))
    folder = minari_dataset(tmp_path)
    for file, read in ((path, lambda: read_d4rl(path)), (folder / "data/main_data.hdf5", lambda: read_minari(folder))):
        whole = file.read_bytes()
        for version, message in (("earliest", "is locked by another process, which is writing it"), ("latest", "")):
            with subprocess.Popen([sys.executable, "-c", WRITER, file, version], stdin=-1, stdout=-1) as writer:
                assert writer.stdout.readline() == b"open\n"
                if message:
                    refused(read, f"{file.name} {message}; wait until that process has closed the file")
                writer.kill()
        refused(read, "was not closed by the process that wrote it: it is still being written, or .*h5clear -s")
        file.write_bytes(whole)
        read()


def test_a_file_system_without_locks(tmp_path):
    error = OSError(37, "Unable to synchronously open file (unable to lock file, errno = 37)")
    text = str(explained(tmp_path / "x.hdf5", error))
    assert "cannot be locked on its file system (37)" in text and "HDF5_USE_FILE_LOCKING=FALSE" in text


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "x.hdf5"
    path.write_bytes(b"")
    refused(lambda: read_d4rl(path), "x.hdf5 is empty; fetch it again")
    path.write_bytes(b"<!DOCTYPE html><html>" * 100)
    refused(lambda: read_d4rl(path), r"x.hdf5 is not an HDF5 file \(it begins with '<!DOCTYPE ht'\)")


def test_a_damaged_chunk(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes([(500, True), (500, False)]), ("rewards",))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=np.arange(1000.0), chunks=(1000,), compression="gzip", fletcher32=True)
        chunk = file["rewards"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 50] ^= 0xFF
    path.write_bytes(data)
    refused(lambda: read_d4rl(path), r"x.hdf5 is damaged and cannot be read as HDF5 \(.*filter.*\); fetch or write")


def test_values_that_lie_elsewhere(tmp_path):
    write_flat(tmp_path / "other.hdf5", make_episodes(LAYOUT))
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("actions",))
    layout = h5py.VirtualLayout((STEPS, 2), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (STEPS, 2))
    for link, message in (
        (h5py.ExternalLink("other.hdf5", "actions"), "is a link to another file, 'actions' of other.hdf5"),
        (h5py.SoftLink("/nowhere"), "'actions' is a link that leads nowhere"),
        (layout, "'actions' is a virtual dataset over other.hdf5; copy its values"),
    ):
        with h5py.File(path, "a") as file:
            if link is layout:
                file.create_virtual_dataset("actions", layout)
            else:
                file["actions"] = link
        refused(lambda: read_d4rl(path), message)
        with h5py.File(path, "a") as file:
            del file["actions"]
    with h5py.File(path, "a") as file:  # A link inside the file is as good as the array.
        file["kept/actions"] = np.concatenate([e.actions for e in make_episodes(LAYOUT)])
        file["actions"] = h5py.SoftLink("/kept/actions")
    refused(lambda: read_d4rl(path), "holds 'kept/actions', and nothing says what that means")


def test_chunks_that_were_never_written(tmp_path):
    """They hold the fill value. Flags and rewards may be mostly that; observations and actions never are."""
    episodes = make_episodes(LAYOUT)
    path = write_flat(tmp_path / "x.hdf5", episodes, ("rewards", "terminals"))
    with h5py.File(path, "a") as file:
        file.create_dataset("terminals", (STEPS,), bool)
        file.create_dataset("rewards", (STEPS,), "f4", chunks=(2,))[4:6] = 7.0
    found, _ = read_d4rl(path)
    assert found.rewards.tolist() == [0, 0, 0, 0, 7, 7, 0, 0, 0, 0] and not found.terminated.any()
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (STEPS,), "f4")
    refused(lambda: read_d4rl(path), r"'rewards' of x.hdf5 was declared with shape \(10,\) but not written in full")
    for name in ("observations", "actions", "next_observations"):
        write_flat(path, episodes, (name,))
        with h5py.File(path, "a") as file:
            width = 2 if name == "actions" else 3
            file.create_dataset(name, (STEPS, width), "f4", chunks=(4, width), maxshape=(None, width))[:8] = 0.5
        refused(lambda: read_d4rl(path), f"'{name}' of x.hdf5 was declared .* but not written in full")


def test_zeros_that_compress_well(tmp_path):
    """A legal file may declare far more than it takes: what counts is the memory that it needs."""
    rows = 150_000
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, width in (("observations", 4), ("actions", 1)):
            file.create_dataset(name, data=np.zeros((rows, width), "f8"), compression="gzip", shuffle=True)
        file.create_dataset("rewards", data=np.zeros(rows, "f4"), compression="gzip")
        file.create_dataset("terminals", (rows,), "f8", chunks=(1000,), compression="gzip")  # never written
        file["timeouts"] = np.arange(1, rows + 1) % 1000 == 0
    assert len(read_d4rl(tmp_path / "x.hdf5")[0]) == 150


def test_memory_that_is_needed(tmp_path, monkeypatch):
    """Numbers count as the float32 that they become, and a chunk as what it is decompressed to."""

    class Memory:
        total = 0

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    episodes = make_episodes([(300, True), (300, False)])
    wide = np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float64)
    path = write_flat(tmp_path / "x.hdf5", episodes, observations=wide)
    Memory.total = 600 * 4 * (3 + 2 + 1) + 2 * 600
    assert_same(read_d4rl(path)[0], episodes)
    Memory.total -= 1
    refused(lambda: read_d4rl(path), "x.hdf5 needs 0.0 GiB of memory, and this machine has 0.0")
    Memory.total += 1
    with h5py.File(path, "a") as file:
        del file["observations"]
        file.create_dataset("observations", data=wide, chunks=(600, 3), compression="gzip")
    refused(lambda: read_d4rl(path), "'observations' of x.hdf5 needs .* of memory")


def test_errors_of_others_stay_what_they_are(tmp_path):
    """Only what h5py raises is an error of the file: an environment that is stepped meanwhile has its own."""
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT))
    for error in (RuntimeError("simulation became unstable"), KeyError("x"), ValueError("y")):
        with pytest.raises(type(error)), open_hdf5(path):
            raise error


def test_values_of_a_type_that_numpy_lacks(tmp_path):
    path = write_flat(tmp_path / "x.hdf5", make_episodes(LAYOUT), ("rewards",))
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((STEPS,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.UNIX_D32LE, space)
    refused(lambda: read_d4rl(path), "'rewards' holds values that NumPy has no type for")
