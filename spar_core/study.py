"""A study: lists of datasets, anchors, critics, improvement rules and seed groups, and the cells they span."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import field_validator

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


class Study(Settings):
    """The ``study`` section of ``params.yaml``."""

    name: str
    question: str = ""
    datasets: tuple[str, ...]
    anchors: tuple[str, ...]
    critics: tuple[str, ...]
    improvements: tuple[str, ...]
    seeds: tuple[str, ...]

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

    def cells(self) -> Iterator[EvaluationCell]:
        """Every combination, in the order of the lists."""
        for combination in itertools.product(self.datasets, self.anchors, self.critics, self.improvements, self.seeds):
            yield EvaluationCell(*combination)


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
