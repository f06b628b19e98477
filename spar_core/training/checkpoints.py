"""Where a training loop stands, on disk: enough to go on from there and end with the same bytes.

A checkpoint is one safetensors file a loop: the tensors of everything that the loop changes (weights, moments of the
optimiser, targets, random states), and as metadata its step and the points of its curves. It is written beside its
place and then renamed, so that a kill leaves the one before. No part of an artifact, and deleted once that is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# A point of a learning curve: step, seed, metric, value.
CurveRow = tuple[int, int, str, float]

SUFFIX = ".safetensors"
# Of the time between two checkpoints: a loop that was over sooner is not worth a file of its own.
SHORT_LOOP = 0.1


class Kept(Protocol):
    """What a loop changes from step to step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Named tensors; they may be the live ones."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back, in place."""
        ...


@dataclass(frozen=True)
class Saved:
    """A loop's last checkpoint: steps done, the curve's rows until then, and the state of each part by name."""

    step: int
    rows: list[CurveRow]
    states: dict[str, dict[str, Tensor]]


@dataclass
class Checkpoints:
    """The checkpoints of one piece of work (a share of the seeds of a cell).

    Attributes:
        folder: theirs alone. Its name has to say all that the result depends on (``stages.checkpointing``).
        seconds: between two checkpoints.
    """

    folder: Path
    seconds: float
    # When the last one was written, of all that are inside one another.
    _last: list[float] = field(default_factory=lambda: [time.monotonic()], compare=False)

    def inside(self, name: str) -> Checkpoints:
        """Those of a part of the work, whose loops may have names that others have too."""
        return Checkpoints(self.folder / name, self.seconds, self._last)

    def anew(self) -> Checkpoints:
        """The same, with the time until the first one counted from now."""
        return Checkpoints(self.folder, self.seconds)

    def due(self) -> bool:
        """Whether enough time has gone by since the last one."""
        return time.monotonic() - self._last[0] >= self.seconds

    def save(self, name: str, step: int, rows: list[CurveRow], kept: Mapping[str, Kept]) -> None:
        """Write the checkpoint of the loop ``name``, in place of the one before."""
        tensors = {
            f"{part}/{key}": value.detach().cpu().contiguous().clone()
            for part, thing in kept.items()
            for key, value in thing.state_dict().items()
        }
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".draft")
        save_file(tensors, draft, {"loop": json.dumps({"step": step, "rows": rows, "tensors": list(tensors)})})
        draft.replace(path)
        self._last[0] = time.monotonic()

    def load(self, name: str) -> Saved | None:
        """The last checkpoint of the loop ``name``; None where there is none, or a broken one (a power cut)."""
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
