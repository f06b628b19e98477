"""Dataset entries: every shipped one is valid, and every mistake gives one line that helps."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from spar_core.data.entry import CommonEntry, D4rlEntry
from spar_core.data.entry_files import dataset_ids, load_entry, source_digest
from spar_core.data.local_path import local_path
from spar_core.data.reference import normalised_score, normalised_spread, reference, reference_table
from spar_core.data.reward_shift import REWARD_SHIFTS, shift_rewards
from spar_core.errors import SparError
from spar_core.settings import parse
from stages.entry import stage_main

DATASETS = Path(__file__).parents[1] / "datasets"
FLAT = {"title": "t", "source": "d4rl_hdf5", "path": "x.hdf5"}


@pytest.mark.parametrize("dataset_id", dataset_ids(DATASETS))
def test_shipped_entry_is_valid(dataset_id):
    entry = load_entry(DATASETS / f"{dataset_id}.yaml")
    assert entry.title and entry.license
    if entry.reference:
        assert entry.reference in reference_table()


def _write(tmp_path: Path, text: str, name: str = "a-v0") -> Path:
    path = tmp_path / "datasets" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


MINARI = "title: t\nsource: minari\ndataset: mujoco/hopper/medium-v0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINARI.replace("minari", "minary"), "did you mean 'minari'"),
        ("title: t\n", "key 'source' is missing"),
        (MINARI + "heldout_shore: 0.2\n", "did you mean 'heldout_share'"),
        (MINARI + "heldout_share: 1.5\n", "heldout_share = 1.5"),
        (MINARI + "out_of_bounds_actions: ignore\n", "out_of_bounds_actions"),
        ("title: t\nsource: minari\n", "a-v0.yaml: give either 'dataset' or 'path'"),
        ("title: t\nsource: d4rl_hdf5\n", "either 'path' or 'url'"),
        ("title: t\nsource: d4rl_hdf5\nurl: ftp://x/y\n", "must start with http"),
        ("title: [\n", "not valid YAML"),
    ],
)
def test_bad_entry(tmp_path, text, message):
    with pytest.raises(SparError, match=message) as error:
        load_entry(_write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: M\xfcller".encode("latin-1"), "a-v0.yaml is not UTF-8 text .byte 9.; save it as UTF-8"),
        (b"\xff\xfet\x00", "is not UTF-8 text .byte 1."),
        (b"title: 2024-13-01", "is not valid YAML"),
    ],
)
def test_entry_that_cannot_be_read(tmp_path, content, message):
    path = _write(tmp_path, "")
    path.write_bytes(content)
    with pytest.raises(SparError, match=message):
        load_entry(path)


def test_a_file_that_cannot_be_used_gives_one_line(tmp_path, capsys):
    """Whatever a stage opens: its name and the reason. An error that nobody foresaw is one line, too."""
    assert stage_main(lambda _: (tmp_path / "none").read_text()) == 1
    assert capsys.readouterr().err == f"error: No such file or directory ({tmp_path / 'none'})\n"
    assert stage_main(lambda _: tmp_path.read_text()) == 1
    assert capsys.readouterr().err == f"error: Is a directory ({tmp_path})\n"

    def fail(*error: object) -> None:
        raise OSError(*error)

    assert stage_main(lambda _: fail(errno.ENOSPC, "No space left on device")) == 1
    assert capsys.readouterr().err == "error: the disk is full (no path given); free space and rerun\n"
    assert stage_main(lambda _: fail("defect")) == 1
    assert capsys.readouterr().err.startswith("error: OSError: defect (tests/test_data_entry.py, line ")


def test_unknown_id_names_the_nearest(tmp_path):
    _write(tmp_path, MINARI, "builtin/hopper-replay-v0")
    with pytest.raises(SparError, match="did you mean 'builtin/hopper-replay-v0'"):
        load_entry(tmp_path / "datasets" / "builtin/hoper-replay-v0.yaml")


@pytest.mark.parametrize("name", ["Upper-v0", "no-version", "sp ace-v0"])
def test_bad_id(tmp_path, name):
    with pytest.raises(SparError, match="is not a dataset id"):
        load_entry(_write(tmp_path, MINARI, name))


def test_path_variable(tmp_path, monkeypatch):
    path = "${SOME_UNSET_FOLDER}/x.hdf5"
    entry = D4rlEntry(title="t", source="d4rl_hdf5", path=path)
    monkeypatch.delenv("SOME_UNSET_FOLDER", raising=False)
    with pytest.raises(SparError, match="needs the environment variable SOME_UNSET_FOLDER, which is not set"):
        local_path(path, tmp_path)
    monkeypatch.setenv("SOME_UNSET_FOLDER", str(tmp_path))
    with pytest.raises(SparError, match=r"x\.hdf5 does not exist"):
        local_path(path, tmp_path)
    (tmp_path / "x.hdf5").write_bytes(b"one")
    before = source_digest(entry, tmp_path)
    (tmp_path / "x.hdf5").write_bytes(b"two")
    assert source_digest(entry, tmp_path) != before


@pytest.mark.parametrize("path", ["~no_such_user_here/x.hdf5", "x" * 5000])
def test_a_path_that_is_none(tmp_path, path):
    with pytest.raises(SparError, match="is not a valid path"):
        local_path(path, tmp_path)


def test_reasons_and_shifts():
    """A reason for not evaluating needs that there is no environment; reward shifts go by their names alone."""
    with pytest.raises(SparError, match="'not_evaluated' says why there is no environment, but 'env_id' names one"):
        parse(D4rlEntry, {**FLAT, "env_id": "Hopper-v5", "not_evaluated": "because"}, "x")
    with pytest.raises(SparError, match="reward_shift = 'ikl' is not valid"):
        parse(D4rlEntry, {**FLAT, "reward_shift": "ikl"}, "x")
    names = set(get_args(CommonEntry.model_fields["reward_shift"].annotation))
    assert names == set(REWARD_SHIFTS)
    rewards = np.array([0.0, 1.0], np.float32)
    assert [shift_rewards(rewards, name).tolist() for name in ("none", "iql", "cql", "rebrac")] == [
        [0.0, 1.0],
        [-1.0, 0.0],
        [-2.0, 2.0],
        [0.0, 100.0],
    ]


def test_normalised_scores():
    row = reference("hopper")
    assert normalised_score(row.min, row) == 0.0
    assert normalised_score(row.max, row) == pytest.approx(100.0)
    # A spread is not shifted by the minimum.
    assert normalised_spread(0.0, row) == 0.0
    assert normalised_spread(10.0, row) == pytest.approx(1000.0 / (row.max - row.min))
    with pytest.raises(SparError, match="did you mean 'hopper'"):
        reference("hoper")
    assert all(row.source for row in reference_table().values())
