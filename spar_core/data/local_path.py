"""The local file or folder that a dataset entry names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spar_core.errors import SparError


def local_path(path: str, *roots: Path) -> Path:
    """The file or folder that an entry's path names.

    Args:
        path: as the entry gives it; ``${VARIABLE}`` and ``~`` are expanded.
        roots: project root, which a relative path starts from, and further ones for what is not there.

    Raises:
        SparError: an environment variable in the path is not set, or the file or folder does not exist.
    """
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise SparError(
            f"the path '{path}' needs the environment variable {unset[1]}, which is not set",
            f"run `export {unset[1]}=FOLDER` with the folder that holds the data",
        )
    try:
        places = [root / Path(expanded).expanduser() for root in roots]
        found = next((place for place in places if place.exists()), None)
    except (OSError, RuntimeError) as error:  # a name that is too long, a user that does not exist
        raise SparError(f"'{path}' is not a valid path ({error})", "check 'path' in the dataset's entry") from None
    if found is None:
        raise SparError(f"{places[0]} does not exist", "check 'path' in the dataset's entry")
    return found
