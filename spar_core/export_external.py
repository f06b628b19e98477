"""Export of a policy around the user's own ONNX file: a graph before the file, the file, and a graph after it, as one.

The graph before the file standardises observations and gives the file what it takes. The graph after it brings the
file's actions to [-1, 1], and holds rule, clipping, committee and guard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spar_core.anchors.external import ExternalAnchor
from spar_core.errors import SparError
from spar_core.export_graph import PolicyGraph

if TYPE_CHECKING:
    import onnx

# What goes from the graph before the file to the graph after it, past the file.
STANDARDISED = "standardised"
# What goes into the file, and what comes out of it.
ASKED, ANSWER = "asked", "answer"
# Set before the names of the file and of the graph after it, because all three may use the same names.
OF_FILE, AFTER = "anchor/", "after/"

# Writes a module as an ONNX model: module, example inputs, names of inputs and outputs.
Write = Callable[[torch.nn.Module, tuple[Tensor, ...], list[str], list[str]], "onnx.ModelProto"]


class Before(torch.nn.Module):
    """Parts of raw observations to what the file takes [B, D], and to standardised observations [B, D]."""

    def __init__(self, graph: PolicyGraph, takes: torch.dtype) -> None:
        super().__init__()
        self.graph, self.takes = graph, takes

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        standardised = self.graph.standardise(*parts)
        return external(self.graph).units(standardised).to(self.takes), standardised


class After(torch.nn.Module):
    """Standardised observations [B, D] and the file's answer [B, A] to the outputs of the policy."""

    def __init__(self, graph: PolicyGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, standardised: Tensor, answer: Tensor) -> tuple[Tensor, ...]:
        anchor, actions = external(self.graph), answer.float()
        if anchor.settings.actions == "raw":
            actions = 2.0 * (actions - anchor.low) / (anchor.high - anchor.low) - 1.0
        # All seeds share the anchor.
        base = actions.clamp(-1.0, 1.0).unsqueeze(0).expand(self.graph.members, -1, -1)
        return self.graph.corrected(standardised, base)


def external(graph: PolicyGraph) -> ExternalAnchor:
    """The graph's anchor, which is external."""
    assert isinstance(graph.anchor, ExternalAnchor)
    return graph.anchor


def around_file(graph: PolicyGraph, file: bytes, example: tuple[Tensor, ...], write: Write) -> onnx.ModelProto:
    """One ONNX model of a policy whose anchor is an ONNX file.

    Args:
        graph: of the policy.
        file: the anchor's ONNX file; the anchor has checked that it has one input and one output.
        example: raw observations, by parts.
        write: the exporter.

    Raises:
        SparError: the file's operators cannot be brought to the version of the others.
    """
    import onnx
    from onnx import compose, inliner

    model = inliner.inline_local_functions(onnx.load_from_string(file))
    weights = {one.name for one in model.graph.initializer}
    # Old files list their weights among the inputs as well. What is listed there could be replaced at every call, and
    # formats before the fourth ask for it.
    (asked,) = [one for one in model.graph.input if one.name not in weights]
    (answer,) = model.graph.output
    del model.graph.input[:]
    model.graph.input.append(asked)
    model.ir_version = max(model.ir_version, 4)
    # The file's remarks could contradict the policy's.
    del model.metadata_props[:]
    types = [_torch_type(value.type.tensor_type.elem_type) for value in (asked, answer)]
    standardised = torch.zeros(len(example[0]), len(graph.mean))
    replied = torch.zeros(len(example[0]), len(graph.low), dtype=types[1])
    before = write(Before(graph, types[0]), example, graph.inputs, [ASKED, STANDARDISED])
    after = write(After(graph), (standardised, replied), [STANDARDISED, ANSWER], graph.outputs)
    before, model, after = _of_one_version(before, model, after)
    model = compose.add_prefix(model, OF_FILE)
    after = compose.add_prefix(after, AFTER, rename_outputs=False)
    through, given = [(ASKED, OF_FILE + asked.name)], OF_FILE + answer.name
    # The rule `anchor` does not look at the observations.
    past = [STANDARDISED] if any(one.name == AFTER + STANDARDISED for one in after.graph.input) else []
    first = compose.merge_models(before, model, through, outputs=[*past, given])
    return compose.merge_models(first, after, [*((name, AFTER + name) for name in past), (given, AFTER + ANSWER)])


def _torch_type(element: int) -> torch.dtype:
    import numpy as np
    from onnx import helper

    return torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(element))).dtype


def _of_one_version(*models: onnx.ModelProto) -> list[onnx.ModelProto]:
    """The models with the newest set of operators, and the newest format, that one of them has.

    Raises:
        SparError: a model cannot be converted.
    """
    from onnx import version_converter

    newest = max(map(_opset, models))
    same = []
    for model in models:
        try:
            same.append(model if _opset(model) == newest else version_converter.convert_version(model, newest))
        except Exception as error:  # the converter raises whatever its C++ code does
            raise SparError(
                f"the anchor's ONNX file has operators of version {_opset(models[1])}, which onnx cannot bring to one "
                f"version with those of this package, {_opset(models[0])}",
                f"export that policy again, with opset_version={_opset(models[0])}",
            ) from error
    for model in same:
        model.ir_version = max(one.ir_version for one in same)
    return same


def _opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators in a model; 1 if it has none of them."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
