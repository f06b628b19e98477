"""Dictionary observations as one vector: there and back, in an order that nothing but the names decides."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from hypothesis import given
from hypothesis import strategies as st

from spar_core.data.environments.flatten import ObservationLayout, Part, observation_layout
from spar_core.errors import SparError

NAMES = st.text("abXY _-.", min_size=1, max_size=3)
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)
TREES = st.deferred(lambda: st.dictionaries(NAMES, SHAPES | TREES, min_size=1, max_size=3))


def box(*shape: int) -> Box:
    return Box(-np.inf, np.inf, shape, np.float64)


def space_of(tree: Any) -> Any:
    """A space from nested dictionaries of shapes; ordered ones keep their order in Gymnasium."""
    if isinstance(tree, tuple):
        return box(*tree)
    return Dict(OrderedDict((name, space_of(inner)) for name, inner in tree.items()))


def values_of(tree: Any, rng: np.random.Generator, leading: tuple[int, ...] = ()) -> Any:
    if isinstance(tree, tuple):
        return rng.normal(size=(*leading, *tree))
    return {name: values_of(inner, rng, leading) for name, inner in tree.items()}


def turned(tree: Any) -> Any:
    """The same dictionaries, filled the other way round."""
    return tree if not isinstance(tree, dict) else {name: turned(tree[name]) for name in reversed(tree)}


def same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert set(one) == set(other)
        for name in one:
            same(one[name], other[name])
    else:
        assert other.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(one, np.float32), other)


def shapes_of(tree: Any) -> list[tuple[int, ...]]:
    return [tree] if isinstance(tree, tuple) else [shape for inner in tree.values() for shape in shapes_of(inner)]


@given(TREES, st.integers(0, 2**32 - 1), st.lists(st.integers(0, 4), max_size=2).map(tuple))
def test_there_and_back(tree, seed, leading):
    values = values_of(tree, np.random.default_rng(seed), leading)
    layout = observation_layout(space_of(tree))
    vectors = layout.flatten(values)
    assert vectors.shape == (*leading, sum(math.prod(shape) for shape in shapes_of(tree)))
    assert vectors.dtype == np.float32 and layout.size == vectors.shape[-1]
    same(values, layout.unflatten(vectors))


@given(TREES, st.integers(0, 2**32 - 1))
def test_insertion_order_changes_nothing(tree, seed):
    values = values_of(tree, np.random.default_rng(seed))
    layout, other = observation_layout(space_of(tree)), observation_layout(space_of(turned(tree)))
    assert layout == other
    np.testing.assert_array_equal(layout.flatten(values), other.flatten(turned(values)))


@given(TREES, st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_batch_is_its_rows(tree, seed, rows):
    def row(nested: Any, i: int) -> Any:
        return {k: row(v, i) for k, v in nested.items()} if isinstance(nested, dict) else nested[i]

    values = values_of(tree, np.random.default_rng(seed), (rows,))
    layout = observation_layout(space_of(tree))
    np.testing.assert_array_equal(
        layout.flatten(values), np.stack([layout.flatten(row(values, i)) for i in range(rows)])
    )


GOALS = {
    "observation": (3,),
    "desired_goal": {"kettle": (2,), "burner": (1,)},
    "achieved_goal": {"kettle": (2,), "burner": (1,)},
}


def paths(layout: ObservationLayout) -> list[str]:
    return [part.path for part in layout.parts]


def test_documented_order():
    layout = observation_layout(space_of(GOALS))
    assert layout.to_list() == [
        {"path": "achieved_goal/burner", "start": 0, "stop": 1, "shape": [1]},
        {"path": "achieved_goal/kettle", "start": 1, "stop": 3, "shape": [2]},
        {"path": "desired_goal/burner", "start": 3, "stop": 4, "shape": [1]},
        {"path": "desired_goal/kettle", "start": 4, "stop": 6, "shape": [2]},
        {"path": "observation", "start": 6, "stop": 9, "shape": [3]},
    ]
    assert json.loads(json.dumps(layout.to_list())) == layout.to_list()
    # Upper case comes before lower case, as in Python, and a name before the longer ones that begin with it.
    assert paths(observation_layout(space_of({"b": (1,), "B": (1,), "b2": (1,), "a": (1,)}))) == ["B", "a", "b", "b2"]


def test_keys_keep_their_order_and_may_name_a_subtree():
    layout = observation_layout(space_of(GOALS), ["observation", "desired_goal", "achieved_goal/kettle"])
    wanted = ["observation", "desired_goal/burner", "desired_goal/kettle", "achieved_goal/kettle"]
    assert paths(layout) == wanted and layout.size == 8
    values = values_of(GOALS, np.random.default_rng(0))
    back = layout.unflatten(layout.flatten(values))
    assert set(back["achieved_goal"]) == {"kettle"}
    np.testing.assert_array_equal(layout.flatten(values)[:3], values["observation"].astype(np.float32))


def test_a_key_does_not_take_longer_names():
    space = space_of({"goal": {"x": (1,)}, "goals": (2,), "goal_old": {"x": (1,)}})
    assert paths(observation_layout(space, ["goal"])) == ["goal/x"]


def test_rows_of_a_matrix_follow_each_other():
    layout = observation_layout(Dict({"m": box(2, 2)}))
    np.testing.assert_array_equal(layout.flatten({"m": [[1, 2], [3, 4]]}), [1, 2, 3, 4])


def test_plain_vectors_pass_through():
    layout = observation_layout(box(4))
    assert layout.plain and layout.parts == (Part("", 0, 4, (4,)),)
    vectors = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(layout.flatten(vectors), vectors)
    assert layout.unflatten(vectors) is vectors
    assert not observation_layout(space_of(GOALS)).plain


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (space_of(GOALS), ["observatoin"], "no part 'observatoin'; did you mean 'observation'"),
        (space_of(GOALS), ["achieved_goal/ketle"], "did you mean 'achieved_goal/kettle'"),
        (space_of(GOALS), ["desired"], "did you mean 'desired_goal'"),
        (space_of(GOALS), ["desired_goal", "desired_goal/kettle"], "names 'desired_goal/kettle' twice"),
        (space_of(GOALS), ["observation", "observation"], "names 'observation' twice"),
        (box(3), ["observation"], "are not a dictionary; remove 'observation_keys'"),
        (Discrete(3), None, "of 'X-v0' are a Discrete space, not one vector"),
        (box(2, 2), None, r"a Box space of shape \(2, 2\) and type float64, not one vector"),
        (Dict({"a": Dict({"b": Discrete(3)})}), None, "part 'a/b' .* is a Discrete space"),
        (Dict({"a": Tuple((box(1), box(1)))}), None, "part 'a' .* is a Tuple space"),
        (Dict({"a": MultiBinary(2)}), None, "part 'a' .* is a MultiBinary space"),
        (Dict({"a": Box(0, 255, (8, 8, 3), np.uint8)}), None, r"Box space of shape \(8, 8, 3\) and type uint8"),
        (Dict({"a": box(8, 8, 3)}), None, "at most two axes"),
        (Dict({"a/b": box(1)}), None, "the key 'a/b'; rename it: a key must be text without '/'"),
        (Dict({"a": box(0)}), None, "hold no numbers"),
    ],
)
def test_refused_spaces(space, keys, message):
    with pytest.raises(SparError, match=message) as error:
        observation_layout(space, keys, "'X-v0'")
    assert "\n" not in str(error.value)


def test_a_leaf_that_is_left_out_may_be_anything():
    space = Dict({"state": box(2), "image": Box(0, 255, (8, 8, 3), np.uint8)})
    with pytest.raises(SparError, match="part 'image'"):
        observation_layout(space)
    assert observation_layout(space, ["state"]).size == 2


def test_refused_observations():
    layout = observation_layout(Dict({"a": box(2), "b": box()}))
    with pytest.raises(SparError, match="has no part 'b'"):
        layout.flatten({"a": np.zeros(2)})
    with pytest.raises(SparError, match=r"part 'a' .* has the shape \(3,\), which does not end in \(2,\)"):
        layout.flatten({"a": np.zeros(3), "b": 0.0})
    with pytest.raises(SparError, match=r"leading axes: 'a' \(5,\), 'b' \(4,\)"):
        layout.flatten({"a": np.zeros((5, 2)), "b": np.zeros(4)})
    with pytest.raises(SparError, match=r"\(7, 4\) does not hold observations of 3 numbers"):
        layout.unflatten(np.zeros((7, 4)))
