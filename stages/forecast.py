"""Say what a study will take before it starts: its cells, the hours on this device, and the gigabytes to download.

`python -m stages.forecast` reads params.yaml. It trains each kind of part of the study for some seconds on made data of
HalfCheetah's sizes, multiplies, and asks the servers of the datasets for sizes. `make run` does so by itself where a
study has many gradient steps. What is not counted: estimates, diagnoses, rounds, the candidates of `auto`, the report.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spar_core.data.entry import Entry
from spar_core.data.entry_files import load_entry
from spar_core.data.reference import reference
from spar_core.effective import check, check_entry, settings_of
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.params import layers_of, merge
from spar_core.seeds import parse_seeds
from spar_core.settings import load_yaml
from spar_core.study import Study
from stages.cells import Cell, study_cells
from stages.entry import device, stage_main
from stages.layout import Layout
from stages.probe import Rate, environment_rate, training_rate
from stages.remote_size import sizes_of

# Studies with fewer gradient steps of one seed are over before anybody would read a forecast.
WORTH_SAYING = 20_000_000
# Where a part's settings stand, by stage: section of the params, and axis of the cell that names the variant.
PARTS = {
    "fit_bc": ("anchor", "anchors", "anchor"),
    "fit_residual": ("residual", "residual", "anchor"),
    "fit_critic": ("critic", "critics", "critic"),
    "self_imitation": ("improvement", "improvements", "improvement"),
}
# Whole numbers among the settings that say how long a part trains, and not how dear an update is.
LENGTHS = ("steps", "warm_start_steps", "states", "refreshes")
# Steps of an episode where the entry does not say.
EPISODE = 1000
MAZE = re.compile(r"(point|ant)[-_]?maze", re.IGNORECASE)


@dataclass
class Work:
    """Training that costs the same per update.

    Attributes:
        family, settings, seeds: what is timed, as in :func:`stages.probe.training_rate`.
        name: for people.
        updates: of all cells together, each of a whole group.
        states: states that rules draw candidates at, likewise.
    """

    family: str
    settings: Mapping[str, Any]
    seeds: int
    name: str
    updates: int = 0
    states: int = 0


@dataclass
class Load:
    """What a study has yet to do.

    Attributes:
        cells, left: cells of the study, and those of them without an artifact.
        work: kinds of training.
        environment_steps: of all rollouts.
        entries: of the datasets that are not there yet.
    """

    cells: int
    left: int
    work: list[Work] = field(default_factory=list)
    environment_steps: int = 0
    entries: list[Entry] = field(default_factory=list)

    @property
    def gradient_steps(self) -> int:
        """Optimiser steps, counted for each seed."""
        return sum(work.updates * work.seeds for work in self.work)


def load_of(layout: Layout) -> Load:
    """What the study of params.yaml has yet to do. A cell whose artifact is there counts as done.

    Raises:
        SparError: params.yaml or an entry is wrong.
    """
    params = load_yaml(layout.params)
    study = check(params)
    cells = study_cells(study)
    left = [cell for cell in cells if not cell.folder(layout).is_dir()]
    load, kinds = Load(len(cells), len(left)), {}
    for dataset in study.datasets:
        entry = load_entry(layout.dataset_entry(dataset))
        if entry.settings:
            check_entry(params, study, dataset, entry.settings)
        settings = settings_of(merge(layers_of(params, dataset, entry.settings)), study)
        for cell in left:
            if cell.dataset == dataset:
                _count(load, kinds, cell, settings, entry)
    load.work = list(kinds.values())
    return load


def _count(load: Load, kinds: dict[str, Work], cell: Cell, settings: Mapping[str, Any], entry: Entry) -> None:
    if cell.stage == "download":
        load.entries.append(entry)
    elif cell.stage == "evaluate" and (entry.env_id is not None or entry.source == "minari"):
        load.environment_steps += len(parse_seeds(str(cell.seeds))) * _episodes(settings, entry) * _length(entry)
    elif cell.stage in PARTS:
        family, section, axis = PARTS[cell.stage]
        variant = str(getattr(cell, axis))
        own = settings[section][variant]
        own = own.get("member", own)  # of a committee, the clones are trained
        if "steps" not in own:
            return
        seeds = len(parse_seeds(str(cell.seeds)))
        dear = {key: value for key, value in own.items() if not isinstance(value, float) and key not in LENGTHS}
        key = json.dumps([cell.stage, dear, seeds], sort_keys=True, default=str)
        work = kinds.setdefault(key, Work(family, own, seeds, f"{cell.stage} {variant}"))
        work.updates += int(own["steps"]) + int(own.get("warm_start_steps", 0))
        work.states += int(own.get("states", 0)) * int(own.get("refreshes", 1))


def _episodes(settings: Mapping[str, Any], entry: Entry) -> int:
    """Episodes a seed; before a Minari dataset is there, only its id tells a maze."""
    evaluation = EvaluationSettings(**settings["evaluation"])
    named = entry.env_id or str(getattr(entry, "dataset", ""))
    return evaluation.maze_episodes if MAZE.search(named) else evaluation.episodes


def _length(entry: Entry) -> int:
    """Longest episode, of the entry's own limit or of its reference scores."""
    known = entry.env_kwargs.get("max_episode_steps")
    if known is None and entry.reference is not None:
        known = reference(entry.reference).max_episode_steps
    return int(known or EPISODE)


