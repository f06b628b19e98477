"""What one call gives: a verdict, a report, and policies that act and can be exported."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spar_core.artifacts import new_artifact, read_json
from spar_core.data.loading import MANIFEST
from spar_core.errors import SparError
from spar_core.export_policy import Exported, export_policy
from spar_core.guard import fit_guard
from spar_core.interface import Interface
from spar_core.one_call.places import Places
from spar_core.policy import Policy, load_policy
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.flat import numbers_of
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.page.answer import Answer, PartHealth, answer
from spar_core.reporting.page.page import Extra, build_page
from spar_core.reporting.page.render import console_text
from spar_core.settings import nearest, parse
from spar_core.study import EvaluationCell, Study


@dataclass(frozen=True)
class Result:
    """The result of :func:`spar_core.improve`; ``print(result)`` shows verdict, health and the table of rules.

    Attributes:
        folder: holds ``artifacts/`` (data, anchor, residual model, critic, policies, estimates) and ``report/``.
        study: names of dataset, anchor, critic, rules and seeds.
        verdict: what to do, and why: ``verdict.headline`` and ``verdict.sentences``, and the numbers behind them in
            ``verdict.verdict``.
        health: a line for each part that is green, and for each thing that is wrong with one.
        text: what ``print(result)`` shows.
    """

    folder: Path
    study: Study
    verdict: Answer
    health: tuple[PartHealth, ...]
    text: str
    # A temporary folder is removed with its result.
    _kept: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    @property
    def rule(self) -> str:
        """The rule whose policy the verdict names; the anchor where it says to keep that."""
        return self.verdict.verdict.rule or "anchor" if self.verdict.policy else "anchor"

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that have a policy."""
        return self.study.improvements

    @cached_property
    def policy(self) -> Policy:
        """The committee of all seeds of :attr:`rule`; ``policy.act`` takes raw observations."""
        return self.policy_of(self.rule)

    def policy_of(self, rule: str, seed: int | None = None) -> Policy:
        """The policy of a rule: the committee of all seeds, or one seed.

        Raises:
            SparError: there is no such rule or seed.
        """
        return load_policy(self.folder_of(rule), seed)

    def folder_of(self, rule: str) -> Path:
        """Folder of a rule's policy, for :func:`spar_core.load_policy`.

        Raises:
            SparError: there is no such rule.
        """
        return self._places.folder("policy", self._cell(rule))

    def export(
        self,
        path: str | Path,
        format: str = "onnx",
        *,
        rule: str | None = None,
        seed: int | None = None,
        distance: bool = False,
        guard: float | None = None,
    ) -> Exported:
        """Write a policy as one file that acts without this package.

        Args:
            path: the file to write; one that exists is replaced.
            format: "onnx", or "torch" for TorchScript.
            rule: whose policy; None for that of :attr:`policy`.
            seed: one seed; None for the committee of all.
            distance: whether the file also gives how far observation and action lie from the training data.
            guard: distance beyond which the anchor acts, which includes ``distance``; None for never.

        Raises:
            SparError: there is no such rule, or its policy cannot be exported.
        """
        folder = self.folder_of(rule or self.rule)
        place = self._places.data(self.study.datasets[0])
        guarded = distance or guard is not None
        fitted = fit_guard(place.load(), guard, policy=load_policy(folder, seed)) if guarded else None
        origin = vars(Interface.of_manifest(read_json(place.folder / MANIFEST)))
        return export_policy(folder, path, format, seed, fitted, origin)

    def report(self, path: str | Path) -> Path:
        """Write the report: a page that opens offline if the path ends in ``.html``, else a folder with ``report.md``.

        Args:
            path: a page that exists is replaced, a folder must not exist.

        Returns:
            The path.

        Raises:
            SparError: the folder exists.
        """
        target = Path(path)
        if target.suffix == ".html":
            markdown = (self._places.report / "report.md").read_text(encoding="utf-8")
            page = build_page(markdown, self._places.report, self.study.datasets, Extra())
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.draft")
            draft.write_text(page, encoding="utf-8")
            draft.replace(target)
            return target
        if target.exists():
            raise SparError(f"{target} exists", "name a new folder, or a page such as report.html")
        with new_artifact(target) as draft:
            shutil.copytree(self._places.report, draft, dirs_exist_ok=True)
        return target

    @property
    def _places(self) -> Places:
        return Places(self.folder)

    def _cell(self, rule: str) -> EvaluationCell:
        for cell in self.study.cells():
            if cell.improvement == rule:
                return cell
        raise SparError(f"there is no rule '{rule}' here", nearest(rule, list(self.rules)))


def load_result(folder: str | Path, kept: tempfile.TemporaryDirectory[str] | None = None) -> Result:
    """The result in a folder that :func:`spar_core.improve` has written.

    Args:
        folder: that was ``out``.
        kept: the temporary folder that it lies in, which is removed with the result.

    Raises:
        SparError: the folder holds no result, or a part of it is missing or damaged.
    """
    places = Places(Path(folder))
    if not places.study.is_file():
        raise SparError(f"{folder} holds no result of `spar improve`", "name the folder that was --out")
    study = parse(Study, read_json(places.study), str(places.study))
    settings = ReportSettings()
    rules = load_rules(study, places.reported)
    numbers = numbers_of(rules, settings)
    answers, health = answer(rules, numbers.agreements, settings)
    text = console_text(answers, health, numbers, settings)
    return Result(places.root, study, answers[0], tuple(health), text, kept)


def named_study(dataset: str, members: Mapping[str, Any], seeds: str) -> Study:
    """The study of one call: one dataset, anchor and critic; the anchor alone, its repair, and the rule."""
    settings = ReportSettings()
    rules = dict.fromkeys((settings.baseline, settings.repair, members["improvement"]))
    return Study(
        name="improve",
        question=f"Does {members['improvement']} improve on the anchor {members['anchor']}?",
        datasets=(dataset,),
        anchors=(members["anchor"],),
        critics=(members["critic"],),
        improvements=tuple(rules),
        seeds=(seeds,),
        estimated=(dataset,),
    )
