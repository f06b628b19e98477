"""Check the files of a Minari dataset, and turn the errors of Minari and of HDF5 about them into one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from spar_core.data.hdf5 import explained, from_h5py, register_filters
from spar_core.data.limits import check_claim, check_inside
from spar_core.data.names import listed
from spar_core.errors import SparError

MAIN = "main_data.hdf5"
STORED = {"observations", "actions", "rewards", "terminations", "truncations", "infos"}  # what Minari writes


def check_minari(folder: Path, ours: bool = False) -> None:
    """Make sure that a dataset's folder may be opened.

    Args:
        folder: of the dataset.
        ours: whether the project wrote the dataset. Its files may then be links to DVC's cache, and are not checked.

    Raises:
        SparError: its metadata is missing or broken, it was written by a newer version of Minari, or it contains a link
            to a file outside the folder.
    """
    import minari
    from packaging.version import InvalidVersion, Version

    for file in () if ours else (folder / "data").rglob("*"):
        check_inside(file, folder)
    with damaged(folder.name, folder / "data"):
        try:
            metadata = json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))
            written = Version(str(metadata.get("minari_version", "0")))
            # Minari lists the numbers of all episodes as soon as it opens the dataset.
            stored = sum(file.stat().st_size for file in (folder / "data").rglob("*"))
            check_claim(f"Minari dataset '{folder.name}'", 8 * int(metadata.get("total_episodes", 0)), stored)
        except (InvalidVersion, AttributeError) as error:
            raise ValueError(f"its metadata is not Minari's ({error})") from None
    if written > Version(minari.__version__):
        raise SparError(
            f"Minari dataset '{metadata.get('dataset_id', folder.name)}' was written by Minari {written}, but "
            f"Minari {minari.__version__} is installed",
            f"run `pip install minari=={written}`, or use a dataset written by an older version",
        )


def local_ids(root: Path) -> list[str]:
    """Ids of the Minari datasets below ``root``, sorted."""
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in root.rglob("data/metadata.json"))


@contextmanager
def damaged(dataset_id: str, data: Path) -> Iterator[None]:
    """Turn errors about the files in the folder ``data`` into one line."""
    from gymnasium.error import Error as GymnasiumError

    try:
        yield
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        AssertionError,
        GymnasiumError,
    ) as error:
        what = f"Minari dataset '{dataset_id}' cannot be read"
        if from_h5py(error):
            raise SparError(f"{what}: {explained(data / MAIN, error)}") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SparError(f"{what}: {reason}", "write it again, or delete its folder and fetch it again") from None


def check_arrays(path: Path) -> None:
    """Refuse arrays of the first episode that Minari does not read; ``path`` may not exist if the format is another."""
    import h5py

    if not path.is_file():
        return
    register_filters()
    with h5py.File(path, "r") as file:
        first = file.get("episode_0", {})
        unknown = sorted(set(first if isinstance(first, Mapping) else ()) - STORED)
    if unknown:
        raise SparError(
            f"{path.name} holds {listed(unknown)} in its episodes, which Minari does not read",
            f"remove it, or write it as one of {', '.join(sorted(STORED))}",
        )
