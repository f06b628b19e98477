"""The frame in which an artifact is made: its seeds, its worker processes, and a folder that appears whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spar_core.artifacts import digest_folder, new_artifact, write_meta
from spar_core.training.checkpoints import Checkpoints, CurveRow
from spar_core.training.fitted import Fitted
from spar_core.training.workers import Job, over_seeds

Result = TypeVar("Result")


@dataclass(frozen=True)
class Written:
    """What an artifact holds beside its files.

    Attributes:
        metrics: final values by name.
        shapes: shape of every tensor by name, for ``meta.json``.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fitted: Fitted) -> Written:
        """The metrics and shapes of a fit."""
        return cls(fitted.metrics, fitted.shapes())


@dataclass(frozen=True)
class Frame:
    """One artifact while it is made. Subclasses show progress and track the work.

    Attributes:
        folder: of the artifact.
        seeds: the S seeds of the group.
        params: what the result depends on, for ``meta.json``.
        digests: of the input artifacts by name, for ``meta.json``.
        workers: largest number of worker processes.
        device: a Torch device.
        checkpoints: of the work; None keeps none.
    """

    folder: Path
    seeds: tuple[int, ...]
    params: Mapping[str, Any]
    digests: Mapping[str, str]
    workers: int
    device: str
    checkpoints: Checkpoints | None = None

    def advance(self, done: int) -> None:
        """Hear that ``done`` more units of work are done."""

    def show(self, done: int, rows: list[CurveRow]) -> None:
        """Hear of units of work just done, and of new points of learning curves."""
        self.advance(done)

    def log_final(self, metrics: Mapping[str, Any]) -> None:
        """Hear of the final values, just before the artifact appears."""

    def over_seeds(self, job: Job[Result]) -> list[Result]:
        """Run ``job`` over shares of the seeds in worker processes; one result a share, in seed order."""
        return over_seeds(job, self.seeds, self.workers, self.show, self.checkpoints)

    def fit(self, job: Job[Fitted], part: str) -> Fitted:
        """Fit all seeds with ``job``, and count the parameters as a metric of ``part``."""
        return counted(Fitted.join(self.over_seeds(job)), part, len(self.seeds))

    def save(self, kind: str, write: Callable[[Path], Written]) -> None:
        """Write the artifact, whole or not at all.

        Args:
            kind: of the artifact, for its ``meta.json``.
            write: fills the empty folder that it is given.
        """
        with new_artifact(self.folder) as folder:
            written = write(folder)
            self.log_final(written.metrics)
            meta = {"params": self.params, "inputs": self.digests, "shapes": written.shapes}
            write_meta(folder, kind, **meta, seeds=list(self.seeds))

    def save_fitted(self, kind: str, fitted: Fitted) -> None:
        """Write a fit as the artifact."""

        def write(folder: Path) -> Written:
            fitted.write(folder)
            return Written.of(fitted)

        self.save(kind, write)


def counted(fitted: Fitted, part: str, seeds: int) -> Fitted:
    """The fit, with the number of parameters of one seed as a metric of ``part``."""
    fitted.metrics[f"{part}/parameters"] = [fitted.parameters()] * seeds
    return fitted


def digests_of(inputs: Mapping[str, Path]) -> dict[str, str]:
    """Digest of each input artifact by name."""
    return {name: digest_folder(folder) for name, folder in inputs.items()}
