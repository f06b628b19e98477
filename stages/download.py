"""Get a dataset, check it, and fix the parts that all later stages share: episodes, held-out split and scaler."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spar_core.artifacts import check_room
from spar_core.data.entry_files import load_entry
from spar_core.data.prepare import prepare
from spar_core.data.sources import collect
from spar_core.data.summary import reading, summary
from spar_core.making.datasets import write_dataset
from stages.datasets import place_of
from stages.entry import stage_main, workers
from stages.layout import Layout
from stages.machine import differences
from stages.planned import check_data
from stages.progress import Progress

# Packages that generated episodes depend on.
GENERATING = ("mujoco", "numpy", "gymnasium", "gymnasium-robotics")

DESCRIPTION = """\
Get a dataset and check it. The entry datasets/<id>.yaml names its source: rollouts of behaviour policies of this
repository (builtin) or of a planner in a maze (waypoints), a Minari dataset (minari), a file in D4RL's layout
(d4rl_hdf5), a folder of .npz episodes (npz), or a single task of OGBench (ogbench).
Writes the episodes as a Minari dataset, and beside it the split of held-out episodes, the scaler and a manifest. An
existing dataset of the same id is replaced.
"""


def download(
    layout: Layout, dataset: str, n_workers: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Write episodes, split, scaler, manifest and meta of a dataset; return the manifest.

    Args:
        layout: of the project.
        dataset: id.
        n_workers: processes that roll out generated data.
        say: called with lines that tell how a user's data were read.

    Raises:
        SparError: as in :func:`spar_core.data.sources.collect`. Nothing half-written is left.
    """
    entry = load_entry(layout.dataset_entry(dataset))
    check_data(layout, dataset, entry)
    check_room(layout.minari_root / dataset)
    check_room(layout.data(dataset))
    steps = getattr(entry, "steps", None)
    if steps is None:
        data = collect(entry, *layout.roots)
    else:
        with Progress(stage="download", total=steps, unit="steps") as bar:
            done = 0

            def report(so_far: int, _: int) -> None:
                nonlocal done
                bar.update(so_far - done)
                done = so_far

            data = collect(entry, *layout.roots, workers=n_workers, report=report)
    prepared = prepare(entry, dataset, data)
    write_dataset(place_of(layout, dataset), entry, data, prepared)
    for line in reading(data, prepared.manifest) if steps is None else ():
        say(line)
    return prepared.manifest


def other_digest(layout: Layout, dataset: str, digest: str) -> str | None:
    """One line that says so if generated episodes have another digest than their entry expects.

    Args:
        layout: of the project.
        dataset: id.
        digest: of the episodes.

    Returns:
        None if the entry expects no digest, or this one.
    """
    expected = getattr(load_entry(layout.dataset_entry(dataset)), "digest", None)
    if expected in (None, digest):
        return None
    return (
        f"note: the episodes of {dataset} have the digest {digest}, and datasets/{dataset}.yaml expects {expected}. "
        "Results on them do not compare with those of other machines. If you changed the entry on purpose, remove its "
        f"'digest'. {differences(layout.root, GENERATING)}"
    )


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.download``."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.download",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="dataset id, e.g. builtin/halfcheetah-replay-v0")
    parser.add_argument("--root", type=Path, default=Path(), help="project root (default: current folder)")
    args = parser.parse_args(argv)
    layout = Layout(args.root)
    lines: list[str] = []
    manifest = download(layout, args.dataset, workers(), lines.append)
    about, *more = summary(manifest)
    print(about)
    for line in lines:
        print(line)
    if note := other_digest(layout, args.dataset, manifest["digest"]):
        print(note)
    for line in more:
        print(line)


if __name__ == "__main__":
    sys.exit(stage_main(run))
