"""Find Minari datasets by id in Minari's own folder on this machine; one that is missing is downloaded first."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from spar_core.data.readers.minari_check import check_minari, local_ids
from spar_core.errors import SparError
from spar_core.settings import nearest

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
METADATA = Path("data", "metadata.json")
NAMESPACE = "namespace_metadata.json"
INCOMPLETE = ".incomplete"  # folder for downloads in progress; Minari does not list folders that begin with a dot


def minari_root() -> Path:
    """Minari's folder of datasets: ``$MINARI_DATASETS_PATH``, or ``~/.minari/datasets`` if that is not set."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / ".minari" / "datasets")


def ensure_minari(dataset_id: str) -> tuple[Path, str]:
    """Find a Minari dataset in Minari's folder, and download it there if it is missing.

    A download goes into a folder of its own and is moved to its place when it is complete, so an interrupted download
    is never mistaken for a dataset. Several processes may call this for the same id at once; one of them downloads it.

    Args:
        dataset_id: an id such as ``D4RL/pen/human-v2``, or a remote path such as ``hf://owner/dataset-v0``.

    Returns:
        Minari's folder, and the dataset's id in that folder.

    Raises:
        SparError: the id is not valid, or is that of a namespace; the dataset does not exist; it is missing and the
            network cannot be reached; the folder cannot be written; or the dataset in the folder is incomplete or was
            written by a newer version of Minari.
    """
    root = minari_root()
    local = dataset_id.split("://", 1)[-1].split("/", 1)[-1] if "://" in dataset_id else dataset_id
    _check_id(dataset_id, local, root)
    folder = root / local
    if not folder.is_dir():
        _download_whole(dataset_id, local, root)
    elif not (folder / METADATA).is_file():
        raise SparError(
            f"{folder} is not a complete Minari dataset: {METADATA.as_posix()} is missing",
            "delete the folder and run the command again",
        )
    check_minari(folder)
    return root, local


def _check_id(dataset_id: str, local: str, root: Path) -> None:
    """Refuse a text that is not an id, before it is used as a folder name: that folder might hold other things.

    Args:
        dataset_id: the text as it was given, for error lines.
        local: its part that becomes a folder below ``root``.
        root: Minari's folder.

    Raises:
        SparError: the text does not have the form of a Minari id, or names a namespace.
    """
    from minari.dataset.minari_dataset import DATASET_ID_RE

    shape = DATASET_ID_RE.fullmatch(local)
    if shape is None:
        raise SparError(f"'{dataset_id}' is not a Minari id", "write it like 'D4RL/pen/human-v2'")
    below = [] if (root / local / METADATA).is_file() else local_ids(root / local)
    if below:
        some = ", ".join(f"{local}/{name}" for name in below[:3]) + (", ..." if len(below) > 3 else "")
        raise SparError(
            f"'{dataset_id}' is a namespace of Minari, not a dataset", f"choose one of its datasets: {some}"
        )
    if shape["version"] is None:
        raise SparError(
            f"the Minari id '{dataset_id}' has no version", "write the full id with its version, such as '-v0'"
        )


def _download_whole(dataset_id: str, local: str, root: Path) -> None:
    from filelock import FileLock

    flat = local.replace("/", "__")
    drafts = root / INCOMPLETE
    with _disk(root):
        drafts.mkdir(parents=True, exist_ok=True)
        with FileLock(drafts / f"{flat}.lock"):
            if (root / local).is_dir():  # Another process has downloaded it meanwhile.
                return
            draft = drafts / flat
            # Minari would take an existing folder for the complete dataset. The files from which the transport resumes
            # a download lie beside that folder and are kept.
            shutil.rmtree(draft / local, ignore_errors=True)
            _copy_namespaces(root, draft, local)
            with _minari_root_is(draft):
                _download(dataset_id, root)
            check_minari(draft / local)
            _move(draft, root, local)
            shutil.rmtree(draft)


def _copy_namespaces(root: Path, draft: Path, local: str) -> None:
    """Copy the metadata of known namespaces, because Minari asks the network about namespaces that it does not find."""
    draft.mkdir(exist_ok=True)
    for parent in Path(local).parents:
        if (root / parent / NAMESPACE).is_file():
            (draft / parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / parent / NAMESPACE, draft / parent / NAMESPACE)


def _move(draft: Path, root: Path, local: str) -> None:
    """Move a download to its place: namespaces first, then datasets that this one combines, and the dataset last."""
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
    """Call ``minari.download_dataset``, and turn each of its errors into one line."""
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
    except Exception as error:  # The remote libraries pass on every kind of error that their transport raises.
        kind = type(error)
        if kind is ValueError and ("is not compatible" in str(error) or "any compatible" in str(error)):
            raise SparError(
                f"the installed Minari {minari.__version__} cannot read Minari dataset '{dataset_id}'",
                "run `minari list remote` to list the ids that it can read",
            ) from None
        # Minari raises ValueError for an unknown id, and Hugging Face raises LocalEntryNotFoundError without a network.
        if kind is ValueError or (kind.__name__.endswith("NotFoundError") and "LocalEntry" not in kind.__name__):
            local = [name for name in local_ids(root) if not name.startswith(INCOMPLETE)]
            close = nearest(dataset_id, local) if local else "run `minari list remote` to list all ids"
            raise SparError(
                f"there is no Minari dataset '{dataset_id}', neither on this machine nor at the remote", close
            ) from None
        raise SparError(
            f"Minari dataset '{dataset_id}' is not on this machine and cannot be downloaded ({kind.__name__})",
            f"check the network, {instead}",
        ) from None


@contextmanager
def _minari_root_is(folder: Path) -> Iterator[None]:
    """Set the variable that names the folder Minari downloads into; Minari has no argument for it."""
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
            f"set {ROOT_VARIABLE} to a folder that you may write to",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the transport's own log lines; the error line says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
