"""One algorithm of d3rlpy on given arrays, timed; `benchmarks.peers` and `benchmarks.quality` call it with d3rlpy's
own environment.

    python benchmarks/peer_d3rlpy.py arrays.npz iql --steps 1000

Prints as JSON the seconds of an update (wall time of its training loop after a first epoch, progress bar and logs off)
and, with --every, the seconds of training up to each policy that it saved.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.logging import NoopAdapterFactory

WARM = 100


def create(name: str, hidden: list[int], batch_size: int) -> Any:
    """An algorithm at d3rlpy's defaults but for the sizes; IQL with rewards scaled as in its reproduction."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden)
    if name == "bc":
        return d3rlpy.algos.BCConfig(batch_size=batch_size, encoder_factory=encoder).create(device=False)
    parts = ("actor", "critic", "value") if name == "iql" else ("actor", "critic")
    factories = {f"{part}_encoder_factory": encoder for part in parts}
    if name == "iql":
        scaler = d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
        config = d3rlpy.algos.IQLConfig(batch_size=batch_size, reward_scaler=scaler, **factories)
    else:
        config = d3rlpy.algos.TD3PlusBCConfig(batch_size=batch_size, **factories)
    return config.create(device=False)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays")
    parser.add_argument("algorithm", choices=["bc", "iql", "td3bc"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, help="steps between two policies that are saved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where policies go, as TorchScript: <step>.pt")
    args = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(args.seed)
    arrays = np.load(args.arrays)
    data = d3rlpy.dataset.MDPDataset(
        arrays["observations"], arrays["actions"], arrays["rewards"], arrays["terminals"], timeouts=arrays["timeouts"]
    )
    algorithm = create(args.algorithm, [256, 256], 256)
    algorithm.build_with_dataset(data)
    quiet = {"logger_adapter": NoopAdapterFactory(), "show_progress": False}
    if args.every is None:
        algorithm.fit(data, n_steps=WARM, n_steps_per_epoch=WARM, **quiet)
    every = args.every or args.steps
    saved, seconds = [], 0.0
    for done in range(every, args.steps + 1, every):
        begun = time.perf_counter()
        algorithm.fit(data, n_steps=every, n_steps_per_epoch=every, **quiet)
        seconds += time.perf_counter() - begun
        if args.folder:
            algorithm.save_policy(str(args.folder / f"{done}.pt"))
            saved.append({"step": done, "seconds": seconds})
    print(json.dumps({"seconds_an_update": seconds / args.steps, "saved": saved}))


if __name__ == "__main__":
    main()
