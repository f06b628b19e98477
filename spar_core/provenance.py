"""Which settings of an artifact differ from their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from spar_core.registry import load_member
from spar_core.residual import ResidualSettings
from spar_core.settings import Settings


def changed_settings(family: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an artifact that differ from their defaults or have no default.

    Args:
        family: "anchor", "critic", "improvement" or "residual".
        params: the params in the artifact's ``meta.json``, with the member's ``kind`` (the residual model has none).
    """
    model: type[Settings] = ResidualSettings
    if family != "residual":
        member: Any = load_member(family, params["kind"])
        model = member.Settings
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if field.get_default(call_default_factory=True) is not PydanticUndefined
    }
    return {
        name: value
        for name, value in params.items()
        if name != "kind" and (name not in defaults or defaults[name] != value)
    }
