"""Deviation and time of exported policies, by anchor and by rule: `python -m benchmarks.export` prints a table.

The policies have four seeds and networks of the default sizes. They are trained for a few steps, because neither size
nor operations depend on what was learned.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.workloads import made_data
from spar_core import export_policy, registry
from spar_core.artifacts import write_meta
from spar_core.critics.iql import IQLCritic
from spar_core.export_formats import FORMATS
from spar_core.export_graph import observations_near_data, split_parts
from spar_core.improvement.base import Frozen
from spar_core.interface import Interface
from spar_core.policy import KIND, save_policy
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Part

SEEDS = (0, 1, 2, 3)


def few_steps(model: Any, own: Path | None = None) -> Any:
    """The default settings of a member, with a few optimiser steps; ``own`` is the file of an external policy."""
    few = {name: 2 for name in ("steps", "warm_start_steps") if name in model.model_fields}
    if "decision" in model.model_fields:  # `auto`
        few |= {"fqe": {"steps": 2}, "candidates": {kind: {"steps": 2} for kind in ("spar_mlp", "spar_proj")}}
    if "member" in model.model_fields:
        few["member"] = {"kind": "mlp", "steps": 2}
    if "onnx" in model.model_fields:
        few["onnx"] = own
    return model(**few)


def own_policy(path: Path, sizes: tuple[int, int]) -> Path:
    """An ONNX file of a policy as large as the anchor `mlp`, untrained."""
    layers = (nn.Linear(sizes[0], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, sizes[1]), nn.Tanh())
    axes = {"input_names": ["observations"], "dynamic_axes": {"observations": {0: "batch"}}}
    torch.onnx.export(nn.Sequential(*layers), (torch.zeros(2, sizes[0]),), path, **axes, dynamo=False)
    return path


def saved(folder: Path, anchor: str, rule: str) -> Path:
    """A policy of an anchor and a rule."""
    data = made_data(4000)
    context = Context.quiet(data, SEEDS)
    cloning, acting = load_member("anchor", anchor), load_member("improvement", rule)
    own = own_policy(folder.with_suffix(".onnx"), (data.observation_size, data.action_size))
    of = {"anchor": few_steps(cloning.Settings, own), "improvement": few_steps(acting.Settings)}
    of |= {"residual": few_steps(ResidualSettings), "critic": few_steps(IQLCritic.Settings)}
    cloned = cloning.of_group(cloning.fit(context, of["anchor"]), context, of["anchor"]).tensors
    frozen_anchor = cloning.restore(of["anchor"], cloned)
    residual = fit_residual(context, frozen_anchor, of["residual"]).tensors
    critic = IQLCritic.fit(context, of["critic"]).tensors
    frozen = Frozen(
        frozen_anchor, ResidualModel.restore(of["residual"], residual), IQLCritic.restore(of["critic"], critic)
    )
    learned = acting.fit(context, frozen, of["improvement"])
    parts = {
        "anchor": Part(anchor, of["anchor"], cloned),
        "residual": Part("residual", of["residual"], residual),
        "improvement": Part(rule, of["improvement"], learned.tensors),
    }
    if acting.acts_with_critic(of["improvement"]):
        parts["critic"] = Part("iql", of["critic"], critic)
    folder.mkdir()
    takes = Interface(data.observation_size)
    save_policy(folder, parts=parts, fitted=learned, seeds=SEEDS, scaler=data.scaler, interface=takes)
    write_meta(folder, KIND, params={}, inputs={}, seeds=list(SEEDS))
    return folder


def cpu_time(call: Callable[[], Any], calls: int) -> float:
    """Microseconds of the processor that a call takes: the least of five means, since others disturb it."""
    means = []
    for _ in range(5):
        start = time.thread_time()
        for _ in range(calls):
            call()
        means.append(1e6 * (time.thread_time() - start) / calls)
    return min(means)


def main() -> None:
    """Print a row for each anchor under SPAR-MLP, and for each rule on an MLP anchor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50, help="calls that each of five means is of")
    calls = parser.parse_args().calls
    export_policy.CALLS = export_policy.WARM_UP = 1
    print("| anchor | rule | deviation: ONNX | TorchScript | us a call: ONNX | TorchScript | `act` |")
    print("|---|---|--:|--:|--:|--:|--:|")
    pairs = [(anchor, "spar_mlp") for anchor in registry.ANCHORS if anchor not in export_policy.REFUSED]
    pairs += [("mlp", rule) for rule in registry.IMPROVEMENTS if rule != "spar_mlp"]
    for anchor, rule in pairs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = saved(Path(scratch) / "policy", anchor, rule)
            policy, graph = export_policy.graph_of(folder)
            observation = observations_near_data(policy, 1)
            inputs, cells, times = split_parts(policy, observation), [], []
            for name, kind in FORMATS.items():
                if anchor == "external" and name == "torch":  # an ONNX file cannot be part of TorchScript
                    cells.append("-")
                    times.append("-")
                    continue
                told = export_policy.export_policy(folder, Path(scratch) / name, name)
                cells.append(f"{told.deviation:.0e}")
                times.append(f"{cpu_time(partial(kind.load(told.path, graph), inputs), calls):.0f}")
            times.append(f"{cpu_time(partial(policy.act, observation[0]), calls):.0f}")
        print(f"| `{anchor}` | `{rule}` | {' | '.join([*cells, *times])} |", flush=True)


if __name__ == "__main__":
    main()
