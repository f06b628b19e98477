"""Rows that do not belong together: real rollouts pass, and the same rollouts with shifted actions are found out."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pandas as pd
import pytest

from spar_core.data.alignment import alignment
from spar_core.data.episodes import Episode
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.health import State, findings
from spar_core.reporting.numbers.reading import COLUMNS
from spar_core.reporting.page.answer import health_of
from stages.download import run
from stages.layout import Layout
from tests.test_data_download import entry


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


@pytest.mark.parametrize("rows", [0, 1])
def test_download_says_so_and_the_report_is_not_green(episodes, tmp_path, capsys, rows):
    folder = tmp_path / "logs"
    folder.mkdir()
    for number, one in enumerate(episodes):
        actions = np.roll(one.actions, rows, axis=0)
        np.savez(folder / f"{number}.npz", observations=one.observations, actions=actions, rewards=one.rewards)
    entry(tmp_path, "x-v0", source="npz", path="logs", not_evaluated="no simulator")
    run(["--dataset", "x-v0", "--root", str(tmp_path)])
    said, manifest = capsys.readouterr(), json.loads((Layout(tmp_path).data("x-v0") / "manifest.json").read_text())
    told = "actions 1 row later explain" in said.out + said.err
    assert told == bool(rows) and ("misaligned" in manifest) == bool(rows)
    lead = {"misaligned": manifest["misaligned"]["lead"]} if rows else {}
    context = {"dataset": {"episodes": 200, **lead}}
    rule = Rule("x-v0", "mlp", "iql", "anchor", pd.DataFrame(columns=COLUMNS), context)
    (line,) = health_of(findings([rule], [], "uniform"))
    assert line.part == "data" and (line.state is State.GREEN) == (not rows)
