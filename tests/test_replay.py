"""Replaying recorded states: the environment that recorded a file agrees with it, and others do not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spar_core.data.environments.environment import make_env
from spar_core.data.environments.replay import replay_check
from spar_core.data.environments.replay_report import OBSERVATION_TOLERANCE, ReplayReport
from spar_core.data.environments.replay_states import turn_to
from spar_core.errors import SparError

NAME = "AdroitHandDoor-v1"
D4RLS = "spar/AdroitHandDoor-v0"
ADROIT = ("Door", "Hammer", "Pen", "Relocate")
CONTACT_FORCES = {"use_contact_forces": True}
Arrays = dict[str, np.ndarray]


def record(env_id: str, kwargs: dict[str, Any] | None = None, steps: int = 600, cut: int = 80) -> Arrays:
    """Random actions in an environment, kept as D4RL keeps them: float32, episodes cut after ``cut`` steps."""
    env = make_env(env_id, kwargs)
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    observation, age = env.reset(seed=0)[0], 0
    for _ in range(steps):
        data = env.unwrapped.data
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        state = (data.qpos.copy(), data.qvel.copy())
        following, reward, terminated, *_ = env.step(action)
        age += 1
        over = terminated or age == cut
        timeout = over and not terminated
        rows.append((observation, following, action, float(np.squeeze(reward)), terminated, timeout, *state))
        observation, age = (env.reset()[0], 0) if over else (following, age)
    env.close()
    names = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
    columns = zip((*names, "infos/qpos", "infos/qvel"), zip(*rows, strict=True), strict=True)
    arrays = {name: np.array(column) for name, column in columns}
    return {name: a if a.dtype == bool else a.astype(np.float32) for name, a in arrays.items()}


def write(path: Path, arrays: Arrays, without: tuple[str, ...] = ("next_observations",), **replace) -> Path:
    """Write arrays as D4RL's flat HDF5; most of its files lack ``next_observations``."""
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **replace}.items():
            if name not in without:
                file[name] = values
    return path


@pytest.fixture(scope="module")
def recorded() -> Callable[..., Arrays]:
    """``record``, but each environment is recorded once."""
    kept: dict[str, Arrays] = {}

    def get(env_id: str, kwargs: dict[str, Any] | None = None) -> Arrays:
        key = f"{env_id} {kwargs}"
        if key not in kept:
            kept[key] = record(env_id, kwargs)
        return dict(kept[key])

    return get