@dataclass(frozen=True)
class Forecast:
    """Hours by kind of work, if none of the processors (cores, or the one GPU) ever waits."""

    load: Load
    hours: dict[str, float]
    processors: int


def forecast(
    load: Load,
    on: str,
    training: Callable[[str, Mapping[str, Any], int, str], Rate | None] = training_rate,
    environment: Callable[[], float] = environment_rate,
) -> Forecast:
    """Measure and multiply; ``on`` is the Torch device, and the last two arguments measure."""
    cores = len(os.sched_getaffinity(0))
    processors = cores if on == "cpu" else 1
    hours: dict[str, float] = {}
    for work in load.work:
        rate = training(work.family, work.settings, work.seeds, on)
        if rate is not None:
            took = (rate.update * work.updates + rate.state * work.states) / 3600 / processors
            hours[work.name] = hours.get(work.name, 0.0) + took
    if load.environment_steps:
        # Rollouts are shared out over the cores, whatever the device.
        hours["evaluate"] = environment() * load.environment_steps / 3600 / cores
    return Forecast(load, hours, processors)


def lines(study: Study, found: Forecast, on: str, sizes: tuple[int, int, int]) -> list[str]:
    """The forecast in words; ``sizes`` as :func:`stages.remote_size.sizes_of` gives them."""
    load = found.load
    processors = f"{found.processors} processor{'s' if found.processors > 1 else ''}" if on == "cpu" else on
    size, known, unknown = sizes
    said = [
        f"study {study.name}: {load.cells:,} cells, {load.left:,} of them to be made, with {load.gradient_steps:,} "
        "gradient steps of single seeds",
        f"about {_hours(sum(found.hours.values()))} on this machine ({processors}), measured with HalfCheetah's sizes:",
        *(f"  {name:28}{_hours(took):>14}" for name, took in sorted(found.hours.items(), key=lambda item: -item[1])),
    ]
    if known or unknown:
        rest = f"{unknown} datasets of unknown size (their server does not say)" if unknown else ""
        what = f"{size / 1e9:.1f} GB in {known} datasets" if known else ""
        said.append(f"to download: {' and '.join(filter(None, (what, rest)))}")
    return said


def _hours(hours: float) -> str:
    return f"{hours:,.0f} hours" if hours >= 10 else f"{hours:.1f} hours" if hours >= 0.1 else "< 0.1 hours"


def say(layout: Layout, least: int = 0) -> None:
    """Print the forecast of the study in params.yaml, unless it has fewer gradient steps than ``least``.

    Raises:
        SparError: as :func:`load_of`.
    """
    load = load_of(layout)
    if load.gradient_steps < least:
        return
    print("measuring how long this study takes here (a minute or two) ...", flush=True)
    on = device()
    found = forecast(load, on)
    study = check(load_yaml(layout.params))
    print("\n".join(lines(study, found, on, sizes_of(load.entries))), flush=True)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.forecast``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    say(Layout())


if __name__ == "__main__":
    sys.exit(stage_main(run))
