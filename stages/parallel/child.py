"""The environment of DVC as a child of this process. Alone here, since Ray's workers are sent it by value."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def dvc_environment(**more: str) -> dict[str, str]:
    """This process's, with its interpreter first on the path, so that `python` in dvc.yaml is this one."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]), **more}
