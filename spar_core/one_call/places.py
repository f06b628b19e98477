"""Where the artifacts of one call lie: in the same folders as those of a project with one cell of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spar_core.data.loading import DataPlace
from spar_core.reporting.numbers.cells import Cell, StudyLists

# The names that make up the path of a kind of artifact.
AXES = {
    "data": ("dataset",),
    "anchor": ("dataset", "anchor", "seeds"),
    "residual": ("dataset", "anchor", "seeds"),
    "critic": ("dataset", "critic", "seeds"),
    **dict.fromkeys(("policy", "evaluation", "estimate"), ("dataset", "anchor", "critic", "improvement", "seeds")),
}
REPORTED = ("evaluation", "estimate")


@dataclass(frozen=True)
class Places:
    """Paths below the folder of a call."""

    root: Path

    @property
    def minari_root(self) -> Path:
        """The folder of Minari datasets."""
        return self.root / "artifacts" / "minari"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "report"

    @property
    def study(self) -> Path:
        """The file that says which cells there are."""
        return self.root / "study.json"

    def data(self, dataset: str) -> DataPlace:
        """The prepared dataset."""
        return DataPlace(self.minari_root, self.root / "artifacts" / "data" / dataset, dataset)

    def folder(self, kind: str, cell: Cell) -> Path:
        """The artifact of a kind that belongs to a cell."""
        return self.root.joinpath("artifacts", kind, *(getattr(cell, axis) for axis in AXES[kind]))

    def folders(self, cell: Cell, *kinds: str) -> dict[str, Path]:
        """Artifacts that belong to a cell, by kind."""
        return {kind: self.folder(kind, cell) for kind in kinds}

    def reported(self, cell: Cell, study: StudyLists) -> Mapping[str, Path]:
        """The artifacts that a report reads."""
        return self.folders(cell, *REPORTED)
