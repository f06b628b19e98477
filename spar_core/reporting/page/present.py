"""The cells of a study whose artifacts exist, for a partial report of an interrupted study."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.reporting.numbers.cells import Cell, FoldersOf, StudyLists
from spar_core.reporting.numbers.reading import EPISODES, ESTIMATES


@dataclass(frozen=True)
class PresentPart:
    """A study reduced to its present cells; ``missing`` holds the others."""

    name: str
    question: str
    estimated: tuple[str, ...]
    diagnosed: tuple[str, ...]
    present: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    rounds: tuple[Round, ...] = ()

    def cells(self) -> Iterable[Cell]:
        """The present cells, in the study's order."""
        return self.present


def present_part(study: StudyLists, folders: FoldersOf) -> PresentPart:
    """Split a study into present and missing cells.

    A cell is present if its evaluation exists, and its estimates too where no policy was rolled out.

    Raises:
        SparError: no cell is present.
    """
    there: list[Cell] = []
    missing: list[Cell] = []
    unvalued: set[str] = set()
    for cell in study.cells():
        folders_of_cell = folders(cell, study)
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
    # Estimates of some rules only cannot be compared, so a dataset keeps those of all rules or of none.
    estimated = tuple(name for name in study.estimated if name not in unvalued)
    known = (study.name, study.question, estimated, study.diagnosed)
    return PresentPart(*known, tuple(there), tuple(missing), study.rounds)


def _has_episodes(folder: Path) -> bool:
    """Whether a policy was rolled out: then the cell has returns even without its estimates."""
    with (folder / EPISODES).open(encoding="utf-8") as handle:
        return len([line for line in itertools.islice(handle, 2) if line.strip()]) == 2
