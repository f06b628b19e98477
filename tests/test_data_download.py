"""The download stage end to end: every source, every refusal, and the same bytes every time."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import minari
import numpy as np
import pytest
import yaml

from spar_core.anchors.mlp import MLPAnchor
from spar_core.anchors.quality import measure
from spar_core.artifacts import digest_folder
from spar_core.data.environments.environment import environment_facts, make_env
from spar_core.data.episodes import Episode
from spar_core.data.loading import load_dataset
from spar_core.data.prepare import choose_heldout
from spar_core.data.readers.minari_io import write_minari
from spar_core.errors import SparError
from spar_core.training.context import Context
from stages.download import download
from stages.layout import Layout
from tests.fakes import fit_parts, save_rule
from tests.test_data_d4rl import make_episodes, write_flat

ROOT = Path(__file__).parents[1]
BEHAVIOUR = ROOT / "datasets" / "behaviour" / "halfcheetah"


def entry(root: Path, dataset: str, /, **values) -> Layout:
    """Write an entry into a scratch project."""
    layout = Layout(root)
    path = layout.dataset_entry(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"title": "t", **values}))
    return layout


def hopper_episodes(layout: list[tuple[int, bool]]) -> list[Episode]:
    """Random episodes in the shape of Hopper."""
    rng = np.random.default_rng(1)
    return [
        Episode(
            rng.normal(size=(steps + 1, 11)).astype(np.float32),
            rng.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
            rng.normal(size=steps).astype(np.float32),
            terminated,
        )
        for steps, terminated in layout
    ]


def flat_hopper(root: Path, **values) -> Layout:
    write_flat(root / "x.hdf5", hopper_episodes([(5, True), (6, False), (4, True)]))
    return entry(root, "x-v0", **{"source": "d4rl_hdf5", "path": "x.hdf5", "env_id": "Hopper-v5", **values})


def refused(layout: Layout, match: str, dataset: str = "x-v0") -> None:
    """The download is refused in one line and leaves nothing behind."""
    with pytest.raises(SparError, match=match) as error:
        download(layout, dataset, 1)
    assert "\n" not in str(error.value)
    assert not layout.data(dataset).exists()
    left = (layout.root / "artifacts").rglob("*") if (layout.root / "artifacts").exists() else ()
    assert not [path for path in left if path.is_file()]


def builtin(root: Path, steps: int = 3000) -> Layout:
    shutil.copytree(BEHAVIOUR, root / "behaviour")
    return entry(
        root,
        "builtin/tiny-v0",
        source="builtin",
        behaviour="behaviour",
        env_id="HalfCheetah-v5",
        steps=steps,
        reference="halfcheetah",
    )


def test_builtin_is_the_same_to_the_byte(tmp_path, monkeypatch):
    digests = []
    for workers in (1, 2):
        layout = builtin(tmp_path / str(workers), steps=2500)
        manifest = download(layout, "builtin/tiny-v0", workers)
        digests.append(digest_folder(layout.root / "artifacts"))
    assert digests[0] == digests[1]
    text = "".join(p.read_text() for p in layout.data("builtin/tiny-v0").iterdir())
    assert str(tmp_path) not in text

    assert (manifest["steps"], manifest["episodes"]) == (2500, 3)
    assert manifest["terminated_episodes"] == 0 and not manifest["comparable_to_d4rl"]
    assert sum(row["episodes"] for row in manifest["source"]["behaviour"]) == 3
    assert manifest["reference"]["source"]

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(layout.minari_root))
    stored = minari.load_dataset("builtin/tiny-v0")
    assert (stored.total_steps, stored.total_episodes) == (2500, 3)
    assert stored.env_spec.id == "HalfCheetah-v5"
    last = stored[2]
    assert len(last.rewards) == 500 and last.truncations[-1] and not last.terminations.any()

    data = load_dataset(layout.minari_root, layout.data("builtin/tiny-v0"), "builtin/tiny-v0")
    assert data.n_steps == 2500 and data.heldout.sum() == 1
    train = data.observations[data.observation_index[data.train_steps]]
    np.testing.assert_allclose(train.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(train.std(0), 1.0, atol=1e-3)
    assert np.abs(data.actions).max() <= 1.0


def test_d4rl_file(tmp_path):
    layout = flat_hopper(tmp_path, out_of_bounds_actions="clip", heldout_share=0.4)
    manifest = download(layout, "x-v0", 1)
    assert (manifest["episodes"], manifest["steps"], manifest["terminated_episodes"]) == (3, 15, 2)
    assert manifest["heldout_episodes"] == 1 and manifest["environment"]["env_id"] == "Hopper-v5"
    data = load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
    np.testing.assert_array_equal(data.terminated, [True, False, True])
    first = digest_folder(tmp_path / "artifacts")
    download(layout, "x-v0", 1)  # replaces it
    assert digest_folder(tmp_path / "artifacts") == first


def test_parts_that_do_not_belong_together(tmp_path):
    layout = flat_hopper(tmp_path)
    download(layout, "x-v0", 1)
    path = layout.data("x-v0") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0"}))
    with pytest.raises(SparError, match=r"do not match the digest in its manifest; run `python -m stages.download"):
        load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
    with pytest.raises(SparError, match="does not exist"):
        load_dataset(layout.minari_root, layout.data("y-v0"), "y-v0")


def test_local_minari_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    folder = tmp_path / "minari/mine/hopper-v0"
    folder.mkdir(parents=True)
    facts = environment_facts("Hopper-v5")
    bounds = {"action_low": facts.action_low, "action_high": facts.action_high}
    write_minari(folder, "mine/hopper-v0", hopper_episodes([(5, True), (6, False)]), env_id="Hopper-v5", **bounds)
    layout = entry(tmp_path / "a", "x-v0", source="minari", dataset="mine/hopper-v0")
    manifest = download(layout, "x-v0", 1)
    assert manifest["environment"]["env_id"] == "Hopper-v5" and manifest["steps"] == 11
    layout = entry(tmp_path / "b", "x-v0", source="minari", dataset="mine/hopper-v0", env_id="Hopper-v4")
    refused(layout, "comes from 'Hopper-v5'.*'Hopper-v4'.*allow_environment_mismatch")


def _minari_entry(tmp_path, monkeypatch, error: Exception) -> Layout:
    def unavailable(*_, **__):
        raise error

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(minari, "download_dataset", unavailable)
    return entry(tmp_path, "x-v0", source="minari", dataset="mujoco/hopper/medium-v0")


def test_minari_without_network(tmp_path, monkeypatch):
    layout = _minari_entry(tmp_path, monkeypatch, ConnectionError("unreachable\nin two lines"))
    refused(layout, "cannot be downloaded .* check the network")


def test_minari_without_the_download_package(tmp_path, monkeypatch):
    layout = _minari_entry(tmp_path, monkeypatch, ImportError("huggingface_hub is not installed."))
    refused(layout, "pip install 'minari")


def test_minari_id_that_does_not_exist(tmp_path, monkeypatch):
    layout = _minari_entry(tmp_path, monkeypatch, ValueError("Couldn't find any version"))
    folder = tmp_path / "minari/mujoco/hopper/medium-v1"
    folder.mkdir(parents=True)
    bounds = {"action_low": np.full(3, -1, np.float32), "action_high": np.full(3, 1, np.float32)}
    write_minari(folder, "mujoco/hopper/medium-v1", hopper_episodes([(5, True)]), **bounds)
    refused(layout, "there is no Minari dataset .* did you mean 'mujoco/hopper/medium-v1'")


def test_url_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    layout = entry(
        tmp_path,
        "x-v0",
        source="d4rl_hdf5",
        url="http://127.0.0.1:9/x.hdf5",
        env_id="Hopper-v4",
        data_env_id="Hopper-v2",
    )
    refused(layout, "cannot be fetched .* check the network")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"env_id": "Walker2d-v5"}, "11-dimensional observations and 3-dimensional actions"),
        ({"env_id": "Hopper-v5", "data_env_id": "Hopper-v2"}, "set 'env_id: Hopper-v4'"),
        ({"env_id": "Hoper-v5"}, "not registered.*did you mean 'Hopper-v5'"),
        ({"env_kwargs": {"no_such_argument": 1}}, "cannot be made"),
        ({"reference": "hoper"}, "did you mean 'hopper'"),
        ({"path": "y.hdf5"}, "does not exist"),
    ],
)
def test_refused(tmp_path, values, message):
    refused(flat_hopper(tmp_path, **values), message)


@pytest.mark.parametrize("name", ["observations", "rewards", "actions"])
def test_nan_is_refused(tmp_path, name):
    layout = flat_hopper(tmp_path)
    episodes = hopper_episodes([(5, True), (6, False), (4, True)])
    getattr(episodes[1], name)[2] = np.nan
    write_flat(tmp_path / "x.hdf5", episodes)
    refused(layout, f"{name} hold a NaN in episode 1, step 2")


def test_out_of_bounds_and_truncated_files_are_refused(tmp_path):
    layout = flat_hopper(tmp_path)
    episodes = hopper_episodes([(5, True), (6, False)])
    episodes[0].actions[0, 0] = 2.0
    write_flat(tmp_path / "x.hdf5", episodes)
    refused(layout, "outside the bounds")
    whole = (tmp_path / "x.hdf5").read_bytes()
    (tmp_path / "x.hdf5").write_bytes(whole[: len(whole) // 2])
    refused(layout, "truncated")


def test_allowed_mismatch_is_labelled(tmp_path):
    layout = flat_hopper(tmp_path, data_env_id="Hopper-v2", allow_environment_mismatch=True, comparable_to_d4rl=True)
    manifest = download(layout, "x-v0", 1)
    assert manifest["environment"]["environment_mismatch"] and not manifest["comparable_to_d4rl"]


def bandit(root: Path, steps: list[int], **flags) -> Layout:
    """Episodes of these lengths without next observations, and with these flags."""
    write_flat(root / "x.hdf5", make_episodes([(n, False) for n in steps]), ("next_observations",), **flags)
    return entry(root, "x-v0", source="d4rl_hdf5", path="x.hdf5")


def test_episodes_of_one_step(tmp_path):
    """Cut before an unknown observation, they teach nothing; if each is terminal, they are a bandit's data."""
    for count in (2, 12):
        (tmp_path / str(count)).mkdir()
        layout = bandit(tmp_path / str(count), [1] * count)
        refused(layout, f"no step of the {count - 1} training episodes shows what follows it")
        bandit(layout.root, [1] * count, terminals=np.ones(count, bool))
        download(layout, "x-v0", 1)
        data = load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
        assert data.bootstrap_steps.tolist() == data.train_steps.tolist() and len(data.train_steps) >= 1
    assert download(bandit(tmp_path, [2, 2]), "x-v0", 1)["episodes"] == 2


