"""Minari datasets by id: from Minari's own folder on this machine, or downloaded into it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spar_core.data.episodes import Episode
from spar_core.data.minari_io import MinariFacts, local_ids, read_minari
from spar_core.errors import SparError
from spar_core.settings import nearest


def fetch_minari(dataset_id: str) -> tuple[list[Episode], MinariFacts]:
    """Read a Minari dataset from Minari's own root, downloading it first where it is not there.

    Minari's root is ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``. Id may be a remote path such as
    ``hf://owner/dataset-v0``.

    Raises:
        SparError: the id does not exist, is not local and there is no network, or the data is not vectors.
    """
    from minari.storage.datasets_root_dir import get_dataset_path

    local = dataset_id.split("://", 1)[-1].split("/", 1)[-1] if "://" in dataset_id else dataset_id
    root = Path(get_dataset_path())
    if not (root / local / "data").is_dir():
        _download(dataset_id, root)
    return read_minari(root, local)


def _download(dataset_id: str, root: Path) -> None:
    """``minari.download_dataset`` with every way it can fail turned into one line."""
    import minari

    instead = f"or put the dataset into {os.environ.get('MINARI_DATASETS_PATH', '~/.minari/datasets')}"
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            minari.download_dataset(dataset_id)
    except ImportError as error:
        raise SparError(
            f"Minari dataset '{dataset_id}' is not on this machine, and downloading needs a package "
            f"that is missing ({error.name or str(error).split('.')[0]})",
            f"run `pip install 'minari[hdf5,hf]'`, {instead}",
        ) from None
    except Exception as error:  # the remote libraries raise whatever their transport raises
        kind = type(error)
        # Minari itself raises plain ValueErrors; Hugging Face raises LocalEntryNotFoundError when offline.
        if kind is ValueError or (kind.__name__.endswith("NotFoundError") and "LocalEntry" not in kind.__name__):
            local = local_ids(root)
            close = nearest(dataset_id, local) if local else "`minari list remote` lists the ids there are"
            raise SparError(f"there is no Minari dataset '{dataset_id}', here or at the remote", close) from None
        raise SparError(
            f"Minari dataset '{dataset_id}' is not on this machine and cannot be downloaded ({kind.__name__})",
            f"check the network, {instead}",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the transport's own log lines; the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
