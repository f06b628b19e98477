"""Environments that a module of somebody else registers when it is imported."""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import gymnasium
import minari
import numpy as np
import pytest

from spar_core.data.entry_files import load_entry
from spar_core.data.environments.environment import equivalence, make_env
from spar_core.data.environments.ids import bare, in_module, module_of, resolved
from spar_core.data.readers.minari_io import write_minari
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.reporting.film.shoot import Job, _Drawing
from stages.download import download
from tests.test_data_d4rl import HIGH, LOW, make_episodes, write_flat
from tests.test_data_download import entry, refused

MODULE = """
import gymnasium
from tests.toy_envs import Toy
gymnasium.register("Theirs-v0", entry_point={maker}, max_episode_steps=7)
gymnasium.register("Theirs-v3", entry_point={maker}, max_episode_steps=7)
gymnasium.register("ours/Theirs-v0", entry_point={maker}, max_episode_steps=7)
"""


@pytest.fixture(params=["'tests.toy_envs:Toy'", "Toy"], ids=["text", "class"])
def module(request, here, monkeypatch):
    """The name of a module that lies in the working directory, and that nothing has imported yet."""
    for name in [name for name in gymnasium.registry if "Theirs" in name]:
        monkeypatch.delitem(gymnasium.registry, name)
    monkeypatch.syspath_prepend(str(here))
    (here / "their_envs.py").write_text(MODULE.format(maker=request.param))
    yield "their_envs"
    for name in [name for name in gymnasium.registry if "Theirs" in name]:
        del gymnasium.registry[name]


def flat(root, **values):
    write_flat(root / "x.hdf5", make_episodes([(5, True), (6, False), (4, True)]))
    return entry(root, "x-v0", **{"source": "d4rl_hdf5", "path": "x.hdf5", **values})


@pytest.mark.parametrize(
    "values",
    [
        {"env_id": "their_envs:Theirs-v0"},
        {"env_id": "Theirs-v0", "env_module": "their_envs"},
        {"env_id": "their_envs:Theirs-v0", "data_env_id": "Theirs-v0"},
        {"env_id": "Theirs-v0", "env_module": "their_envs", "data_env_id": "elsewhere:Theirs-v0"},
    ],
)
def test_an_entry_names_the_module_in_either_way(module, here, values):
    assert module not in sys.modules
    manifest = download(flat(here, **values), "x-v0", 1)
    environment = manifest["environment"]
    # Whatever makes the environment later imports the module too.
    assert environment["env_id"] == "their_envs:Theirs-v0"
    assert (environment["max_episode_steps"], environment["equivalence"]) == (7, "same")
    assert environment["not_evaluated"] is None
    assert minari.MinariDataset(here / "artifacts/minari/x-v0/data").env_spec.entry_point == "tests.toy_envs:Toy"


def test_a_name_without_a_version_and_one_in_a_namespace(module, here):
    manifest = download(flat(here, env_id="Theirs", env_module=module, data_env_id="Theirs-v3"), "x-v0", 1)
    assert manifest["environment"]["env_id"] == "their_envs:Theirs-v3"
    assert manifest["environment"]["equivalence"] == "same"
    manifest = download(flat(here, env_id="their_envs:ours/Theirs-v0", data_env_id="Theirs-v0"), "x-v0", 1)
    assert manifest["environment"]["equivalence"] == "unverified", "another namespace is another environment"


@pytest.mark.parametrize(
    "values",
    [{"env_module": "their_envs"}, {"env_id": "their_envs:Theirs-v0"}, {"env_id": "their_envs:Theirs-v0", "keep": 1}],
)
def test_a_minari_dataset_names_the_environment(module, here, monkeypatch, values):
    """Its metadata hold the bare id, as Gymnasium writes it; the entry adds the module."""
    folder = here / "logs/mine/theirs-v0"
    folder.mkdir(parents=True)
    gymnasium.make("their_envs:Theirs-v0")
    bounds = {"action_low": LOW, "action_high": HIGH, "env_id": "their_envs:Theirs-v0"}
    write_minari(folder, "mine/theirs-v0", make_episodes([(5, True), (6, False), (4, True)]), **bounds)
    metadata = folder / "data/metadata.json"
    assert json.loads(json.loads(metadata.read_text())["env_spec"])["id"] == "Theirs-v0"
    # The keyword arguments that the dataset names apply in either way.
    stated = json.loads(metadata.read_text())
    stated["env_spec"] = json.dumps({**json.loads(stated["env_spec"]), "kwargs": {"fault": "float64"}})
    metadata.write_text(json.dumps(stated))
    for name in [name for name in gymnasium.registry if "Theirs" in name]:
        monkeypatch.delitem(gymnasium.registry, name)
    del sys.modules[module]
    known = {key: value for key, value in values.items() if key != "keep"}
    layout = entry(here, "x-v0", source="minari", path="logs/mine/theirs-v0", **known)
    environment = download(layout, "x-v0", 1)["environment"]
    assert environment["env_id"] == "their_envs:Theirs-v0" and environment["equivalence"] == "same"
    assert environment["env_kwargs"] == {"fault": "float64"}


