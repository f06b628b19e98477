"""The formats of an exported policy: how a file of each is written, and how it is asked.

Each takes a :class:`spar_core.export_graph.PolicyGraph` and a text that describes the policy.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spar_core.errors import SparError
from spar_core.export_external import around_file
from spar_core.export_graph import PolicyGraph

if TYPE_CHECKING:
    import onnx

OPSET = 17
# Key of the description in the metadata of an ONNX file, and among the extra files of a TorchScript file.
DESCRIPTION = "spar_policy.json"

# Inputs by name to outputs by name.
Run = Callable[[Mapping[str, NDArray[np.float32]]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffix: of the file's name.
        write: writes a graph with a description to a path.
        load: gives a function that asks the file at a path.
    """

    suffix: str
    write: Callable[[PolicyGraph, Path, str], None]
    load: Callable[[Path, PolicyGraph], Run]


def _write_onnx(graph: PolicyGraph, path: Path, description: str) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise SparError(f"an ONNX file needs the package {error.name}", "run `pip install .[export]`") from None
    if graph.file is None:
        model = _onnx_model(graph, _example(graph), graph.inputs, graph.outputs)
    else:
        model = around_file(graph, graph.file, _example(graph), _onnx_model)
    onnx.helper.set_model_props(model, {DESCRIPTION: description})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _onnx_model(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """A module of batches as an ONNX model; ``example`` are its inputs."""
    import onnx

    options: dict[str, Any] = {
        "input_names": inputs,
        "output_names": outputs,
        "dynamic_axes": {name: {0: "batch"} for name in (*inputs, *outputs)},
        "opset_version": OPSET,
        # Folding would make some sizes of the batch constants. The runtime folds what is constant.
        "do_constant_folding": False,
        "dynamo": False,
    }
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), _quiet():
        torch.onnx.export(module.eval(), example, Path(scratch) / "module.onnx", **options)
        return onnx.load(Path(scratch) / "module.onnx")


def _load_onnx(path: Path, graph: PolicyGraph) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; the runtime would print them as well
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    outputs = graph.outputs
    return lambda inputs: dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))


def _write_torch(graph: PolicyGraph, path: Path, description: str) -> None:
    with torch.no_grad(), _quiet():
        traced = torch.jit.trace(graph, _example(graph), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced.eval()), path, _extra_files={DESCRIPTION: description})


def _load_torch(path: Path, graph: PolicyGraph) -> Run:
    module, names = torch.jit.load(path), graph.inputs

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            answers = module(*(torch.from_numpy(inputs[name]) for name in names))
        return {name: answer.numpy() for name, answer in zip(graph.outputs, answers, strict=True)}

    return run


def _example(graph: PolicyGraph) -> tuple[torch.Tensor, ...]:
    """Inputs of three observations, along which the exporters follow the computation."""
    return tuple(torch.zeros(3, *shape) for shape in graph.parts.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of the exporters: that sizes become constants, which the comparison checks, and of old age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _load_onnx),
    "torch": Format(".pt", _write_torch, _load_torch),
}