def check(path: Path, env_id: str, kwargs: dict[str, Any] | None = None, **options: bool) -> ReplayReport:
    report = replay_check(path, env_id, kwargs, steps=200, **options)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("data_env", "env_id"),
    [("Hopper-v4", "Hopper-v4"), ("Walker2d-v4", "Walker2d-v4"), ("HalfCheetah-v4", "HalfCheetah-v5")],
)
def test_an_equivalent_environment_agrees(recorded, tmp_path, data_env, env_id):
    report = check(write(tmp_path / "a.hdf5", recorded(data_env)), env_id)
    assert report.agrees
    assert report.steps == 200
    assert report.set_state.largest == 0.0  # the very same arithmetic on the recorded float32 state
    assert report.one_step.p95 < 1e-4
    assert 0.0 < report.floor.p95 < 1e-4
    assert report.terminals_reproduced == report.terminals
    assert report.reading.startswith(f"{env_id} reproduces the file.")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("reset_model", r"'Hopper-v4' cannot be reset: RuntimeError: no licence; check 'env_id'"),
        (
            "set_state",
            "cannot be set to a recorded state: RuntimeError: no licence; .*allow_environment_mismatch: true",
        ),
        ("step", "cannot take a step from a recorded state: RuntimeError: no licence; .*allow_environment_mismatch"),
    ],
)
def test_an_environment_that_raises_is_one_line(recorded, tmp_path, monkeypatch, method, message):
    from gymnasium.envs.mujoco.hopper_v4 import HopperEnv

    def raising(*_: Any, **__: Any) -> None:
        raise RuntimeError("no licence\nsee the log")

    file = write(tmp_path / "a.hdf5", recorded("Hopper-v4"))
    usual = HopperEnv.set_state
    if method == "set_state":  # A reset sets a state too.
        calls: list[int] = []

        def raising(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("no licence")
            usual(*arguments)

    monkeypatch.setattr(HopperEnv, method, raising)
    with pytest.raises(SparError, match=message) as error:
        replay_check(file, "Hopper-v4")
    assert "\n" not in str(error.value)


def test_walker_with_other_friction_does_not_agree(recorded, tmp_path):
    report = check(write(tmp_path / "a.hdf5", recorded("Walker2d-v4")), "Walker2d-v5")
    assert not report.agrees
    assert not report.dynamics_agree
    assert report.observations_agree  # the observation is the same function of the state
    assert report.one_step.p95 > 3 * OBSERVATION_TOLERANCE
    # Slipping shows in joint velocities (dimensions 8 to 16), not in the torso's height and angle.
    assert report.worst_step[0][0] >= 8
    assert "does not reproduce the file's steps, rewards." in report.reading


def test_hopper_v5_differs_in_the_reward_of_terminal_steps_only(recorded, tmp_path):
    report = check(write(tmp_path / "a.hdf5", recorded("Hopper-v4")), "Hopper-v5")
    assert report.dynamics_agree
    assert report.reward.largest < 1e-4
    assert report.terminals > 5
    assert report.terminal_reward is not None
    assert report.terminal_reward.median == pytest.approx(1.0, abs=1e-3)
    assert not report.rewards_agree
    assert not report.agrees
    assert report.reading.startswith("Hopper-v5 does not reproduce the file's rewards.")
    assert "at terminal steps only" in report.reading


def test_an_environment_that_ends_where_the_file_goes_on_does_not_agree(recorded, tmp_path):
    data = recorded("Hopper-v4", {"terminate_when_unhealthy": False})
    path = write(tmp_path / "a.hdf5", data)
    report = check(path, "Hopper-v4")
    assert report.dynamics_agree
    assert report.false_terminals > 20
    assert not report.ends_agree
    assert not report.agrees
    assert check(path, "Hopper-v4", {"terminate_when_unhealthy": False}).agrees


def test_an_environment_that_goes_on_after_terminals_does_not_agree(recorded, tmp_path):
    path = write(tmp_path / "a.hdf5", recorded("Hopper-v4"))
    report = check(path, "Hopper-v4", {"terminate_when_unhealthy": False})
    assert (report.terminals_reproduced, report.ends_agree, report.agrees) == (0, False, False)
    assert f"at 0 of {report.terminals} steps" in report.reading
    cuts = check(path, "Hopper-v4", {"terminate_when_unhealthy": False}, terminals_are_truncations=True)
    assert cuts.ends_agree


def test_contact_forces_are_named_where_the_file_lacks_them(recorded, tmp_path):
    data = recorded("Ant-v4", CONTACT_FORCES)
    assert check(write(tmp_path / "forces.hdf5", data), "Ant-v4", CONTACT_FORCES).agrees
    # D4RL's ant files were recorded with a MuJoCo that left the 84 contact forces at zero.
    data["observations"] = data["observations"].copy()
    data["observations"][:, 27:] = 0.0
    report = check(write(tmp_path / "zero.hdf5", data), "Ant-v4", CONTACT_FORCES)
    assert not report.agrees
    assert report.rewards_agree
    assert report.dimensions_off == report.constant_dimensions_off > 5
    assert all(dimension >= 27 for dimension, _ in report.worst_step)
    assert len(report.worst_step) == 5
    assert "one value only" in report.reading
    # Without these dimensions the rest agrees.
    data["observations"] = data["observations"][:, :27]
    assert check(write(tmp_path / "short.hdf5", data), "Ant-v4").agrees


@pytest.mark.parametrize("version", ["AdroitHand{}-v1", "spar/AdroitHand{}-v0"])
@pytest.mark.parametrize("task", ADROIT)
def test_adroit_agrees_with_itself_and_scenes_are_inferred(recorded, tmp_path, task, version):
    pytest.importorskip("gymnasium_robotics")
    name = version.format(task)
    report = check(write(tmp_path / "a.hdf5", recorded(name)), name)
    assert report.agrees
    assert report.inferred
    # As exact as float32, so the scene and the sub-step of observed places are right in all episodes.
    assert report.set_state.largest < 1e-3
    assert report.one_step.p95 < 1e-3
    assert report.false_terminals == 0
    assert (report.reward_other_sign is None) == (task == "Pen" or name.startswith("spar/"))


def test_d4rls_adroit_and_gymnasiums_are_told_apart(recorded, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    report = check(write(tmp_path / "door.hdf5", recorded(D4RLS)), NAME)
    assert report.dynamics_agree and report.ends_agree and not report.rewards_agree
    assert "with D4RL's sign" in report.reading
    report = check(write(tmp_path / "back.hdf5", recorded(NAME)), D4RLS)
    assert report.dynamics_agree and not report.rewards_agree
    assert "with D4RL's sign" not in report.reading
    report = check(write(tmp_path / "pen.hdf5", recorded("spar/AdroitHandPen-v0")), "AdroitHandPen-v1")
    assert report.dynamics_agree and report.rewards_agree and not report.ends_agree
    assert report.terminals > 0 and report.terminals_reproduced == 0


def test_a_recorded_scene_is_used(recorded, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    data = recorded(NAME)
    env = make_env(NAME)
    env.reset(seed=0)
    frame = env.unwrapped.model.body_pos[env.unwrapped.door_body_id].astype(np.float32)
    env.close()
    first = {name: values[:80] for name, values in data.items()}  # the episode of this seed
    right = check(write(tmp_path / "right.hdf5", first, **{"infos/door_body_pos": np.tile(frame, (80, 1))}), NAME)
    assert right.agrees
    assert right.inferred == []
    moved = np.tile(frame + np.float32(0.02), (80, 1))
    wrong = check(write(tmp_path / "wrong.hdf5", first, **{"infos/door_body_pos": moved}), NAME)
    assert not wrong.observations_agree
    assert {dimension for dimension, _ in wrong.worst_set} <= set(range(32, 38))  # the handle, and the way to it
    assert "as soon as the recorded state is set" in wrong.reading


def test_the_sign_of_the_distance_explains_rewards(recorded, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    data = recorded(NAME)
    away = np.linalg.norm(data["next_observations"][:, 35:38], axis=1)
    report = check(write(tmp_path / "a.hdf5", data, rewards=data["rewards"] - 0.2 * away), NAME)
    assert report.dynamics_agree
    assert not report.rewards_agree
    assert report.reward.median == pytest.approx(0.2 * np.median(away), rel=0.1)
    assert report.reward_other_sign is not None
    assert report.reward_other_sign.largest < 1e-5
    assert "with D4RL's sign" in report.reading
    # Another difference is not explained away.
    report = check(write(tmp_path / "b.hdf5", data, rewards=data["rewards"] + 0.5), NAME)
    assert not report.rewards_agree
    assert "with D4RL's sign" not in report.reading


def test_next_observations_are_used_where_they_exist(recorded, tmp_path):
    data = recorded("HalfCheetah-v4")
    order = np.random.default_rng(0).permutation(len(data["rewards"]))
    shuffled = {name: values[order] for name, values in data.items()}
    assert check(write(tmp_path / "with.hdf5", shuffled, without=()), "HalfCheetah-v4").agrees
    assert not check(write(tmp_path / "without.hdf5", shuffled), "HalfCheetah-v4").agrees


def test_same_input_same_json(recorded, tmp_path):
    path = write(tmp_path / "a.hdf5", recorded("Hopper-v4"))
    first, second = (json.dumps(check(path, "Hopper-v4").to_dict(), allow_nan=False) for _ in range(2))
    assert first == second
    assert json.loads(first)["one_step"].keys() == {"median", "p95", "largest"}


def test_nothing_to_replay_gives_none(recorded, tmp_path):
    data = recorded("Hopper-v4")
    assert replay_check(write(tmp_path / "a.hdf5", data, without=("infos/qpos",)), "Hopper-v4") is None
    assert replay_check(write(tmp_path / "b.hdf5", data), "Pendulum-v1") is None  # holds no MuJoCo state


def test_other_sizes_and_broken_files_are_refused(recorded, tmp_path):
    data = recorded("Hopper-v4")
    with pytest.raises(SparError, match="11-dimensional observations"):
        check(write(tmp_path / "a.hdf5", data), "HalfCheetah-v4")
    qpos = np.zeros((len(data["rewards"]), 9), np.float32)
    with pytest.raises(SparError, match="9 positions"):
        check(write(tmp_path / "b.hdf5", data, **{"infos/qpos": qpos}), "Hopper-v4")
    with pytest.raises(SparError, match="differ in length"):
        check(write(tmp_path / "c.hdf5", data, **{"infos/qpos": data["infos/qpos"][1:]}), "Hopper-v4")
    with pytest.raises(SparError, match="no array 'actions'"):
        check(write(tmp_path / "d.hdf5", data, without=("actions",)), "Hopper-v4")
    with pytest.raises(SparError, match="two steps"):
        check(write(tmp_path / "e.hdf5", data, terminals=np.ones(len(qpos), bool)), "Hopper-v4")
    with pytest.raises(SparError, match="does not exist"):
        check(tmp_path / "none.hdf5", "Hopper-v4")
    (tmp_path / "text.hdf5").write_text("no HDF5")
    with pytest.raises(SparError, match="is not an HDF5 file"):
        check(tmp_path / "text.hdf5", "Hopper-v4")


@pytest.mark.parametrize("states", [np.float32(3.0), np.array([b"a"] * 600), np.zeros(600), np.zeros((600, 2, 3))])
def test_states_that_are_none_give_none(recorded, tmp_path, states):
    path = write(tmp_path / "a.hdf5", recorded("Hopper-v4"), **{"infos/qpos": states})
    assert replay_check(path, "Hopper-v4") is None


def test_states_that_claim_terabytes(recorded, tmp_path):
    path = write(tmp_path / "a.hdf5", recorded("Hopper-v4"), without=("infos/qpos",))
    with h5py.File(path, "a") as file:
        file.create_dataset("infos/qpos", (600, 10**10), "f4", chunks=(1, 1024), compression="gzip")
    with pytest.raises(SparError, match=r"'infos/qpos' of a\.hdf5 claims to hold"):
        check(path, "Hopper-v4")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize(
    "name", ["infos/qpos", "infos/qvel", "observations", "next_observations", "actions", "rewards"]
)
def test_steps_that_are_no_numbers_are_left_out(recorded, tmp_path, monkeypatch, name, bad):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write its log
    data = recorded("Hopper-v4")
    values = data[name].copy()
    values[::2] = bad
    report = check(write(tmp_path / "a.hdf5", data, without=(), **{name: values}), "Hopper-v4")
    assert report.agrees and 0 < report.steps < 200
    values[:] = bad
    assert replay_check(write(tmp_path / "b.hdf5", data, without=(), **{name: values}), "Hopper-v4") is None
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_scenes_come_from_rows_that_are_numbers(recorded, tmp_path, monkeypatch):
    """The stillest row of each episode is where a scene is inferred from; here it is damaged."""
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.chdir(tmp_path)
    data = recorded(NAME)
    seen = data["observations"].copy()
    for start in range(0, len(seen), 80):
        seen[start + np.abs(data["infos/qvel"][start : start + 80]).max(axis=1).argmin()] = np.nan
    report = check(write(tmp_path / "a.hdf5", data, observations=seen), NAME)
    assert report.agrees and report.inferred
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_a_scene_of_another_size(recorded, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    places = {"infos/door_body_pos": np.zeros((600, 2))}
    with pytest.raises(SparError, match="'infos/door_body_pos' holds 2 numbers a step, but the environment has 3"):
        check(write(tmp_path / "a.hdf5", recorded(NAME), **places), NAME)


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.6, -0.8, 0.0), (-0.48, 0.6, -0.64)])
def test_turn_to_carries_the_z_axis(direction):
    w, x, y, z = turn_to(2.0 * np.array(direction))
    third_column = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    np.testing.assert_allclose(third_column, direction, atol=1e-6)


def demonstrations() -> Path:
    """D4RL's door-human-v0."""
    path = Path(os.environ.get("SPAR_TEST_DATA", "")) / "d4rl-door-human-v0.hdf5"
    if not path.is_file():
        pytest.skip("set SPAR_TEST_DATA to the folder that holds d4rl-door-human-v0.hdf5")
    return path


def test_d4rls_door_demonstrations():
    """MuJoCo 2's steps come out as in the file; the reward's term for the distance has the other sign."""
    pytest.importorskip("gymnasium_robotics")
    path = demonstrations()
    report = check(path, NAME, terminals_are_truncations=True)  # so says the file's dataset entry
    assert report.ends_agree
    assert report.observations_agree
    assert report.dynamics_agree
    assert report.set_state.largest < 1e-4
    assert report.one_step.p95 < 1e-4
    assert report.steps_off < 0.03
    assert report.reward_other_sign is not None
    # One of the two signs is D4RL's, whichever release of gymnasium-robotics is installed.
    assert min(report.reward.p95, report.reward_other_sign.p95) < 1e-4
    assert report.rewards_agree == (report.reward.p95 < 1e-4)
    assert report.terminals_reproduced == 0
    assert not check(path, NAME).ends_agree


def test_d4rls_door_agrees_with_d4rls_demonstrations():
    pytest.importorskip("gymnasium_robotics")
    report = check(demonstrations(), D4RLS, terminals_are_truncations=True)
    verdicts = (report.observations_agree, report.dynamics_agree, report.rewards_agree, report.ends_agree)
    assert verdicts == (True,) * 4 and report.agrees
    assert report.reward.p95 < 1e-5 and report.one_step.p95 < 1e-4
    assert report.reward_other_sign is None
    assert report.reading.startswith(f"{D4RLS} reproduces the file.")
