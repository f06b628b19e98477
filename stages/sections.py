"""The sections that ``params.yaml`` has: all of them, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spar_core.errors import SparError
from spar_core.settings import nearest
from stages.layout import Layout
from stages.params import read_params

SECTIONS = (
    "study",
    "anchors",
    "residual",
    "critics",
    "improvements",
    "reanchoring",
    "evaluation",
    "estimation",
    "diagnosis",
    "report",
    "theory",
)


def read_whole(layout: Layout) -> Mapping[str, Any]:
    """Every section of ``params.yaml``.

    Raises:
        SparError: a section is not known (the nearest right one is named), missing or empty.
    """
    values = read_params(layout)
    for key in values:
        if key not in SECTIONS:
            raise SparError(f"{layout.params}: unknown section '{key}'", nearest(key, list(SECTIONS)))
    for key in SECTIONS:
        if not isinstance(values.get(key), Mapping):
            raise SparError(f"{layout.params}: section '{key}' is missing or empty")
    return values
