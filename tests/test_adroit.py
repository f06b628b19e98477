"""D4RL's Adroit environments: their rewards and ends, written out again from the simulator's state."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from spar_core.data.environments.environment import environment_facts, make_env
from spar_core.errors import SparError

pytest.importorskip("gymnasium_robotics")

LIMITS = {"Door": 200, "Hammer": 200, "Relocate": 200, "Pen": 100}
SIZES = {"Door": (39, 28), "Hammer": (46, 26), "Relocate": (39, 30), "Pen": (45, 24)}
# Every sum of bonuses that a task can pay.
BONUSES = {
    "Door": {0, 2, 10, 20},
    "Hammer": {0, 2, 25, 27, 100, 102},
    "Relocate": {0, 1, 11, 31},
    "Pen": {-5, 0, 10, 60},
}
TASKS = list(LIMITS)


def length(*ends: np.ndarray) -> float:
    return float(np.linalg.norm(np.subtract(*ends)))


# Each of D4RL's step functions, of the simulator: the reward but for bonuses, the bonuses, dropped, success.
Outcome = tuple[float, int, bool, bool]


def door(data: Any) -> Outcome:
    angle = data.joint("door_hinge").qpos[0]
    to_handle = length(data.site("S_grasp").xpos, data.site("S_handle").xpos)
    paid = -0.1 * to_handle - 0.1 * (angle - 1.57) ** 2 - 1e-5 * float((data.qvel**2).sum())
    return paid, 2 * (angle > 0.2) + 8 * (angle > 1.0) + 10 * (angle > 1.35), False, angle >= 1.35


def hammer(data: Any) -> Outcome:
    handle, head = data.body("Object").xpos, data.site("tool").xpos
    nail, goal = data.site("S_target").xpos, data.site("nail_goal").xpos
    paid = -0.1 * length(data.site("S_grasp").xpos, handle) - length(head, nail) - 10.0 * length(nail, goal)
    paid -= 0.01 * float(np.sqrt((data.qvel**2).sum()))
    left = length(nail, goal)
    lifted = min(handle[2], head[2]) > 0.04
    return paid, 2 * lifted + 25 * (left < 0.02) + 75 * (left < 0.01), False, left < 0.01


def relocate(data: Any) -> Outcome:
    ball, palm, target = data.body("Object").xpos, data.site("S_grasp").xpos, data.site("target").xpos
    paid = -0.1 * length(palm, ball)
    lifted = ball[2] > 0.04
    if lifted:
        paid -= 0.5 * (length(palm, target) + length(ball, target))
    left = length(ball, target)
    return paid, lifted + 10 * (left < 0.1) + 20 * (left < 0.05), False, left < 0.1


def pen(data: Any) -> Outcome:
    def direction(thing: str) -> np.ndarray:
        way = data.site(f"{thing}_top").xpos - data.site(f"{thing}_bottom").xpos
        return way / np.linalg.norm(way)

    away = length(data.body("Object").xpos, data.site("eps_ball").xpos)
    alike = float(direction("object") @ direction("target"))
    dropped = data.body("Object").xpos[2] < 0.075
    near = away < 0.075
    bonus = 10 * (near and alike > 0.9) + 50 * (near and alike > 0.95) - 5 * dropped
    return alike - away, bonus, dropped, near and alike > 0.95


D4RL = {"Door": door, "Hammer": hammer, "Relocate": relocate, "Pen": pen}


def poses(task: str, env: gymnasium.Env) -> list[dict[str, float]]:
    """Joint positions to start a step from that between them earn every bonus."""
    if task == "Door":
        return [{"door_hinge": angle, "latch": 1.8} for angle in (0.0, 0.3, 0.9, 1.2, 1.34, 1.36, 1.5)]
    if task == "Hammer":
        lifts = ({}, {"OBJTy": 0.3, "OBJTx": 0.4})  # The body lies on its side: its y is up.
        return [{**lift, "nail_dir": x} for lift in lifts for x in (0.0, 0.06, 0.075, 0.078, 0.094)]
    model, data = env.unwrapped.model, env.unwrapped.data
    if task == "Pen":
        model.body("target").quat = model.body("Object").quat
        turns = [{"OBJRy": turn} for turn in (0.0, 0.3, 0.38, 0.42, 0.47, 1.0, 3.0)]
        return turns + [{"OBJTx": fall} for fall in (0.05, 0.1, 0.17, 0.173, 0.174, 0.175, 0.176, 0.18, 0.2)]
    x, y, z = data.site("target").xpos - model.body("Object").pos
    beside = [{"OBJTx": x + gap, "OBJTy": y, "OBJTz": z} for gap in (0.0, 0.03, 0.07, 0.095, 0.105, 0.3)]
    return [*beside, {}, *({"OBJTz": lift} for lift in (0.003, 0.0045, 0.006, 0.0075))]


@pytest.mark.parametrize("task", TASKS)
def test_rewards_and_ends_are_d4rls(task):
    env = make_env(f"spar/AdroitHand{task}-v0")
    rng = np.random.default_rng(0)
    inner, seen, drops = env.unwrapped, set(), set()

    def step() -> None:
        _, reward, terminated, truncated, info = env.step(rng.uniform(-1.2, 1.2, SIZES[task][1]))
        paid, bonus, dropped, success = D4RL[task](inner.data)
        assert isinstance(reward, float) and reward == pytest.approx(paid + bonus, abs=1e-9)
        assert (terminated, truncated, bool(info["success"])) == (bool(dropped), False, bool(success))
        seen.add(int(bonus))
        drops.add(bool(dropped))

    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(40):
            step()
    for seed in range(3):
        env.reset(seed=seed)
        for pose in poses(task, env):
            inner.set_state(inner.init_qpos, inner.init_qvel)
            for joint, value in pose.items():
                inner.data.joint(joint).qpos = value
            inner.set_state(inner.data.qpos.copy(), rng.normal(0.0, 0.1, inner.model.nv))
            step()
    env.close()
    assert seen == BONUSES[task]
    assert drops == ({False, True} if task == "Pen" else {False})


@pytest.mark.parametrize("task", TASKS)
def test_only_what_differs_is_changed(task):
    ours, theirs = make_env(f"spar/AdroitHand{task}-v0"), make_env(f"AdroitHand{task}-v1")
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    rng = np.random.default_rng(1)
    for seed in (0, 1):
        mine, wanted = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        for _ in range(50):
            np.testing.assert_array_equal(mine, wanted)
            assert mine.dtype == wanted.dtype
            action = rng.uniform(-1.0, 1.0, SIZES[task][1]).astype(np.float32)
            mine, reward, _, truncated, info = ours.step(action)
            wanted, their_reward, terminated, their_truncated, their_info = theirs.step(action)
            assert (terminated, truncated, info) == (False, their_truncated, their_info)
            assert (reward == their_reward) == (task == "Pen")
            assert reward <= their_reward  # the distance is subtracted and no longer added
    ours.close()
    theirs.close()


@pytest.mark.parametrize("task", TASKS)
def test_time_limits_and_sizes(task):
    name = f"spar/AdroitHand{task}-v0"
    facts = environment_facts(name)
    assert (facts.observation_size, len(facts.action_low)) == SIZES[task]
    assert (facts.action_low == -1).all() and (facts.action_high == 1).all()
    assert facts.max_episode_steps == LIMITS[task]
    for kwargs, limit in (({}, LIMITS[task]), ({"max_episode_steps": 7}, 7)):
        env = make_env(name, kwargs)
        env.reset(seed=0)
        cut = [env.step(env.action_space.sample())[3] for _ in range(limit)]
        assert cut == [False] * (limit - 1) + [True]
        env.close()


def test_a_dropped_pen_ends_an_episode_at_once():
    """Random actions drop the pen in some episodes, not in all."""
    env = make_env("spar/AdroitHandPen-v0")
    env.action_space.seed(0)
    endings = set()
    for seed in range(12):
        env.reset(seed=seed)
        over = False
        while not over:
            height = float(env.unwrapped.data.body("Object").xpos[2])
            assert height >= 0.075  # else it would have ended a step before
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
        assert terminated == (float(env.unwrapped.data.body("Object").xpos[2]) < 0.075)
        endings.add(terminated)
    assert endings == {True, False}
    env.close()


def test_the_environment_can_be_made_again_from_its_spec():
    env = make_env("spar/AdroitHandDoor-v0", {"width": 64})
    again = gymnasium.make(env.spec)
    assert str(again) == str(env) and again.unwrapped.width == 64
    rewards = []
    for made in (env, again):
        made.reset(seed=0)
        rewards.append(made.step(np.zeros(28, np.float32))[1])
        made.close()
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("spar/AdroitHandDor-v0", {}, "not registered with Gymnasium; did you mean 'spar/AdroitHandDoor-v0'"),
        ("spar/AdroitHandDoor-v7", {}, "not registered with Gymnasium; did you mean 'spar/AdroitHandDoor-v0'"),
        ("spar/NoSuchThing-v0", {}, "not registered with Gymnasium"),
        ("spar/AdroitHandDoor-v0", {"reward_type": "sparse"}, "rewards are dense; remove 'reward_type'"),
        ("spar/AdroitHandDoor-v0", {"no_such_argument": 1}, "cannot be made"),
    ],
)
def test_refused(name, kwargs, message):
    with pytest.raises(SparError, match=message) as error:
        make_env(name, kwargs)
    assert "\n" not in str(error.value)