def test_all_stages_take_two_episodes_of_one_step(tmp_path):
    layout = bandit(tmp_path, [1, 1], terminals=np.ones(2, bool))
    download(layout, "x-v0", 1)
    data = load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
    parts = fit_parts(data, (0, 2))
    context = Context.quiet(data, (0, 2))
    anchor = MLPAnchor.restore(parts.settings("anchor"), parts.anchor.tensors)
    assert np.isfinite(measure(anchor, context, data)["anchor/heldout_mse"]).all()
    save_rule(tmp_path / "policy", "spar_mlp", parts, data, data.scaler)


def test_no_environment():
    with pytest.raises(SparError, match="no environment"):
        make_env(None)
    with pytest.raises(SparError, match="not a bounded vector"):
        environment_facts("CartPole-v1")


def test_dataset_without_environment(tmp_path):
    write_flat(tmp_path / "x.hdf5", make_episodes([(5, True), (6, False)]))
    layout = entry(tmp_path, "x-v0", source="d4rl_hdf5", path="x.hdf5")
    environment = download(layout, "x-v0", 1)["environment"]
    assert environment["env_id"] is None and environment["not_evaluated"] == "no environment is named for it"
    assert load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0").n_steps == 11


def test_heldout_depends_on_seed_and_count_alone():
    def heldout(episodes: int, share: float, seed: int) -> list[int]:
        return choose_heldout([str(i) for i in range(episodes)], share, seed)

    assert heldout(100, 0.1, 0) == heldout(100, 0.1, 0) != heldout(100, 0.1, 1)
    assert len(heldout(100, 0.1, 0)) == 10 and len(heldout(2, 0.01, 0)) == 1
    assert len(heldout(2, 0.99, 0)) == 1
    with pytest.raises(SparError, match="at least two"):
        heldout(1, 0.1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_episode_stay_on_one_side(seed):
    digests = list("abcabcdefdda")
    held = choose_heldout(digests, 0.5, seed)
    apart = {digests[i] for i in held}
    assert len(apart) == 3 and held == [i for i, digest in enumerate(digests) if digest in apart]
    with pytest.raises(SparError, match="all 3 the same"):
        choose_heldout(["a"] * 3, 0.5, seed)


def test_snapshots_that_do_not_fit(tmp_path):
    layout = builtin(tmp_path)
    entry(tmp_path, "x-v0", source="builtin", behaviour="behaviour", env_id="Hopper-v5", steps=10)
    refused(layout, "maps 17-dimensional observations to 6-dimensional actions, but 'Hopper-v5' has 11 and 3")
    index = tmp_path / "behaviour/index.yaml"
    first = yaml.safe_load(index.read_text())["snapshots"][0]["file"]
    (tmp_path / "behaviour" / first).write_bytes(b"no tensors")
    refused(layout, "is not an actor snapshot", "builtin/tiny-v0")
    (tmp_path / "behaviour" / first).unlink()
    refused(layout, "does not exist", "builtin/tiny-v0")


def test_shipped_replay_and_door_entries(tmp_path):
    """The files of SPAR_TEST_DATA, through the shipped entries."""
    if not os.environ.get("SPAR_TEST_DATA"):
        pytest.skip("SPAR_TEST_DATA is not set")
    shutil.copytree(ROOT / "datasets/replay", tmp_path / "datasets/replay")
    layout = Layout(tmp_path)
    manifest = download(layout, "replay/hopper-trpo-v0", 1)
    assert (manifest["episodes"], manifest["steps"]) == (193, 99_066)
    assert manifest["returns"]["mean"] == pytest.approx(1444, abs=1)
    assert not manifest["comparable_to_d4rl"] and manifest["clipped_actions"]["count"] == 0
    data = load_dataset(layout.minari_root, layout.data("replay/hopper-trpo-v0"), "replay/hopper-trpo-v0")
    assert data.n_steps == 99_066 and data.heldout.sum() == 19
    shutil.copytree(ROOT / "datasets/d4rl", tmp_path / "datasets/d4rl")
    manifest = download(layout, "d4rl/door-human-v0", 1)
    assert (manifest["episodes"], manifest["steps"], manifest["truncated_episodes"]) == (25, 6729, 25)
    assert manifest["returns"]["mean"] == pytest.approx(795.7, abs=0.05)
    assert manifest["last_observation_unknown"] == 25
    data = load_dataset(layout.minari_root, layout.data("d4rl/door-human-v0"), "d4rl/door-human-v0")
    assert data.cut_blind.all() and len(data.bootstrap_steps) == len(data.train_steps) - 25 + data.heldout.sum()
