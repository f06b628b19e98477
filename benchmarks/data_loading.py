"""How long a million steps take to load, and how much memory, beside plain iteration with Minari.

    python -m benchmarks.data_loading                       # 1000 episodes of 1000 steps
    python -m benchmarks.data_loading --episode-steps 50    # many short ones

Each way is run in a process of its own, several times; printed are the median seconds, the largest peak of
resident memory above what the libraries take, and its share of the arrays (observations, actions and rewards in
float32, each observation once). Machines differ and are noisy: compare rows of one run. Writes
benchmarks/results/data_loading.json at its defaults.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from minari import MinariDataset

from benchmarks.common import module, side_by_side, write
from spar_core.data.loading import load_dataset
from spar_core.data.readers.d4rl_hdf5 import read_d4rl
from stages.download import download
from stages.layout import Layout

SIZES = (11, 3)  # observations and actions of Hopper
DATASET = "mine/bench-v0"
WAYS = {
    "hdf5": "D4RL file to episodes (`read_d4rl`)",
    "dataset": "stored dataset, checked and standardised (`load_dataset`)",
    "minari": "the same, plain iteration with Minari, keeping the episodes",
}


def make(folder: Path, steps: int, episode_steps: int) -> None:
    """A D4RL file and, through the download stage, the stored dataset, below ``folder``."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((steps + 1, SIZES[0]), dtype=np.float32)
    folder.mkdir()
    with h5py.File(folder / "x.hdf5", "w") as file:
        file["observations"], file["next_observations"] = seen[:-1], seen[1:]
        file["actions"] = rng.uniform(-1, 1, (steps, SIZES[1])).astype(np.float32)
        file["rewards"] = rng.standard_normal(steps, dtype=np.float32)
        file["terminals"] = np.zeros(steps, bool)
        file["timeouts"] = np.arange(1, steps + 1) % episode_steps == 0
    entry = Layout(folder).dataset_entry(DATASET)
    entry.parent.mkdir(parents=True)
    entry.write_text("title: benchmark\nsource: d4rl_hdf5\npath: x.hdf5\n")
    download(Layout(folder), DATASET, 1)


def load(folder: Path, way: str) -> Any:
    """Load what ``make`` left in ``folder``, one of the ``WAYS``."""
    layout = Layout(folder)
    if way == "hdf5":
        return read_d4rl(folder / "x.hdf5")
    if way == "dataset":
        return load_dataset(layout.minari_root, layout.data(DATASET), DATASET)
    return list(MinariDataset(layout.minari_root / DATASET / "data").iterate_episodes())


def run_one(folder: Path, way: str) -> dict[str, float]:
    """Seconds, and peak memory above that of the libraries, of one way; in this process."""
    load(folder / "small", way)  # imports whatever it needs
    # The kernel's high-water mark of this process, set back to what is resident now (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak(), time.perf_counter()
    kept = load(folder / "large", way)
    seconds = time.perf_counter() - start
    assert kept is not None
    return {"seconds": seconds, "bytes": _peak() - before}


def _peak() -> int:
    """Largest resident memory so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Write the data, run every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--episode-steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(Path(args.one[0]), args.one[1])))
        return
    episodes = -(-args.steps // args.episode_steps)
    arrays = 4 * ((args.steps + episodes) * SIZES[0] + args.steps * (SIZES[1] + 1))
    print(f"{args.steps} steps in {episodes} episodes, arrays of {arrays / 1e6:.0f} MB, {args.repeats} runs\n")
    rows = []
    print("| way | median seconds | peak MB | share of the arrays |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "small", 100, 10)
        make(Path(folder) / "large", args.steps, args.episode_steps)
        for way, name in WAYS.items():
            command = module("benchmarks.data_loading", "--one", folder, way)
            runs = [side_by_side([command])[0] for _ in range(args.repeats)]
            peak = max(run["bytes"] for run in runs)
            seconds = statistics.median(run["seconds"] for run in runs)
            rows.append({"way": name, "seconds": seconds, "peak_bytes": peak, "share_of_arrays": peak / arrays})
            print(f"| {name} | {seconds:.1f} | {peak / 1e6:.0f} | {peak / arrays:.2f} |", flush=True)
    if args == parser.parse_args([]):
        write("data_loading", {"steps": args.steps, "episodes": episodes, "array_bytes": arrays, "rows": rows})


if __name__ == "__main__":
    main()
