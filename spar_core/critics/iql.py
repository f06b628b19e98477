r"""Implicit Q-learning (Kostrikov et al. 2022, arXiv 2110.06169), warm-started by observed returns.

With twin networks :math:`Q_i`, their slowly following copies :math:`\bar Q_i`, and :math:`V`:

.. math::
   L_V &= \mathbb{E}\, \big| \kappa - \mathbb{1}[u < 0] \big| u^2,
          \quad u = \min_i \bar Q_i(s, a) - V(s) \qquad \text{(eq. 5)} \\
   L_Q &= \mathbb{E} \sum_i \big( r + \gamma (1 - \mathrm{terminated}) V(s') - Q_i(s, a) \big)^2
          \qquad \text{(eq. 6)}

Before that, for ``warm_start_steps``, both :math:`Q_i` and :math:`V` are regressed on observed discounted
returns: first on steps far from a cut, then on all steps with truncated tails continued by :math:`V`. The
warm start is this project's addition: temporal differences alone take several times as many steps to learn
that a fall is near, and a critic that has not learnt it yet ruins a good anchor.

The conservative value is :math:`Q_c = \min_i Q_i`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from spar_core.critics.base import Critic, reward_scale
from spar_core.critics.calibration import calibrate
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.data.returns import discounted_returns, far_from_cut, last_observations
from spar_core.errors import SparError
from spar_core.fitted import Fitted
from spar_core.networks import Adam, MLPShape, Stack, per_seed_mean
from spar_core.randomness import Minibatches, streams
from spar_core.reporter import Reporter, is_curve_point
from spar_core.settings import Settings

TWINS = 2


class IQLSettings(Settings):
    warm_start_steps: NonNegativeInt = 5000
    steps: NonNegativeInt = 10_000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(3e-4, gt=0)
    hidden: tuple[PositiveInt, ...] = (256, 256)
    layer_norm: bool = True
    discount: float = Field(0.99, ge=0, lt=1)
    expectile: float = Field(0.7, gt=0, lt=1)
    target_rate: float = Field(0.005, gt=0, le=1)
    return_range: float = Field(1000.0, gt=0)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error, elementwise (eq. 5): weight ``expectile`` above zero, 1 - it below."""
    weight = torch.where(difference > 0, expectile, 1.0 - expectile)
    return weight * difference.square()


