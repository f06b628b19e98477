"""Reference scores: every row says where it comes from, and holds for its own time limit only."""

from __future__ import annotations

import pytest

from spar_core.data.reference import Reference, check_time_limit, reference_table
from spar_core.errors import SparError
from spar_core.settings import parse


def test_every_row_says_where_it_comes_from():
    of_d4rl = {name: row for name, row in reference_table().items() if name != "ogbench"}
    assert all(row.source.startswith("D4RL, d4rl/infos.py") for row in of_d4rl.values())
    assert "ogbench" in reference_table()["ogbench"].source.lower()


def test_numbers_as_published():
    """A few, read again by eye: a swapped pair or a slipped digit would shift every score."""
    table = {name: (row.min, row.max) for name, row in reference_table().items()}
    assert table["halfcheetah"] == (-280.178953, 12135.0) and table["hopper"] == (-20.272305, 3234.3)
    assert table["walker2d"] == (1.629008, 4592.3) and table["pen"] == (96.262799, 3076.8331017826877)
    assert table["maze2d-large"] == (6.7, 273.99) and table["antmaze"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("family", "steps"), [("pen", 100), ("door", 200), ("hopper", 1000), ("kitchen", 280), ("maze2d-medium", 600)]
)
def test_scores_hold_for_their_time_limit_alone(family, steps):
    check_time_limit(family, steps)
    with pytest.raises(
        SparError, match=rf"at most {steps} steps, but the environment allows {2 * steps}; set"
    ) as error:
        check_time_limit(family, 2 * steps)
    assert f"max_episode_steps: {steps}" in str(error.value)


def test_limits_that_are_not_compared():
    check_time_limit("antmaze", 700)
    check_time_limit("antmaze", 1000)
    check_time_limit("pen", None)
    with pytest.raises(SparError, match="did you mean 'pen'"):
        check_time_limit("penn", 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min": 0.0, "max": 1.0}, "key 'source' is missing"),
        ({"min": 0.0, "max": 1.0, "source": ""}, "source"),
        ({"min": 1.0, "max": 1.0, "source": "s"}, "'max' must be above 'min'"),
        ({"min": 0.0, "max": 1.0, "source": "s", "max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_bad_row(values, message):
    with pytest.raises(SparError, match=message):
        parse(Reference, values, "row")
