"""Bounds of actions: those that no network can learn within are refused, and missing ones can be set."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from spar_core.data.environments.actions import check_bounds, joined_bounds, narrowed_bounds
from spar_core.data.loading import load_dataset
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.improvement.base import Frozen
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from stages.download import download
from tests.fakes import fit_parts, kinds, tiny_settings, toy_dataset
from tests.test_data_d4rl import make_episodes, write_flat
from tests.test_data_download import entry, refused
from tests.toy_envs import ACTIONS, SIZE, STEPS


def flat(root, fault: str = "", actions=None, **values):
    """A file of two-dimensional actions in [-1, 1], or ``actions`` of them, for a toy with a fault."""
    episodes = make_episodes([(5, True), (6, False), (4, True)])
    if actions is not None:
        episodes = [replace(one, actions=np.float32(actions(one.actions))) for one in episodes]
    write_flat(root / "x.hdf5", episodes)
    defaults = {"env_id": "tests.toy_envs:Toy-v0", "env_kwargs": {"fault": fault}}
    return entry(root, "x-v0", **{"source": "d4rl_hdf5", "path": "x.hdf5", **defaults, **values})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "unbounded",
            r"no usable bounds in dimension 0 \(-inf to inf\); set 'action_low' and 'action_high' .* between -",
        ),
        ("half bounded", r"no usable bounds in dimension 1 \(-inf to 1\); set 'action_low'"),
        ("enormous", r"no usable bounds in dimension 0 \(-3e\+38 to 3e\+38\); set 'action_low'"),
        ("wide", r"which float32 cannot tell apart between the bounds of '.*', -1e\+30 and 1e\+30; set 'action_low'"),
        ("one value each", "equal in every action dimension"),
        ("integers", r"are Box\(-3, 3, \(2,\), int64\), not a bounded vector of floats; .* integers are not supported"),
        ("matrix", "not a bounded vector of floats"),
        ("discrete", r"are Discrete\(4\), not a bounded vector of floats"),
    ],
)
def test_refused(tmp_path, fault, message):
    refused(flat(tmp_path, fault), message)


@pytest.mark.parametrize("fault", ["unbounded", "half bounded", "enormous", "wide"])
@pytest.mark.parametrize(("low", "high"), [(-1.5, 1.0), ([-1.5, -1.5], [1, 1])])
def test_the_entry_sets_bounds_where_they_are_missing(tmp_path, fault, low, high):
    layout = flat(tmp_path, fault, action_low=low, action_high=high)
    download(layout, "x-v0", 1)
    scaler = json.loads((layout.data("x-v0") / "scaler.json").read_text())
    assert (scaler["action_low"], scaler["action_high"]) == ([-1.5, -1.5], [1.0, 1.0])
    space = minari.MinariDataset(layout.minari_root / "x-v0/data").action_space
    assert (space.low.tolist(), space.high.tolist()) == (scaler["action_low"], scaler["action_high"])
    assert np.abs(load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0").actions).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action_low": -2}, r"'action_low' .* is -2 in dimension 0, outside the bounds of '.*Toy-v0' \(-1 to 1\)"),
        ({"action_high": [1, 1.5]}, "'action_high' .* is 1.5 in dimension 1, outside"),
        ({"action_low": [-1]}, "'action_low' .* has 1 numbers, but actions have 2 dimensions"),
        ({"action_low": []}, "'action_low' .* has 0 numbers"),
        ({"action_low": 0.5, "action_high": -0.5}, "0.5 of action dimension 0 lies above the upper bound -0.5"),
        ({"action_low": -0.01}, "lies outside the bounds .*out_of_bounds_actions: clip"),
        ({"action_low": "wide"}, "x-v0.yaml: action_low"),
        ({"env_id": None, "env_kwargs": {}, "action_low": float("-inf")}, r"the data have no usable .* \(-inf to 1\)"),
        ({"env_id": None, "env_kwargs": {}, "action_high": float("nan")}, r"the data have no usable .* \(-1 to nan\)"),
        ({"env_id": None, "env_kwargs": {}, "action_high": 1e300}, r"the data have no usable .* \(-1 to inf\)"),
    ],
)
def test_bounds_of_the_entry_are_refused(tmp_path, values, message):
    refused(flat(tmp_path, **values), message)


def test_narrower_bounds_and_default_ones(tmp_path):
    layout = flat(tmp_path, action_low=-0.5, out_of_bounds_actions="clip")
    assert download(layout, "x-v0", 1)["clipped_actions"]["count"] > 0
    scaler = json.loads((layout.data("x-v0") / "scaler.json").read_text())
    assert (scaler["action_low"], scaler["action_high"]) == ([-0.5] * 2, [1.0] * 2)
    # With an environment, the defaults of an entry are no bounds.
    layout = flat(tmp_path, "integers", env_id=None, env_kwargs={}, not_evaluated="no simulator")
    download(layout, "x-v0", 1)
    scaler = json.loads((layout.data("x-v0") / "scaler.json").read_text())
    assert (scaler["action_low"], scaler["action_high"]) == ([-1.0] * 2, [1.0] * 2)


# --- Minari ---


def minari_dataset(root, space, env_spec=None):
    folder = root / "logs/theirs-v0/data"
    folder.mkdir(parents=True)
    observations = Box(-np.inf, np.inf, (SIZE,))
    spaces = {"observation_space": observations, "action_space": space}
    storage = MinariStorage.new(folder, **spaces, env_spec=env_spec, data_format="hdf5")
    storage.update_metadata({"dataset_id": "theirs-v0", "minari_version": minari.__version__})
    rng, never = np.random.default_rng(0), np.zeros(9, bool)
    actions = {
        "f": lambda: rng.uniform(-1, 1, (9, ACTIONS)).astype(np.float32),
        "i": lambda: rng.integers(-1, 2, (9, *space.shape)),
    }[space.dtype.kind]
    storage.update_episodes(
        EpisodeBuffer(
            id=i,
            observations=rng.normal(size=(10, SIZE)).astype(np.float32),
            actions=actions(),
            rewards=rng.normal(size=9),
            terminations=never,
            truncations=np.arange(9) == 8,
        )
        for i in range(3)
    )
    return {"source": "minari", "path": "logs/theirs-v0"}


UNBOUNDED = Box(-np.inf, np.inf, (ACTIONS,), np.float32)


def test_unbounded_minari_data_without_an_environment(tmp_path):
    values = minari_dataset(tmp_path, UNBOUNDED) | {"not_evaluated": "no simulator"}
    refused(entry(tmp_path, "x-v0", **values), r"the data have no usable bounds .*; set 'action_low' and 'action_high'")
    layout = entry(tmp_path, "x-v0", **values, action_low=-1, action_high=[1, 2])
    download(layout, "x-v0", 1)
    scaler = json.loads((layout.data("x-v0") / "scaler.json").read_text())
    assert (scaler["action_low"], scaler["action_high"]) == ([-1, -1], [1, 2])


@pytest.mark.parametrize(("fault", "known"), [("unbounded", False), ("", True)])
def test_unbounded_minari_data_with_an_environment(tmp_path, fault, known):
    """The environment's own bounds hold where it has some."""
    values = minari_dataset(tmp_path, UNBOUNDED)
    values |= {"env_id": "tests.toy_envs:Toy-v0", "env_kwargs": {"fault": fault}}
    layout = entry(tmp_path, "x-v0", **values)
    if not known:
        refused(layout, r"'tests.toy_envs:Toy-v0' have no usable bounds .*; set 'action_low' and 'action_high'")
        layout = entry(tmp_path, "x-v0", **values, action_low=-1, action_high=1)
    assert download(layout, "x-v0", 1)["clipped_actions"]["count"] == 0


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(-3, 3, (ACTIONS,), np.int64), r"actions of Minari dataset 'theirs-v0' are Box\(-3, 3, .*int64\), not a"),
        (Discrete(3), "actions of Minari dataset 'theirs-v0' are a Discrete space"),
    ],
)
def test_minari_data_of_integers(tmp_path, space, message):
    values = minari_dataset(tmp_path, space)
    refused(entry(tmp_path, "x-v0", **values, not_evaluated="no simulator"), message)


