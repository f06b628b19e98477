"""A few of many rows, spread evenly: steps that follow each other tell much the same."""

from __future__ import annotations

import numpy as np


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the rows, from the first to the last, in their order; all of them where there are fewer."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
