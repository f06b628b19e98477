"""Real environments as vectors: the sizes of each family, and which environments stand for which data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from spar_core.data.environments.environment import environment_facts, equivalence, make_env, matching_env
from spar_core.data.environments.flatten import observation_layout
from spar_core.errors import SparError

STEPS = 5


def leaves(values: Any) -> dict[str, np.ndarray]:
    if not isinstance(values, dict):
        return {"": np.asarray(values)}
    return {f"{name}/{path}": leaf for name, inner in values.items() for path, leaf in leaves(inner).items()}


# Dictionaries: achieved and desired goal, then the observation. Sizes by family:
# point mazes 2 + 2 + 4, ant mazes 2 + 2 + 27 (v4) or 105 (v5, with contact forces), the kitchen 17 + 17 + 59.
@pytest.mark.parametrize(
    ("env_id", "kwargs", "observations", "actions", "limit"),
    [
        ("PointMaze_UMaze-v3", {"continuing_task": False}, 8, 2, 300),
        ("PointMaze_Medium-v3", {}, 8, 2, 600),
        ("PointMaze_Large-v3", {}, 8, 2, 800),
        ("AntMaze_UMaze-v4", {}, 31, 8, 700),
        ("AntMaze_UMaze-v5", {}, 109, 8, 700),
        ("AntMaze_Medium_Diverse_GR-v4", {}, 31, 8, 1000),
        ("AntMaze_Large_Diverse_GR-v4", {}, 31, 8, 1000),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["kettle", "microwave"]}, 75, 9, 280),
        ("FrankaKitchen-v1", {}, 93, 9, 280),
        ("AdroitHandPen-v1", {"max_episode_steps": 100}, 45, 24, 100),
        ("AdroitHandDoor-v1", {}, 39, 28, 200),
        ("AdroitHandHammer-v1", {}, 46, 26, 200),
        ("AdroitHandRelocate-v1", {}, 39, 30, 200),
        ("Ant-v4", {"use_contact_forces": True}, 111, 8, 1000),
        ("Ant-v4", {}, 27, 8, 1000),
        ("Ant-v5", {}, 105, 8, 1000),
    ],
)
def test_a_vector_there_and_back(env_id, kwargs, observations, actions, limit):
    facts = environment_facts(env_id, kwargs)
    assert (facts.observation_size, len(facts.action_low), facts.max_episode_steps) == (observations, actions, limit)
    np.testing.assert_array_equal(facts.action_low, -np.ones(actions, np.float32))
    np.testing.assert_array_equal(facts.action_high, np.ones(actions, np.float32))

    env, raw = make_env(env_id, kwargs), gymnasium.make(env_id, **kwargs)
    try:
        layout = observation_layout(raw.observation_space)
        assert isinstance(env.observation_space, Box) and env.observation_space.shape == (observations,)
        assert facts.observation_layout == (None if layout.plain else layout.to_list())
        vector, values = env.reset(seed=3)[0], raw.reset(seed=3)[0]
        env.action_space.seed(3)
        for _ in range(STEPS):
            assert vector.shape == (observations,)
            back, wanted = leaves(layout.unflatten(vector)), leaves(values)
            assert set(back) == set(wanted)
            for name in wanted:
                np.testing.assert_array_equal(np.float32(back[name]), np.float32(wanted[name]))
            action = env.action_space.sample()
            vector, reward, *_ = env.step(action)
            values, wanted_reward, *_ = raw.step(action)
            assert reward == wanted_reward
    finally:
        env.close()
        raw.close()


def test_vectors_stay_as_they_are():
    env = make_env("Hopper-v5")
    assert "TransformObservation" not in str(env) and env.reset(seed=0)[0].dtype == np.float64
    assert environment_facts("Hopper-v5").observation_layout is None
    env.close()


def test_the_time_limit_cuts_the_episode():
    env = make_env("AdroitHandPen-v1", {"max_episode_steps": 100})
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]
    env.close()


def test_chosen_parts():
    keys = ["observation", "desired_goal"]
    facts = environment_facts("PointMaze_UMaze-v3", {}, keys)
    assert facts.observation_size == 6
    assert [part["path"] for part in facts.observation_layout] == keys
    env = make_env("PointMaze_UMaze-v3", {}, keys)
    vector, _ = env.reset(seed=0)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector[4:], np.float32(env.unwrapped.goal))
    env.close()


@pytest.mark.parametrize(
    ("env_id", "keys", "message"),
    [
        ("PointMaze_UMaze-v3", ["observations"], "'PointMaze_UMaze-v3' have no part .* did you mean 'observation'"),
        ("Hopper-v5", ["observation"], "'Hopper-v5' are not a dictionary"),
        ("FrozenLake-v1", None, "'FrozenLake-v1' are a Discrete space, not one vector"),
        ("PointMase_UMaze-v3", None, "not registered .* did you mean 'PointMaze_UMaze-v3'"),
        ("NoSuchThing-v0", None, "not registered .* install the package"),
        # Registered by gymnasium-robotics for a simulator that is no longer maintained.
        ("Hopper-v2", None, "'Hopper-v2' cannot be made"),
    ],
)
def test_refused(env_id, keys, message):
    for make in (make_env, environment_facts):
        with pytest.raises(SparError, match=message) as error:
            make(env_id, {}, keys)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "reason"),
    [
        ("Hopper-v5", {"xml_file": "/none.xml"}, "OSError: .*none.xml"),
        ("Hopper-v5", {"xml_file": 3}, "AttributeError"),
        ("Hopper-v5", {"max_episode_steps": -5}, "positive"),
        ("Hopper-v5", {"frame_skip": 0}, "ZeroDivisionError"),
        ("Hopper-v5", {"no_such": 0}, "unexpected keyword argument 'no_such'"),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["kettel"]}, "The task kettel cannot be found"),
        ("PointMaze_UMaze-v3", {"maze_map": []}, "IndexError"),
        ("a:b:c", {}, "ValueError"),
        ("", {}, "Malformed environment ID"),
    ],
)
def test_arguments_that_no_environment_takes(env_id, kwargs, reason):
    for make in (make_env, environment_facts):
        with pytest.raises(SparError, match=f"'{env_id}' cannot be made: .*{reason}.*; check 'env_id' and") as error:
            make(env_id, kwargs)
        assert "\n" not in str(error.value)


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = make_env("PointMaze_UMaze-v3")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    assert not list(tmp_path.iterdir())


def test_no_notice_on_other_environments():
    """In a fresh interpreter: importing gymnasium-robotics prints a notice that only Adroit's users need."""
    code = "from spar_core.data.environments.environment import make_env; make_env('AntMaze_UMaze-v4')"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert "Adroit" not in done.stderr and "out of date" not in done.stderr


