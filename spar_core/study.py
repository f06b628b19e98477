"""A study: lists of datasets, anchors, critics, improvement rules and seed groups, and the cells they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings

NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+)*")


@dataclass(frozen=True)
class EvaluationCell:
    """One evaluated policy: a combination of the study's lists, for one group of seeds."""

    dataset: str
    anchor: str
    critic: str
    improvement: str
    seeds: str


class Also(Settings):
    """Cells beside the product of the study's lists: more rules, for some of the anchors only."""

    anchors: tuple[str, ...] = Field((), description="anchors of the study that get these rules as well")
    improvements: tuple[str, ...] = Field((), description="rules beside those of the study")


class Study(Settings):
    """The ``study`` section of ``params.yaml``."""

    name: str = Field(description="name of the study; its report is written to reports/NAME")
    question: str = Field("", description="what the study asks; the report's first line")
    datasets: tuple[str, ...] = Field(description="dataset ids, one for each file datasets/ID.yaml")
    anchors: tuple[str, ...] = Field(description="variants of the section anchors")
    critics: tuple[str, ...] = Field(description="variants of the section critics")
    improvements: tuple[str, ...] = Field(description="variants of the section improvements")
    seeds: tuple[str, ...] = Field(description="groups of seeds such as 0-3; a group trains together and is one cell")
    also: Also = Field(Also(), description="cells beside the product of the lists")
    estimated: tuple[str, ...] = Field((), description="datasets whose policies are also valued from logged data alone")
    rounds: tuple[Round, ...] = Field((), description="re-anchoring rounds, in order")
    diagnosed: tuple[str, ...] = Field(
        (), description="datasets whose cells the stages geometry and diagnose look into"
    )
    params: dict[str, Any] = Field(
        {},
        description="settings that this study changes: a tree over the sections of params.yaml, new variants included",
    )

    @field_validator("datasets", "anchors", "critics", "improvements", "seeds")
    @classmethod
    def _not_empty_nor_twice(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values:
            raise ValueError("the list is empty; name at least one")
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is listed twice")
        return values

    @field_validator("name", "datasets", "anchors", "critics", "improvements")
    @classmethod
    def _plain_names(cls, values: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for value in (values,) if isinstance(values, str) else values:
            # Names become paths and keys of params files, where a dot would split them.
            if not NAME.fullmatch(value):
                raise ValueError(f"'{value}' may hold only a-z, 0-9, '_', '-', and '/' between parts")
        return values

    @field_validator("seeds")
    @classmethod
    def _disjoint_seeds(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[int] = set()
        for group in groups:
            try:
                seeds = parse_seeds(group)
            except SparError as error:
                raise ValueError(str(error)) from None
            twice = seen & set(seeds)
            if twice:
                raise ValueError(f"seed {min(twice)} is listed twice; give each seed to one group")
            seen |= set(seeds)
        return groups

    @model_validator(mode="after")
    def _estimates_and_diagnoses_its_own(self) -> Study:
        for key, names in (("estimated", self.estimated), ("diagnosed", self.diagnosed)):
            for name in names:
                if name not in self.datasets:
                    raise ValueError(f"{key}: '{name}' is not among the study's datasets")
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: a dataset is listed twice")
        return self

    @model_validator(mode="after")
    def _also_adds(self) -> Study:
        also = self.also
        if bool(also.anchors) != bool(also.improvements):
            raise ValueError("also: name both anchors and improvements, or neither")
        for name in also.anchors:
            if name not in self.anchors:
                raise ValueError(f"also: '{name}' is not among the study's anchors")
        for name in also.improvements:
            if name in self.improvements:
                raise ValueError(f"also: '{name}' is among the study's improvements already")
        if any(len(set(names)) < len(names) for names in (also.anchors, also.improvements)):
            raise ValueError("also: a name is listed twice")
        return self

    @model_validator(mode="after")
    def _rounds_follow(self) -> Study:
        made: dict[str, Round] = {}
        for number, here in enumerate(self.rounds, start=1):
            where = f"rounds: round {number}"
            if not NAME.fullmatch(here.anchor):
                raise ValueError(f"{where}: '{here.anchor}' may hold only a-z, 0-9, '_', '-', and '/' between parts")
            if here.anchor in self.anchors:
                raise ValueError(f"{where}: '{here.anchor}' is among the study's anchors; a round makes one of its own")
            if here.anchor in made:
                raise ValueError(f"{where}: '{here.anchor}' is made by an earlier round already")
            if here.of not in (*self.anchors, *made):
                raise ValueError(f"{where}: of '{here.of}', which is no anchor of the study or of an earlier round")
            if here.critic not in self.critics:
                raise ValueError(f"{where}: critic '{here.critic}' is not among the study's critics")
            if here.improvement not in self.improvements:
                raise ValueError(f"{where}: improvement '{here.improvement}' is not among the study's improvements")
            if here.of in made and made[here.of].critic != here.critic:
                raise ValueError(f"{where}: '{here.of}' has policies of critic '{made[here.of].critic}' only")
            made[here.anchor] = here
        return self

    def rules(self, anchor: str) -> tuple[str, ...]:
        """The improvement rules of one anchor."""
        return self.improvements + (self.also.improvements if anchor in self.also.anchors else ())

    def all_rules(self) -> tuple[str, ...]:
        """Every improvement rule that some cell has."""
        return self.improvements + self.also.improvements

    def variants(self) -> dict[str, tuple[str, ...]]:
        """Every variant that some cell has, by its section of params.yaml."""
        anchors = (*self.anchors, *(made.anchor for made in self.rounds))
        return {"anchors": anchors, "critics": self.critics, "improvements": self.all_rules()}

    def cells(self) -> Iterator[EvaluationCell]:
        """Every cell, in the order of the lists, those of the rounds last within a dataset."""
        for dataset in self.datasets:
            settings = [*itertools.product(self.anchors, self.critics), *((r.anchor, r.critic) for r in self.rounds)]
            for anchor, critic in settings:
                for improvement, seeds in itertools.product(self.rules(anchor), self.seeds):
                    yield EvaluationCell(dataset, anchor, critic, improvement, seeds)
