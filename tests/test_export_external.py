"""Exported policies whose anchor is the user's own ONNX file, which lies inside the exported one."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from spar_core import export_policy as exporting
from spar_core import load_policy
from spar_core.errors import SparError
from spar_core.export_formats import DESCRIPTION
from spar_core.export_policy import export_policy
from spar_core.guard import fit_guard
from tests.external_anchors import onnx_bytes
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, toy_dataset
from tests.test_export_policy import RAW, answer, save


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    monkeypatch.setattr(exporting, "CALLS", 3)
    monkeypatch.setattr(exporting, "WARM_UP", 1)


def policy_on(folder, parts, data: bytes, rule: str = "spar_mlp", **settings):
    """A policy whose anchor is an ONNX file, which is deleted again. In the policy's folder, it is a copy."""
    file = folder.with_name(f"{folder.name}.own.onnx")
    file.write_bytes(data)
    save(folder, parts, ("external", {"onnx": file, **settings}), (rule, {}))
    file.unlink()
    return folder


def acts_alike(policy, path) -> None:
    for rows in (1, 2, 1001):
        actions = answer(path, {"observations": RAW[:rows]})["actions"]
        np.testing.assert_allclose(actions, load_policy(policy).act(RAW[:rows]), atol=2e-4)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("anchor", {}),
        ("spar_mlp", {}),
        ("spar_proj", {"observations": "standardised"}),
        ("best_of_n", {"actions": "unit"}),
    ],
)
def test_an_onnx_file_as_the_anchor_is_exported(parts, tmp_path, rule, settings):
    policy = policy_on(tmp_path / "policy", parts, onnx_bytes(), rule, **settings)
    exported = export_policy(policy, tmp_path / "p.onnx")
    assert exported.deviation < 1e-4 and exported.ties <= 2 * (rule == "best_of_n")
    if rule != "best_of_n":
        acts_alike(policy, tmp_path / "p.onnx")


def odd_file(opset: int, kind: int, names: tuple[str, str], listed: bool = False) -> bytes:
    """tanh(x W), by operators of this version and under names that the exporter uses itself.

    Args:
        opset: of the operators.
        kind: element type of input and output.
        names: of input and output.
        listed: whether the weight is listed among the inputs, as old exporters do.
    """
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    values = np.linspace(-1, 1, OBSERVATION_SIZE * ACTION_SIZE).reshape(OBSERVATION_SIZE, ACTION_SIZE)
    weight = numpy_helper.from_array(values.astype(dtype), "weight")
    nodes = [
        helper.make_node("MatMul", [names[0], "weight"], ["after/standardised"], "/Div"),
        helper.make_node("Tanh", ["after/standardised"], ["/Div_output_0"], "/Sub"),
        helper.make_node("Identity", ["/Div_output_0"], [names[1]]),
    ]
    taken = [helper.make_tensor_value_info(names[0], kind, ["N", OBSERVATION_SIZE])]
    if listed:
        taken.insert(0, helper.make_tensor_value_info("weight", kind, list(values.shape)))
    given = [helper.make_tensor_value_info(names[1], kind, ["N", ACTION_SIZE])]
    graph = helper.make_graph(nodes, "own", taken, given, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if listed else 8)
    helper.set_model_props(model, {DESCRIPTION: "of another policy"})
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("opset", "kind", "names", "listed"),
    [
        (9, TensorProto.FLOAT, ("observations", "actions"), True),
        (17, TensorProto.DOUBLE, ("standardised", "answer"), False),
        (21, TensorProto.FLOAT, ("asked", "asked/out"), False),
        (13, TensorProto.FLOAT, ("actions", "observations"), False),
    ],
)
def test_files_of_any_version_type_and_names_are_joined(parts, tmp_path, opset, kind, names, listed):
    policy = policy_on(tmp_path / "policy", parts, odd_file(opset, kind, names, listed))
    export_policy(policy, tmp_path / "p.onnx")
    acts_alike(policy, tmp_path / "p.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    assert [one.name for one in session.get_inputs()] == ["observations"]
    assert not session.get_overridable_initializers()
    assert json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])["anchor"] == "external"


