"""The claims by name. This module imports none of them, so an edited claim reruns alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spar_core.theory.claim import Claim

CLAIMS = {
    "drift": "spar_core.theory.drift",
    "order": "spar_core.theory.order",
    "conflict": "spar_core.theory.conflict",
    "contraction": "spar_core.theory.contraction",
    "modes": "spar_core.theory.modes",
}


def load_claim(name: str) -> Claim:
    """The claim of a name in ``CLAIMS``."""
    claim: Claim = importlib.import_module(CLAIMS[name]).CLAIM
    return claim
