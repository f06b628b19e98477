"""Export a policy as one file that acts without this project, checked against the policy, and print its latency.

Reads a policy's folder, artifacts/policy/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/, and for the options
--distance and --guard the dataset that it was trained on. Writes exports/<the same path>.onnx or .pt, or --output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_folder, read_json, read_meta
from spar_core.data.loading import MANIFEST
from spar_core.errors import SparError
from spar_core.export_formats import FORMATS
from spar_core.export_policy import COMPARED, Exported, export_policy
from spar_core.interface import Interface
from spar_core.policy import KIND, load_policy
from stages.datasets import dataset_folders, dataset_of
from stages.entry import stage_main
from stages.layout import Layout

# Folders of a policy's path that follow the dataset's id: anchor, critic, improvement and seeds.
AXES_BELOW = 4


def dataset_id(layout: Layout, policy: Path) -> str | None:
    """The dataset that a policy's path names, if the dataset's artifact is the one that the policy was trained on."""
    policies = layout.artifact("policy").resolve()
    if not policy.resolve().is_relative_to(policies):
        return None
    dataset = "/".join(policy.resolve().relative_to(policies).parts[:-AXES_BELOW])
    digests = read_meta(policy, KIND)["inputs"]
    for name, folder in dataset_folders(layout, dataset).items():
        if not (folder / MANIFEST).is_file() or digest_folder(folder) != digests.get(name):
            return None
    return dataset


def output_of(layout: Layout, policy: Path, dataset: str | None, format: str, seed: int | None) -> Path:
    """Where an export goes without ``--output``: below ``exports/``, by the policy's own path."""
    parts = policy.resolve().parts[-AXES_BELOW:] if dataset else policy.resolve().parts[-1:]
    name = Path(*([dataset] if dataset else []), *parts)
    chosen = "" if seed is None else f"-seed-{seed}"
    return layout.root / "exports" / name.with_name(f"{name.name}{chosen}{FORMATS[format].suffix}")


def guard_of(layout: Layout, policy: Path, dataset: str | None, limit: float | None, seed: int | None) -> Any:
    """The guard of the dataset that a policy was trained on, for the committee or for one seed."""
    from spar_core.guard import fit_guard

    if dataset is None:
        raise SparError(
            f"{policy} does not lie below {layout.artifact('policy')} with the dataset that it was trained on",
            "a guard is fitted to that dataset: export the policy in the project that made it",
        )
    return fit_guard(dataset_of(layout, dataset), limit, policy=load_policy(policy, seed))


def add_options(parser: argparse.ArgumentParser, policy: str = "folder of a policy") -> None:
    """The options of an export; ``policy`` is the help of its one argument."""
    parser.add_argument("policy", type=Path, help=policy)
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx", help="onnx, or torch: TorchScript")
    parser.add_argument("--seed", type=int, help="one seed of the group; without it, the committee of all")
    parser.add_argument("--output", type=Path, help="the file to write")
    parser.add_argument("--distance", action="store_true", help="also give how far both lie from the data")
    parser.add_argument("--guard", type=float, metavar="LIMIT", help="... and let the anchor act beyond this")


def export(layout: Layout, args: argparse.Namespace) -> None:
    """Export what the options say, and print what was written.

    Raises:
        SparError: there is no such policy, or it cannot be exported.
    """
    read_meta(args.policy, KIND)
    if args.output is not None and args.output.resolve().is_relative_to(layout.artifact().resolve()):
        raise SparError(f"{args.output} lies below {layout.artifact()}, which DVC tracks", "name another place")
    dataset = dataset_id(layout, args.policy)
    guarded = args.distance or args.guard is not None
    guard = guard_of(layout, args.policy, dataset, args.guard, args.seed) if guarded else None
    origin = vars(Interface.of_manifest(read_json(layout.data(dataset) / MANIFEST))) if dataset else None
    output = args.output or output_of(layout, args.policy, dataset, args.format, args.seed)
    print(told(export_policy(args.policy, output, args.format, args.seed, guard, origin)))


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.export``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    export(Layout(), parser.parse_args(argv))


def told(exported: Exported) -> str:
    """What the terminal shows of an export."""
    about = exported.description
    shapes = ", ".join(f"{one['name']} {['batch', *one['shape']]}".replace("'", "") for one in about["inputs"])
    whose = f"a committee of {about['members']}" if about["members"] > 1 else "one seed"
    (p50, p99), (act50, act99) = exported.latency, exported.latency_of_act
    return "\n".join(
        [
            f"{exported.path}: anchor {about['anchor']}, rule {about['improvement']}, {whose}",
            f"takes {shapes}; gives {', '.join(about['outputs'])}",
            f"largest deviation from the policy on {COMPARED} observations: {exported.deviation:.1e} of half the range"
            + (f", but for {exported.ties} at which a near tie is decided otherwise" if exported.ties else ""),
            f"latency of one observation on one thread: p50 {1e6 * p50:.0f} us, p99 {1e6 * p99:.0f} us "
            f"(policy.act: {1e6 * act50:.0f} us, {1e6 * act99:.0f} us)",
        ]
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
