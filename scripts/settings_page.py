"""Write docs/settings.md from the settings classes: `python -m scripts.settings_page`. `--check` compares only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from spar_core import registry
from spar_core.data.entry import SOURCES
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.evaluation.estimation import EstimationSettings
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.evolving.reanchoring import ReanchoringSettings
from spar_core.registry import load_member
from spar_core.reporting.config import ReportSettings
from spar_core.residual import ResidualSettings
from spar_core.settings import Settings
from spar_core.study import Study
from spar_core.theory.settings import TheorySettings

PAGE = Path("docs/settings.md")

HEAD = """# Settings

Every key of `params.yaml` and of dataset entries, as `python -m scripts.settings_page` writes them from the settings
classes. `params.yaml` states all values, and they may differ from the defaults here. Unknown keys are refused. A kind
has the keys of every table that names it.
"""

# A section of one settings class, or of one class for each kind; and what the page says first.
Section = tuple[type[Settings] | Mapping[str, type[Settings]], str]


def of_kinds(family: str) -> dict[str, type[Settings]]:
    """The settings class of each registered kind."""
    members: dict[str, Any] = {kind: load_member(family, kind) for kind in registry.FAMILIES[family]}
    return {kind: member.Settings for kind, member in members.items()}


def sections() -> dict[str, Section]:
    """The page's sections, in order."""
    variant = "A variant also has `kind`, which defaults to its name, or `like: NAME`, which takes all of that variant."
    own = "Its block `residual` lists what differs from the section `residual`."
    return {
        "study": (Study, "[Studies and cells](pipeline.md)."),
        "anchors": (of_kinds("anchor"), f"[Anchors](anchors.md). {variant} {own}"),
        "residual": (ResidualSettings, "[The residual model](improvement.md#residual-model-stage-i)."),
        "critics": (of_kinds("critic"), f"[Critics](critics.md). {variant}"),
        "improvements": (of_kinds("improvement"), f"[Rules](improvement.md). {variant}"),
        "reanchoring": (ReanchoringSettings, "[The rule that stops](rounds.md#the-rule-that-stops)."),
        "evaluation": (EvaluationSettings, "[Rollouts](evaluation.md)."),
        "estimation": (EstimationSettings, "[Estimates from logged data](evaluation.md)."),
        "diagnosis": (DiagnosisSettings, "[Looking inside a trained cell](diagnostics.md)."),
        "report": (ReportSettings, "[The report](report.md)."),
        "theory": (TheorySettings, "The file `theory.yaml`: [the geometry on synthetic problems](theory.md)."),
        "datasets": (SOURCES, "Keys of `datasets/<id>.yaml`: [data](data.md). `source` names the kind."),
    }


# --- one setting ---


def allowed(field: FieldInfo) -> str:
    """The values that a field takes, in words."""
    if any(getattr(limit, "pattern", None) == "^last$" for limit in field.metadata):
        return "`last`"
    return _values(field.annotation, field.metadata)


def _values(kind: Any, limits: Iterable[Any] = ()) -> str:
    inner, origin = get_args(kind), get_origin(kind)
    if origin in (Union, UnionType):
        words = [_values(part, limits) for part in inner if part is not type(None)]
        return " or ".join([*words, "none"] if type(None) in inner else words)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if hasattr(kind, "__metadata__"):
        return _values(inner[0], kind.__metadata__)
    if origin in (tuple, list):
        least = "".join(f", at least {limit.min_length}" for limit in limits if getattr(limit, "min_length", 0) > 1)
        return f"list of {_many(inner[0])}{least}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, Settings)):
        return "mapping"
    if kind in (int, float):
        return _numbers("integer" if kind is int else "", limits)
    return {bool: "true or false", str: "string", Path: "path"}[kind]


def _many(kind: Any) -> str:
    words = _values(kind)
    for one in ("integer", "number", "string", "path", "mapping"):
        if words.startswith(one):
            return words.replace(one, f"{one}s", 1)
    return f"numbers {words}"


def _numbers(what: str, limits: Iterable[Any]) -> str:
    found = {
        sign: getattr(limit, name)
        for limit in limits
        for sign, name in ((">", "gt"), (">=", "ge"), ("<", "lt"), ("<=", "le"), ("multiple of", "multiple_of"))
        if getattr(limit, name, None) is not None
    }
    both = {">=", "<="} <= found.keys()
    bounds = [f"{found.pop('>='):g} to {found.pop('<='):g}"] if both else []
    bounds += [f"{sign} {value:g}" for sign, value in found.items()]
    return f"{what} {', '.join(bounds)}".strip() or "number"


def shown(value: Any) -> str:
    """A default as YAML has it."""
    if value in (None, "", (), [], {}):
        return "none"
    if isinstance(value, Settings):
        return "below"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return str(value).replace("'", "")
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def row(name: str, field: FieldInfo) -> str:
    """A line of a table: key, default, allowed values, meaning."""
    default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
    return f"|`{name}`|{default}|{allowed(field)}|{field.description or ''}|"


# --- tables ---


def parts_of(settings: type[Settings]) -> dict[str, type[Settings]]:
    """The settings classes inside a settings class, by key; those of a list's entries too."""
    parts = {}
    for name, field in settings.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Settings):
                parts[name] = kind
    return parts


def table(rows: Iterable[str]) -> str:
    """A table of lines that :func:`row` gave."""
    return "\n".join(["|key|default|allowed|meaning|", "|---|---|---|---|", *rows, ""])


def by_kinds(members: Mapping[str, type[Settings]]) -> Iterator[tuple[str, list[str]]]:
    """Rows that the same kinds share, under the names of these kinds; the rows of most kinds first."""
    owners: dict[str, list[str]] = {}
    for kind, settings in members.items():
        for name, field in settings.model_fields.items():
            if name != "source":
                owners.setdefault(row(name, field), []).append(kind)
    groups: dict[tuple[str, ...], list[str]] = {}
    for line, kinds in owners.items():
        groups.setdefault(tuple(kinds), []).append(line)
    for names, rows in sorted(groups.items(), key=lambda group: -len(group[0])):
        title = "every kind" if len(names) == len(members) else ", ".join(f"`{kind}`" for kind in names)
        yield title, rows


def page() -> str:
    """The whole page."""
    blocks, places = [HEAD], {}
    for title, (found, intro) in sections().items():
        blocks.append(f"## {title}\n\n{intro}\n")
        if isinstance(found, Mapping):
            for kinds, rows in by_kinds(found):
                blocks.append(f"**{kinds}**\n\n{table(rows)}")
            inside = {f"{kind}.{key}": part for kind, own in found.items() for key, part in parts_of(own).items()}
        else:
            blocks.append(table(row(name, field) for name, field in found.model_fields.items()))
            places[found] = f"[`{title}`](#{title})"
            inside = parts_of(found)
        for key, part in inside.items():
            if part in places:
                blocks.append(f"**`{key}`**: keys as in {places[part]}.\n")
            else:
                blocks.append(f"**`{key}`**\n\n{table(row(name, field) for name, field in part.model_fields.items())}")
                places[part] = f"`{key}` of [{title}](#{title})"
    return "\n".join(blocks)


def every_class() -> Iterator[type[Settings]]:
    """Each settings class that the page shows."""
    for found, _ in sections().values():
        for settings in found.values() if isinstance(found, Mapping) else (found,):
            yield settings
            yield from parts_of(settings).values()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the page is not what it would be"
    )
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"error: {PAGE} is not what the settings classes give; run `python -m scripts.settings_page`")


if __name__ == "__main__":
    main()
