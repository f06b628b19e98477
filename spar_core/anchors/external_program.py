"""Act with a file of ``torch.export.save`` without unpickling it, and without running any Python that it holds.

``torch.export.load`` (Torch 2.13) is not used, for it trusts its file:

* ``data/sample_inputs/*.pt``, which every file has, is read by ``torch.load(weights_only=True)`` and, where that
  fails, by ``torch.load(weights_only=False)``, so a hostile record there runs as code;
* weights and constants marked ``use_pickle`` go through ``torch.load(weights_only=False)``, ``opaque_obj_*`` through
  ``pickle.loads``, ``custom_obj_*`` through the TorchScript unpickler, and archives of Torch before 2.8 (and legacy
  ``<model>.pt`` records) through ``torch.load`` with the same fallback;
* besides pickles, operators are looked up as attributes of ``torch`` (``torch.os.system`` is one), symbolic sizes
  are evaluated by sympy, guards and names end up in generated Python, and ``data/aotinductor`` is native code.

This module reads the archive with ``zipfile`` and ``json``, takes weights and constants as raw bytes, and calls the
graph's ATen operators one after the other. Sample inputs, guards, metadata and ``extra`` files are never looked at.
Refused: every other record, pickled weights or constants, operators outside ATen (but for arithmetic on sizes and
``no_grad``), ATen operators that take a text other than a mode (those open files), and state that changes.
"""

from __future__ import annotations

import io
import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spar_core.errors import SparError

# What torch.export writes (torch/_export/serde/schema.py): SCHEMA_VERSION's major number, and its enums.
SCHEMA = 8
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
STRIDED = 7
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}

MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/", "data/constants/"
READ = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|archive_format|archive_version|byteorder"
)
IGNORED = re.compile(r"data/sample_inputs/model\.pt|extra/.*|\.data/.*")

ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
ON_SIZES = {
    f"_operator.{name}": getattr(operator, name)
    for name in (
        "add",
        "sub",
        "mul",
        "floordiv",
        "mod",
        "neg",
        "pos",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
    )
}
NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"
# Names of the arguments that an operator may be given a text for; `filename` is not one (aten::from_file, aten::save).
TEXTS = frozenset(
    {"approximate", "assert_msg", "equation", "indexing", "interpolation", "mode", "norm", "ord", "padding"}
    | {"padding_mode", "reduce", "rounding_mode", "side"}
)

HINT = "export it with torch.export.save of this Torch, or as ONNX"


class _Unreadable(Exception):
    """The file is not what torch.export.save writes."""


