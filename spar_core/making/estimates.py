"""Value a policy from the logged data alone, and measure its corrections there.

Two values are computed, both at the first observations of the held-out episodes and for the policy's own actions:
fitted-Q evaluation, and the value of a critic, which is conservative by design. Neither is a return.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spar_core.artifacts import read_json, read_meta, write_json
from spar_core.data.dataset import Dataset
from spar_core.data.loading import MANIFEST, DataPlace
from spar_core.evaluation.estimation import EstimationSettings, correction_rows, corrections, heldout_observations
from spar_core.evaluation.fqe import Act, evaluate_policies, in_chunks, in_logged_units, start_observations
from spar_core.improvement.base import Improvement
from spar_core.making.frame import Frame, Written
from spar_core.parts import load_part, restore_critic
from spar_core.policy import load_policy
from spar_core.training.context import Context
from spar_core.training.fitted import METRICS
from spar_core.training.networks import per_seed_mean
from spar_core.training.reporter import Reporter


@dataclass(frozen=True)
class Estimate:
    """The work of one worker: one row a seed. ``reward_shift`` is the shift that training applied to rewards."""

    data: DataPlace
    policy: Path
    critic: Path
    settings: EstimationSettings
    reward_shift: str
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[dict[str, Any]]:
        dataset = self.data.load()
        rules = [load_policy(self.policy, seed, self.device).rule for seed in seeds]
        acts = [_act(rule) for rule in rules]
        fqe = evaluate_policies(Context(dataset, seeds, report, self.device), acts, self.settings.fqe)
        critic, critic_discount = self._critic(dataset, acts, seeds)
        states = heldout_observations(dataset, self.settings.states).to(self.device)
        ends = bool(dataset.step_terminated[dataset.train_steps].any())
        found = []
        for seed, rule, value, clipped, theirs in zip(seeds, rules, fqe.values, fqe.clipped, critic, strict=True):
            ours = in_logged_units(value, self.reward_shift, self.settings.fqe.discount, ends)
            row: dict[str, Any] = {
                "seed": seed,
                "fqe": value if ours is None else ours,
                "clipped": clipped,
                "logged": ours is not None,
            }
            if theirs is not None and critic_discount is not None:
                raw = in_logged_units(theirs, self.reward_shift, critic_discount, ends)
                row["critic"] = theirs if raw is None else raw
            radius = rule.frozen.residual.radius[0].tolist()
            row["corrections"] = correction_rows(seed, corrections(rule, states).cpu(), radius)
            found.append(row)
        return found

    def _critic(self, dataset: Dataset, acts: Sequence[Act], seeds: Sequence[int]) -> tuple[list[Any], float | None]:
        """Mean Q_c of each seed's actions at the start states, in the units of training's rewards, and its discount.

        The values are None where the critic tells no discount, or not by how much it scales rewards.
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
    """Content of ``estimates.json``: each list has one value a seed, and values are discounted sums of rewards."""
    return {
        "seeds": [row["seed"] for row in rows],
        "fqe": [row["fqe"] for row in rows],
        "critic_estimate": [row["critic"] for row in rows] if all("critic" in row for row in rows) else None,
        "discount": settings.fqe.discount,
        # The rewards that the sums are made of: the logged ones, or those that training used.
        "rewards": "logged" if all(row["logged"] for row in rows) else reward_shift,
        "diagnostics": {"fqe/clipped_share": [row["clipped"] for row in rows]},
    }


def write_corrections(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write quantiles of the corrections, in seed order; floats as their shortest exact text."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["seed", "quantity", "share", "value", "radius"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerows(row["corrections"])


def make_estimate(frame: Frame, data: DataPlace, policy: Path, critic: Path, settings: EstimationSettings) -> None:
    """Write estimates.json and corrections.csv of a policy.

    Args:
        frame: of the estimate.
        data: the prepared dataset.
        policy: folder of the policy's artifact.
        critic: folder of the critic's artifact.
        settings: of the estimates.

    Raises:
        SparError: an artifact is missing, or a worker process was killed.
    """
    shift = read_json(data.folder / MANIFEST)["reward_shift"]
    job = Estimate(data, policy, critic, settings, shift, frame.device)
    rows = [row for share in frame.over_seeds(job) for row in share]

    def write(folder: Path) -> Written:
        write_json(folder / "estimates.json", estimates_of(rows, settings, shift))
        write_corrections(folder / "corrections.csv", rows)
        return Written()

    frame.save("estimate", write)
