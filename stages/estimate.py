"""Value the final policy of a cell from the logged data alone, and measure its corrections there.

Two values, both at the first observations of the held-out episodes and for the policy's own actions: fitted-Q
evaluation, and what the study's critic says there, which is conservative by design. Neither is a return. Where there
is no environment they stand in for returns; where there is one, the report holds them against the returns.

Reads the dataset, the policy, the critic, and ``estimation`` of params.yaml.
Writes artifacts/estimate/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: estimates.json, corrections.csv.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spar_core.artifacts import digest_folder, new_artifact, read_json, read_meta, write_json, write_meta
from spar_core.data.dataset import Dataset
from spar_core.data.loading import MANIFEST
from spar_core.evaluation.estimation import EstimationSettings, correction_rows, corrections, heldout_observations
from spar_core.evaluation.fqe import Act, evaluate_policies, in_chunks, in_logged_units, start_observations
from spar_core.improvement.base import Improvement
from spar_core.policy import KIND, load_policy
from spar_core.seeds import parse_seeds
from spar_core.training.context import Context
from spar_core.training.fitted import METRICS
from spar_core.training.networks import per_seed_mean
from spar_core.training.reporter import Reporter
from spar_core.training.workers import over_seeds
from stages.cells import Cell
from stages.checkpointing import checkpointed
from stages.datasets import dataset_of
from stages.entry import cell_arguments, device, stage_main, workers
from stages.layout import Layout
from stages.params import section
from stages.parts import load_part, restore_critic
from stages.progress import Progress
from stages.tracking.tracked import tracked


@dataclass(frozen=True)
class Estimate:
    """The work of one worker: an entry a seed. ``reward_shift`` is the one that training applied."""

    layout: Layout
    dataset: str
    policy: Path
    critic: Path
    settings: EstimationSettings
    reward_shift: str
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[dict[str, Any]]:
        dataset = dataset_of(self.layout, self.dataset)
        rules = [load_policy(self.policy, seed, self.device).rule for seed in seeds]
        acts = [_act(rule) for rule in rules]
        fqe = evaluate_policies(Context(dataset, seeds, report, self.device), acts, self.settings.fqe)
        critic, critic_discount = self._critic(dataset, acts, seeds)
        states = heldout_observations(dataset, self.settings.states).to(self.device)
        ends = bool(dataset.terminated[~dataset.heldout].any())
        found = []
        for seed, rule, value, clipped, theirs in zip(seeds, rules, fqe.values, fqe.clipped, critic, strict=True):
            ours = in_logged_units(value, self.reward_shift, self.settings.fqe.discount, ends)
            row = {"seed": seed, "fqe": value if ours is None else ours, "clipped": clipped, "logged": ours is not None}
            if theirs is not None and critic_discount is not None:
                raw = in_logged_units(theirs, self.reward_shift, critic_discount, ends)
                row["critic"] = theirs if raw is None else raw
            radius = rule.frozen.residual.radius[0].tolist()
            row["corrections"] = correction_rows(seed, corrections(rule, states).cpu(), radius)
            found.append(row)
        return found

    def _critic(self, dataset: Dataset, acts: Sequence[Act], seeds: Sequence[int]) -> tuple[list[Any], float | None]:
        """Mean Q_c of each seed's actions at the starts, in the units of training's rewards, and its discount.

        None where the critic does not say what it scales rewards by, or its discount.
        """
        part = load_part(self.critic, "critic", seeds)
        scales = read_json(self.critic / METRICS).get("critic/reward_scale")
        discount = part.settings.model_dump().get("discount")
        if scales is None or discount is None:
            return [None] * len(seeds), None
        known = dict(zip(read_meta(self.critic, "critic")["seeds"], scales, strict=True))
        starts = start_observations(dataset, self.device)
        actions = torch.stack([in_chunks(act, starts) for act in acts])
        q = per_seed_mean(restore_critic(part, self.device).q(starts.expand(len(seeds), -1, -1), actions))
        return [value / known[seed] for seed, value in zip(seeds, q.tolist(), strict=True)], discount


def _act(rule: Improvement) -> Act:
    """One seed's policy on standardised observations."""

    def act(observations: Tensor) -> Tensor:
        return rule.act(observations.unsqueeze(0))[0]

    return act


def estimates_of(rows: Sequence[dict[str, Any]], settings: EstimationSettings, reward_shift: str) -> dict[str, Any]:
    """Content of ``estimates.json``: lists have one value a seed, values are discounted sums of rewards."""
    return {
        "seeds": [row["seed"] for row in rows],
        "fqe": [row["fqe"] for row in rows],
        "critic_estimate": [row["critic"] for row in rows] if all("critic" in row for row in rows) else None,
        "discount": settings.fqe.discount,
        # What the sums are made of: what was logged, or what training made of it.
        "rewards": "logged" if all(row["logged"] for row in rows) else reward_shift,
        "diagnostics": {"fqe/clipped_share": [row["clipped"] for row in rows]},
    }


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.estimate``."""
    args = cell_arguments(__doc__, "dataset", "anchor", "critic", "improvement").parse_args(argv)
    layout = Layout()
    settings = section(layout, "estimation", EstimationSettings, args.dataset)
    cell = Cell("estimate", args.dataset, args.anchor, args.critic, args.improvement, args.seeds)
    seeds = parse_seeds(args.seeds)
    folders = {
        "dataset": layout.data(args.dataset),
        "policy": layout.policy(*vars(args).values()),
        "critic": layout.critic(args.dataset, args.critic, args.seeds),
    }
    read_meta(folders["policy"], KIND)
    shift = read_json(folders["dataset"] / MANIFEST)["reward_shift"]
    params = {"estimation": settings.model_dump(mode="json")}
    inputs = {name: digest_folder(folder) for name, folder in folders.items()}
    job = Estimate(layout, args.dataset, folders["policy"], folders["critic"], settings, shift, device())
    steps = settings.fqe.warm_start_steps + settings.fqe.steps
    with tracked(layout, cell, params, inputs), checkpointed(layout, cell, params, inputs) as checkpoints:
        with Progress(stage=cell.name, total=steps * len(seeds), unit="seed-steps") as bar:
            shares = over_seeds(job, seeds, workers(), lambda done, rows: bar.update(done), checkpoints)
        rows = [row for share in shares for row in share]
        with new_artifact(cell.folder(layout)) as folder:
            write_json(folder / "estimates.json", estimates_of(rows, settings, shift))
            write_corrections(folder / "corrections.csv", rows)
            write_meta(folder, "estimate", params=params, inputs=inputs, seeds=list(seeds))


def write_corrections(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Quantiles of the corrections, in seed order; floats as their shortest exact text."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["seed", "quantity", "share", "value", "radius"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerows(row["corrections"])


if __name__ == "__main__":
    sys.exit(stage_main(run))
