"""The frame of every stage that trains: workers, progress bar, live tracking, and an artifact written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_folder, new_artifact, write_meta
from spar_core.members import parse_variant, variant_kind
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings
from spar_core.training.checkpoints import CurveRow
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
from stages.progress import Progress
from stages.tracking.tracked import tracked

# What each stage fits, as its metrics are prefixed.
PART = {"fit_bc": "anchor", "fit_residual": "residual", "fit_critic": "critic", "self_imitation": "improvement"}


def fit_cell(
    layout: Layout,
    cell: Cell,
    kind: str,
    job: Job[Fitted],
    *,
    steps: int,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    write: Callable[[Path, Fitted], Fitted] | None = None,
) -> None:
    """Run ``job`` over the seeds of the cell and write its artifact.

    Args:
        layout: the project.
        cell: what is fitted.
        kind: of the artifact, for its ``meta.json``.
        job: fits a share of the seeds.
        steps: optimiser steps of one seed, for the bar.
        params: what the result depends on, for ``meta.json``.
        inputs: name and folder of each input artifact; their digests go into ``meta.json``.
        write: writes the fitted result into a folder and returns what it wrote (default: ``Fitted.write``).
    """
    seeds = parse_seeds(cell.seeds or "0")
    digests = {name: digest_folder(folder) for name, folder in inputs.items()}
    with (
        tracked(layout, cell, params, digests, steps) as live,
        checkpointed(layout, cell, params, digests) as checkpoints,
    ):
        with Progress(stage=cell.name, total=steps * len(seeds), unit="seed-steps") as bar:

            def show(done: int, rows: list[CurveRow]) -> None:
                bar.update(done)
                for step, seed, metric, value in rows:
                    live.log_curve(step, metric, seed, value)

            fitted = Fitted.join(over_seeds(job, seeds, workers(), show, checkpoints))
        fitted.metrics[f"{PART[cell.stage]}/parameters"] = [fitted.parameters()] * len(seeds)
        with new_artifact(cell.folder(layout)) as folder:
            if write is None:
                fitted.write(folder)
            else:
                fitted = write(folder, fitted)
            live.log_final(fitted.metrics)
            write_meta(folder, kind, params=params, inputs=digests, shapes=fitted.shapes(), seeds=list(seeds))


@dataclass(frozen=True)
class FitMember:
    """The work of one worker on an anchor or a critic: both are fitted to the dataset alone."""

    layout: Layout
    dataset: str
    member: type
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.dataset)
        return self.member.fit(Context(data, seeds, report, self.device), self.settings)


def fit_member(layout: Layout, cell: Cell, family: str, name: str) -> None:
    """Fit the variant ``name`` of a family ("anchor" or "critic") and write its artifact."""
    variants = read_params(layout, cell.dataset)[f"{family}s"]
    member, settings = parse_variant(family, variants, name)
    kind = variant_kind(name, variants[name])
    fit_cell(
        layout,
        cell,
        family,
        FitMember(layout, cell.dataset, member, settings, device()),
        steps=sum(getattr(settings, key, 0) for key in ("warm_start_steps", "steps")),
        params={family: {"kind": kind, **settings.model_dump(mode="json")}},
        inputs=dataset_folders(layout, cell.dataset),
    )
