"""Read the evaluation folders that a study names, and nothing else that lies on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from spar_core.artifacts import read_json
from spar_core.choice import CHOICE
from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.seeds import parse_seeds

EPISODES, CURVES, ESTIMATES, CORRECTIONS = "episodes.csv", "curves.csv", "estimates.json", "corrections.csv"
KEYS = ["dataset", "anchor", "critic", "improvement"]
COLUMNS = [*KEYS, "seed", "episode", "env_seed", "return", "length", "terminated", "success"]
# What must be the same in every cell of a dataset, or its rules cannot stand in one table.
SHARED = ("env_id", "not_evaluated", "mismatch", "reference", "label", "dataset", "protocol")
# What is estimated from logged data; the first is always there.
OFFLINE = ("fqe", "critic_estimate")
# And what its values are sums of.
OFFLINE_SHARED = ("discount", "rewards")


class Cell(Protocol):
    """One evaluation of the study: a rule on a dataset, for one group of seeds such as ``"0-3"``."""

    dataset: str
    anchor: str
    critic: str
    improvement: str
    seeds: str


class StudyLists(Protocol):
    """What the report needs of a study; ``spar_core.study.Study`` is one."""

    name: str
    question: str
    # Datasets whose policies are valued from logged data too.
    estimated: tuple[str, ...]
    # Anchors that evolve, each made from one before it.
    rounds: tuple[Round, ...]
    # Datasets whose cells were looked into.
    diagnosed: tuple[str, ...]

    def cells(self) -> Iterable[Cell]:
        """Every cell, in the study's order."""


FolderOf = Callable[[Cell], Path]


@dataclass(frozen=True)
class Folders:
    """Where the artifacts of a cell lie: of its evaluation, of its estimates from logged data, and of what was seen
    inside it and its residual model."""

    evaluation: FolderOf
    estimate: FolderOf
    geometry: FolderOf
    diagnosis: FolderOf

    def of(self, cell: Cell, study: StudyLists) -> dict[str, Path]:
        """The folders that a cell of the study has to have, by the kind of artifact."""
        found = {"evaluation": self.evaluation(cell)}
        return found | ({"estimate": self.estimate(cell)} if cell.dataset in study.estimated else {})

    def inside(self, cell: Cell, study: StudyLists) -> dict[str, Path]:
        """The same of what was seen inside; the geometry is that of all rules on the anchor.

        Cells of anchors that a round made are not looked into.
        """
        if cell.dataset not in study.diagnosed or cell.anchor in {made.anchor for made in study.rounds}:
            return {}
        return {"geometry": self.geometry(cell), "diagnosis": self.diagnosis(cell)}


@dataclass
class Rule:
    """All seeds of one (dataset, anchor, critic, improvement), whatever groups they were trained in."""

    dataset: str
    anchor: str
    critic: str
    improvement: str
    episodes: pd.DataFrame
    context: dict[str, Any]
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    # The same by seed, for those with one value a seed (or one for all); a seed without a finite value is left out.
    by_seed: dict[str, dict[int, float]] = field(default_factory=dict)
    # Estimates from logged data by name and seed; empty where the study asks for none.
    offline: dict[str, dict[int, float]] = field(default_factory=dict)
    # Learning curves of each seed group (spar_core.curves).
    curves: list[pd.DataFrame] = field(default_factory=list)
    # Quantiles of the corrections (spar_core.evaluation.estimation).
    corrections: list[pd.DataFrame] = field(default_factory=list)
    # What a rule that chooses among several chose and why, by seed (spar_core.choice); empty for every other rule.
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    # The artifacts of each seed group that these numbers are from.
    sources: dict[str, dict[str, Path]] = field(default_factory=dict)

    @property
    def not_evaluated(self) -> str | None:
        """Why no policy was rolled out, a clause; None where they were (and then there are episodes)."""
        return self.context.get("not_evaluated")

    @property
    def setting(self) -> tuple[str, str, str]:
        """The rules that are compared with one another share dataset, anchor and critic."""
        return self.dataset, self.anchor, self.critic