@pytest.mark.parametrize(
    ("data", "env", "wanted", "allowed"),
    [
        ("Hopper-v5", None, "none", "none"),
        (None, None, "none", "none"),
        (None, "Hopper-v5", "same", "same"),
        ("Hopper-v5", "Hopper-v5", "same", "same"),
        ("AntMaze_UMaze-v4", "AntMaze_UMaze-v4", "same", "same"),
        ("Hopper-v2", "Hopper-v4", "documented", "documented"),
        ("HalfCheetah-v3", "HalfCheetah-v4", "documented", "documented"),
        ("Hopper-v2", "Hopper-v5", None, "mismatch"),
        ("Walker2d-v5", "Walker2d-v4", None, "mismatch"),
        ("Walker2d-v4", "Walker2d-v5", None, "mismatch"),
        ("Hopper-v5", "Walker2d-v5", None, "mismatch"),
        ("Ant-v2", "Ant-v5", None, "mismatch"),
        ("antmaze-umaze-v0", "AntMaze_UMaze-v4", "unverified", "mismatch"),
        ("AntMaze_UMaze-v3", "AntMaze_UMaze-v4", "unverified", "mismatch"),
        ("Hopper-v5", "PointMaze_UMaze-v3", "unverified", "mismatch"),
        ("mine/Walker-v1", "Walker2d-v5", "unverified", "mismatch"),
    ],
)
def test_equivalence(data, env, wanted, allowed):
    if wanted is None:
        hint = f"'{data}' .* '{env}'; set 'env_id: {matching_env(data)}'.*allow_environment_mismatch"
        with pytest.raises(SparError, match=hint):
            equivalence(data, env, allow_mismatch=False)
    else:
        assert equivalence(data, env, allow_mismatch=False) == wanted
    assert equivalence(data, env, allow_mismatch=True) == allowed
