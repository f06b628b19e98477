"""Fit an anchor or a critic, which depend on the dataset alone, and write it as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spar_core.data.loading import DataPlace
from spar_core.making.frame import Frame, counted
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter


@dataclass(frozen=True)
class FitMember:
    """The work of one worker."""

    data: DataPlace
    member: type[Any]
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        fitted: Fitted = self.member.fit(Context(self.data.load(), seeds, report, self.device), self.settings)
        return fitted


def make_member(frame: Frame, data: DataPlace, family: str, member: type[Any], settings: Settings) -> None:
    """Fit a member of a family ("anchor" or "critic") and write the artifact.

    Raises:
        SparError: the fit diverged, or a worker process was killed.
    """
    fitted = frame.fit(FitMember(data, member, settings, frame.device), family)
    if family == "anchor":
        whole = Context.quiet(data.load(), frame.seeds, frame.device)
        fitted = counted(member.of_group(fitted, whole, settings), family, len(frame.seeds))
    frame.save_fitted(family, fitted)


def steps_of(settings: Settings) -> int:
    """Optimiser steps of one seed, those of a warm start included."""
    return sum(getattr(settings, key, 0) for key in ("warm_start_steps", "steps"))