def load_rules(study: StudyLists, folders: Folders) -> list[Rule]:
    """Read every cell of the study and join its seed groups.

    Args:
        study: the lists that say what belongs to the study.
        folders: where the artifacts of a cell lie.

    Returns:
        One rule an entry, in the study's order; episodes sorted by seed and episode.

    Raises:
        SparError: a cell is missing or broken, a seed comes twice, nothing at all is known of a policy, or cells of a
            dataset disagree on environment, reference scores, checkpoint protocol, or on what was estimated.
    """
    rules: dict[tuple[str, ...], Rule] = {}
    shared: dict[str, tuple[Path, dict[str, Any]]] = {}
    for cell in study.cells():
        sources = folders.of(cell, study)
        folder = sources["evaluation"]
        episodes, context = _read_cell(cell, folder)
        offline = _read_estimates(cell, sources["estimate"], context) if "estimate" in sources else {}
        if context.get("not_evaluated") is not None and not offline:
            raise SparError(
                f"{folder} holds no episodes ({context['not_evaluated']}), and the study asks for no estimates",
                f"add '{cell.dataset}' to study.estimated in params.yaml and run `dvc repro`",
            )
        first, agreed = shared.setdefault(cell.dataset, (folder, context))
        theirs = _shared(agreed)
        for name, value in _shared(context).items():
            if value != theirs[name]:
                raise SparError(
                    f"{folder} and {first} differ in '{name}' of context.json, so they cannot be compared",
                    "run `dvc repro`",
                )
        key = tuple(getattr(cell, name) for name in KEYS)
        if key in rules:
            rule = rules[key]
            seeds = set(rule.episodes["seed"]) | set(rule.offline.get("fqe", {}))
            twice = sorted(seeds & set(parse_seeds(cell.seeds)))
            if twice:
                raise SparError(f"{folder}: seed {twice[0]} is in another seed group of the study too")
            rule.episodes = pd.concat([rule.episodes, episodes], ignore_index=True)
        else:
            rules[key] = rule = Rule(*key, episodes=episodes, context=context)
        _add_diagnostics(rule, context.get("diagnostics", {}), parse_seeds(cell.seeds))
        for name, values in offline.items():
            rule.offline.setdefault(name, {}).update(values)
        rule.sources[cell.seeds] = sources
        if (folder / CHOICE).is_file():
            rule.choices |= {found["seed"]: found for found in read_json(folder / CHOICE)}
        if (folder / CURVES).is_file():
            rule.curves.append(_table(folder / CURVES))
        if "estimate" in sources:
            rule.corrections.append(_table(sources["estimate"] / CORRECTIONS))
    if not rules:
        raise SparError(f"study '{study.name}' has no cell", "give it at least one entry in each of its lists")
    for rule in rules.values():
        rule.episodes = rule.episodes.sort_values(["seed", "episode"], ignore_index=True)
        rule.offline = {name: dict(sorted(values.items())) for name, values in rule.offline.items()}
    return list(rules.values())


def _table(path: Path) -> pd.DataFrame:
    """A small table of numbers that another stage wrote."""
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run `dvc repro`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise SparError(f"{path} is broken: {error}", "delete its folder and run `dvc repro`") from None


def _shared(context: dict[str, Any]) -> dict[str, Any]:
    """What all cells of a dataset agree on."""
    offline = context.get("offline") or {}
    return {name: context.get(name) for name in SHARED} | {name: offline.get(name) for name in OFFLINE_SHARED}