@pytest.mark.parametrize("rule", ["spar_proj", "best_of_n", "value_gradient"])
def test_rules_and_guard_follow_a_file_of_newer_operators(parts, tmp_path, rule):
    policy = policy_on(tmp_path / "policy", parts, odd_file(22, TensorProto.FLOAT, ("x", "y")), rule)
    exported = export_policy(policy, tmp_path / "p.onnx", guard=fit_guard(toy_dataset(), limit=1.5))
    assert exported.ties <= 2 * (rule == "best_of_n")
    versions = {one.domain: one.version for one in onnx.load(tmp_path / "p.onnx").opset_import}
    assert versions == {"": 22}


def test_a_file_with_functions_of_its_own_is_joined(parts, tmp_path):
    own = onnx.load_from_string(odd_file(17, TensorProto.FLOAT, ("x", "y")))
    half = helper.make_function(
        "mine", "Half", ["a"], ["b"], [helper.make_node("Tanh", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    own.functions.append(half)
    own.opset_import.append(helper.make_opsetid("mine", 1))
    own.graph.node[1].op_type, own.graph.node[1].domain = "Half", "mine"
    policy = policy_on(tmp_path / "policy", parts, own.SerializeToString())
    export_policy(policy, tmp_path / "p.onnx")
    acts_alike(policy, tmp_path / "p.onnx")


def test_behind_a_guard_the_file_itself_acts(parts, tmp_path):
    policy = policy_on(tmp_path / "policy", parts, onnx_bytes())
    alone = policy_on(tmp_path / "alone", parts, onnx_bytes(), "anchor")
    export_policy(policy, tmp_path / "p.onnx", guard=fit_guard(toy_dataset(), limit=1.5))
    found = answer(tmp_path / "p.onnx", {"observations": RAW})
    far = found["distance"] > 1.5
    assert 0.05 < far.mean() < 0.95
    expected = np.where(far[:, None], load_policy(alone).act(RAW), load_policy(policy).act(RAW))
    np.testing.assert_allclose(found["actions"], expected, atol=2e-4)


def test_an_exported_policy_is_improved_and_exported_again(parts, tmp_path):
    first = policy_on(tmp_path / "first", parts, onnx_bytes())
    export_policy(first, tmp_path / "first.onnx")
    second = policy_on(tmp_path / "second", parts, (tmp_path / "first.onnx").read_bytes(), "spar_proj")
    export_policy(second, tmp_path / "second.onnx", seed=parts.seeds[1])
    expected = load_policy(second, parts.seeds[1]).act(RAW)
    np.testing.assert_allclose(answer(tmp_path / "second.onnx", {"observations": RAW})["actions"], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("own", "format", "message"),
    [
        ("onnx", "torch", "the anchor 'external' cannot be exported to torch: it is an ONNX file; export to onnx"),
        ("callable", "onnx", "the anchor 'external' cannot be exported: it calls a Python function; use "),
        ("callable", "torch", "the anchor 'external' cannot be exported: it calls a Python function; use "),
    ],
)
def test_what_cannot_be_joined_is_one_line(parts, tmp_path, own, format, message):
    if own == "onnx":
        policy_on(tmp_path / "policy", parts, onnx_bytes(), "anchor")
    else:
        save(tmp_path / "policy", parts, ("external", {}), ("anchor", {}))
    with pytest.raises(SparError, match=message) as caught:
        export_policy(tmp_path / "policy", tmp_path / "p", format)
    assert "\n" not in str(caught.value) and not (tmp_path / "p").exists()


def test_a_file_of_half_precision_which_rounds_otherwise_inside_is_refused(parts, tmp_path):
    policy = policy_on(tmp_path / "policy", parts, odd_file(13, TensorProto.FLOAT16, ("x", "y")))
    with pytest.raises(SparError, match=r"at \d+ of 1000 observations the file deviates"):
        export_policy(policy, tmp_path / "p.onnx")


def test_operators_that_cannot_be_brought_together_are_one_line(parts, tmp_path, monkeypatch):
    policy = policy_on(tmp_path / "policy", parts, odd_file(9, TensorProto.FLOAT, ("x", "y")))

    def fails(*arguments):
        raise RuntimeError("adapter\nmissing")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    with pytest.raises(SparError, match=r"version 9, .* of this package, 17; export .* opset_version=17") as caught:
        export_policy(policy, tmp_path / "p.onnx")
    assert "\n" not in str(caught.value) and not (tmp_path / "p.onnx").exists()
