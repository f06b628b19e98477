"""Minari datasets from a remote that is a folder, through Minari's own download: whole, once, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import minari
import numpy as np
import pytest
from minari.storage import remotes
from minari.storage.remotes.cloud_storage import CloudStorage

from spar_core.data.episodes import Episode
from spar_core.data.readers.minari_fetch import ensure_minari
from spar_core.data.readers.minari_io import write_minari
from spar_core.errors import SparError

NAME = "lab/hopper/medium-v0"


class Folder(CloudStorage):
    """A remote in a local folder. A file ``fail`` in it breaks a download off after the first file."""

    def __init__(self, name: str, token: str | None = None) -> None:
        self.root = Path(name)

    def list_datasets(self, prefix=None):
        found = (path.parent.parent for path in self.root.rglob("data/metadata.json"))
        return [n for path in found if (n := path.relative_to(self.root).as_posix()).startswith(prefix or "")]

    def get_dataset_metadata(self, dataset_id):
        return json.loads((self.root / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id, path):
        with (self.root / "log").open("a") as log:
            log.write(f"{dataset_id}\n")
        files = sorted(file for file in (self.root / dataset_id).rglob("*") if file.is_file())
        for file in files:
            target = Path(path) / file.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            if (self.root / "fail").exists():
                raise ConnectionError("gone")
            time.sleep(0.2 if (self.root / "slow").exists() else 0.0)

    def list_namespaces(self):
        return [path.parent.relative_to(self.root).as_posix() for path in self.root.rglob("namespace_metadata.json")]

    def download_namespace_metadata(self, namespace, path):
        name = Path(namespace) / "namespace_metadata.json"
        shutil.copyfile(self.root / name, Path(path) / name)

    def upload_dataset(self, dataset_id):
        raise NotImplementedError

    def upload_namespace(self, namespace):
        raise NotImplementedError


def use_remote(remote: Path, local: Path) -> None:
    """Let Minari download from ``remote`` into ``local`` in this process."""
    remotes._registry["folder"] = lambda: Folder
    os.environ["MINARI_REMOTE"] = f"folder://{remote}"
    os.environ["MINARI_DATASETS_PATH"] = str(local)


@pytest.fixture
def remote(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_REMOTE", "")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    monkeypatch.setattr(remotes, "_registry", dict(remotes._registry))
    use_remote(tmp_path / "remote", tmp_path / "local")
    folder = tmp_path / "remote" / NAME
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    episode = Episode(
        rng.normal(size=(6, 3)).astype(np.float32),
        rng.uniform(-1, 1, size=(5, 2)).astype(np.float32),
        rng.normal(size=5).astype(np.float32),
        True,
    )
    write_minari(folder, NAME, [episode], action_low=-np.ones(2, np.float32), action_high=np.ones(2, np.float32))
    for namespace in ("lab", "lab/hopper"):
        (tmp_path / "remote" / namespace / "namespace_metadata.json").write_text("{}")
    return tmp_path / "remote"


def log(remote: Path) -> list[str]:
    return (remote / "log").read_text().split() if (remote / "log").exists() else []


def test_downloaded_whole_and_opened_by_minari(remote, tmp_path):
    assert ensure_minari(NAME) == (tmp_path / "local", NAME)
    assert minari.load_dataset(NAME).total_steps == 5
    assert (tmp_path / "local/lab/hopper/namespace_metadata.json").is_file()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "local")
    assert not (tmp_path / "local/.incomplete/lab__hopper__medium-v0").exists()
    shutil.rmtree(remote / "lab")  # what is there needs no remote
    assert ensure_minari(NAME) == (tmp_path / "local", NAME)
    assert log(remote) == [NAME]
    assert list(minari.list_local_datasets()) == [NAME]


def test_interrupted_download_is_not_taken_for_a_dataset(remote, tmp_path):
    (remote / "fail").touch()
    with pytest.raises(SparError, match=r"cannot be downloaded .ConnectionError.; check the network, or put") as error:
        ensure_minari(NAME)
    assert str(tmp_path / "local") in str(error.value)
    assert not (tmp_path / "local" / NAME).exists() and not minari.list_local_datasets()
    (remote / "fail").unlink()
    ensure_minari(NAME)
    assert minari.load_dataset(NAME).total_steps == 5 and log(remote) == [NAME, NAME]


def test_remote_path_in_the_id(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(minari, "download_dataset", lambda name: shutil.copytree(remote / NAME, _local() / "medium-v0"))
    assert ensure_minari("hf://owner/medium-v0") == (tmp_path / "local", "medium-v0")


def _local() -> Path:
    return Path(os.environ["MINARI_DATASETS_PATH"])


def test_half_a_dataset_names_the_folder_to_delete(remote, tmp_path):
    (tmp_path / "local" / NAME / "data").mkdir(parents=True)
    with pytest.raises(SparError, match=f"{tmp_path / 'local' / NAME} is not a complete Minari dataset.*delete"):
        ensure_minari(NAME)


@pytest.mark.parametrize("name", ["lab", "lab/hopper"])
def test_namespace_instead_of_a_dataset(remote, tmp_path, name):
    """The advice to delete its folder would cost every dataset in it."""
    for version in range(5):
        shutil.copytree(remote / NAME, _local() / f"lab/hopper/medium-v{version}")
    with pytest.raises(
        SparError, match=f"'{name}' is a namespace .* choose one of its datasets: lab/hopper/medium-v0, "
    ) as error:
        ensure_minari(name)
    assert "delete" not in str(error.value) and str(error.value).endswith("medium-v2, ...")
    assert ensure_minari("lab/hopper/medium-v4") == (_local(), "lab/hopper/medium-v4")


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "/tmp", "../x-v0", "lab/../../x-v0", "lab/hopper/", "a b-v0", "x-v0\n", "hf://owner/"],
)
def test_no_id(remote, tmp_path, name):
    (tmp_path / "x-v0").mkdir()
    with pytest.raises(SparError, match="is not a Minari id; write it like 'D4RL/pen/human-v2'") as error:
        ensure_minari(name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "local").exists() and log(remote) == []


def test_id_without_a_version(remote):
    with pytest.raises(SparError, match="'lab/hopper/medium' has no version; write the full id"):
        ensure_minari("lab/hopper/medium")
    assert log(remote) == []


def test_written_by_another_minari(remote):
    path = remote / NAME / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "minari_version": "99.0.0"}))
    with pytest.raises(SparError, match=rf"installed Minari {minari.__version__} cannot read"):
        ensure_minari(NAME)
    shutil.copytree(remote / NAME, _local() / NAME)
    with pytest.raises(SparError, match=r"written by Minari 99\.0\.0"):
        ensure_minari(NAME)


def test_unknown_id(remote):
    with pytest.raises(SparError, match="there is no Minari dataset 'lab/hopper/expert-v0'"):
        ensure_minari("lab/hopper/expert-v0")


def test_folder_that_cannot_be_written(remote, tmp_path):
    (tmp_path / "local").write_text("a file")
    with pytest.raises(SparError, match=r"cannot be written .*; set MINARI_DATASETS_PATH"):
        ensure_minari(NAME)


def _ensure(remote: Path, local: Path, results: multiprocessing.Queue) -> None:
    use_remote(remote, local)
    root, name = ensure_minari(NAME)
    results.put((root / name / "data" / "metadata.json").is_file())


def test_processes_at_once_download_it_once(remote, tmp_path):
    (remote / "slow").touch()
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    processes = [fork.Process(target=_ensure, args=(remote, tmp_path / "local", results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 3
    for process in processes:
        process.join()
    assert log(remote) == [NAME]
