"""Rows that do not belong together: real rollouts pass, and the same rollouts with shifted actions are found out."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from spar_core.data.alignment import alignment
from spar_core.data.episodes import Episode


@pytest.fixture(scope="module")
def episodes():
    """Eight episodes of 150 steps of HalfCheetah; actions change slowly, as those of a robot do."""
    env, rng, found = gymnasium.make("HalfCheetah-v5"), np.random.default_rng(0), []
    for seed in range(8):
        observations, actions, action = [env.reset(seed=seed)[0]], [], np.zeros(6)
        for _ in range(150):
            action = np.clip(0.7 * action + 0.5 * rng.normal(size=6), -1, 1)
            actions.append(action)
            observations.append(env.step(action)[0])
        found.append(episode(np.array(observations), np.array(actions)))
    return found


def episode(observations, actions):
    return Episode(observations.astype("f4"), actions.astype("f4"), np.zeros(len(actions), "f4"), terminated=False)


def test_rollouts_are_aligned(episodes):
    found = alignment(episodes)
    assert found.best == 0 and found.lead == 0 and not found.misaligned
    assert found.explained[0] > 0.3


@pytest.mark.parametrize("rows", [-1, 1, 2])
def test_actions_that_were_logged_some_rows_off_are_found_out(episodes, rows):
    shifted = [episode(one.observations, np.roll(one.actions, rows, axis=0)) for one in episodes]
    found = alignment(shifted)
    assert found.misaligned and found.best == rows


def test_actions_that_explain_nothing_are_not_called_misaligned(episodes):
    rng = np.random.default_rng(1)
    assert not alignment([episode(one.observations, rng.normal(size=one.actions.shape)) for one in episodes]).misaligned


def test_few_steps_and_observations_that_never_change_say_nothing(episodes):
    assert alignment(episodes[:1]) is None
    still = [episode(np.zeros_like(one.observations), one.actions) for one in episodes]
    assert alignment(still) is None
    short = [episode(one.observations[:4], one.actions[:3]) for one in episodes]
    assert alignment(short * 100) is None
