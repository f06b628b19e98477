"""The part of a study that is there, for a partial report of one that was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.reporting.numbers.cells import EPISODES, ESTIMATES, Cell, Folders, StudyLists


@dataclass(frozen=True)
class PresentPart:
    """The part of a study whose evaluations lie on disk, and the cells that are still missing."""

    name: str
    question: str
    estimated: tuple[str, ...]
    diagnosed: tuple[str, ...]
    present: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    rounds: tuple[Round, ...] = ()

    def cells(self) -> Iterable[Cell]:
        """Those that are there, in the study's order."""
        return self.present


def present_part(study: StudyLists, folders: Folders) -> PresentPart:
    """Split a study by whether the artifacts of a cell exist; without its estimates, a cell has returns at least.

    Raises:
        SparError: none does.
    """
    there: list[Cell] = []
    missing: list[Cell] = []
    unvalued: set[str] = set()
    for cell in study.cells():
        folders_of_cell = folders.of(cell, study)
        evaluated = (folders_of_cell["evaluation"] / EPISODES).is_file()
        valued = "estimate" not in folders_of_cell or (folders_of_cell["estimate"] / ESTIMATES).is_file()
        if evaluated and (valued or _has_episodes(folders_of_cell["evaluation"])):
            there.append(cell)
            if not valued:
                unvalued.add(cell.dataset)
        else:
            missing.append(cell)
    if not there:
        raise SparError(f"no cell of the study '{study.name}' has been evaluated yet", "run `dvc repro`")
    # Estimates of some rules alone could not be compared, so that a dataset has those of all or of none.
    estimated = tuple(name for name in study.estimated if name not in unvalued)
    known = (study.name, study.question, estimated, study.diagnosed)
    return PresentPart(*known, tuple(there), tuple(missing), study.rounds)


def _has_episodes(folder: Path) -> bool:
    """Whether a policy was rolled out: then it is worth a row without its estimates, too."""
    with (folder / EPISODES).open(encoding="utf-8") as handle:
        return len([line for line in itertools.islice(handle, 2) if line.strip()]) == 2
