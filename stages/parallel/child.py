"""The environment variables of DVC as a child process. Ray sends this module to its workers by value."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def dvc_environment(**more: str) -> dict[str, str]:
    """Variables of this process, with its interpreter first on the path, so that dvc.yaml's `python` is the same.

    Args:
        more: variables to set besides.
    """
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]), **more}
