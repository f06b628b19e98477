"""Load a registered anchor, critic or improvement rule by name, and read its settings.

``params.yaml`` names *variants*: ``improvements.uniform: {kind: spar_mlp, weighting: equal}`` is a variant
of the member ``spar_mlp``. Where ``kind`` is left out, the variant's name is its kind. An anchor may also say how
its residuals are modelled: ``residual`` holds what differs from the section of that name (see
:func:`spar_core.residual.settings_for`), and is no setting of the anchor itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from spar_core import registry
from spar_core.errors import SparError
from spar_core.settings import Settings, nearest, parse


def load_member(family: str, kind: str, where: str = "") -> type[Any]:
    """The class registered as ``kind`` in ``family`` ("anchor", "critic" or "improvement").

    ``where`` is the place that names it, for the error line.

    Raises:
        SparError: no member has that name; the nearest one is named.
    """
    table = registry.FAMILIES[family]
    if kind not in table:
        raise SparError(f"{where}there is no {family} kind '{kind}'", nearest(kind, list(table)))
    module, name = table[kind].split(":")
    member: type[Any] = getattr(importlib.import_module(module), name)
    return member


def variant_kind(variant: str, values: Any) -> str:
    """The registered kind behind a variant."""
    return str(values.get("kind", variant)) if isinstance(values, Mapping) else variant


def variant_kinds(variant: str, values: Any) -> tuple[str, ...]:
    """Every registered kind that a variant runs: its own, and those of the candidates that it chooses from."""
    inner = values.get("candidates") if isinstance(values, Mapping) else None
    candidates = inner if isinstance(inner, Mapping) else {}
    return tuple(dict.fromkeys([variant_kind(variant, values), *(variant_kind(*item) for item in candidates.items())]))


def parse_variant(
    family: str, variants: Mapping[str, Any], name: str, where: str = "params.yaml"
) -> tuple[type[Any], Settings]:
    """The class and the validated settings of the variant ``name`` in a section; ``where`` is its file, for errors.

    Raises:
        SparError: the variant is not there, or one of its keys is wrong.
    """
    if name not in variants:
        raise SparError(f"{where} has no {family} '{name}'", nearest(name, list(variants)))
    here = f"{where}, {family} '{name}'"
    if not isinstance(variants[name] or {}, Mapping):
        raise SparError(f"{here}: expected a mapping, got {type(variants[name]).__name__}")
    values = dict(variants[name] or {})
    if family == "anchor":
        values.pop("residual", None)
    member = load_member(family, values.pop("kind", name), f"{here}: ")
    return member, parse(member.Settings, values, here)
