"""Every remote dataset family, from a fake in its exact format on disk, through the entries as they are shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from spar_core.artifacts import read_json
from spar_core.data.entry_files import load_entry
from spar_core.data.environments.environment import make_env
from spar_core.data.loading import MANIFEST, load_dataset
from spar_core.data.readers.fetch import cache_path
from spar_core.errors import SparError
from stages.download import download
from stages.layout import Layout
from tests import families

# The kitchen hands out its own arrays, and Minari asks for authors and the like.
pytestmark = pytest.mark.filterwarnings("ignore:.*share an object", "ignore:.* is set to None")

ROOT = Path(__file__).resolve().parents[1]
# dataset: arrays of the fake, observation size, action size, what the manifest says of the environment.
D4RL = {
    "d4rl/hopper-medium-v2": (lambda: families.gym_mujoco("Hopper-v4"), 11, 3, "documented"),
    "d4rl/halfcheetah-medium-replay-v2": (lambda: families.gym_mujoco("HalfCheetah-v4"), 17, 6, "documented"),
    "d4rl/walker2d-random-v2": (lambda: families.gym_mujoco("Walker2d-v4"), 17, 6, "documented"),
    "d4rl/ant-medium-expert-v2": (families.ant_without_contact_forces, 111, 8, "documented"),
    "d4rl/door-human-v1": (lambda: families.adroit("spar/AdroitHandDoor-v0"), 39, 28, "replayed"),
    "d4rl/hammer-cloned-v1": (lambda: families.adroit("spar/AdroitHandHammer-v0"), 46, 26, "replayed"),
    "d4rl/relocate-expert-v1": (lambda: families.adroit("spar/AdroitHandRelocate-v0"), 39, 30, "replayed"),
    "d4rl/pen-human-v1": (lambda: families.adroit("spar/AdroitHandPen-v0"), 45, 24, "replayed"),
    "d4rl/antmaze-umaze-v2": (lambda: families.numbers(29, 8, 400, 100, at_goal=(150, 155)), 29, 8, "none"),
    "d4rl/maze2d-medium-v1": (lambda: families.numbers(4, 2, 300, 60), 4, 2, "none"),
    "d4rl/kitchen-partial-v0": (lambda: families.numbers(60, 9, 300, 75), 60, 9, "none"),
}
MINARI = {
    "mujoco/hopper-medium-v0": ("Hopper-v5", {}, 11, 3),
    "mujoco/ant-expert-v0": ("Ant-v5", {}, 105, 8),
    "minari/pen-human-v2": ("AdroitHandPen-v1", {}, 45, 24),
    "minari/door-cloned-v2": ("AdroitHandDoor-v1", {}, 39, 28),
    "minari/kitchen-partial-v2": ("FrankaKitchen-v1", {"remove_task_when_completed": False}, 59, 9),
    "minari/antmaze-umaze-v1": ("AntMaze_UMaze-v4", {"continuing_task": True}, 31, 8),
    "minari/pointmaze-umaze-v2": ("PointMaze_UMaze-v3", {"continuing_task": True}, 6, 2),
    "minari/pointmaze-open-dense-v2": ("PointMaze_OpenDense-v3", {"continuing_task": True}, 6, 2),
}


@pytest.fixture
def layout(tmp_path, monkeypatch) -> Layout:
    """A scratch project with the shipped entries, and caches of its own."""
    shutil.copytree(ROOT / "datasets", tmp_path / "datasets", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return Layout(tmp_path)


def check(layout: Layout, dataset: str, sizes: tuple[int, int], returns: list[float]) -> dict:
    """Download the dataset, load it, and reset its environment, if any; the manifest."""
    download(layout, dataset, 1)
    manifest = read_json(layout.data(dataset) / MANIFEST)
    assert (manifest["observation_size"], manifest["action_size"]) == sizes
    data = load_dataset(layout.minari_root, layout.data(dataset), dataset)
    assert (data.n_steps, len(data.lengths)) == (manifest["steps"], manifest["episodes"])
    assert manifest["episodes"] == len(returns)
    assert manifest["returns"]["mean"] == pytest.approx(np.mean(returns), abs=1e-3)
    environment = manifest["environment"]
    if environment["not_evaluated"] is None:
        env = make_env(environment["env_id"], environment["env_kwargs"], environment["observation_keys"])
        observation, _ = env.reset(seed=0)
        assert data.scaler.standardise(observation).shape == (sizes[0],)
        assert env.spec.max_episode_steps == environment["max_episode_steps"]
        env.close()
    return manifest


def returns_of(arrays: dict[str, np.ndarray], ends: np.ndarray) -> list[float]:
    """Returns between the ends, by plain addition."""
    totals, total = [], 0.0
    for reward, end in zip(arrays["rewards"].tolist(), ends, strict=True):
        total += reward
        if end:
            totals.append(total)
            total = 0.0
    return totals if ends[-1] else [*totals, total]


@pytest.mark.parametrize("dataset", D4RL)
def test_d4rl_file(layout, dataset):
    make, observations, actions, equivalence = D4RL[dataset]
    arrays = make()
    families.write_hdf5(
        cache_path(load_entry(layout.dataset_entry(dataset)).url), arrays, {"algorithm": "fake", "iteration": 7}
    )
    ends = arrays["terminals"] | arrays["timeouts"]
    manifest = check(layout, dataset, (observations, actions), returns_of(arrays, ends))
    assert manifest["steps"] == len(arrays["rewards"]) and manifest["environment"]["equivalence"] == equivalence
    assert manifest["comparable_to_d4rl"] == load_entry(layout.dataset_entry(dataset)).comparable_to_d4rl
    assert manifest["last_observation_unknown"] == ("next_observations" not in arrays) * manifest["episodes"]
    assert (manifest["environment"]["not_evaluated"] is None) == (equivalence != "none")
    if "ant-" in dataset:
        assert manifest["constant_observation_dimensions"] == list(range(27, 111))
    if "antmaze" in dataset:  # five steps at the goal end five episodes, the last four of one step each
        assert (manifest["terminated_episodes"], manifest["lengths"]["shortest"]) == (5, 1)
        data = load_dataset(layout.minari_root, layout.data(dataset), dataset)
        assert set(np.unique(data.rewards)) == {-1.0, 0.0} and manifest["returns"]["best"] == 1.0


@pytest.mark.parametrize("change", ["rewards", "observations", "no states"])
def test_a_d4rl_file_that_its_environment_does_not_reproduce_is_not_evaluated(layout, change):
    arrays = families.adroit("spar/AdroitHandDoor-v0")
    if change == "rewards":
        arrays["rewards"] += 0.2 * np.linalg.norm(arrays["observations"][:, 35:38], axis=1)
    elif change == "observations":
        arrays["observations"][:, 3] += 0.1 * arrays["observations"][:, 3].std()
    else:
        arrays = {name: values for name, values in arrays.items() if not name.startswith("infos")}
    families.write_hdf5(cache_path(load_entry(layout.dataset_entry("d4rl/door-human-v1")).url), arrays)
    environment = download(layout, "d4rl/door-human-v1", 1)["environment"]
    assert environment["equivalence"] == "unverified" and environment["not_evaluated"]
    assert "'spar/AdroitHandDoor-v0' is not known to be the environment" in environment["not_evaluated"]
    assert (environment["replay"] is None) == (change == "no states")


@pytest.mark.parametrize(
    ("dataset", "data_format"),
    [
        *((name, "hdf5") for name in MINARI),
        ("mujoco/hopper-medium-v0", "arrow"),
        ("minari/kitchen-partial-v2", "arrow"),
    ],
)
def test_minari_dataset(layout, dataset, data_format):
    env_id, kwargs, observations, actions = MINARI[dataset]
    minari_id = load_entry(layout.dataset_entry(dataset)).dataset
    returns = families.minari_dataset(
        minari_id,
        env_id,
        infos=lambda env: {"qpos": env.unwrapped.data.qpos.copy()} if "Hopper" in env_id else {},
        data_format=data_format,
        **kwargs,
    )
    manifest = check(layout, dataset, (observations, actions), returns)
    environment = manifest["environment"]
    assert environment["equivalence"] == "same" and environment["env_id"] == env_id
    assert manifest["source"]["minari_id"] == minari_id and not manifest["comparable_to_d4rl"]
    if observations in (59, 31, 6):
        paths = [part["path"] for part in environment["observation_layout"]]
        wanted = {59: ["observation"], 31: ["achieved_goal", "desired_goal", "observation"]}
        assert paths == wanted.get(observations, ["observation", "desired_goal"])


def test_dictionaries_of_data_without_an_environment_keep_their_layout(layout):
    """Policies of a robot's logs are given its dictionaries, and there is no environment that says their order."""
    minari_id = load_entry(layout.dataset_entry("minari/pointmaze-umaze-v2")).dataset
    families.minari_dataset(minari_id, "PointMaze_UMaze-v3", continuing_task=True)
    layout.dataset_entry("mine/maze-v0").parent.mkdir()
    entry = f"title: t\nsource: minari\ndataset: {minari_id}\nnot_evaluated: no simulator\n"
    layout.dataset_entry("mine/maze-v0").write_text(entry)
    environment = download(layout, "mine/maze-v0", 1)["environment"]
    paths = [part["path"] for part in environment["observation_layout"]]
    assert environment["env_id"] is None and paths == ["achieved_goal", "desired_goal", "observation"]


