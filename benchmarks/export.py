"""Latency and deviation of exported policies, by anchor and by rule: `python -m benchmarks.export` prints a table.

The policies have four seeds and networks of the default sizes. They are trained for a few steps, because neither size
nor operations depend on what was learned.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.workloads import made_data
from spar_core import registry
from spar_core.artifacts import write_meta
from spar_core.critics.iql import IQLCritic
from spar_core.export_formats import FORMATS
from spar_core.export_policy import REFUSED, export_policy
from spar_core.improvement.base import Frozen
from spar_core.interface import Interface
from spar_core.policy import KIND, save_policy
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Part

SEEDS = (0, 1, 2, 3)


def few_steps(model: Any) -> Any:
    """The default settings of a member, with a few optimiser steps."""
    few = {name: 2 for name in ("steps", "warm_start_steps") if name in model.model_fields}
    if "decision" in model.model_fields:  # `auto`
        few |= {"fqe": {"steps": 2}, "candidates": {kind: {"steps": 2} for kind in ("spar_mlp", "spar_proj")}}
    if "member" in model.model_fields:
        few["member"] = {"kind": "mlp", "steps": 2}
    return model(**few)


def saved(folder: Path, anchor: str, rule: str) -> Path:
    """A policy of an anchor and a rule."""
    data = made_data(4000)
    context = Context.quiet(data, SEEDS)
    cloning, acting = load_member("anchor", anchor), load_member("improvement", rule)
    of = {"anchor": few_steps(cloning.Settings), "improvement": few_steps(acting.Settings)}
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


def main() -> None:
    """Print a row for each anchor under SPAR-MLP, and for each rule on an MLP anchor."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| anchor | rule | deviation, ONNX | TorchScript | p50 (p99) in us, ONNX | TorchScript | `act` |")
    print("|---|---|--:|--:|--:|--:|--:|")
    pairs = [(anchor, "spar_mlp") for anchor in registry.ANCHORS if anchor not in REFUSED]
    pairs += [("mlp", rule) for rule in registry.IMPROVEMENTS if rule != "spar_mlp"]
    for anchor, rule in pairs:
        with tempfile.TemporaryDirectory() as scratch:
            policy = saved(Path(scratch) / "policy", anchor, rule)
            told = [export_policy(policy, Path(scratch) / name, name) for name in FORMATS]
        deviations = [f"{one.deviation:.0e}" for one in told]
        times = [
            f"{1e6 * p50:.0f} ({1e6 * p99:.0f})"
            for p50, p99 in [*(one.latency for one in told), told[0].latency_of_act]
        ]
        print(f"| `{anchor}` | `{rule}` | {' | '.join(deviations + times)} |", flush=True)


if __name__ == "__main__":
    main()
