"""Pick evenly spread rows: successive steps of an episode are too similar to be worth looking at all of them."""

from __future__ import annotations

import numpy as np


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the rows, from the first to the last, in their order; all of them where there are fewer."""
    picked: np.ndarray = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
    return picked