def _read_estimates(cell: Cell, folder: Path, context: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Estimates by name and seed, checked; ``context`` is handed them, and their diagnostics, too."""
    path, seeds = folder / ESTIMATES, parse_seeds(cell.seeds)
    found = read_json(path)
    by_name = {name: found[name] for name in OFFLINE if found.get(name) is not None}
    if "fqe" not in by_name:
        raise SparError(f"{path} holds no estimate from logged data", "run `dvc repro`")
    for name, values in by_name.items():
        if len(values) != len(seeds) or tuple(found["seeds"]) != seeds:
            raise SparError(f"{path}: '{name}' is not one value a seed of the group '{cell.seeds}'", "run `dvc repro`")
        if any(value is None or not math.isfinite(value) for value in values):
            raise SparError(f"{path} holds a value of '{name}' that is not finite", "its fit diverged")
    context["offline"] = found
    context["diagnostics"] = {**context.get("diagnostics", {}), **found.get("diagnostics", {})}
    return {name: dict(zip(seeds, values, strict=True)) for name, values in by_name.items()}


def _add_diagnostics(rule: Rule, diagnostics: dict[str, Any], seeds: Sequence[int]) -> None:
    """Join the diagnostics of one seed group: a list has one value a seed, in the order of the group."""
    for name, value in diagnostics.items():
        values = value if isinstance(value, list) else [value]
        known = [v for v in values if v is not None and math.isfinite(v)]
        rule.diagnostics.setdefault(name, []).extend(known)
        each = values if isinstance(value, list) else [value] * len(seeds)
        if len(each) == len(seeds):
            pairs = zip(seeds, each, strict=True)
            found = {seed: float(v) for seed, v in pairs if v is not None and math.isfinite(v)}
            rule.by_seed.setdefault(name, {}).update(found)


def all_episodes(rules: Iterable[Rule]) -> pd.DataFrame:
    """Every episode of the study, one a row, with the columns of ``episodes.csv``."""
    frames = [rule.episodes for rule in rules]
    # Empty frames have no types of their own, and would change those of the others.
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _read_cell(cell: Cell, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Episodes and context of one evaluation folder, checked."""
    table = folder / EPISODES
    if not table.is_file():
        name = "/".join([*(getattr(cell, key) for key in KEYS), cell.seeds])
        raise SparError(f"the study names the cell {name}, but {table} does not exist", "run `dvc repro`")
    try:
        # Names are read as text, so that a rule called "none" or "1" stays what it is.
        episodes = pd.read_csv(table, dtype=str, keep_default_na=False)
        missing = [column for column in COLUMNS if column not in episodes.columns]
        if missing:
            raise SparError(f"{table} lacks the column '{missing[0]}'", "run `dvc repro`")
        for column, kind in [("seed", int), ("episode", int), ("return", float), ("length", int)]:
            episodes[column] = episodes[column].astype(kind)
        for column in ("terminated", "success"):
            episodes[column] = episodes[column].map(_flag)
    except (ValueError, pd.errors.ParserError) as error:
        raise SparError(f"{table} is broken: {error}", "delete its folder and run `dvc repro`") from None
    context = read_json(folder / "context.json")
    if context.get("not_evaluated") is not None:
        if len(episodes):
            raise SparError(f"{table} holds episodes, but context.json says that there are none", "run `dvc repro`")
        return episodes[COLUMNS], context
    if episodes.empty:
        raise SparError(f"{table} has no episode", "check the number of evaluation episodes in params.yaml")
    for key in KEYS:
        strangers = episodes.loc[episodes[key] != getattr(cell, key), key]
        if len(strangers):
            raise SparError(f"{table} holds rows of {key} '{strangers.iloc[0]}'", "run `dvc repro`")
    if episodes.duplicated(["seed", "episode"]).any():
        raise SparError(f"{table} holds an episode of a seed twice", "delete its folder and run `dvc repro`")
    expected, found = set(parse_seeds(cell.seeds)), set(episodes["seed"])
    if expected != found:
        raise SparError(
            f"{table} holds seeds {sorted(found)}, but its group '{cell.seeds}' is {sorted(expected)}",
            "run `dvc repro`",
        )
    if not np.isfinite(episodes["return"]).all():
        raise SparError(f"{table} holds a return that is not finite", "the policy or its environment diverged")
    return episodes[COLUMNS], context


def _flag(text: str) -> float:
    """1.0, 0.0, or NaN for an empty field (the environment has no notion of success)."""
    flags = {"": float("nan"), "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
    if text.strip().lower() not in flags:
        raise ValueError(f"'{text}' is neither true nor false")
    return flags[text.strip().lower()]
