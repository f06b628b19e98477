"""Train a network on minibatches of logged steps: the loop of every rule that learns from the data's own actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.improvement.actors import NetworkSettings, ResidualActor
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import Adam, Stack
from spar_core.training.randomness import Minibatches
from spar_core.training.reporter import Reporter, is_curve_point

# Steps [S, B] of the dataset to (loss, info).
StepsLoss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


def minimise_on_data(
    network: Stack,
    loss_of: StepsLoss,
    dataset: Dataset,
    settings: NetworkSettings,
    seeds: Sequence[int],
    report: Reporter,
    device: str,
) -> None:
    """Train ``network`` for ``settings.steps``; the last minibatch's info is the end of the curves."""
    adam = Adam(settings.learning_rate, network, decay_steps=settings.steps if settings.cosine_decay else None)
    batches = Minibatches(dataset.train_steps, seeds, settings.batch_size, "improvement/batches/0", device)

    def update(picked: Tensor) -> dict[str, Tensor]:
        loss, info = loss_of(picked)
        adam.step(loss)
        return info

    run = Update(update, adam, device, settings.steps)
    for step in resumable(report, "improvement", settings.steps, adam=adam, batches=batches):
        report.observe(step, network)
        info = run(batches.next())
        if is_curve_point(step, settings.steps):
            report.log(step, info)


@torch.no_grad()
def correction_norm(
    actor: ResidualActor, dataset: Dataset, data: DeviceData, base: Tensor, most: int = 4096
) -> list[float]:
    """Mean length of the correction of ``base`` [S, N, A] a seed, over about ``most`` evenly spread training steps."""
    train = torch.as_tensor(dataset.train_steps).to(data.index.device)
    steps = train[:: max(1, len(train) // most)]
    observations = data.observations[data.index[steps]].expand(len(base), -1, -1)
    return [row.norm(dim=-1).mean().item() for row in actor.correction(observations, base[:, steps])]
