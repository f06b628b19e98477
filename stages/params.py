"""Read ``params.yaml``: the sections that a stage needs, validated and typed."""

from __future__ import annotations

from typing import Any

from spar_core.errors import SparError
from spar_core.settings import Model, load_yaml, parse
from stages.layout import Layout


class Params(dict[str, Any]):
    """Sections by name. Which of them there may be is checked by ``stages.plan`` (:mod:`stages.sections`), so that a
    new section changes the code of no stage that does not read it."""

    def __missing__(self, name: str) -> Any:
        raise SparError(f"params.yaml: section '{name}' is missing or empty")


def read_params(layout: Layout) -> Params:
    """The whole file; asking for a section that is not there is a SparError."""
    return Params(load_yaml(layout.params))


def section(layout: Layout, name: str, model: type[Model]) -> Model:
    """One section as its typed model."""
    return parse(model, read_params(layout)[name], f"{layout.params}, {name}")
