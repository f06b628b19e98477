"""Improve an anchor by one rule, and write the policy as an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json
from spar_core.data.loading import MANIFEST, SCALER, DataPlace
from spar_core.data.scaler import Scaler
from spar_core.improvement.gradients import GradientReporter
from spar_core.interface import Interface
from spar_core.making.frame import Frame, Written
from spar_core.parts import load_part
from spar_core.policy import KIND, load_frozen, save_policy
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import METRICS, Fitted, Part
from spar_core.training.reporter import Reporter


@dataclass(frozen=True)
class FitRule:
    """The work of one worker; ``frozen`` holds the folders of anchor, residual model and critic."""

    data: DataPlace
    frozen: Mapping[str, Path]
    member: type[Any]
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = self.data.load()
        if self.member.follows_critic(self.settings):
            alone = [load_frozen(self.frozen, [seed], self.device) for seed in seeds]
            report = GradientReporter(report, self.member, self.settings, alone, data)
        frozen = load_frozen(self.frozen, seeds, self.device)
        fitted: Fitted = self.member.fit(Context(data, seeds, report, self.device), frozen, self.settings)
        return fitted


def make_policy(
    frame: Frame, data: DataPlace, frozen: Mapping[str, Path], kind: str, member: type[Any], settings: Settings
) -> None:
    """Fit a rule, and write the policy with all that acting needs.

    Args:
        frame: of the policy.
        data: the prepared dataset.
        frozen: folders of anchor, residual model and critic, by kind of artifact.
        kind: the rule's name in the registry.
        member: its class.
        settings: its settings.

    Raises:
        SparError: a part is missing, the fit diverged, or a worker process was killed.
    """
    fitted = frame.fit(FitRule(data, frozen, member, settings, frame.device), "improvement")

    def write(folder: Path) -> Written:
        parts = {family: load_part(path, family, frame.seeds) for family, path in frozen.items()}
        if not member.acts_with_critic(settings):
            del parts["critic"]
        for path in frozen.values():
            # The policy carries the metrics of its parts, so that evaluation and report need no other artifact.
            fitted.metrics.update(read_json(path / METRICS))
        parts["improvement"] = Part(kind, settings, fitted.tensors)
        scaler = Scaler.from_dict(read_json(data.folder / SCALER))
        interface = Interface.of_manifest(read_json(data.folder / MANIFEST))
        policy = save_policy(folder, parts=parts, fitted=fitted, seeds=frame.seeds, scaler=scaler, interface=interface)
        return Written.of(policy)

    frame.save(KIND, write)
