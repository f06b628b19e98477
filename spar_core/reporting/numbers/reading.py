"""Read and check the artifacts of the cells that a study names; other folders on disk are ignored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spar_core.artifacts import read_json
from spar_core.choice import CHOICE
from spar_core.errors import SparError
from spar_core.reporting.numbers.cells import KEYS, OFFLINE, Cell, FoldersOf, Rule, StudyLists
from spar_core.seeds import parse_seeds

# Kinds of the artifacts that are read here.
RESULTS = ("evaluation", "estimate")
EPISODES, CURVES, ESTIMATES, CORRECTIONS = "episodes.csv", "curves.csv", "estimates.json", "corrections.csv"
COMMITTEE = "committee.csv"
COLUMNS = [*KEYS, "seed", "episode", "env_seed", "return", "length", "terminated", "success"]
# All cells of a dataset must agree on these entries of context.json, or their rules cannot share a table.
SHARED = ("env_id", "not_evaluated", "mismatch", "reference", "label", "dataset", "protocol")
# All cells of a dataset must also agree on these entries of estimates.json.
OFFLINE_SHARED = ("discount", "rewards")


def load_rules(study: StudyLists, folders: FoldersOf) -> list[Rule]:
    """Read every cell of the study and join its seed groups.

    Args:
        study: the lists of cells, and of datasets with estimates.
        folders: where the artifacts of a cell lie.

    Returns:
        The rules in the study's order; their episodes are sorted by seed and episode.

    Raises:
        SparError: a cell is missing or broken, a seed appears twice, a policy has neither episodes nor estimates, or
            cells of a dataset disagree on environment, reference scores, checkpoint protocol or estimates.
    """
    rules: dict[tuple[str, ...], Rule] = {}
    shared: dict[str, tuple[Path, dict[str, Any]]] = {}
    for cell in study.cells():
        sources = {kind: folder for kind, folder in folders(cell, study).items() if kind in RESULTS}
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
        key = (cell.dataset, cell.anchor, cell.critic, cell.improvement)
        if key in rules:
            rule = rules[key]
            seeds = set(rule.episodes["seed"]) | set(rule.offline.get("fqe", {}))
            twice = sorted(seeds & set(parse_seeds(cell.seeds)))
            if twice:
                raise SparError(f"{folder}: seed {twice[0]} is in another seed group of the study too")
            rule.episodes = pd.concat([rule.episodes, episodes], ignore_index=True)
        else:
            rules[key] = rule = Rule(*key, episodes, context)
        _add_diagnostics(rule, context.get("diagnostics", {}), parse_seeds(cell.seeds))
        for name, values in offline.items():
            rule.offline.setdefault(name, {}).update(values)
        rule.sources[cell.seeds] = sources
        rule.groups[cell.seeds] = parse_seeds(cell.seeds)
        ours = _committee(cell, folder)
        if len(ours):
            rule.committees = pd.concat([rule.committees, ours], ignore_index=True) if len(rule.committees) else ours
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


def _read_cell(cell: Cell, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Episodes and context of one evaluation folder, checked."""
    table = folder / EPISODES
    if not table.is_file():
        name = "/".join([*(getattr(cell, key) for key in KEYS), cell.seeds])
        raise SparError(f"the study names the cell {name}, but {table} does not exist", "run `dvc repro`")
    try:
        # Reading every field as text keeps the name of a rule called "none" or "1".
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
    context: dict[str, Any] = read_json(folder / "context.json")
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


def _committee(cell: Cell, folder: Path) -> pd.DataFrame:
    """Episodes of the committee of a seed group, checked; a group of one seed has none."""
    path = folder / COMMITTEE
    found = _table(path, {"seeds": str}) if path.is_file() else pd.DataFrame()
    if len(found):
        if set(found.get("seeds", ())) != {cell.seeds}:
            raise SparError(f"{path} does not hold the committee of '{cell.seeds}'", "run `dvc repro`")
        if not np.isfinite(found["return"]).all():
            raise SparError(f"{path} holds a return that is not finite", "the policy or its environment diverged")
    return found


def _flag(text: str) -> float:
    """1.0 for true, 0.0 for false, NaN for an empty field (the environment does not report success)."""
    flags = {"": float("nan"), "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
    if text.strip().lower() not in flags:
        raise ValueError(f"'{text}' is neither true nor false")
    return flags[text.strip().lower()]


def _read_estimates(cell: Cell, folder: Path, context: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Estimates by name and seed, checked; they and their diagnostics are added to ``context``."""
    path, seeds = folder / ESTIMATES, parse_seeds(cell.seeds)
    found = read_json(path)
    by_name = {name: found[name] for name in OFFLINE if found.get(name) is not None}
    if "fqe" not in by_name:
        raise SparError(f"{path} holds no estimate from logged data", "run `dvc repro`")
    for name, values in by_name.items():
        if len(values) != len(seeds) or tuple(found["seeds"]) != seeds:
            raise SparError(
                f"{path}: '{name}' does not have one value per seed of the group '{cell.seeds}'", "run `dvc repro`"
            )
        if any(value is None or not math.isfinite(value) for value in values):
            raise SparError(f"{path} holds a value of '{name}' that is not finite", "its fit diverged")
    context["offline"] = found
    context["diagnostics"] = {**context.get("diagnostics", {}), **found.get("diagnostics", {})}
    return {name: dict(zip(seeds, values, strict=True)) for name, values in by_name.items()}


def _shared(context: dict[str, Any]) -> dict[str, Any]:
    """The entries on which all cells of a dataset must agree."""
    offline = context.get("offline") or {}
    return {name: context.get(name) for name in SHARED} | {name: offline.get(name) for name in OFFLINE_SHARED}


def _add_diagnostics(rule: Rule, diagnostics: dict[str, Any], seeds: Sequence[int]) -> None:
    """Add the diagnostics of one seed group: a list holds one value per seed, a number holds for every seed."""
    for name, value in diagnostics.items():
        values = value if isinstance(value, list) else [value]
        known = [v for v in values if v is not None and math.isfinite(v)]
        rule.diagnostics.setdefault(name, []).extend(known)
        each = values if isinstance(value, list) else [value] * len(seeds)
        if len(each) == len(seeds):
            pairs = zip(seeds, each, strict=True)
            found = {seed: float(v) for seed, v in pairs if v is not None and math.isfinite(v)}
            rule.by_seed.setdefault(name, {}).update(found)


def _table(path: Path, kinds: dict[str, type] | None = None) -> pd.DataFrame:
    """A small table that another stage wrote; ``kinds`` names the columns that are no numbers."""
    try:
        return pd.read_csv(path, dtype=kinds)
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run `dvc repro`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise SparError(f"{path} is broken: {error}", "delete its folder and run `dvc repro`") from None
