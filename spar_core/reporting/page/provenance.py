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
# The section of params.yaml that holds the settings of a part, and of a kind of artifact.
SECTIONS = {"anchor": "anchors", "residual": "residual", "critic": "critics", "improvement": "improvements"}
JUDGED = {"evaluation": "evaluation", "estimate": "estimation"}
# By dataset, section, variant and key: where a setting comes from that params.yaml does not give.
Origins = Mapping[str, Any]


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


@dataclass(frozen=True)
class Changed:
    """Settings of a member of the study that are not the defaults of its kind: (name, value, origin) each.

    ``datasets`` names where they hold, and is empty where the member has the same ones on all of its datasets. The
    origin of a setting of params.yaml is an empty text.
    """

    part: str
    variant: str
    kind: str
    datasets: tuple[str, ...]
    settings: tuple[tuple[str, Any, str], ...]


def changed(rules: Sequence[Rule], origins: Origins) -> list[Changed]:
    """Every member of the study with settings that are not the defaults of its kind, in the order of the rules."""
    axes = {"anchor": "anchor", "residual": "anchor", "critic": "critic", "improvement": "improvement"}
    found: dict[tuple[str, str, str], dict[str, tuple[tuple[str, Any, str], ...]]] = {}
    for rule in rules:
        made: Mapping[str, Any] = rule.context.get("made_with") or {}
        for part, axis in axes.items():
            if part in made:
                variant = getattr(rule, axis)
                places = _at(origins, rule.dataset, SECTIONS[part], variant)
                settings = tuple((name, value, _origin(places, name)) for name, value in made[part]["changed"].items())
                found.setdefault((part, variant, made[part]["kind"]), {}).setdefault(rule.dataset, settings)
    rows = []
    for key, of_dataset in found.items():
        # Settings hold lists, which cannot be keys.
        distinct: list[tuple[tuple[str, Any, str], ...]] = []
        for settings in of_dataset.values():
            if settings not in distinct:
                distinct.append(settings)
        for settings in filter(None, distinct):
            there = tuple(dataset for dataset, held in of_dataset.items() if held == settings)
            rows.append(Changed(*key, there if len(distinct) > 1 else (), settings))
    return rows


def judged_with(rules: Sequence[Rule], origins: Origins) -> dict[str, dict[str, str]]:
    """Every setting of the evaluations and of the estimates, as their ``meta.json`` have them.

    An origin other than params.yaml stands behind the value; ``a or b`` says that cells differ.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for kind, section in JUDGED.items():
        for rule in rules:
            places = _at(origins, rule.dataset, section)
            metas = [source[kind] / META for source in rule.sources.values() if kind in source]
            for meta in filter(Path.is_file, metas if kind == "estimate" or rule.not_evaluated is None else ()):
                for name, value in _flat(read_json(meta)["params"].get(section, {})).items():
                    origin = _origin(places, name)
                    text = f"{value} ({origin})" if origin else str(value)
                    values = found.setdefault(kind, {}).setdefault(name, [])
                    if text not in values:
                        values.append(text)
    return {kind: {name: " or ".join(values) for name, values in known.items()} for kind, known in found.items()}


def _at(origins: Origins, *path: str) -> Mapping[str, Any]:
    """The origins below a dataset, section and variant; empty where all is params.yaml's."""
    found: Any = origins
    for key in path:
        found = found.get(key, {})
    assert isinstance(found, Mapping)
    return found


def _origin(places: Mapping[str, Any], name: str) -> str:
    """Where a setting, or what is set inside it, comes from; empty for params.yaml. Names may be dotted."""
    *above, last = name.split(".")
    found = _at(places, *above).get(last, {})
    return " and ".join(dict.fromkeys(_flat({last: found}).values()))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