class IQLCritic(Critic):
    """Twin Q and V networks, S seeds side by side."""

    Settings = IQLSettings

    def __init__(self, twins: Stack, state_value: Stack) -> None:
        self.twins, self.state_value = twins, state_value

    # --- values ---

    @torch.no_grad()
    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return twin_values(self.twins, observations, actions).min(dim=1).values

    @torch.no_grad()
    def v(self, observations: Tensor) -> Tensor:
        return self.state_value(observations).squeeze(-1)

    # --- training ---

    @classmethod
    def fit(
        cls, dataset: Dataset, settings: IQLSettings, seeds: Sequence[int], report: Reporter, device: str
    ) -> Fitted:
        n, o, a = len(seeds), dataset.observation_size, dataset.action_size
        twins = Stack(MLPShape(o + a, settings.hidden, 1, settings.layer_norm), TWINS * n, device)
        state_value = Stack(MLPShape(o, settings.hidden, 1, settings.layer_norm), n, device)
        twins.initialise(streams(seeds, "critic/twins"))
        state_value.initialise(streams(seeds, "critic/state_value"))
        critic = cls(twins, state_value)
        data, scale = DeviceData.of(dataset, device), reward_scale(dataset, settings.return_range)
        adam = Adam(settings.learning_rate, twins, state_value)
        critic._warm_start(dataset, data, scale, settings, seeds, adam, report)
        critic._learn(dataset, data, scale, settings, seeds, adam, report)
        metrics = calibrate(critic, dataset, data, settings.discount, scale, n)
        metrics["critic/reward_scale"] = [scale] * n
        tensors = {**twins.state("twins", n), **state_value.state("state_value", n)}
        return Fitted(tensors, metrics, report.rows)

    def _warm_start(
        self,
        dataset: Dataset,
        data: DeviceData,
        scale: float,
        settings: IQLSettings,
        seeds: Sequence[int],
        adam: Adam,
        report: Reporter,
    ) -> None:
        """Regress Q and V on observed returns: nearly whole ones first, then all, tails continued by V."""
        train = dataset.train_steps
        whole = train[far_from_cut(dataset, settings.discount)[train]]
        halves = settings.warm_start_steps // 2, settings.warm_start_steps - settings.warm_start_steps // 2
        ends = torch.as_tensor(last_observations(dataset)).to(data.observations.device)
        rows = torch.arange(len(seeds), device=data.observations.device).unsqueeze(1)
        done = 0
        for phase, steps in enumerate(halves):
            tails: list[np.ndarray | None] = [None] * len(seeds)
            choices = whole if phase == 0 and len(whole) else train
            if phase == 1:
                values = self.v(data.observations[ends].expand(len(seeds), -1, -1))
                tails = [row.cpu().numpy() / scale for row in values]
            targets = torch.stack(
                [torch.as_tensor(discounted_returns(dataset, settings.discount, t)) * scale for t in tails]
            ).to(rows.device)
            batches = Minibatches(choices, seeds, settings.batch_size, f"critic/warm_start/{phase}")
            for _ in range(steps):
                done += 1
                picked = batches.next().to(rows.device)
                loss, info = return_loss(self, *data.at(picked), targets[rows, picked])
                adam.minimise(loss)
                if is_curve_point(done, settings.warm_start_steps):
                    report.log(done, info)
                report.advance(len(seeds))

    def _learn(
        self,
        dataset: Dataset,
        data: DeviceData,
        scale: float,
        settings: IQLSettings,
        seeds: Sequence[int],
        adam: Adam,
        report: Reporter,
    ) -> None:
        """Temporal differences, with a slowly following target copy of the twins."""
        target = self.twins.copy()
        batches = Minibatches(dataset.train_steps, seeds, settings.batch_size, "critic/batches")
        # A discounted sum of rewards is never larger than this; 10 times it is no estimate any more.
        bound = 10 * scale * float(np.abs(dataset.rewards).max()) / (1 - settings.discount) + 1.0
        for step in range(1, settings.steps + 1):
            picked = batches.next().to(data.observations.device)
            loss, info = td_loss(self, target, data, picked, scale, settings)
            adam.minimise(loss)
            target.flat.lerp_(self.twins.flat.detach(), settings.target_rate)
            if is_curve_point(step, settings.steps):
                largest = info["critic/q_mean"].abs().max().item()
                if not largest < bound:
                    raise SparError(
                        f"the critic diverged: mean Q is {largest:.3g} at step {step}, beyond what rewards allow",
                        "lower its learning_rate or raise warm_start_steps",
                    )
                report.log(settings.warm_start_steps + step, info)
            report.advance(len(seeds))

    @classmethod
    def restore(cls, settings: IQLSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> IQLCritic:
        def stack(name: str) -> Stack:
            inputs = tensors[f"{name}.0.weight"].shape[-2]
            return Stack.restore(MLPShape(inputs, settings.hidden, 1, settings.layer_norm), tensors, name, device)

        return cls(stack("twins"), stack("state_value"))


def twin_values(twins: Stack, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of both twins, [S, 2, B]."""
    inputs = torch.cat([observations, actions], dim=-1)
    n, batch = inputs.shape[:2]
    values = twins(inputs.repeat_interleave(twins.n // n, dim=0)).squeeze(-1)
    return values.view(n, twins.n // n, batch)


def return_loss(
    critic: IQLCritic, observations: Tensor, actions: Tensor, returns: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of both twins and of V to scaled observed returns [S, B]."""
    twin = twin_values(critic.twins, observations, actions)
    value = critic.state_value(observations).squeeze(-1)
    q_error = per_seed_mean((twin - returns.unsqueeze(1)).square())
    v_error = per_seed_mean((value - returns).square())
    info = {"critic/warm_start_q_loss": q_error.detach(), "critic/warm_start_v_loss": v_error.detach()}
    return (TWINS * q_error + v_error).sum(), info


def td_loss(
    critic: IQLCritic, target: Stack, data: DeviceData, steps: Tensor, scale: float, settings: IQLSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eqs. 5 and 6 on the steps [S, B]: bootstrapping goes through truncations and stops at terminations."""
    observations, actions = data.at(steps)
    with torch.no_grad():
        next_value = critic.v(data.observations[data.index[steps] + 1])
        backup = scale * data.rewards[steps] + settings.discount * data.alive[steps] * next_value
        follower = twin_values(target, observations, actions).min(dim=1).values
    twin = twin_values(critic.twins, observations, actions)
    value = critic.state_value(observations).squeeze(-1)
    q_loss = per_seed_mean((twin - backup.unsqueeze(1)).square())
    v_loss = per_seed_mean(expectile_loss(follower - value, settings.expectile))
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(twin.detach()),
        "critic/v_mean": per_seed_mean(value.detach()),
    }
    return (TWINS * q_loss + v_loss).sum(), info