class Program:
    """A policy of one tensor of observations [B, D] and one of actions [B, A], on the CPU.

    Raises:
        SparError: the file is damaged, or holds what is refused here.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        try:
            records = _records(data, name)
            program = json.loads(records[MODEL])
            if program["schema_version"]["major"] != SCHEMA:
                raise _Unreadable(f"schema {program['schema_version']['major']}, not {SCHEMA}")
            self._graph = program["graph_module"]["graph"]
            self._state, self._input = self._inputs(program["graph_module"]["signature"], records)
            meta = self._graph["tensor_values"][self._input]
            self._dtype = DTYPES[meta["dtype"]]
            sizes = [size.get("as_int") for size in meta["sizes"]]
            self._check(self._graph)
        except (_Unreadable, zipfile.BadZipFile, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise SparError(
                f"{name} is damaged or not a file of torch.export.save ({type(error).__name__}: {error})", HINT
            ) from None
        except RuntimeError as error:  # Torch, of weights that do not fit their sizes
            raise SparError(f"{name} is damaged ({error})", HINT) from None
        if len(sizes) != 2:
            raise SparError(f"{name} takes a tensor of {len(sizes)} dimensions", "it must take observations [B, D]")
        if sizes[0] is not None:
            raise SparError(
                f"{name} was exported for batches of exactly {sizes[0]}",
                'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)',
            )
        self.observation_size: int | None = sizes[1]

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        values = {**self._state, self._input: torch.from_numpy(observations).to(self._dtype)}
        with torch.no_grad():
            (answer,) = self._run(self._graph, values)
        if any(tensor._version for tensor in self._state.values()):
            raise SparError(f"{self.name} changes its own weights as it acts", "export it in eval mode")
        return answer.to(torch.float32 if answer.dtype == torch.bfloat16 else answer.dtype).numpy()

    # --- reading ---

    def _inputs(self, signature: Mapping[str, Any], records: Mapping[str, bytes]) -> tuple[dict[str, Tensor], str]:
        """Weights and constants by their names in the graph, and the name of the observations."""
        weights, constants = _tensors(records, WEIGHTS, self.name), _tensors(records, CONSTANTS, self.name)
        state: dict[str, Tensor] = {}
        given: list[str] = []
        for spec in signature["input_specs"]:
            ((kind, value),) = spec.items()
            if kind == "parameter":
                state[value["arg"]["name"]] = weights[value["parameter_name"]]
            elif kind == "buffer":
                state[value["arg"]["name"]] = (weights if value["persistent"] else constants)[value["buffer_name"]]
            elif kind == "tensor_constant":
                state[value["arg"]["name"]] = constants[value["tensor_constant_name"]]
            elif kind == "user_input" and "as_tensor" in value["arg"]:
                given.append(value["arg"]["as_tensor"]["name"])
            else:
                raise SparError(f"{self.name} takes an input of kind '{kind}'", "it must take one tensor, observations")
        if len(given) != 1:
            raise SparError(f"{self.name} takes {len(given)} tensors", "it must take one, observations [B, D]")
        outputs = [next(iter(spec)) for spec in signature["output_specs"]]
        if any(kind.endswith("_mutation") for kind in outputs):
            raise SparError(f"{self.name} changes its own state as it acts", "export it in eval mode")
        if outputs != ["user_output"]:
            raise SparError(f"{self.name} gives {len(outputs)} outputs", "it must give one tensor, actions [B, A]")
        return state, given[0]

    def _check(self, graph: Mapping[str, Any]) -> None:
        """Refuse operators before any of them runs."""
        for node in graph["nodes"]:
            if node["target"] == NO_GRAD:
                self._check(node["inputs"][1]["arg"]["as_graph"]["graph"])
                continue
            self._operator(node["target"])
            for given in node["inputs"]:
                ((kind, _),) = given["arg"].items()
                text = kind.startswith("as_string") and given["name"] not in TEXTS
                if text or kind in ("as_graph", "as_custom_obj", "as_operator"):
                    raise SparError(
                        f"{self.name} calls {node['target']} with '{given['name']}', which is not allowed here",
                        "leave it out of the policy, or export it as ONNX",
                    )

    def _operator(self, target: str) -> Callable[..., Any]:
        if target in ON_SIZES:
            return ON_SIZES[target]
        found = ATEN.fullmatch(target)
        packet = getattr(torch.ops.aten, found[1], None) if found else None
        overload = getattr(packet, found[2], None) if found and packet is not None else None
        if not isinstance(overload, torch._ops.OpOverload):
            raise SparError(
                f"{self.name} calls {target!r}, and only ATen operators are run",
                "leave it out of the policy, or export it as ONNX",
            )
        return overload

    # --- running ---

    def _run(self, graph: Mapping[str, Any], values: dict[str, Any]) -> list[Any]:
        for node in graph["nodes"]:
            given = [(item["name"], _argument(item["arg"], values)) for item in node["inputs"]]
            if node["target"] == NO_GRAD:
                (_, _), (_, inner), *rest = given
                inside: dict[str, Any] = {}
                for item, (_, value) in zip(inner["inputs"], rest, strict=True):
                    _bind(item, value, inside)
                answer: Any = self._run(inner, inside)
            elif node["target"] in ON_SIZES:
                answer = ON_SIZES[node["target"]](*(value for _, value in given))
            else:
                answer = self._operator(node["target"])(**dict(given))
            outputs = node["outputs"]
            # A single output is the answer itself, several are its parts; only the sub-graph always gives a list.
            for output, part in zip(outputs, answer if _several(node) else [answer] * len(outputs), strict=True):
                _bind(output, part, values)
        return [_argument(output, values) for output in graph["outputs"]]


def _several(node: Mapping[str, Any]) -> bool:
    return node["target"] == NO_GRAD or len(node["outputs"]) > 1


def _bind(output: Mapping[str, Any], value: Any, values: dict[str, Any]) -> None:
    ((kind, named),) = output.items()
    if kind == "as_tensors":
        values.update(zip((item["name"] for item in named), value, strict=True))
    elif kind != "as_none":
        values[named.get("name", named.get("as_name"))] = value


def _argument(argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """The value of a serialised argument (torch/_export/serde/schema.py, ``Argument``)."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return values[value["name"]]
        case "as_tensors":
            return [values[item["name"]] for item in value]
        case "as_optional_tensors":
            return [_argument(item, values) for item in value]
        case "as_optional_tensor":
            return _argument(value, values)
        case "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return _size(value, values)
        case "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
            return [_size(item, values) for item in value]
        case "as_float":
            return float(value)  # infinities are written as texts
        case "as_floats":
            return [float(item) for item in value]
        case "as_scalar_type":
            return DTYPES[value]
        case "as_memory_format":
            return MEMORY_FORMATS[value]
        case "as_layout" if value == STRIDED:
            return torch.strided
        case "as_device":
            return torch.device("cpu")
        case "as_graph":
            return value["graph"]
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string":
            return value
    raise ValueError(f"argument of kind {kind!r}")


