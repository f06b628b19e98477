"""One algorithm of d3rlpy on given arrays, timed; `benchmarks/peers.py` calls it with d3rlpy's own environment.

    python benchmarks/peer_d3rlpy.py arrays.npz iql --steps 1000

Prints the seconds of an update as JSON: wall time of its training loop after a first epoch, progress bar and logs off.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.logging import NoopAdapterFactory


def create(name: str, hidden: list[int], batch_size: int) -> Any:
    """Behaviour cloning, or IQL with critic, value and actor, of networks of the given sizes."""
    encoder = d3rlpy.models.VectorEncoderFactory(hidden)
    if name == "bc":
        return d3rlpy.algos.BCConfig(batch_size=batch_size, encoder_factory=encoder).create(device=False)
    factories = {f"{part}_encoder_factory": encoder for part in ("actor", "critic", "value")}
    return d3rlpy.algos.IQLConfig(batch_size=batch_size, **factories).create(device=False)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays")
    parser.add_argument("algorithm", choices=["bc", "iql"])
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    arrays = np.load(args.arrays)
    data = d3rlpy.dataset.MDPDataset(
        arrays["observations"], arrays["actions"], arrays["rewards"], arrays["terminals"], timeouts=arrays["timeouts"]
    )
    algorithm = create(args.algorithm, [256, 256], 256)
    algorithm.build_with_dataset(data)
    quiet = {"logger_adapter": NoopAdapterFactory(), "show_progress": False}
    algorithm.fit(data, n_steps=100, n_steps_per_epoch=100, **quiet)
    begun = time.perf_counter()
    algorithm.fit(data, n_steps=args.steps, n_steps_per_epoch=args.steps, **quiet)
    print(json.dumps({"seconds_an_update": (time.perf_counter() - begun) / args.steps}))


if __name__ == "__main__":
    main()
