r"""Distance of an action to the logged actions of similar states. The held-out logged action is the yardstick.

For a held-out state s, let :math:`N_k(s, a)` be the k of the training steps in similar states whose actions are nearest
to a:

.. math:: D(s, a) = \frac{1}{k} \sum_{j \in N_k(s, a)} \lVert a - a_j \rVert

The distance of the state's own logged action says what is normal. A smaller distance is no proof of support: a mean of
logged actions may lie where nothing was done and still be near to many of them.

Source: our definition, after distances to the dataset's nearest neighbours as measures of support (for instance Ran et
al. 2023, "policy regularization with dataset constraint").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.residuals import SHARES


def distances(actions: np.ndarray, similar: Sequence[np.ndarray], logged: np.ndarray, k: int) -> np.ndarray:
    """Distances D [n] of actions [n, A].

    Args:
        actions: [n, A] in [-1, 1], one for each state.
        similar: for each state, the numbers of the training steps in similar states.
        logged: [N, A], actions of all steps.
        k: logged actions that the distance is averaged over, at most as many as there are.
    """
    found = np.empty(len(actions))
    for row, (action, steps) in enumerate(zip(actions, similar, strict=True)):
        lengths = np.sort(np.sqrt(np.square(logged[steps].astype(np.float64) - action).sum(-1)))
        found[row] = lengths[:k].mean()
    return found


def describe(found: Findings, by_whom: dict[str, np.ndarray], over: Episodes) -> None:
    """Add mean distances, ratios to the yardstick, and shares of states farther from the data than the yardstick.

    Args:
        found: the findings to add to.
        by_whom: distances D [n] by name; "logged" is the yardstick.
        over: gives intervals over the states' episodes.
    """
    yardstick = by_whom["logged"]
    for name, values in by_whom.items():
        found.add(over.mean(f"diagnosis/distance_{name}", values))
        found.profile(f"diagnosis/distance_{name}", SHARES, np.percentile(values, SHARES))
        if name != "logged":
            found.add(over.ratio(f"diagnosis/distance_ratio_{name}", values, yardstick))
            found.add(over.mean(f"diagnosis/farther_{name}", (values > yardstick).astype(np.float64)))
