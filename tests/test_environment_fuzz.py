"""Environments that break Gymnasium's contract at random: each is evaluated with right counts, or refused in one line.

``SPAR_FUZZ=20000`` tries so many instead of some hundred.
"""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from spar_core.artifacts import new_artifact
from spar_core.data.environments.actions import check_bounds, narrowed_bounds
from spar_core.data.environments.environment import environment_facts, make_env, require_time_limit
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block, roll_out
from spar_core.making.evaluations import write_episodes
from stages.cells import Cell
from tests.odd_envs import (
    ACTIONS,
    FLAGS,
    INFOS,
    RAISED,
    REFUSED,
    REWARDS,
    SIZE,
    SPACES,
    WHOLE,
    Breach,
    Odd,
    Plan,
    observations,
)

EXAMPLES = int(os.environ.get("SPAR_FUZZ", "300"))
CELL = Cell("evaluate", "mine/odd-v0", "mlp", "iql", "anchor", "0")
LONGEST = 6
raised = st.sampled_from([(error, REFUSED) for error in RAISED])


@st.composite
def breaches(draw, dtype: Any) -> Breach:
    where = draw(st.sampled_from(["step"] * 8 + ["reset"] * 2 + ["make", "close"]))
    episode = draw(st.sampled_from([None, 0, 1]))
    seen = st.sampled_from(observations(SIZE, dtype))
    places = {
        "step": {
            "observation": seen,
            "reward": st.sampled_from(REWARDS),
            "terminated": st.sampled_from(FLAGS),
            "truncated": st.sampled_from(FLAGS),
            "info": st.sampled_from(INFOS),
            "raise": raised,
            "whole": st.sampled_from(WHOLE),
        },
        "reset": {"observation": seen, "raise": raised, "whole": st.sampled_from(WHOLE)},
        "make": {"raise": raised},
        "close": {"raise": raised},
    }[where]
    place = draw(st.sampled_from(sorted(places)))
    value, meant = draw(places[place])
    # All environments of a block are made alike.
    return Breach(where, place, value, meant, draw(st.integers(1, LONGEST)), None if where == "make" else episode)


@st.composite
def plans(draw) -> Plan:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    fine = [name for name, (_, accepted) in SPACES.items() if accepted]
    return Plan(
        actions=draw(st.sampled_from(fine * 20 + list(SPACES))),
        dictionary=draw(st.booleans()),
        dtype=dtype,
        ends=tuple(draw(st.lists(st.integers(0, LONGEST), min_size=1, max_size=2))),
        limit=draw(st.sampled_from([1, 3, LONGEST] * 5 + [None, -1])),
        checked=draw(st.booleans()),
        breaches=tuple(draw(st.lists(breaches(dtype), max_size=3))),
    )


@dataclass
class Expected:
    """What should come of an episode.

    Attributes:
        total, length, terminated, success: its row; None where it should be refused.
        unsure: whether Gymnasium's wrappers may refuse it before this project does.
    """

    total: float = 0.0
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    refused: bool = False
    unsure: bool = False


def meaning(plan: Plan, episode: int) -> Expected:
    """What an episode plainly means, by the plan alone."""
    found, limit = Expected(), plan.limit or 0
    for breach in plan.at("reset", episode):
        if breach.place == "observation":
            found.refused = breach.meant is REFUSED
            continue
        found.refused = True
        break
    while not found.refused:
        found.length += 1
        meant: dict[str, Any] = {
            "observation": None,
            "reward": float(found.length),
            "terminated": found.length == plan.ends[episode % len(plan.ends)],
            "truncated": False,
            "info": None,
        }
        for breach in plan.at("step", episode, found.length):
            if breach.place in ("raise", "whole"):
                found.refused = True
                return found
            meant[breach.place] = breach.meant
        if found.length >= limit:
            meant["truncated"] = True  # by Gymnasium's time limit, whatever the environment says
        if any(meant[place] is REFUSED for place in ("reward", "terminated", "truncated", "info")):
            found.refused = True
            break
        found.total += meant["reward"]
        ended = meant["terminated"] or meant["truncated"]
        if meant["observation"] is REFUSED:
            # Nobody sees the observation after the end, but a dictionary is flattened all the same.
            found.refused, found.unsure = not ended, found.unsure or (ended and plan.dictionary)
        if meant["info"] is not None:
            found.success = bool(found.success) or meant["info"]
        if ended:
            found.terminated = meant["terminated"]
            break
    return found


def act(seen: np.ndarray) -> np.ndarray:
    """The middle of the bounds, and the policy's own check of what it sees."""
    assert seen.dtype == np.float32 and np.isfinite(seen).all()
    return np.full((len(seen), ACTIONS), 0.5, np.float32)


def evaluate(plan: Plan, folder: Path) -> list[dict[str, str]]:
    """What download and evaluation do with an environment; the rows that they write."""
    kwargs: dict[str, Any] = {"plan": plan, "disable_env_checker": not plan.checked}
    if plan.limit is not None:
        kwargs["max_episode_steps"] = plan.limit
    facts = environment_facts("tests.odd_envs:Odd-v0", kwargs)
    require_time_limit(facts, 5)
    bounds = narrowed_bounds((facts.action_low, facts.action_high), (None, None), str(facts.env_id))
    check_bounds(bounds, np.random.default_rng(0).uniform(-1, 1, (9, ACTIONS)).astype(np.float32), str(facts.env_id))
    assert facts.max_episode_steps is not None
    with new_artifact(folder) as draft:
        block = Block(0, 0, (Odd.FIRST, Odd.FIRST + 1))
        rows = roll_out(act, lambda: make_env(facts.env_id, kwargs), block, limit=facts.max_episode_steps)
        write_episodes(draft, CELL, rows)
    with (folder / "episodes.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(autouse=True)
def _quiet():
    """Gymnasium's checker warns of what this test is about; NumPy warns of numbers that are too large on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(plan=plans())
def test_evaluated_with_right_counts_or_refused_in_one_line(tmp_path_factory, plan):
    folder = tmp_path_factory.getbasetemp() / "fuzz" / "evaluation"
    accepted = SPACES[plan.actions][1] and plan.limit not in (None, -1) and not plan.at("make", -1)
    expected = [meaning(plan, episode) for episode in (0, 1)]
    refused = not accepted or any(one.refused for one in expected)
    unsure = any(one.unsure for one in expected)
    try:
        rows = evaluate(plan, folder)
    except SparError as error:
        event("refused")
        assert "\n" not in str(error) and len(str(error)) > 20
        assert refused or unsure, f"refused without a reason: {error}"
        assert not list(folder.parent.iterdir()), "something is left half-written"
        return
    event("evaluated with a breach" if plan.breaches else "evaluated")
    assert not refused, "evaluated, although it means nothing"
    for row, one in zip(rows, expected, strict=True):
        assert float(row["return"]) == one.total and int(row["length"]) == one.length
        assert row["terminated"] == str(one.terminated)
        assert row["success"] == ("" if one.success is None else str(one.success))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
