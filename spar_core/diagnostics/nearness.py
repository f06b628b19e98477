r"""How near an action is to what the data did in similar states, with the held-out logged action as the yardstick.

For a held-out state s with the training steps :math:`N(s)` in similar states, and :math:`N_k(s, a)` the k of them whose
actions are nearest to a:

.. math:: D(s, a) = \frac{1}{k} \sum_{j \in N_k(s, a)} \lVert a - a_j \rVert

A logged action of the same data has such a distance too, so it says what is normal. Below it is no proof of support: a
mean of what the data do may lie where nothing was done, and still be near to much.

Source: our definition, after distances to the dataset's nearest neighbours as measures of support (for instance Ran et
al. 2023, "policy regularization with dataset constraint").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.residuals import SHARES


def distances(actions: np.ndarray, similar: Sequence[np.ndarray], logged: np.ndarray, k: int) -> np.ndarray:
    """D [n] of actions [n, A].

    Args:
        actions: [n, A] in [-1, 1], one a state.
        similar: for each state the numbers of the training steps in similar states.
        logged: [N, A], the actions of all steps.
        k: logged actions that the distance is a mean over, at most as many as there are.
    """
    found = np.empty(len(actions))
    for row, (action, steps) in enumerate(zip(actions, similar, strict=True)):
        lengths = np.sort(np.sqrt(np.square(logged[steps].astype(np.float64) - action).sum(-1)))
        found[row] = lengths[:k].mean()
    return found


def describe(found: Findings, by_whom: dict[str, np.ndarray], over: Episodes) -> None:
    """Add means, ratios to the logged actions, and how often an action lies farther from the data than the logged one.

    Args:
        found: is added to.
        by_whom: D [n] by name; "logged" is the yardstick.
        over: the states' episodes.
    """
    yardstick = by_whom["logged"]
    for name, values in by_whom.items():
        found.add(over.mean(f"diagnosis/distance_{name}", values))
        found.profile(f"diagnosis/distance_{name}", SHARES, np.percentile(values, SHARES))
        if name != "logged":
            found.add(over.ratio(f"diagnosis/distance_ratio_{name}", values, yardstick))
            found.add(over.mean(f"diagnosis/farther_{name}", (values > yardstick).astype(np.float64)))
