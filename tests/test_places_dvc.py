"""Real `dvc repro` and `dvc exp run` with caches of every link type, beside other studies, and in worktrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline import DATASET, Clone
from tests.test_places import write_data


@pytest.mark.slow
@pytest.mark.parametrize("link", ["symlink", "hardlink", "reflink,copy"])
def test_two_clones_share_a_cache_of_every_link_type(tmp_path, link):
    """Stages read what DVC has linked; the second clone runs nothing but plan, and has the same outputs."""
    locks = []
    for name in ("one", "two"):
        clone = Clone(tmp_path / name, cache=tmp_path / "cache")
        clone.run("dvc", "config", "--local", "cache.type", link)
        ran = clone.repro("fit_bc")
        assert len(ran) == (3 if name == "one" else 1), ran
        main = clone.folder / f"artifacts/minari/{DATASET}/data/main_data.hdf5"
        assert main.is_symlink() == (link == "symlink") and (main.stat().st_nlink > 1) == (link == "hardlink")
        locks.append(clone.lock())
    assert locks[0] == locks[1]


@pytest.mark.slow
def test_an_experiment_keeps_policies_that_it_does_not_name_and_finds_data_outside_git(tmp_path):
    clone = Clone(tmp_path / "clone")
    clone.study(improvements=["anchor"])
    clone.run("python", "-m", "stages.parallel.sweep", "self_imitation")
    clone.run("python", "-m", "stages.plan")
    clone.commit()
    policy = clone.folder / f"artifacts/policy/{DATASET}/mlp/iql/anchor/0-1/policy.json"
    anchor = clone.folder / f"artifacts/anchor/{DATASET}/mlp/0-1"
    assert policy.is_file() and anchor.is_dir()
    clone.run("dvc", "exp", "run", "-S", "study.anchors=[linear]", "plan")
    clone.run("dvc", "checkout", "--allow-missing", "--force")
    assert policy.is_file(), "something may act with it"
    assert not anchor.exists(), "what DVC makes again at need goes"

    write_data(clone.folder / "mydata/a.hdf5")
    entry = "title: t\nsource: d4rl_hdf5\npath: mydata/a.hdf5\nnot_evaluated: toy\n"
    path = clone.folder / "datasets/mine/toy-v0.yaml"
    path.parent.mkdir()
    path.write_text(entry)
    ignored = clone.folder / ".gitignore"
    ignored.write_text(ignored.read_text() + "/mydata/\n")
    clone.study(datasets=["mine/toy-v0"], estimated=["mine/toy-v0"])
    clone.commit()
    done = clone.run("dvc", "exp", "run", "--temp", "-S", "improvements.spar_mlp.tau=0.8", "plan")
    assert "Ran experiment" in done.stdout, done.stdout
    assert not Path(clone.folder / "artifacts/data/mine").exists()
