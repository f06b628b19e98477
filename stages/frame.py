"""The frame of every stage that makes a cell: workers, progress bar, live tracking, checkpoints, whole artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spar_core.artifacts import check_room
from spar_core.making.frame import Frame, Written, digests_of
from spar_core.making.members import make_member, steps_of
from spar_core.registry import parse_variant, variant_kind
from spar_core.training.checkpoints import CurveRow
from stages.cells import Cell
from stages.checkpointing import checkpointed
from stages.datasets import dataset_folders, place_of
from stages.entry import device, workers
from stages.layout import Layout
from stages.params import read_params
from stages.planned import check_cell
from stages.progress import Progress
from stages.tracking.live import LiveRun
from stages.tracking.tracked import tracked

# Stages write what they hold through this name.
__all__ = ["TrackedFrame", "Written", "fit_member", "framed"]


@dataclass(frozen=True)
class TrackedFrame(Frame):
    """The frame of a cell, with its progress bar and its live run (see :func:`framed`).

    Attributes:
        live: the run in MLflow.
        bar: the progress bar; None shows none.
        curves: whether the live run shows learning curves.
    """

    live: LiveRun = field(kw_only=True)
    bar: Progress | None = None
    curves: bool = False

    def advance(self, done: int) -> None:
        if self.bar is not None:
            self.bar.update(done)

    def show(self, done: int, rows: list[CurveRow]) -> None:
        self.advance(done)
        for step, seed, metric, value in rows if self.curves else ():
            self.live.log_curve(step, metric, seed, value)

    def log_final(self, metrics: Mapping[str, Any]) -> None:
        self.live.log_final(metrics)


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
) -> Iterator[TrackedFrame]:
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
    digests = digests_of(inputs)
    with ExitStack() as stack:
        live = stack.enter_context(tracked(layout, cell, params, digests, steps if curves else None))
        kept = stack.enter_context(checkpointed(layout, cell, params, digests)) if keeps_checkpoints else None
        bar = None
        if steps is not None:
            total = steps * len(cell.seed_numbers)
            bar = stack.enter_context(Progress(stage=cell.name, total=total, unit=unit))
        yield TrackedFrame(
            cell.folder(layout),
            cell.seed_numbers,
            params,
            digests,
            workers(),
            device(),
            kept,
            live=live,
            bar=bar,
            curves=curves,
        )


def fit_member(layout: Layout, cell: Cell, family: str) -> None:
    """Fit the cell's variant of a family ("anchor" or "critic") and write the artifact."""
    name, variants = getattr(cell, family), read_params(layout, cell.dataset)[f"{family}s"]
    member, settings = parse_variant(family, variants, name)
    with framed(
        layout,
        cell,
        params={family: {"kind": variant_kind(name, variants[name]), **settings.model_dump(mode="json")}},
        inputs=dataset_folders(layout, cell.dataset),
        steps=steps_of(settings),
        curves=True,
    ) as frame:
        make_member(frame, place_of(layout, cell.dataset), family, member, settings)
