"""A study: lists of datasets, anchors, critics, improvement rules and seed groups, and the cells they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import field_validator, model_validator

from spar_core.errors import SparError
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
    """Cells beside the product of the study's lists: these rules too, but for these anchors only."""

    anchors: tuple[str, ...] = ()
    improvements: tuple[str, ...] = ()


class Study(Settings):
    """The ``study`` section of ``params.yaml``."""

    name: str
    question: str = ""
    datasets: tuple[str, ...]
    anchors: tuple[str, ...]
    critics: tuple[str, ...]
    improvements: tuple[str, ...]
    seeds: tuple[str, ...]
    also: Also = Also()

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

    def rules(self, anchor: str) -> tuple[str, ...]:
        """The improvement rules of one anchor."""
        return self.improvements + (self.also.improvements if anchor in self.also.anchors else ())

    def all_rules(self) -> tuple[str, ...]:
        """Every improvement rule that some cell has."""
        return self.improvements + self.also.improvements

    def cells(self) -> Iterator[EvaluationCell]:
        """Every cell, in the order of the lists."""
        for dataset, anchor, critic in itertools.product(self.datasets, self.anchors, self.critics):
            for improvement, seeds in itertools.product(self.rules(anchor), self.seeds):
                yield EvaluationCell(dataset, anchor, critic, improvement, seeds)


def parse_seeds(group: str) -> tuple[int, ...]:
    """Seeds of a group: ``"0-3"`` is 0, 1, 2, 3; ``"5"`` is 5; ``"0,4-5"`` is 0, 4, 5.

    Raises:
        SparError: the text is something else, or holds a seed twice.
    """
    seeds: list[int] = []
    for part in str(group).split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise SparError(f"seed group '{group}' is not valid", 'write "0-3", "5" or "0,4-5"')
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise SparError(f"seed group '{group}' holds a seed twice", "list each seed once")
    return tuple(seeds)
