"""Checkpoints of training loops: a resumed loop gives the same bytes as one that was never interrupted.

Each loop has one safetensors file. It holds every tensor that the loop changes (weights, moments of the optimiser,
target networks, random states), and as metadata the step and the points of the learning curves so far. The file is
written under another name and then renamed, so that a killed process leaves the previous checkpoint intact. Checkpoints
are not part of an artifact. They are deleted when the artifact is complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from spar_core.training.tensors import write_tensors

# A point of a learning curve: step, seed, metric, value.
CurveRow = tuple[int, int, str, float]

SUFFIX = ".safetensors"
# Loops shorter than this fraction of the interval write no final checkpoint.
SHORT_LOOP = 0.1


class Kept(Protocol):
    """A part of a loop that changes from step to step, and belongs into its checkpoint."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name; they need not be copies."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state, in place."""
        ...


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        step: steps done.
        rows: the loop's points of the learning curves up to that step.
        states: tensors of each part that the loop changes, by name of the part.
    """

    step: int
    rows: list[CurveRow]
    states: dict[str, dict[str, Tensor]]


@dataclass
class Checkpoints:
    """The checkpoints of one piece of work (a share of the seeds of a cell).

    Attributes:
        folder: folder for these checkpoints alone. Its name must contain all that the result depends on (see
            ``stages.checkpointing``).
        seconds: time between two checkpoints.
    """

    folder: Path
    seconds: float
    # When the last checkpoint was written; shared with all checkpoints that :meth:`inside` returns.
    _last: list[float] = field(default_factory=lambda: [time.monotonic()], compare=False)

    def inside(self, name: str) -> Checkpoints:
        """The checkpoints of a part of the work, kept apart so that its loops may have the names of other loops."""
        return Checkpoints(self.folder / name, self.seconds, self._last)

    def anew(self) -> Checkpoints:
        """Checkpoints in this folder, with the time until the first one counted from now."""
        return Checkpoints(self.folder, self.seconds)

    def due(self) -> bool:
        """Whether ``seconds`` have passed since the last checkpoint."""
        return time.monotonic() - self._last[0] >= self.seconds

    def save(self, name: str, step: int, rows: list[CurveRow], kept: Mapping[str, Kept]) -> None:
        """Replace the checkpoint of the loop ``name``.

        Args:
            name: name of the loop.
            step: steps done.
            rows: the loop's points of the learning curves so far.
            kept: the parts that the loop changes, by name.
        """
        tensors = {
            f"{part}/{key}": value.detach().cpu().contiguous().clone()
            for part, thing in kept.items()
            for key, value in thing.state_dict().items()
        }
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".draft")
        told = {"step": step, "rows": rows, "tensors": list(tensors)}
        write_tensors(draft, tensors, {"loop": json.dumps(told)})
        draft.replace(path)
        self._last[0] = time.monotonic()

    def load(self, name: str) -> Saved | None:
        """Read the checkpoint of the loop ``name``; None if there is none, or if it is broken (by a power cut, say)."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                told: dict[str, Any] = json.loads(file.metadata()["loop"])
                states: dict[str, dict[str, Tensor]] = {}
                for full in told["tensors"]:
                    part, key = full.split("/", 1)
                    states.setdefault(part, {})[key] = file.get_tensor(full)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None
        rows = [(int(step), int(seed), str(metric), float(value)) for step, seed, metric, value in told["rows"]]
        return Saved(int(told["step"]), rows, states)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
