"""Measure everything in turn and write the page: `make benchmark`, or `python -m benchmarks [--peer PYTHON]`."""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

from benchmarks.common import ROOT, module

ALONE = ("study", "updates", "scaling", "growth", "start_up", "data_loading", "sixth_anchor")
BESIDE = ("peers", "quality")


def main() -> None:
    """Run them; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="the Python of an environment with benchmarks/requirements-d3rlpy.txt")
    args = parser.parse_args()
    commands = [module(f"benchmarks.{name}") for name in ALONE]
    if torch.cuda.is_available():
        commands.append(module("benchmarks.one_gpu"))
    if args.peer:
        commands += [module(f"benchmarks.{name}", "--peer", args.peer) for name in BESIDE]
    if (ROOT / "artifacts/seconds").is_dir():
        commands.append(module("benchmarks.thousand_cells"))
    for command in [*commands, module("benchmarks.page")]:
        print(f"\n> python {' '.join(command[1:])}", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            sys.exit(f"error: `python {' '.join(command[1:])}` failed")


if __name__ == "__main__":
    main()
