"""Regress a small network onto the barycentres of weighted candidates: the loop SPAR-MLP and SPAR-PROJ share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.improvement.base import Frozen
from spar_core.improvement.self_imitation import CandidateSettings, Centre, Targets, weighted_targets
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import Adam, Stack
from spar_core.training.randomness import Minibatches
from spar_core.training.reporter import Reporter, is_curve_point

# (observations, base, target correction, target latent), all [S, B, .], to (loss, info).
ImitationLoss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def imitate(
    network: Stack,
    loss_of: ImitationLoss,
    correction: Callable[[Tensor, Tensor], Tensor],
    dataset: Dataset,
    frozen: Frozen,
    settings: CandidateSettings,
    seeds: Sequence[int],
    report: Reporter,
    device: str,
    centre: Centre | None = None,
) -> Fitted:
    """Train ``network`` for ``settings.steps``, with fresh states and candidates ``settings.refreshes`` times.

    Refreshes after the first draw their latents about ``centre``, where there is one.
    """
    data = DeviceData.of(dataset, device)
    adam = Adam(settings.learning_rate, network, decay_steps=settings.steps if settings.cosine_decay else None)
    rows = torch.arange(len(seeds), device=device).unsqueeze(1)
    bounds = [round(i * settings.steps / settings.refreshes) for i in range(settings.refreshes + 1)]
    first_gap: list[float] = []
    for refresh, (start, end) in enumerate(itertools.pairwise(bounds)):
        targets = weighted_targets(dataset, data, frozen, settings, seeds, refresh, centre if refresh else None)
        states = torch.arange(targets.base.shape[1])
        batches = Minibatches(states, seeds, settings.batch_size, f"improvement/batches/{refresh}", device)
        first_gap = first_gap or _norms(correction, targets)

        def update(picked: Tensor, targets: Targets = targets) -> dict[str, Tensor]:
            at = (targets.observations, targets.base, targets.correction, targets.latent)
            loss, info = loss_of(*(values[rows, picked] for values in at))
            adam.step(loss)
            return info

        run = Update(update, adam, device, end - start)
        for step in resumable(report, f"improvement-{refresh}", end - start, adam=adam, batches=batches):
            report.observe(start + step, network)
            info = run(batches.next())
            if is_curve_point(start + step, settings.steps):
                report.log(start + step, info)

    metrics = {
        "improvement/step0_norm": first_gap,
        "improvement/correction_norm": _norms(correction, targets),
        "improvement/effective_candidates": targets.effective.tolist(),
        "improvement/anchor_weight": targets.of_anchor.tolist(),
        "improvement/value_spread": targets.spread.tolist(),
        "improvement/loss": report.last("improvement/loss"),
    }
    return Fitted(network.state("network", len(seeds)), metrics, report.rows)


@torch.no_grad()
def _norms(correction: Callable[[Tensor, Tensor], Tensor], targets: Targets, most: int = 4096) -> list[float]:
    """Mean length of the correction over the first states of each seed."""
    values = correction(targets.observations[:, :most].contiguous(), targets.base[:, :most].contiguous())
    return [row.norm(dim=-1).mean().item() for row in values]
