"""How many bytes the datasets of a study have yet to be downloaded, as their servers say."""

from __future__ import annotations

import logging
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable

from spar_core.data.entry import D4rlEntry, Entry, MinariEntry
from spar_core.data.readers.fetch import NETWORK, cache_path
from spar_core.data.readers.minari_fetch import minari_root

TIMEOUT = 5.0  # seconds to wait for an answer
MINARI = "Minari's remote"


def sizes_of(entries: Iterable[Entry]) -> tuple[int, int, int]:
    """Bytes to download, the number of datasets that these are, and the number of further ones of unknown size.

    A server that does not answer is asked only once.
    """
    silent: set[str] = set()
    known, unknown = [], 0
    for entry in entries:
        if isinstance(entry, D4rlEntry) and entry.url is not None and not cache_path(entry.url).is_file():
            server = urllib.parse.urlsplit(entry.url).netloc
            size = None if server in silent else _of_url(entry.url)
        elif isinstance(entry, MinariEntry) and entry.dataset is not None and not _is_here(entry.dataset):
            server = MINARI
            size = None if server in silent else _of_minari(entry.dataset)
        else:
            continue
        if size is None:
            silent.add(server)
            unknown += 1
        else:
            known.append(size)
    return sum(known), len(known), unknown


def _of_url(url: str) -> int | None:
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "spar"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
    except (*NETWORK, ValueError):
        return None
    return int(length) if length is not None and length.isdecimal() else None


def _is_here(dataset: str) -> bool:
    return "://" not in dataset and (minari_root() / dataset).is_dir()


def _of_minari(dataset: str) -> int | None:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        from minari.storage.hosting import get_cloud_storage

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = get_cloud_storage().get_dataset_metadata(dataset).get("dataset_size")
    except Exception:  # The remote libraries pass on every kind of error that their transport raises.
        return None
    finally:
        logging.disable(before)
    # Minari counts in millions of bytes.
    return None if size is None else round(float(size) * 1e6)
