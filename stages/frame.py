"""The frame of every stage that makes a cell: workers, progress bar, live tracking, checkpoints, whole artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spar_core.artifacts import check_room, digest_folder, new_artifact, write_meta
from spar_core.registry import parse_variant, variant_kind
from spar_core.settings import Settings
from spar_core.training.checkpoints import Checkpoints, CurveRow
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter
from spar_core.training.workers import Job, over_seeds
from stages.cells import Cell
from stages.checkpointing import checkpointed
from stages.datasets import dataset_folders, dataset_of
from stages.entry import device, workers
from stages.layout import Layout
from stages.params import read_params
from stages.planned import check_cell
from stages.progress import Progress
from stages.tracking.live import LiveRun
from stages.tracking.tracked import tracked

Result = TypeVar("Result")


@dataclass(frozen=True)
class Written:
    """What an artifact holds beside its files.

    Attributes:
        metrics: final values by name, for the live run.
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
    """A cell while it is made (see :func:`framed`)."""

    layout: Layout
    cell: Cell
    params: Mapping[str, Any]
    digests: Mapping[str, str]
    live: LiveRun
    checkpoints: Checkpoints | None
    bar: Progress | None
    curves: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the cell."""
        return self.cell.seed_numbers

    def over_seeds(self, job: Job[Result]) -> list[Result]:
        """Run ``job`` over shares of the cell's seeds in worker processes; one result a share, in seed order."""
        return over_seeds(job, self.seeds, workers(), self._show, self.checkpoints)

    def fit(self, job: Job[Fitted], part: str) -> Fitted:
        """Fit all seeds with ``job``, and count the parameters as a metric of ``part``."""
        return counted(Fitted.join(self.over_seeds(job)), part, len(self.seeds))

    def advance(self, done: int) -> None:
        """Move the progress bar by ``done`` units of work."""
        if self.bar is not None:
            self.bar.update(done)

    def save(self, kind: str, write: Callable[[Path], Written]) -> None:
        """Write the cell's artifact, whole or not at all.

        Args:
            kind: of the artifact, for its ``meta.json``.
            write: fills the empty folder that it is given.
        """
        with new_artifact(self.cell.folder(self.layout)) as folder:
            written = write(folder)
            self.live.log_final(written.metrics)
            meta = {"params": self.params, "inputs": self.digests, "shapes": written.shapes}
            write_meta(folder, kind, **meta, seeds=list(self.seeds))

    def save_fitted(self, kind: str, fitted: Fitted) -> None:
        """Write a fit as the cell's artifact."""

        def write(folder: Path) -> Written:
            fitted.write(folder)
            return Written.of(fitted)

        self.save(kind, write)

    def _show(self, done: int, rows: list[CurveRow]) -> None:
        self.advance(done)
        for step, seed, metric, value in rows if self.curves else ():
            self.live.log_curve(step, metric, seed, value)


def counted(fitted: Fitted, part: str, seeds: int) -> Fitted:
    """The fit, with the number of parameters of one seed as a metric of ``part``."""
    fitted.metrics[f"{part}/parameters"] = [fitted.parameters()] * seeds
    return fitted


@contextmanager
def framed(
    layout: Layout,
    cell: Cell,
    *,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    steps: int | None,
    unit: str = "seed-steps",
    curves: bool = False,
    keeps_checkpoints: bool = True,
) -> Iterator[Frame]:
    """The frame in which a cell is made. After an error, no artifact is left.

    Args:
        layout: the project.
        cell: the cell.
        params: what the result depends on, for ``meta.json``.
        inputs: name and folder of each input artifact; ``meta.json`` holds their digests.
        steps: units of work of one seed, for the progress bar; None shows no bar.
        unit: what the units of all seeds are called.
        curves: whether the live run shows learning curves, whose last step is ``steps``.
        keeps_checkpoints: whether the work can go on from checkpoints after a kill.

    Raises:
        SparError: DVC runs the cell, and params or code are not those of the plan any more.
        OSError: the artifact could not be written.
    """
    check_cell(layout, cell, params)
    check_room(cell.folder(layout))
    digests = {name: digest_folder(folder) for name, folder in inputs.items()}
    with ExitStack() as stack:
        live = stack.enter_context(tracked(layout, cell, params, digests, steps if curves else None))
        kept = stack.enter_context(checkpointed(layout, cell, params, digests)) if keeps_checkpoints else None
        bar = None
        if steps is not None:
            total = steps * len(cell.seed_numbers)
            bar = stack.enter_context(Progress(stage=cell.name, total=total, unit=unit))
        yield Frame(layout, cell, params, digests, live, kept, bar, curves)


@dataclass(frozen=True)
class FitMember:
    """The work of one worker on an anchor or a critic, which are fitted to the dataset alone."""

    layout: Layout
    dataset: str
    member: type[Any]
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.dataset)
        fitted: Fitted = self.member.fit(Context(data, seeds, report, self.device), self.settings)
        return fitted


def fit_member(layout: Layout, cell: Cell, family: str) -> None:
    """Fit the cell's variant of a family ("anchor" or "critic") and write the artifact."""
    name, variants = getattr(cell, family), read_params(layout, cell.dataset)[f"{family}s"]
    member, settings = parse_variant(family, variants, name)
    steps = sum(getattr(settings, key, 0) for key in ("warm_start_steps", "steps"))
    with framed(
        layout,
        cell,
        params={family: {"kind": variant_kind(name, variants[name]), **settings.model_dump(mode="json")}},
        inputs=dataset_folders(layout, cell.dataset),
        steps=steps,
        curves=True,
    ) as frame:
        fitted = frame.fit(FitMember(layout, cell.dataset, member, settings, device()), family)
        if family == "anchor":
            whole = Context.quiet(dataset_of(layout, cell.dataset), frame.seeds, device())
            fitted = counted(member.of_group(fitted, whole, settings), family, len(frame.seeds))
        frame.save_fitted(family, fitted)
