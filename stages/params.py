"""Read ``params.yaml``: the sections that a stage needs, validated and typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spar_core.errors import SparError
from spar_core.settings import Model, load_yaml, nearest, parse
from stages.layout import Layout

SECTIONS = ("study", "anchors", "residual", "critics", "improvements", "evaluation", "estimation", "report")


def read_params(layout: Layout) -> Mapping[str, Any]:
    """The whole file; an unknown section is refused with the nearest right one."""
    values = load_yaml(layout.params)
    for key in values:
        if key not in SECTIONS:
            raise SparError(f"{layout.params}: unknown section '{key}'", nearest(key, list(SECTIONS)))
    for key in SECTIONS:
        if not isinstance(values.get(key), Mapping):
            raise SparError(f"{layout.params}: section '{key}' is missing or empty")
    return values


def section(layout: Layout, name: str, model: type[Model]) -> Model:
    """One section as its typed model."""
    return parse(model, read_params(layout)[name], f"{layout.params}, {name}")
