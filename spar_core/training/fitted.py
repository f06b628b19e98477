"""What fitting returns, whatever was fitted, and how the results of several workers become one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spar_core.artifacts import write_json
from spar_core.errors import SparError
from spar_core.settings import Settings
from spar_core.training.checkpoints import CurveRow

WEIGHTS, METRICS, CURVES = "weights.safetensors", "metrics.json", "curves.csv"


@dataclass
class Fitted:
    """Weights, final metrics and curves of a group of seeds.

    Attributes:
        tensors: named weights; the first dimension of each is the seed, [S, ...].
        metrics: final scalars, one value a seed.
        curves: rows (step, seed, metric, value).
        documents: what else there is to say, by name: one JSON value a seed. Each is written as ``<name>.json``.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    curves: list[CurveRow] = field(default_factory=list)
    documents: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Sequence[Fitted]) -> Fitted:
        """Put the seeds of several workers side by side, in the order given."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors},
            {name: [v for part in parts for v in part.metrics[name]] for name in parts[0].metrics},
            [row for part in parts for row in part.curves],
            {name: [v for part in parts for v in part.documents[name]] for name in parts[0].documents},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes tensors travel by value: Torch's shared memory would have to outlive the worker.
        arrays = {k: v.numpy() for k, v in self.tensors.items()}
        return _rebuild, (arrays, self.metrics, self.curves, self.documents)

    def write(self, folder: Path) -> None:
        """Write weights, documents, ``metrics.json`` and ``curves.csv``."""
        save_tensors(folder / WEIGHTS, self.tensors)
        write_json(folder / METRICS, self.metrics)
        for name, values in self.documents.items():
            write_json(folder / f"{name}.json", values)
        write_curves(folder / CURVES, self.curves)

    def parameters(self) -> int:
        """Numbers that one seed's tensors hold."""
        return sum(math.prod(tensor.shape[1:]) for tensor in self.tensors.values())

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor, for ``meta.json``."""
        return {name: list(tensor.shape) for name, tensor in sorted(self.tensors.items())}


@dataclass(frozen=True)
class Part:
    """One fitted part of a policy: the registered kind it is, its settings, and its tensors [S, ...]."""

    kind: str
    settings: Settings
    tensors: dict[str, Tensor]


def _rebuild(arrays: dict[str, Any], *others: Any) -> Fitted:
    return Fitted({name: torch.from_numpy(array) for name, array in arrays.items()}, *others)


def write_curves(path: Path, rows: Sequence[CurveRow]) -> None:
    """Write curve rows, sorted, so that the order in which workers sent them does not show."""
    ordered = sorted(rows, key=lambda row: (row[2], row[1], row[0]))
    lines = ["step,seed,metric,value", *(f"{step},{seed},{metric},{value!r}" for step, seed, metric, value in ordered)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors without metadata: more than one metadata key is not byte-stable."""
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors; a missing or broken file is a SparError."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run `dvc repro`") from None
    except Exception as error:  # safetensors raises its own SafetensorError and bare OSErrors
        raise SparError(f"{path} is not a whole safetensors file ({error})", "delete its folder and rerun") from None


def only(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below ``prefix.``, with the prefix taken off."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with ``prefix.`` put before each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
