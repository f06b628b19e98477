"""External policies for tests of the anchor ``external``: the same function as an ONNX file and as a module."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spar_core.anchors.external import ExternalAnchor, ExternalAnchorSettings
from spar_core.data.dataset import Dataset
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.settings import parse
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, toy_dataset

SEEDS = (0, 3)
SCALER = Scaler(
    np.linspace(-1, 1, OBSERVATION_SIZE).astype(np.float32),
    np.linspace(0.5, 2, OBSERVATION_SIZE).astype(np.float32),
    np.array([-2.0, 0.0, -1.0], np.float32),
    np.array([2.0, 5.0, -0.5], np.float32),
)
WEIGHT = np.random.default_rng(1).normal(size=(OBSERVATION_SIZE, ACTION_SIZE)).astype(np.float32)


def wrapped(observations: np.ndarray) -> np.ndarray:
    """The policy that the file and the module hold: raw observations in, raw actions out, a few beyond the bounds."""
    return 2.0 * np.tanh(observations @ WEIGHT) + 1.0


def onnx_bytes(
    inputs: int = OBSERVATION_SIZE,
    outputs: int = ACTION_SIZE,
    batch: str | int = "batch",
    extra=(),
    weight=None,
    answers: tuple[str, ...] = ("y",),
) -> bytes:
    """MatMul, tanh, times 2, plus 1."""
    values = WEIGHT if (inputs, outputs) == WEIGHT.shape else np.ones((inputs, outputs), np.float32)
    constants = {"two": np.float32(2), "one": np.float32(1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["c"]),
        helper.make_node("Add", ["c", "one"], ["d"]),
        *extra,
        helper.make_node("Identity", ["e" if extra else "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, outputs]) for name in answers],
        [weight or numpy_helper.from_array(values, "w")]
        + [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if weight is None:
        onnx.checker.check_model(model)
    return model.SerializeToString()


def module(folder: Path, name: str, text: str) -> str:
    """Write a module, and give the name of its function ``act`` as the setting ``callable`` takes it."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return f"{name}:act"


GOOD = f"""
    import numpy as np

    WEIGHT = np.array({WEIGHT.tolist()}, np.float32)

    def act(observations):
        return 2.0 * np.tanh(observations @ WEIGHT) + 1.0
"""


def settings(**values) -> ExternalAnchorSettings:
    return parse(ExternalAnchorSettings, values, "params.yaml, anchor 'mine'")


def scaled_dataset() -> Dataset:
    toy = toy_dataset()
    return Dataset(toy.observations, toy.actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout, SCALER)


def fit(chosen: ExternalAnchorSettings) -> Fitted:
    return ExternalAnchor.fit(Context.quiet(scaled_dataset(), SEEDS), chosen)


def refused(chosen: ExternalAnchorSettings, message: str) -> None:
    """Assert that fitting fails with one short line that matches ``message``."""
    with pytest.raises(SparError, match=message) as caught:
        fit(chosen)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
