"""SPAR: improve a frozen behaviour-cloning policy offline, with a learned residual, within the data's support."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spar_core.policy import Policy

__all__ = ["load_policy"]


def load_policy(path: str | Path, seed: int | None = None, device: str = "cpu") -> Policy:
    """Load a trained policy; see :func:`spar_core.policy.load_policy`."""
    # Here, not at the top: importing a part of the package should not import Torch and all of it.
    from spar_core.policy import load_policy as load

    return load(path, seed, device)
