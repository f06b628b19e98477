"""The study of the paper on fakes of its datasets, as a user would meet it on the first day.

One address has moved, the simulator states of one file do not replay, and the run is interrupted. One rule of each kind
stands for the others, and budgets are tiny. ``SPAR_REHEARSAL=all`` takes all thirty datasets and interrupts three
times; without it, one dataset of each family is taken, and the run is interrupted once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from spar_core.data.entry import D4rlEntry
from spar_core.data.entry_files import load_entry
from spar_core.data.readers.fetch import cache_path
from stages.layout import Layout
from tests import families
from tests.pipeline import Clone, shrunk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:.*share an object", "ignore:.* is set to None"),
]

MOVED, NOT_REPLAYED = "d4rl/hopper-medium-v2", "d4rl/door-cloned-v1"
ALL = os.environ.get("SPAR_REHEARSAL") == "all"
FEW = [MOVED, "d4rl/halfcheetah-medium-v2", NOT_REPLAYED, "minari/antmaze-umaze-v1", "minari/kitchen-complete-v2"]
RULES = ["anchor", "td3_bc", "spar_proj"]
MAZES = {
    "umaze": "AntMaze_UMaze-v4",
    "medium-play": "AntMaze_Medium-v4",
    "medium-diverse": "AntMaze_Medium_Diverse_GR-v4",
    "large-play": "AntMaze_Large-v4",
    "large-diverse": "AntMaze_Large_Diverse_GR-v4",
}


def fake(layout: Layout, dataset: str, made: dict[str, families.Arrays]) -> None:
    """Put what the dataset's server would send where a download puts it."""
    entry = load_entry(layout.dataset_entry(dataset))
    if not isinstance(entry, D4rlEntry):
        name = dataset.removeprefix("minari/antmaze-")
        maze = next((env for part, env in MAZES.items() if name.startswith(part)), None)
        kwargs = {"continuing_task": True} if maze else {"remove_task_when_completed": False}
        families.minari_dataset(entry.dataset, maze or "FrankaKitchen-v1", limit=12, **kwargs)
        return
    make = families.adroit if str(entry.env_id).startswith("spar/") else families.gym_mujoco
    if entry.env_id not in made:
        made[entry.env_id] = make(entry.env_id)
    arrays = dict(made[entry.env_id])
    if dataset == NOT_REPLAYED:
        arrays["rewards"] = arrays["rewards"] + np.float32(1.0)
    families.write_hdf5(cache_path(entry.url), arrays)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A scratch checkout that holds the study, with every dataset but one where it would be downloaded to."""
    folder = tmp_path_factory.mktemp("paper")
    clone = Clone(folder / "clone")
    clone.run("python", "-m", "stages.study", "paper")
    study = clone.params()["study"]
    datasets = study["datasets"] if ALL else FEW
    estimated = [dataset for dataset in datasets if dataset in study["estimated"]]
    small = shrunk(study["params"]) | {"evaluation": {"episodes": 1, "maze_episodes": 1}}
    clone.study(improvements=RULES, seeds=["0"], params=small, datasets=datasets, estimated=estimated)
    clone.environment |= {
        "SPAR_CACHE": str(folder / "cache"),
        "MINARI_DATASETS_PATH": str(folder / "minari"),
        "SPAR_CHECKPOINT_SECONDS": "1",
        "http_proxy": "http://127.0.0.1:9",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SPAR_CACHE", "MINARI_DATASETS_PATH"):
            patch.setenv(name, clone.environment[name])
        made: dict[str, families.Arrays] = {}
        for dataset in datasets:
            if dataset != MOVED:
                fake(Layout(clone.folder), dataset, made)
        yield clone


def interrupted(clone: Clone, after: float) -> str:
    """`make run`, interrupted some seconds after its first cell is done; what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.run", "--jobs", "2"],
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = [process.stdout.readline()]
    while lines[-1] and "done" not in lines[-1]:
        lines.append(process.stdout.readline())
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 130, "".join(lines) + rest
    return "".join(lines) + rest


def test_the_papers_study_goes_on_past_what_fails_and_ends_in_one_report(clone):
    datasets = clone.params()["study"]["datasets"]
    for after in np.random.default_rng(0).uniform(5, 25, 3 if ALL else 1):
        printed = interrupted(clone, after)
        assert "goes on from there" in printed and "Traceback" not in printed
    result = clone.run("python", "-m", "stages.run", "--jobs", "2", ok=False)
    # One dataset cannot be had. Everything that does not need it is done.
    assert result.returncode == 1 and "Traceback" not in result.stderr
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and f"failed: download@{MOVED}" in failed[0] and "cannot be" in failed[0], failed
    partial = clone.folder / "reports/paper/partial/report.md"
    assert f"partial report, {len(RULES)} missing cells" in result.stdout and partial.is_file()
    page = partial.read_text()
    assert (
        page.count("\n## d4rl/") + page.count("\n## minari/") == len(datasets) - 1
        and MOVED in page.split("Missing (rule")[1]
    )
    # Its address is mended, and the same command ends the study.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAR_CACHE", clone.environment["SPAR_CACHE"])
        fake(Layout(clone.folder), MOVED, {})
    result = clone.run("python", "-m", "stages.run", "--jobs", "2")
    page = (clone.folder / "reports/paper/report.md").read_text()
    assert page.count("\n## d4rl/") + page.count("\n## minari/") == len(datasets)
    manifest = json.loads((clone.folder / f"artifacts/data/{NOT_REPLAYED}/manifest.json").read_text())
    assert manifest["environment"]["not_evaluated"] and "Not evaluated: " in page.split(f"## {NOT_REPLAYED}")[1]
    # The fakes are small, so none of them stands beside published scores, and each says why.
    section = page.split("## Beside published scores")[1]
    assert "it holds 360 steps, and the published file of this name about 1,000,000" in section
    assert "published and measured" not in section
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
    assert sum(name.startswith("evaluate@") for name in lock) == len(datasets) * len(RULES)