def _size(value: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    return values[value["as_name"]] if "as_name" in value else next(iter(value.values()))


def _records(data: bytes, name: str) -> dict[str, bytes]:
    """The records that are read, without the archive's root folder; anything unknown is refused."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(item.filename.partition("/")[2], item) for item in archive.infolist()]
        paths = [path for path, _ in entries]
        if "" in paths or len(set(paths)) != len(paths):
            raise _Unreadable("records without a folder, or twice")
        unknown = sorted(path for path in paths if not READ.fullmatch(path) and not IGNORED.fullmatch(path))
        if unknown:
            raise SparError(
                f"{name} holds records other than a plain program ({_some(unknown)}), which may hold pickles or code",
                HINT,
            )
        if any(item.compress_type != zipfile.ZIP_STORED for _, item in entries):
            raise _Unreadable("compressed records")
        records = {path: archive.read(item) for path, item in entries if READ.fullmatch(path)}
    if records.get("archive_format") != b"pt2" or records.get("byteorder") != b"little":
        raise _Unreadable("no pt2 archive of a little-endian machine")
    return records


def _tensors(records: Mapping[str, bytes], folder: str, name: str) -> dict[str, Tensor]:
    """Weights or constants by name, from their raw bytes."""
    stem = "weights" if folder == WEIGHTS else "constants"
    config = json.loads(records[f"{folder}model_{stem}_config.json"])["config"]
    pickled = sorted(key for key, meta in config.items() if meta["use_pickle"])
    if pickled:
        raise SparError(f"{name} holds pickled {stem} ({_some(pickled)}), and nothing is unpickled here", HINT)
    # Views of one record share its memory, as they did before.
    flat: dict[tuple[str, int], Tensor] = {}
    tensors = {}
    for key, meta in config.items():
        shape = meta["tensor_meta"]
        sizes, strides = ([size["as_int"] for size in shape[axis]] for axis in ("sizes", "strides"))
        dtype, record = DTYPES[shape["dtype"]], records[folder + meta["path_name"]]
        if not record:
            tensors[key] = torch.zeros(sizes, dtype=dtype)
            continue
        place = meta["path_name"], shape["dtype"]
        if place not in flat:
            flat[place] = torch.frombuffer(bytearray(record), dtype=dtype)
        tensors[key] = torch.as_strided(flat[place], sizes, strides, shape["storage_offset"]["as_int"])
    return tensors


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
