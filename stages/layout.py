"""Paths of the project's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# The checkout whose code runs, or the folder of the installed package.
HERE = Path(__file__).resolve().parent.parent
_EXPERIMENTS_DIR = (".dvc", "tmp", "exps")


def code_root(root: Path) -> Path:
    """The folder of the code that a project runs: its own, or that of the installed package."""
    return root if (root / "spar_core").is_dir() else HERE


def main_root(root: Path) -> Path:
    """The project's root, also for the worktrees of ``dvc exp run --temp`` and ``--queue``."""
    parts = root.resolve().parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == _EXPERIMENTS_DIR:
            return Path(*parts[:index])
    return root.resolve()


@dataclass(frozen=True)
class Layout:
    """Paths below the project root. ``dvc.yaml`` spells out the same paths."""

    root: Path = Path()

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where files that the user names by a relative path may lie.

        A worktree of ``dvc exp run --temp`` holds only what git holds. Other files are taken from the main project.
        """
        main = main_root(self.root)
        return (self.root,) if main == self.root.resolve() else (self.root, main)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def theory_params(self) -> Path:
        return self.root / "theory.yaml"

    @property
    def plan(self) -> Path:
        """Written by ``stages.plan``: digests of code and local data, and the effective settings on every dataset."""
        return self.root / "artifacts" / "plan.json"

    @property
    def minari_root(self) -> Path:
        """The project's own Minari data root, which MINARI_DATASETS_PATH would name."""
        return self.root / "artifacts" / "minari"

    def dataset_entry(self, dataset: str) -> Path:
        return self.root / "datasets" / f"{dataset}.yaml"

    def artifact(self, *parts: str | Path) -> Path:
        """An artifact by its kind and its values on the axes, as in ``artifact("anchor", dataset, "mlp", "0-3")``."""
        return self.root.joinpath("artifacts", *parts)

    def data(self, dataset: str) -> Path:
        """Split, scaler, manifest and meta of a dataset; its episodes lie in ``minari_root``."""
        return self.artifact("data", dataset)

    def seconds(self, folder: Path, stage: str) -> Path:
        """Wall time of the cell whose artifact is ``folder``. It changes from run to run, so it is no output of DVC."""
        below = folder.relative_to(self.root / "artifacts")
        return self.root / "artifacts" / "seconds" / stage / f"{'/'.join(below.parts[1:])}.json"

    def checkpoints(self, stage: str, folder: Path) -> Path:
        """Where the cell whose artifact is ``folder`` keeps its checkpoints while it runs.

        ``SPAR_CHECKPOINTS`` may name another root than ``.checkpoints``.
        """
        below = folder.relative_to(self.root / "artifacts")
        return Path(os.environ.get("SPAR_CHECKPOINTS") or self.root / ".checkpoints") / stage / Path(*below.parts[1:])

    def theory(self, claim: str) -> Path:
        """Results of a claim on synthetic problems."""
        return self.root / "reports" / "theory" / claim

    def report(self, study: str) -> Path:
        return self.root / "reports" / study
