"""Where every number of a report comes from: the artifacts it was read from, by digest, and their settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import META, digest_file, read_json
from spar_core.reporting.numbers.cells import Rule

# The artifacts that an evaluation was made from, in pipeline order; its meta.json holds their digests.
INPUTS = ("dataset", "anchor", "residual", "critic", "policy")


@dataclass(frozen=True)
class Source:
    """One seed group of a rule.

    Attributes:
        evaluation, estimate: digests of the artifacts that were read, as in ``dvc.lock``; None without an estimate.
        inputs: digests of the artifacts that the evaluation was made from, by name.
    """

    dataset: str
    anchor: str
    critic: str
    improvement: str
    seeds: str
    evaluation: str
    estimate: str | None
    inputs: dict[str, str]


def sources_of(rules: Sequence[Rule]) -> list[Source]:
    """Every seed group of every rule, in the study's order."""
    found = []
    for rule in rules:
        for seeds, folders in rule.sources.items():
            meta = folders["evaluation"] / META
            inputs = read_json(meta)["inputs"] if meta.is_file() else {}
            found.append(
                Source(
                    *rule.setting,
                    rule.improvement,
                    seeds,
                    evaluation=dvc_digest(folders["evaluation"]),
                    estimate=dvc_digest(folders["estimate"]) if "estimate" in folders else None,
                    inputs={name: inputs[name] for name in INPUTS if name in inputs},
                )
            )
    return found


def dvc_digest(folder: Path) -> str:
    """The ``md5`` of a folder in ``dvc.lock``: the digest of the list of its files' paths and digests."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [{"md5": digest_file(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def changed(rules: Sequence[Rule]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """The members whose settings differ from their defaults, each once, as (part, variant, kind, settings)."""
    axes = {"anchor": "anchor", "residual": "anchor", "critic": "critic", "improvement": "improvement"}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for rule in rules:
        made: Mapping[str, Any] = rule.context.get("made_with") or {}
        for part, axis in axes.items():
            if part in made:
                key = (part, getattr(rule, axis), made[part]["kind"])
                found.setdefault(key, made[part]["changed"])
    return [(*key, settings) for key, settings in found.items() if settings]


def judged_with(rules: Sequence[Rule]) -> dict[str, dict[str, str]]:
    """Every setting of the evaluations and of the estimates, from their ``meta.json``.

    Where cells differ, as in a partial report, a value reads ``a or b``.
    """
    sections = {"evaluation": "evaluation", "estimate": "estimation"}
    found: dict[str, dict[str, list[str]]] = {}
    for kind, section in sections.items():
        judged = [rule for rule in rules if kind == "estimate" or rule.not_evaluated is None]
        metas = [source[kind] / META for rule in judged for source in rule.sources.values() if kind in source]
        for meta in filter(Path.is_file, metas):
            for name, value in _flat(read_json(meta)["params"].get(section, {})).items():
                values = found.setdefault(kind, {}).setdefault(name, [])
                if str(value) not in values:
                    values.append(str(value))
    return {kind: {name: " or ".join(values) for name, values in known.items()} for kind, known in found.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
