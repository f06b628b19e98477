"""Reference scores by environment family, and normalised scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, nearest, parse

TABLE = Path(__file__).with_name("reference_scores.yaml")


class Reference(Settings):
    """Return of a random policy (``min``) and of an expert (``max``), and where the numbers come from."""

    min: float
    max: float
    source: str
    note: str = ""


def reference_table() -> dict[str, Reference]:
    """All rows of ``reference_scores.yaml``, by family."""
    return {name: parse(Reference, row, f"{TABLE.name}: {name}") for name, row in load_yaml(TABLE).items()}


def reference(family: str) -> Reference:
    """One row of the table.

    Raises:
        SparError: the family has no row; the line names the nearest one.
    """
    table = reference_table()
    if family not in table:
        raise SparError(f"there are no reference scores for '{family}'", nearest(family, list(table)))
    return table[family]


def normalised_score(returns: np.ndarray | float, ref: Reference) -> np.ndarray:
    """Returns as a percentage of the way from random (0) to expert (100), float64."""
    return 100.0 * (np.asarray(returns, dtype=np.float64) - ref.min) / (ref.max - ref.min)


def normalised_spread(std: np.ndarray | float, ref: Reference) -> np.ndarray:
    """A standard deviation or the width of an interval on the normalised scale, float64.

    A spread is scaled but not shifted, so this is not ``normalised_score`` of it.
    """
    return 100.0 * np.asarray(std, dtype=np.float64) / (ref.max - ref.min)
