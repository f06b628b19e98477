"""Typed settings: a base class for every config model, and errors that name the nearest right key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from spar_core.errors import SparError


class Settings(BaseModel):
    """Base of every config model: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Model = TypeVar("Model", bound=BaseModel)


def nearest(word: str, choices: list[str]) -> str:
    """``did you mean ...?`` for a misspelt word, or the list of choices where nothing is near."""
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(sorted(choices))}"


def parse(model: type[Model], values: Any, where: str) -> Model:
    """Validate ``values`` as ``model``.

    Raises:
        SparError: one line that names the first offending key of ``where`` and how to mend it.
    """
    if not isinstance(values, Mapping):
        raise SparError(f"{where}: expected a mapping, got {type(values).__name__}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        if first["type"] == "extra_forbidden":
            fields = _fields_at(model, first["loc"][:-1])
            raise SparError(f"{where}: unknown key '{key}'", nearest(str(first["loc"][-1]), fields)) from None
        if first["type"] == "missing":
            raise SparError(f"{where}: key '{key}' is missing") from None
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # keys that do not go together: the reason names them
            raise SparError(f"{where}: {reason}") from None
        raise SparError(f"{where}: {key} = {first['input']!r} is not valid: {reason}") from None


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the nested model at ``path``, for suggestions."""
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        SparError: the file is missing, is not YAML in UTF-8, or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SparError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise SparError(f"{path} is not UTF-8 text (byte {error.start + 1})", "save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-01 is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise SparError(f"{path} is not valid YAML{line}") from None
    if not isinstance(values, dict):
        raise SparError(f"{path} must hold a mapping at the top level")
    return values
