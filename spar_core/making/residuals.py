"""Fit the residual model of an anchor, and write it as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spar_core.data.loading import DataPlace
from spar_core.making.frame import Frame
from spar_core.parts import load_part, restore_anchor
from spar_core.residual import ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter


@dataclass(frozen=True)
class FitResidual:
    """The work of one worker; ``anchor`` is the folder of the anchor's artifact."""

    data: DataPlace
    anchor: Path
    settings: ResidualSettings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = self.data.load()
        part = load_part(self.anchor, "anchor", seeds)
        return fit_residual(Context(data, seeds, report, self.device), restore_anchor(part, self.device), self.settings)


def make_residual(frame: Frame, data: DataPlace, anchor: Path, settings: ResidualSettings) -> None:
    """Fit the residual model of the anchor in a folder, and write the artifact.

    Raises:
        SparError: the anchor is missing, the fit diverged, or a worker process was killed.
    """
    frame.save_fitted("residual", frame.fit(FitResidual(data, anchor, settings, frame.device), "residual"))
