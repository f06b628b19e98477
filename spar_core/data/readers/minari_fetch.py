"""Minari datasets by id: from Minari's own folder on this machine, or downloaded into it, whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from spar_core.data.readers.minari_io import check_minari, local_ids
from spar_core.errors import SparError
from spar_core.settings import nearest

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
METADATA = Path("data", "metadata.json")
NAMESPACE = "namespace_metadata.json"
INCOMPLETE = ".incomplete"  # Minari lists no folders that begin with a dot.


def minari_root() -> Path:
    """Minari's folder of datasets: ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / ".minari" / "datasets")


def ensure_minari(dataset_id: str) -> tuple[Path, str]:
    """Find a Minari dataset in Minari's folder, downloading it there first if it is missing.

    A download goes into a folder of its own and is moved into place when it is whole, so that one that was
    interrupted is never taken for a dataset. Several processes may ask at once: one of them downloads.

    Args:
        dataset_id: an id such as ``D4RL/pen/human-v2``, or a remote path such as ``hf://owner/dataset-v0``.

    Returns:
        Minari's folder, and the dataset's id in it.

    Raises:
        SparError: it is no id or a namespace's, does not exist, is not local and there is no network, the folder
            cannot be written, or the dataset there is not whole or was written by a newer Minari.
    """
    root = minari_root()
    local = dataset_id.split("://", 1)[-1].split("/", 1)[-1] if "://" in dataset_id else dataset_id
    _check_id(dataset_id, local, root)
    folder = root / local
    if not folder.is_dir():
        _download_whole(dataset_id, local, root)
    elif not (folder / METADATA).is_file():
        raise SparError(
            f"{folder} is no whole Minari dataset: {METADATA.as_posix()} is missing",
            "delete the folder and run this again",
        )
    check_minari(folder)
    return root, local


def _check_id(dataset_id: str, local: str, root: Path) -> None:
    """Refuse what is no id before a folder is named after it: it might name one that holds other things.

    Args:
        dataset_id: as it was given, for the message.
        local: the part that becomes a folder below ``root``.
        root: Minari's folder.

    Raises:
        SparError: it does not look like Minari's ids, or is a namespace.
    """
    from minari.dataset.minari_dataset import DATASET_ID_RE

    shape = DATASET_ID_RE.fullmatch(local)
    if shape is None:
        raise SparError(f"'{dataset_id}' is no Minari id", "an id looks like 'D4RL/pen/human-v2'")
    below = [] if (root / local / METADATA).is_file() else local_ids(root / local)
    if below:
        some = ", ".join(f"{local}/{name}" for name in below[:3]) + (", ..." if len(below) > 3 else "")
        raise SparError(f"'{dataset_id}' is a namespace of Minari datasets, not one", f"it holds {some}")
    if shape["version"] is None:
        raise SparError(f"the Minari id '{dataset_id}' has no version", "add it, such as '-v0', or the whole name")


def _download_whole(dataset_id: str, local: str, root: Path) -> None:
    from filelock import FileLock

    flat = local.replace("/", "__")
    drafts = root / INCOMPLETE
    with _disk(root):
        drafts.mkdir(parents=True, exist_ok=True)
        with FileLock(drafts / f"{flat}.lock"):
            if (root / local).is_dir():  # another process fetched it meanwhile
                return
            draft = drafts / flat
            # Minari takes a folder that exists for the dataset. What the transport resumes from lies beside it.
            shutil.rmtree(draft / local, ignore_errors=True)
            _copy_namespaces(root, draft, local)
            with _minari_root_is(draft):
                _download(dataset_id, root)
            check_minari(draft / local)
            _move(draft, root, local)
            shutil.rmtree(draft)


def _copy_namespaces(root: Path, draft: Path, local: str) -> None:
    """Let Minari see the namespaces that are there already; it would ask the network about others."""
    draft.mkdir(exist_ok=True)
    for parent in Path(local).parents:
        if (root / parent / NAMESPACE).is_file():
            (draft / parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / parent / NAMESPACE, draft / parent / NAMESPACE)


def _move(draft: Path, root: Path, local: str) -> None:
    """Move what was downloaded into place: namespaces, datasets that this one is combined from, and itself last."""
    for path in draft.rglob(NAMESPACE):
        target = root / path.relative_to(draft)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    for name in sorted(local_ids(draft), key=lambda name: name == local):
        if not (root / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(root / name)


def _download(dataset_id: str, root: Path) -> None:
    """``minari.download_dataset`` with every way it can fail turned into one line."""
    import minari

    instead = f"or put the dataset into {root} (see {ROOT_VARIABLE})"
    try:
        with warnings.catch_warnings(), _quiet(), redirect_stdout(sys.stderr):
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
        if kind is ValueError and ("is not compatible" in str(error) or "any compatible" in str(error)):
            raise SparError(
                f"the installed Minari {minari.__version__} does not read Minari dataset '{dataset_id}'",
                "`minari list remote` lists the ids that it reads",
            ) from None
        # Minari itself raises plain ValueErrors; Hugging Face raises LocalEntryNotFoundError when offline.
        if kind is ValueError or (kind.__name__.endswith("NotFoundError") and "LocalEntry" not in kind.__name__):
            local = [name for name in local_ids(root) if not name.startswith(INCOMPLETE)]
            close = nearest(dataset_id, local) if local else "`minari list remote` lists the ids there are"
            raise SparError(f"there is no Minari dataset '{dataset_id}', here or at the remote", close) from None
        raise SparError(
            f"Minari dataset '{dataset_id}' is not on this machine and cannot be downloaded ({kind.__name__})",
            f"check the network, {instead}",
        ) from None


@contextmanager
def _minari_root_is(folder: Path) -> Iterator[None]:
    """Minari downloads into the folder that this variable names, and takes no argument for it."""
    before = os.environ.get(ROOT_VARIABLE)
    os.environ[ROOT_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(ROOT_VARIABLE)
        if before is not None:
            os.environ[ROOT_VARIABLE] = before


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SparError(
            f"Minari's folder {root} cannot be written ({error.strerror or error})",
            f"set {ROOT_VARIABLE} to a folder that can",
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