# --- a dimension of one value ---


def test_a_dimension_of_one_value_is_left_out_of_learning_and_put_back(tmp_path):
    layout = flat(tmp_path, "one value", actions=lambda a: np.stack([a[:, 0], np.full(len(a), 2.0)], 1))
    manifest = download(layout, "x-v0", 1)
    assert manifest["constant_action_dimensions"] == [1]
    data = load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
    assert np.isfinite(data.actions).all() and (data.actions[:, 1] == 0).all() and np.ptp(data.actions[:, 0]) > 0
    # Whatever a network says, the environment gets the one action that it accepts.
    raw = data.scaler.actions_from_unit(np.random.default_rng(0).uniform(-1, 1, (50, 2)))
    assert (raw[:, 1] == 2.0).all() and np.ptp(raw[:, 0]) > 1


def test_another_value_there_is_refused(tmp_path):
    refused(flat(tmp_path, "one value"), r"dimension 1 lies outside the bounds \[2, 2\]")


def test_the_scaler_maps_other_dimensions_as_before():
    low, high = np.array([-2, 1, -3], np.float32), np.array([0.5, 1, 7], np.float32)
    scaler = Scaler(np.zeros(1, np.float32), np.ones(1, np.float32), low, high)
    rng = np.random.default_rng(0)
    raw = rng.uniform(low, high, (100, 3)).astype(np.float32)
    unit = scaler.actions_to_unit(raw)
    kept = [0, 2]
    expected = (raw - low)[:, kept] * np.float32(2) / (high - low)[kept] - np.float32(1)
    assert unit.dtype == np.float32 and np.array_equal(unit[:, kept], expected) and (unit[:, 1] == 0).all()
    in_place = raw.copy()
    assert scaler.actions_to_unit(in_place, in_place=True) is in_place and np.array_equal(in_place, unit)
    np.testing.assert_allclose(scaler.actions_from_unit(unit), raw, atol=1e-6)


