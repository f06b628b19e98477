"""A fake of each kind of remote dataset through every real stage, to a policy that acts and one report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spar_core import load_policy
from spar_core.data.entry_files import load_entry
from spar_core.data.readers.fetch import cache_path
from stages import plan, report
from stages.layout import Layout
from tests import families
from tests.pipeline import Clone, run_cells

pytestmark = pytest.mark.filterwarnings("ignore:.*share an object", "ignore:.* is set to None")

FILES = {
    "d4rl/ant-medium-expert-v2": families.ant_without_contact_forces,
    "d4rl/pen-human-v1": lambda: families.adroit("spar/AdroitHandPen-v0"),
    "d4rl/antmaze-umaze-v2": lambda: families.numbers(29, 8, 400, 100, at_goal=(150, 155)),
}
DATASETS = {
    "minari/antmaze-umaze-v1": ("AntMaze_UMaze-v4", {"continuing_task": True}),
    "minari/pointmaze-umaze-v2": ("PointMaze_UMaze-v3", {"continuing_task": True}),
    "minari/kitchen-partial-v2": ("FrankaKitchen-v1", {"remove_task_when_completed": False}),
}
SIZES = {
    "d4rl/ant-medium-expert-v2": (111, 8),
    "d4rl/pen-human-v1": (45, 24),
    "d4rl/antmaze-umaze-v2": (29, 8),
    "minari/antmaze-umaze-v1": (31, 8),
    "minari/pointmaze-umaze-v2": (6, 2),
    "minari/kitchen-partial-v2": (59, 9),
}
RULES, SEEDS = ("anchor", "spar_proj"), "0"
NOT_EVALUATED = "d4rl/antmaze-umaze-v2"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A scratch checkout as the working directory, in which a study over all of them has run, cell by cell."""
    folder = tmp_path_factory.mktemp("families")
    clone = Clone(folder / "clone")
    clone.study(datasets=list(SIZES), improvements=list(RULES), seeds=[SEEDS], estimated=[NOT_EVALUATED])
    clone.set({"evaluation.episodes": 1, "evaluation.maze_episodes": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        for name, value in {"SPAR_WORKERS": "1", "SPAR_TRACKING": "off"}.items():
            patch.setenv(name, value)
        patch.setenv("SPAR_CACHE", str(folder / "cache"))
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        for dataset, make in FILES.items():
            families.write_hdf5(cache_path(load_entry(Layout().dataset_entry(dataset)).url), make())
        for dataset, (env_id, kwargs) in DATASETS.items():
            families.minari_dataset(load_entry(Layout().dataset_entry(dataset)).dataset, env_id, **kwargs)
        plan.run([])
        for dataset in SIZES:
            run_cells(dataset, RULES, SEEDS, estimated=dataset == NOT_EVALUATED)
        report.run([])
        yield clone


@pytest.mark.parametrize("dataset", SIZES)
def test_a_policy_comes_back_and_was_judged(project, dataset):
    cell = (dataset, "mlp", "iql", "spar_proj", SEEDS)
    policy = load_policy(Layout().artifact("policy", *cell))
    observations, actions = SIZES[dataset]
    seen = np.random.default_rng(0).normal(size=(3, observations))
    acted = policy.act(seen)
    assert acted.shape == (3, actions) and np.abs(acted).max() <= 1.0
    if policy.interface.layout is not None:
        assert policy.interface.dataset == dataset
        assert np.array_equal(policy.act(policy.interface.layout.unflatten(seen)), acted)
    assert (policy.interface.layout is not None) == dataset.startswith("minari/")
    rows = (Layout().artifact("evaluation", *cell) / "episodes.csv").read_text().splitlines()[1:]
    context = json.loads((Layout().artifact("evaluation", *cell) / "context.json").read_text())
    if dataset == NOT_EVALUATED:
        assert not rows and "another ant" in context["not_evaluated"]
        assert np.isfinite(
            json.loads((Layout().artifact("estimate", *cell) / "estimates.json").read_text())["fqe"]
        ).all()
    else:
        assert len(rows) == 1 and context["not_evaluated"] is None
    if dataset == "d4rl/ant-medium-expert-v2":  # contact forces that the data never had are not seen
        other = seen.copy()
        other[:, 27:] = 1.0
        assert np.array_equal(policy.act(other), acted)


def test_the_report_says_which_scores_may_be_compared(project):
    page = (Layout().report("default") / "report.md").read_text()
    sections = {part.split("\n")[0]: part for part in page.split("\n## ")[1:]}
    assert set(SIZES) <= sections.keys()
    for dataset in ("d4rl/ant-medium-expert-v2", "d4rl/pen-human-v1"):
        assert " Normalised scores: D4RL reference scores" in sections[dataset]
    assert "`Ant-v4` (documented to behave as the one that the data comes from, `Ant-v2`)" in page
    assert "(replaying states that the data recorded in `pen-v1` gives its observations, rewards and ends)" in page
    assert "Environment `FrankaKitchen-v1` (the one that the data comes from)" in page
    for dataset in ("minari/antmaze-umaze-v1", "minari/kitchen-partial-v2"):
        assert "not comparable with D4RL tables" in sections[dataset]
    assert "no normalised score" in sections["minari/pointmaze-umaze-v2"]
    assert "Not evaluated: AntMaze of gymnasium-robotics has another ant" in sections["d4rl/antmaze-umaze-v2"]
    metrics = json.loads((Layout().report("default") / "metrics.json").read_text())
    for key in metrics:
        assert ("fqe" in key or "critic" in key) == key.startswith(NOT_EVALUATED), key
