"""The whole tiny pipeline on other sources: a local Minari dataset, and real files in D4RL's layout."""

from __future__ import annotations

import json
import os

import pytest

from tests.pipeline import DATASET, Clone

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]

TEST_DATA = os.environ.get("SPAR_TEST_DATA")


def returns_of(clone: Clone, dataset: str) -> list[float]:
    """Mean returns of the seeds and of the committee of every rule."""
    return [value for key, value in clone.metrics().items() if key.startswith(dataset) and key.endswith("return_mean")]


def test_a_local_minari_dataset_gives_what_its_source_gave(tmp_path):
    clone = Clone(tmp_path / "clone")
    clone.run("python", "-m", "stages.download", "--dataset", DATASET)
    (clone.folder / "artifacts/minari").rename(tmp_path / "minari")
    entry = "title: a copy\nsource: minari\ndataset: builtin/halfcheetah-replay-v0\n"
    (clone.folder / "datasets/mine").mkdir()
    (clone.folder / "datasets/mine/copy-v0.yaml").write_text(entry)
    clone.study(datasets=["mine/copy-v0"], improvements=["anchor", "spar_proj"])
    ran = clone.repro(MINARI_DATASETS_PATH=str(tmp_path / "minari"))
    assert "report" in ran and len(returns_of(clone, "mine/copy-v0")) == 4
    original = json.loads((clone.folder / f"artifacts/data/{DATASET}/manifest.json").read_text())
    copy = json.loads((clone.folder / "artifacts/data/mine/copy-v0/manifest.json").read_text())
    for key in ("digest", "steps", "episodes", "returns", "terminated_episodes"):
        assert copy[key] == original[key], key


@pytest.mark.skipif(not TEST_DATA, reason="SPAR_TEST_DATA names no folder with the replay files")
@pytest.mark.parametrize(
    ("dataset", "steps", "episodes"), [("replay/hopper-trpo-v0", 99_066, 193), ("replay/walker2d-trpo-v0", 99_305, 198)]
)
def test_a_file_in_d4rl_layout_goes_all_the_way(tmp_path, dataset, steps, episodes):
    clone = Clone(tmp_path / "clone")
    clone.study(datasets=[dataset], improvements=["anchor", "spar_mlp", "awr"])
    ran = clone.repro()
    assert ran[0] == "plan" and set(ran[-2:]) == {"report", "theory_page"}
    assert len(returns_of(clone, dataset)) == 6
    manifest = json.loads((clone.folder / f"artifacts/data/{dataset}/manifest.json").read_text())
    assert (manifest["steps"], manifest["episodes"]) == (steps, episodes)
    assert "not comparable with D4RL" in (clone.folder / "reports/default/report.md").read_text()
