"""SPAR: improve a frozen behaviour-cloning policy offline, with a learned residual, within the data's support."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spar_core.one_call.call import improve
    from spar_core.one_call.result import Result, load_result
    from spar_core.policy import Policy
    from spar_core.version import __version__

__all__ = ["Result", "__version__", "improve", "load_policy", "load_result"]

# Where the other names stand. They are imported on first use, so that `import spar_core` stays light.
HOMES = {
    "__version__": "spar_core.version",
    "improve": "spar_core.one_call.call",
    "load_result": "spar_core.one_call.result",
    "Result": "spar_core.one_call.result",
}


def load_policy(path: str | Path, seed: int | None = None, device: str = "cpu") -> Policy:
    """Load a trained policy; see :func:`spar_core.policy.load_policy`."""
    # Here, not at the top: importing a part of the package should not import Torch and all of it.
    from spar_core.policy import load_policy as load

    return load(path, seed, device)


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'spar_core' has no attribute '{name}'")
