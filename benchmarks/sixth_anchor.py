"""What a sixth anchor costs a study that has five: real `dvc repro` in a clone, before and after it is added.

    python -m benchmarks.sixth_anchor                # about ten minutes
    python -m benchmarks.sixth_anchor --steps 0.1    # a tenth of the optimiser steps, and nothing is written

One seed of builtin/hopper-replay-v0, the critic `iql` and the rule `spar_mlp`, at the budgets of params.yaml, one
worker. Listed is which stages ran and for how long. Writes benchmarks/results/sixth_anchor.json.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import module, write
from benchmarks.scratch import clone, set_params

DATASET = "builtin/hopper-replay-v0"
ANCHORS = ["mlp", "gaussian", "mixture", "cvae", "flow"]
SIXTH = "diffusion"
STUDY = {"datasets": [DATASET], "critics": ["iql"], "improvements": ["spar_mlp"], "seeds": ["0"]}
RAN = re.compile(r"^Running stage '(\w+)@?.*':$", re.MULTILINE)


def repro(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """`dvc repro` of all evaluations: seconds, and how many cells of each stage ran."""
    begun = time.perf_counter()
    outputs = []
    for command in (module("stages.plan"), module("dvc", "repro", "evaluate")):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        outputs.append(done.stdout)
    ran: dict[str, int] = {}
    for stage in RAN.findall("".join(outputs)):
        ran[stage] = ran.get(stage, 0) + 1
    return {"seconds": time.perf_counter() - begun, "ran": ran}


def main() -> None:
    """Run both, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, default=1.0, help="share of the optimiser steps (default: 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        environment = clone(folder)
        found = {}
        print("| anchors | seconds | cells that ran |\n|---|--:|---|")
        for name, anchors in (("five", ANCHORS), ("a sixth", [*ANCHORS, SIXTH])):
            set_params(folder, args.steps, **STUDY, anchors=anchors)
            found[name] = repro(folder, environment)
            told = ", ".join(f"{stage} {count}" for stage, count in found[name]["ran"].items())
            print(f"| {name} | {found[name]['seconds']:.0f} | {told} |", flush=True)
    if args.steps == 1.0:
        write("sixth_anchor", {"dataset": DATASET, "anchors": ANCHORS, "sixth": SIXTH, **found})


if __name__ == "__main__":
    main()
