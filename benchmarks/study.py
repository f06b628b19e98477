"""How long `make run` takes, and where its time goes: the default study in a fresh clone.

    python -m benchmarks.study                    # set-up included; on an idle machine
    python -m benchmarks.study --venv .venv       # with an environment that is there
    python -m benchmarks.study --folder /tmp/it   # keep the clone

Afterwards `dvc repro` has nothing to do, and is timed too (median of three). Writes benchmarks/results/study.json.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.scratch import clone
from stages.parallel.child import dvc_environment

ROW = re.compile(r"^(\w+) +(\d+) +(\d+) +(\d+)%$", re.MULTILINE)


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds of a command and what it printed; it must not fail."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=dvc_environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: `{' '.join(command)}` failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begun, done.stdout


def measure(folder: Path, venv: Path | None) -> dict[str, Any]:
    """Clone the committed project into ``folder``, set it up, run it, and look at it once more."""
    clone(folder)
    if venv is not None:
        (folder / ".venv").symlink_to(venv.resolve())
    told: dict[str, Any] = {"setup": None if venv else timed(["make", "setup"], folder)[0]}
    print(f"set-up: {told['setup']}", flush=True)
    told["run"], printed = timed(["make", "run"], folder)
    print(printed, flush=True)
    rows = [(stage, int(cells), int(seconds)) for stage, cells, seconds, _ in ROW.findall(printed)]
    told["stages"] = [dict(zip(("stage", "cells", "seconds"), row, strict=True)) for row in rows]
    told["nothing"] = statistics.median(timed([".venv/bin/dvc", "repro"], folder)[0] for _ in range(3))
    return told


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the clone goes and stays (default: a temporary folder)")
    parser.add_argument("--venv", type=Path, help="an environment with the project's requirements")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "clone"
        told = measure(folder, args.venv)
    print(f"make run: {told['run'] / 60:.1f} minutes; dvc repro of nothing: {told['nothing']:.1f} seconds")
    write("study", told)


if __name__ == "__main__":
    main()