def test_workers_import_the_module_too(here, monkeypatch):
    """In a spawned process, as the evaluation's workers are: a fresh interpreter knows nothing of the module."""
    monkeypatch.syspath_prepend(str(here))
    (here / "their_envs.py").write_text(MODULE.format(maker="Toy"))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(limit_of, "their_envs:Theirs-v0").result() == 7


def limit_of(env_id: str) -> int | None:
    """The time limit of an environment, in a worker."""
    env = make_env(env_id)
    env.close()
    return env.spec.max_episode_steps


def test_films_make_it_and_mazes_of_a_module_are_mazes(module, here):
    job = Job((), "their_envs:Theirs-v0", {}, None, 0, (1,))
    with pytest.raises(SparError, match="render_mode"):  # The toy cannot draw itself.
        _Drawing(job)
    assert module in sys.modules
    assert EvaluationSettings().episodes_in("gymnasium_robotics:PointMaze_UMaze-v3") == 100
    env = make_env("gymnasium_robotics:PointMaze_UMaze-v3")
    assert env.observation_space.shape == (8,)
    env.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"env_id": "Theirs-v0"}, r"not registered .* set 'env_module: MODULE' .* or 'env_id: MODULE:Theirs-v0'"),
        (
            {"env_id": "no_such_module:Theirs-v0"},
            r"`import no_such_module` failed: ModuleNotFoundError: No module named",
        ),
        ({"env_id": "Theirs-v0", "env_module": "no_such_module"}, "`import no_such_module` failed"),
        ({"env_id": "Theirs-v0", "env_module": "broken"}, r"`import broken` failed: ZeroDivisionError: .* or add its"),
        ({"env_id": "Theirs-v0", "env_module": "exits"}, "`import exits` failed: SystemExit"),
        ({"env_id": "their_envs:Others-v0"}, "not registered with Gymnasium; `import their_envs` does not register it"),
        ({"env_id": "their_envs:Theirz-v0"}, r"did you mean 'their_envs:Theirs-v0'\?"),
        ({"env_id": "their_envs:Theirs-v9"}, r"did you mean 'their_envs:Theirs-v\d'\?"),
        ({"env_id": "their_envs:Theirs-v0", "env_module": "their_envs"}, "both name a module; remove 'env_module'"),
    ],
)
def test_refused(module, here, values, message):
    (here / "broken.py").write_text("1 / 0\n")
    (here / "exits.py").write_text("raise SystemExit(0)\n")
    refused(flat(here, **values), message)


def test_ids_are_compared_as_gymnasium_reads_them():
    assert [bare(name) for name in ("a.b:c/D-v0", "c/D-v0")] == ["c/D-v0"] * 2
    assert (module_of("a.b:c/D-v0"), module_of("c/D-v0")) == ("a.b", None)
    assert (in_module("m", "D-v0"), in_module(None, "m:D-v0"), in_module("m", None)) == ("m:D-v0", "m:D-v0", None)
    assert resolved("Hopper") == "Hopper-v5" and resolved("m:Nothing") == "Nothing"
    for ours in ("Hopper-v5", "gymnasium:Hopper-v5", "Hopper"):
        assert equivalence("Hopper-v5", ours, allow_mismatch=False) == "same"
    assert equivalence("Hopper-v2", "gymnasium:Hopper-v4", allow_mismatch=False) == "documented"
    with pytest.raises(SparError, match="set 'env_id: Hopper-v4'"):
        equivalence("Hopper-v2", "gymnasium:Hopper-v5", allow_mismatch=False)


def test_digests_of_entries_without_the_new_keys_stay(tmp_path):
    layout = entry(tmp_path, "x-v0", source="minari", path="x", env_kwargs={"a": 1})
    recipe = load_entry(layout.dataset_entry("x-v0")).recipe()
    assert not {"env_module", "action_low", "action_high", "title"} & recipe.keys() and recipe["env_id"] is None
    assert recipe["env_kwargs"] == {"a": 1}
    layout = entry(tmp_path, "x-v0", source="npz", path="x", env_module="m", action_low=[-1, 0])
    recipe = load_entry(layout.dataset_entry("x-v0")).recipe("path")
    assert recipe["env_module"] == "m" and recipe["action_low"] == [-1.0, 0.0] and recipe["action_high"] == 1.0
    assert "path" not in recipe


def test_arguments_that_json_cannot_hold(module, here):
    gymnasium.register("TheirsToo-v0", "tests.toy_envs:Toy", max_episode_steps=7, kwargs={"fault": np.float32})
    manifest = download(flat(here, env_id="TheirsToo-v0"), "x-v0", 1)
    assert manifest["environment"]["max_episode_steps"] == 7
    assert minari.MinariDataset(here / "artifacts/minari/x-v0/data").env_spec is None
