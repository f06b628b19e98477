"""What stands in for rollouts: a policy's value estimated from the logged data, one number a seed.

Two estimates, both at the first observations of the held-out episodes and for the policy's own actions: fitted-Q
evaluation (:mod:`spar_core.fqe`), and what the study's critic says there, which is conservative by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.fitted import METRICS
from spar_core.fqe import Act, FQESettings, evaluate_policies, in_chunks, in_logged_units, start_observations
from spar_core.networks import per_seed_mean
from spar_core.policy import load_policy
from spar_core.reporter import Reporter
from spar_core.workers import over_seeds
from stages.datasets import dataset_of
from stages.entry import device, workers
from stages.layout import Layout
from stages.parts import load_part, restore_critic
from stages.progress import Progress


@dataclass(frozen=True)
class Estimate:
    """The work of one worker: a row a seed. ``reward_shift`` is the one that training applied."""

    layout: Layout
    dataset: str
    policy: Path
    critic: Path
    settings: FQESettings
    reward_shift: str
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[dict[str, Any]]:
        dataset = dataset_of(self.layout, self.dataset)
        acts = [_act(self.policy, seed, self.device) for seed in seeds]
        fqe = evaluate_policies(dataset, acts, self.settings, seeds, report, self.device)
        critic, critic_discount = self._critic(dataset, acts, seeds)
        ends = bool(dataset.terminated[~dataset.heldout].any())
        rows = []
        for seed, value, clipped, theirs in zip(seeds, fqe.values, fqe.clipped, critic, strict=True):
            ours = in_logged_units(value, self.reward_shift, self.settings.discount, ends)
            row = {"seed": seed, "fqe": value if ours is None else ours, "clipped": clipped, "logged": ours is not None}
            if theirs is not None and critic_discount is not None:
                raw = in_logged_units(theirs, self.reward_shift, critic_discount, ends)
                row["critic"] = theirs if raw is None else raw
            rows.append(row)
        return rows

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


def estimate(
    layout: Layout,
    dataset: str,
    policy: Path,
    critic: Path,
    settings: FQESettings,
    seeds: Sequence[int],
    reward_shift: str,
    title: str,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Estimate a group's policies from the logged data, over the machine's workers.

    Args:
        layout: the project.
        dataset: id of the dataset.
        policy: the artifact that holds the policies of ``seeds``.
        critic: the artifact of the critic that they were improved by.
        settings: of fitted-Q evaluation.
        seeds: the group.
        reward_shift: what training did to rewards, a name in :mod:`spar_core.data.reward_shift`.
        title: of the progress bar.

    Returns:
        ``offline`` of ``context.json`` (lists have one value a seed, discounted sums of rewards), and diagnostics.

    Raises:
        SparError: an artifact is missing, or the fit diverged.
    """
    job = Estimate(layout, dataset, policy, critic, settings, reward_shift, device())
    steps = settings.warm_start_steps + settings.steps
    with Progress(stage=title, total=steps * len(seeds), unit="seed-steps") as bar:
        shares = over_seeds(job, seeds, workers(), lambda done, rows: bar.update(done))
    rows = [row for share in shares for row in share]
    offline = {
        "seeds": [row["seed"] for row in rows],
        "fqe": [row["fqe"] for row in rows],
        "critic_estimate": [row["critic"] for row in rows] if all("critic" in row for row in rows) else None,
        "discount": settings.discount,
        # What the sums are made of: what was logged, or what training made of it.
        "rewards": "logged" if all(row["logged"] for row in rows) else reward_shift,
    }
    return offline, {"fqe/clipped_share": [row["clipped"] for row in rows]}


def _act(folder: Path, seed: int, device: str) -> Act:
    """One seed's policy on standardised observations."""
    rule = load_policy(folder, seed, device).rule

    def act(observations: Tensor) -> Tensor:
        return rule.act(observations.unsqueeze(0))[0]

    return act