@pytest.fixture(scope="module")
def still():
    """A dataset whose second action dimension is always zero."""
    data = toy_dataset()
    actions = data.actions.copy()
    actions[:, 1] = 0.0
    return replace(data, actions=actions)


def finite(fitted: Fitted) -> bool:
    fitted.check_finite()
    return all(bool(torch.isfinite(tensor).all()) for tensor in fitted.tensors.values() if tensor.is_floating_point())


@pytest.mark.parametrize("family", ["anchor", "critic", "improvement"])
def test_every_member_learns_beside_it(still, family):
    from spar_core.registry import load_member

    parts = fit_parts(still, (0,))
    frozen: Frozen = parts.frozen((0,))
    for kind in kinds(family):
        member = load_member(family, kind)
        context, settings = Context.quiet(still, (0,)), tiny_settings(member)
        fitted = member.fit(context, frozen, settings) if family == "improvement" else member.fit(context, settings)
        assert finite(fitted), kind


# --- the functions ---


def bounds(low, high):
    return np.array(low, np.float32), np.array(high, np.float32)


def test_joined_bounds():
    ours, data = bounds([-1, -np.inf], [1, np.inf]), bounds([-1, -2], [np.inf, 3])
    low, high = joined_bounds(ours, data, "X-v0")
    assert (low.tolist(), high.tolist()) == ([-1, -2], [1, 3])
    with pytest.raises(SparError, match=r"\[-1.5, -2.0\] to \[1.0, 3.0\] are not those of 'X-v0'"):
        joined_bounds(ours, bounds([-1.5, -2], [1, 3]), "X-v0")
    near = bounds([-1 + 1e-7, 0], [1, 1])
    assert joined_bounds(ours, near, "X-v0")[0][0] == -1


def test_bounds_that_are_left_alone_keep_their_bits():
    ours = bounds([-1, -2], [1, 2])
    assert all(a is b for a, b in zip(narrowed_bounds(ours, (None, None), "X"), ours, strict=True))
    check_bounds(ours, np.float32([[0, 0], [0.5, 0.5]]), "X")
    check_bounds(bounds([-1e4, 0], [1e4, 1]), np.float32([[0, 0.1], [1, 0.1]]), "X")
    check_bounds(bounds([np.inf], [0]), np.empty((0, 1), np.float32), "X")


def test_the_registered_toys_have_a_time_limit():
    assert gymnasium.spec("Toy-v0").max_episode_steps == STEPS
