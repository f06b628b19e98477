"""The result of a fit, how the results of several workers are joined, and how they are written to disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from spar_core.artifacts import write_json
from spar_core.errors import SparError
from spar_core.settings import Settings
from spar_core.training.checkpoints import CurveRow
from spar_core.training.tensors import write_tensors

WEIGHTS, METRICS, CURVES = "weights.safetensors", "metrics.json", "curves.csv"
DIVERGED = (
    "the fit diverged: look for odd bounds, rewards or observations in the data's manifest.json, or lower the "
    "learning_rate"
)


@dataclass
class Fitted:
    """Weights, final metrics and learning curves of a group of S seeds.

    Attributes:
        tensors: weights by name, [S, ...].
        metrics: final metrics by name, one value for each seed.
        curves: points of the learning curves, (step, seed, metric, value).
        documents: further results by name, one JSON value for each seed. Each is written as ``<name>.json``.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    curves: list[CurveRow] = field(default_factory=list)
    documents: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Sequence[Fitted]) -> Fitted:
        """Concatenate the seeds of several results, in the order given."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors},
            {name: [v for part in parts for v in part.metrics[name]] for name in parts[0].metrics},
            [row for part in parts for row in part.curves],
            {name: [v for part in parts for v in part.documents[name]] for name in parts[0].documents},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Send tensors to another process by value. Torch would send them through shared memory, which must outlive the
        # worker.
        arrays = {k: v.numpy() for k, v in self.tensors.items()}
        return _rebuild, (arrays, self.metrics, self.curves, self.documents)

    def check_finite(self) -> None:
        """Make sure that the fit did not diverge. A metric may be NaN, which means that it was not measured.

        Raises:
            SparError: a point of a curve or a weight is NaN or infinite, or a metric is infinite; the line names the
                first one.
        """
        for step, seed, metric, value in sorted(self.curves, key=lambda row: row[0]):
            if not math.isfinite(value):
                raise SparError(f"'{metric}' of seed {seed} is {value} at step {step}", DIVERGED)
        for name, tensor in self.tensors.items():
            for number, row in enumerate(tensor if tensor.is_floating_point() else ()):
                if not row.isfinite().all():
                    raise SparError(f"'{name}' of seed number {number} of the group is not finite", DIVERGED)
        for name, values in self.metrics.items():
            for number, value in enumerate(values):
                if value is not None and math.isinf(value):
                    raise SparError(f"'{name}' of seed number {number} of the group is {value}", DIVERGED)

    def write(self, folder: Path) -> None:
        """Write ``weights.safetensors``, ``metrics.json``, ``curves.csv`` and the documents into ``folder``.

        Raises:
            SparError: the fit diverged (:meth:`check_finite`).
        """
        self.check_finite()
        save_tensors(folder / WEIGHTS, self.tensors)
        write_json(folder / METRICS, self.metrics)
        for name, values in self.documents.items():
            write_json(folder / f"{name}.json", values)
        write_curves(folder / CURVES, self.curves)

    def parameters(self) -> int:
        """Number of parameters of one seed."""
        return sum(math.prod(tensor.shape[1:]) for tensor in self.tensors.values())

    def shapes(self) -> dict[str, list[int]]:
        """Shape of each tensor by name, for ``meta.json``."""
        return {name: list(tensor.shape) for name, tensor in sorted(self.tensors.items())}


@dataclass(frozen=True)
class Part:
    """One fitted part of a policy.

    Attributes:
        kind: its name in the registry.
        settings: its settings.
        tensors: its weights by name, [S, ...].
    """

    kind: str
    settings: Settings
    tensors: dict[str, Tensor]


def _rebuild(arrays: Mapping[str, NDArray[Any]], *others: Any) -> Fitted:
    return Fitted({name: torch.from_numpy(array) for name, array in arrays.items()}, *others)


def write_curves(path: Path, rows: Sequence[CurveRow]) -> None:
    """Write points of learning curves as CSV, sorted so that the order in which workers sent them does not matter."""
    ordered = sorted(rows, key=lambda row: (row[2], row[1], row[0]))
    lines = ["step,seed,metric,value", *(f"{step},{seed},{metric},{value!r}" for step, seed, metric, value in ordered)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, its tensors sorted by name."""
    write_tensors(path, {name: tensors[name].contiguous() for name in sorted(tensors)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        SparError: the file is missing or broken.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run `dvc repro`") from None
    except Exception as error:  # safetensors raises SafetensorError and OSError.
        raise SparError(
            f"{path} is not a complete safetensors file ({error})", "delete its folder and run `dvc repro`"
        ) from None


def only(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix.``, without that prefix."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