def test_a_mixed_pair_is_refused_or_labelled(layout):
    """Minari's -v5 data in -v4: refused by default, and marked in the manifest where the entry allows it."""
    families.minari_dataset("mujoco/walker2d/medium-v0", "Walker2d-v5")
    path = layout.dataset_entry("mujoco/walker2d-medium-v0")
    path.write_text(path.read_text() + "env_id: Walker2d-v4\n")
    with pytest.raises(SparError, match="comes from 'Walker2d-v5' and would be evaluated in 'Walker2d-v4'"):
        download(layout, "mujoco/walker2d-medium-v0", 1)
    path.write_text(path.read_text() + "allow_environment_mismatch: true\n")
    environment = download(layout, "mujoco/walker2d-medium-v0", 1)["environment"]
    assert environment["environment_mismatch"] and environment["not_evaluated"] is None


def test_a_file_put_by_hand_is_the_one_that_is_read(layout):
    """What stands in the cache is digested into the manifest, and a file changed there later is refused."""
    arrays = families.gym_mujoco("Hopper-v4", 100)
    path = cache_path(load_entry(layout.dataset_entry("d4rl/hopper-medium-v2")).url)
    families.write_hdf5(path, arrays)
    first = download(layout, "d4rl/hopper-medium-v2", 1)
    assert len(first["source"]["sha256"]) == 64
    with h5py.File(path, "a") as file:
        file["rewards"][0] = 100.0
    with pytest.raises(SparError, match="damaged"):
        download(layout, "d4rl/hopper-medium-v2", 1)
