"""The study's cells as ``publish`` handles them: as artifacts, as runs, and grouped by rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from spar_core.artifacts import META, read_json
from spar_core.errors import SparError
from spar_core.study import Study
from stages.cells import Cell, cell_digest, study_cells
from stages.layout import Layout

STUDY_TAG = "spar.study"


@dataclass(frozen=True)
class Record:
    """A cell whose artifact exists, with the content of its ``meta.json`` and its identity (``digest``)."""

    cell: Cell
    folder: Path
    params: dict[str, Any]
    inputs: dict[str, str]
    digest: str


@dataclass
class Tally:
    """Numbers of runs and models that a publication found and added, where to see them, and notes for the user."""

    present: int = 0
    added: int = 0
    models: int = 0
    models_added: int = 0
    experiments: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Add a line for the user, if it is not there already."""
        if line not in self.notes:
            self.notes.append(line)


class Key(NamedTuple):
    """A rule on one dataset, anchor and critic, which a result run describes."""

    dataset: str
    anchor: str
    critic: str
    improvement: str

    def tags(self) -> dict[str, str]:
        """The axes as MLflow tags."""
        return self._asdict()

    def holds(self, cell: Cell) -> bool:
        """Whether the rule's result depends on a cell, which then agrees with the rule on each axis that it has."""
        axes = (cell.dataset, cell.anchor, cell.critic, cell.improvement)
        return all(own in (None, wanted) for own, wanted in zip(axes, self, strict=True))

    @property
    def baseline(self) -> Key:
        """The anchor alone, on the same dataset, anchor and critic."""
        return self._replace(improvement="anchor")


Published = list[tuple[Record, Any]]


def read_records(study: Study, layout: Layout) -> list[Record]:
    """The artifacts of every cell of the study.

    Raises:
        SparError: an artifact is missing.
    """
    plan = read_json(layout.plan)
    cells = study_cells(study)
    missing = [cell for cell in cells if not (cell.folder(layout) / META).is_file()]
    if missing:
        raise SparError(
            f"{len(missing)} of {len(cells)} artifacts of study '{study.name}' are missing, the first is "
            f"'{missing[0].name}' of {missing[0].dataset} ({missing[0].folder(layout)})",
            "run `dvc repro` or `dvc pull`",
        )
    records = []
    for cell in cells:
        folder = cell.folder(layout)
        meta = read_json(folder / META)
        digest = cell_digest(meta["params"], meta["inputs"], cell.code_digest(plan))
        records.append(Record(cell, folder, meta["params"], meta["inputs"], digest))
    return records


def rules(published: Published) -> list[Key]:
    """The rules that were evaluated, in the study's order."""
    cells = [record.cell for record, _ in published if record.cell.stage == "evaluate"]
    return list(dict.fromkeys(Key(c.dataset, str(c.anchor), str(c.critic), str(c.improvement)) for c in cells))


def folders(published: Published, key: Key, stage: str) -> list[Path]:
    """Artifacts of one stage of a rule, one for each seed group."""
    return [record.folder for record, _ in published if record.cell.stage == stage and key.holds(record.cell)]


def with_study(there: str | None, study: Study) -> dict[str, str]:
    """The tag that lists every study that has published a run, with this study added."""
    names = set(filter(None, (there or "").split(", ")))
    return {STUDY_TAG: ", ".join(sorted(names | {study.name}))}
