"""Where artifacts lie: one function a kind of cell, used by every stage, by the report and by ``publish``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths below the project root; ``dvc.yaml`` spells out the same ones."""

    root: Path = Path()

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
        """The project's own Minari data root (what MINARI_DATASETS_PATH would name)."""
        return self.root / "artifacts" / "minari"

    def dataset_entry(self, dataset: str) -> Path:
        return self.root / "datasets" / f"{dataset}.yaml"

    def data(self, dataset: str) -> Path:
        """Split, scaler, manifest and meta of a dataset; its episodes lie in ``minari_root``."""
        return self.root / "artifacts" / "data" / dataset

    def anchor(self, dataset: str, anchor: str, seeds: str) -> Path:
        return self.root / "artifacts" / "anchor" / dataset / anchor / seeds

    def residual(self, dataset: str, anchor: str, seeds: str) -> Path:
        return self.root / "artifacts" / "residual" / dataset / anchor / seeds

    def critic(self, dataset: str, critic: str, seeds: str) -> Path:
        return self.root / "artifacts" / "critic" / dataset / critic / seeds

    def policy(self, dataset: str, anchor: str, critic: str, improvement: str, seeds: str) -> Path:
        return self.root / "artifacts" / "policy" / dataset / anchor / critic / improvement / seeds

    def evaluation(self, dataset: str, anchor: str, critic: str, improvement: str, seeds: str) -> Path:
        return self.root / "artifacts" / "evaluation" / dataset / anchor / critic / improvement / seeds

    def estimate(self, dataset: str, anchor: str, critic: str, improvement: str, seeds: str) -> Path:
        return self.root / "artifacts" / "estimate" / dataset / anchor / critic / improvement / seeds

    def geometry(self, dataset: str, anchor: str, seeds: str) -> Path:
        return self.root / "artifacts" / "geometry" / dataset / anchor / seeds

    def diagnosis(self, dataset: str, anchor: str, critic: str, improvement: str, seeds: str) -> Path:
        return self.root / "artifacts" / "diagnosis" / dataset / anchor / critic / improvement / seeds

    def seconds(self, folder: Path, stage: str) -> Path:
        """Wall time of the cell whose artifact is ``folder``; no output of DVC, since it changes from run to run."""
        below = folder.relative_to(self.root / "artifacts")
        return self.root / "artifacts" / "seconds" / stage / f"{'/'.join(below.parts[1:])}.json"

    def checkpoints(self, stage: str, folder: Path) -> Path:
        """Where the cell whose artifact is ``folder`` keeps its checkpoints while it runs; ``SPAR_CHECKPOINTS`` may
        name another root."""
        below = folder.relative_to(self.root / "artifacts")
        return Path(os.environ.get("SPAR_CHECKPOINTS") or self.root / ".checkpoints") / stage / Path(*below.parts[1:])

    def theory(self, claim: str) -> Path:
        """Results of a claim on synthetic problems."""
        return self.root / "reports" / "theory" / claim

    def report(self, study: str) -> Path:
        return self.root / "reports" / study
