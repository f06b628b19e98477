"""Where every number of a report comes from: the artifacts it was read from, by digest, and how those were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import META, digest_file, read_json
from spar_core.reporting.numbers.cells import KEYS, Rule

# Artifacts that an evaluation was made from, in the order of the pipeline; its meta.json holds their digests.
INPUTS = ("dataset", "anchor", "residual", "critic", "policy")


@dataclass(frozen=True)
class Source:
    """One seed group of a rule: what was read (digests as ``dvc.lock`` has them), and the inputs of that."""

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
            digests = {kind: dvc_digest(folder) for kind, folder in folders.items()}
            axes = {key: getattr(rule, key) for key in KEYS}
            known = {name: inputs[name] for name in INPUTS if name in inputs}
            found.append(Source(**axes, seeds=seeds, **({"estimate": None} | digests), inputs=known))
    return found


def dvc_digest(folder: Path) -> str:
    """What ``dvc.lock`` calls the ``md5`` of a folder: of the list of its files' paths and digests."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [{"md5": digest_file(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def raw_files(rules: Sequence[Rule]) -> dict[str, bytes]:
    """Every file that the report was made from, by path below ``raw/``: with them, anyone can compute it anew."""
    files = {}
    for rule in rules:
        for seeds, folders in rule.sources.items():
            for kind, folder in folders.items():
                below = "/".join([kind, *(getattr(rule, key) for key in KEYS), seeds])
                for path in sorted(folder.iterdir()):
                    files[f"{below}/{path.name}"] = path.read_bytes()
    return files


def changed(rules: Sequence[Rule]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Members of the study with settings that are not their defaults: (part, variant, kind, settings), each once."""
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
    """Every setting of the evaluations and of the estimates, as their ``meta.json`` have them; ``a or b`` where cells
    differ, as those of a partial report may."""
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
