"""The settings and the loop of every anchor that learns by gradient steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor, AnchorSettings
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import Adam, Stack, per_seed_mean
from spar_core.training.randomness import Draws, Minibatches
from spar_core.training.reporter import Reporter, is_curve_point

# Held-out steps behind a point of the learning curve; the final quality is measured on all of them.
CURVE_STEPS = 1024

# (observations, actions) of a minibatch, [S, B, .], and random draws, to (loss, info).
AnchorLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class TrainedAnchorSettings(AnchorSettings):
    steps: PositiveInt = 6000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(1e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 256)


def train(
    anchor: Anchor,
    stacks: Sequence[Stack],
    loss_of: AnchorLoss,
    dataset: Dataset,
    settings: TrainedAnchorSettings,
    seeds: Sequence[int],
    report: Reporter,
    device: str,
    **draws: Draws,
) -> None:
    """Minimise ``loss_of`` over ``stacks``; the curve holds its info and the error of the anchor's own actions.

    ``draws`` are what ``loss_of`` takes besides the minibatch, in their order.
    """
    data = DeviceData.of(dataset, device)
    adam = Adam(settings.learning_rate, *stacks, decay_steps=settings.steps if settings.cosine_decay else None)
    batches = Minibatches(dataset.train_steps, seeds, settings.batch_size, "anchor/batches", device)
    held = dataset.heldout_steps
    observations, actions = data.at(torch.as_tensor(held[:: math.ceil(len(held) / CURVE_STEPS) or 1]).to(device))

    def update(picked: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        loss, info = loss_of(*data.at(picked), *drawn)
        adam.step(loss)
        return info

    run = Update(update, adam, device, settings.steps)
    for step in resumable(report, "anchor", settings.steps, adam=adam, batches=batches, **draws):
        info = run(batches.next(), *(draw.next() for draw in draws.values()))
        if is_curve_point(step, settings.steps):
            error = (anchor.act_on_all(observations, len(seeds)) - actions).square()
            report.log(step, {**info, "anchor/heldout_loss": per_seed_mean(error)})
