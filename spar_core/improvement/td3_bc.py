r"""TD3+BC (a baseline), a policy and twin critics of its own; it asks no anchor and no frozen critic.

.. math::
   y &= r + \gamma (1 - \mathrm{terminated}) \min_i \bar Q_i(s', \tilde a'), \qquad
        \tilde a' = \mathrm{clip}_{[-1, 1]}\big(\bar\pi(s') + \mathrm{clip}_{[-b, b]}(\sigma \epsilon)\big), \quad
        \epsilon \sim \mathcal{N}(0, I) \\
   L_Q &= \mathbb{E} \sum_i \big( Q_i(s, a) - y \big)^2 \\
   L_\pi &= \mathbb{E} \Big[ -\lambda \, Q_1\big(s, \pi(s)\big) + \tfrac{1}{A} \lVert \pi(s) - a \rVert^2 \Big], \qquad
        \lambda = \frac{\alpha}{\mathbb{E} |Q_1(s, \pi(s))|}

The policy is :math:`\pi(s) = \tanh(\mathrm{MLP}(s))`. The critics take ``policy_delay`` steps for each step of the
policy, on minibatches of their own; the policy takes its step on the last of these. Then the copies :math:`\bar Q_i`
and :math:`\bar\pi` follow. No gradient passes through :math:`\lambda`. Rewards are not scaled, but for the dataset's
``reward_shift``.

Source: TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860, eq. 5; :math:`\lambda` as in the authors' code), after TD3
(Fujimoto et al. 2018, arXiv 1802.09477, algorithm 1). Deviations: held-out episodes are left out, and bootstrapping
goes through every cut whose next observation is known, where D4RL's reader drops the last step of a cut episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.stacked import q_values, smallest_q
from spar_core.improvement.actors import OwnActor, correction_norm
from spar_core.improvement.base import Frozen, Improvement
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import minimise
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.optimiser import Adam, OptimiserSettings
from spar_core.training.randomness import Draws, Minibatches, gaussian, streams

# Smallest mean |Q| that lambda divides by, in rewards.
SMALLEST_VALUE = 1e-6
CURVES = ("improvement/loss", "improvement/q", "improvement/bc_loss", "improvement/q_loss")


class TD3BCSettings(OptimiserSettings):
    """Settings of the policy and of the critics that it is trained with."""

    steps: int = Field(5000, gt=0, description="steps of the policy; its critics take policy_delay steps for each")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of Adam, of the policy")
    critic_learning_rate: float = Field(3e-4, gt=0, description="learning rate of Adam, of the critics")
    layer_norm: bool = Field(False, description="layer norm before each activation of the critics")
    discount: float = Field(0.99, ge=0, lt=1, description="gamma, per environment step")
    target_rate: float = Field(0.005, gt=0, le=1, description="how fast the target networks follow, per policy step")
    policy_delay: PositiveInt = Field(2, description="steps of the critics for each step of the policy")
    policy_noise: float = Field(0.2, ge=0, description="standard deviation of the noise on the target policy's action")
    noise_clip: float = Field(0.5, ge=0, description="largest absolute value of that noise")
    q_weight: float = Field(2.5, ge=0, description="alpha: weight of the value, in units of its mean size")


class TD3BC(OwnActor, Improvement):
    """A policy of its own, S seeds side by side; the critics that it was trained with are thrown away."""

    Settings = TD3BCSettings
    takes_value_gradient = True

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: TD3BCSettings) -> Fitted:
        dataset, data, n = context.dataset, context.data, len(context.seeds)
        rule = cls.at_step_zero(context, frozen, settings)
        critics = Critics(context, settings, rule)
        batch, rows = settings.batch_size, settings.batch_size * settings.policy_delay

        def loss(steps: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            for each, drawn in zip(steps.split(batch, dim=1), noise.split(batch, dim=1), strict=True):
                error = critics.learn(each, drawn)
            observations, actions = data.at(each)
            chosen = rule.bounded(observations, actions)
            value, info = rule.policy_loss(q_values(critics.networks, observations, chosen), chosen, actions)
            return value, {**info, "improvement/q_loss": error}

        draws = {
            "batches": Minibatches(
                dataset.bootstrap_steps, context.seeds, rows, "improvement/batches/0", context.device
            ),
            "noise": Draws(context.seeds, "improvement/smoothing", gaussian(rows, dataset.action_size), context.device),
        }
        minimise(
            loss,
            context,
            settings.adam(rule.network),
            draws,
            name="improvement",
            steps=settings.steps,
            after=critics.follow,
            kept={"critics": critics},
        )
        metrics = {name: context.report.last(name) for name in CURVES}
        base = frozen.anchor.act_on_data(data, n)
        metrics["improvement/correction_norm"] = correction_norm(rule, context, base)
        return Fitted(rule.network.state("network", n), metrics, context.report.rows)

    def policy_loss(self, q: Tensor, chosen: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss, summed over seeds, from values [S, 2, B] of its actions [S, B, A] and logged actions."""
        return weighed(q[:, 0], chosen, actions, self.settings.q_weight, 1.0)

    def penalty(self, context: Context, steps: Tensor, next_actions: Tensor) -> Tensor | float:
        """What is taken off the value of the target policy's next actions [S, B, A]; [S, 1, B], or a number."""
        return 0.0


class Critics:
    """Twin critics of S seeds with their optimiser, and the target copies of critics and policy."""

    def __init__(self, context: Context, settings: TD3BCSettings, rule: TD3BC) -> None:
        self.context, self.settings, self.rule = context, settings, rule
        dataset, seeds, device = context.dataset, context.seeds, context.device
        shape = MLPShape(dataset.observation_size + dataset.action_size, settings.hidden, 1, settings.layer_norm)
        self.networks = Stack(shape, 2 * len(seeds), device).initialise(streams(seeds, "improvement/critics"))
        self.target, self.policy_target = self.networks.copy(), rule.network.copy()
        self.adam = Adam(settings.critic_learning_rate, self.networks)
        # The rate is constant, so it is set once: a captured update runs nothing on the host.
        self.adam.prepare()
        self.step = torch.compiler.disable(self.adam.step) if torch.device(device).type == "cuda" else self.adam.step

    def learn(self, steps: Tensor, noise: Tensor) -> Tensor:
        """One step of the critics on the steps [S, B], with noise [S, B, A]; returns the mean squared errors [S]."""
        observations, actions = self.context.data.at(steps)
        targets = self.targets(steps, noise)
        error = per_seed_mean((q_values(self.networks, observations, actions) - targets).square())
        self.step(2 * error.sum())
        return error.detach()

    @torch.no_grad()
    def targets(self, steps: Tensor, noise: Tensor) -> Tensor:
        """The values y [S, 1, B] that both critics are fitted to at the steps [S, B]."""
        data, settings = self.context.data, self.settings
        following = data.observations[data.index[steps] + 1]
        shake = (settings.policy_noise * noise).clamp(-settings.noise_clip, settings.noise_clip)
        next_actions = (torch.tanh(self.policy_target(following)) + shake).clamp(-1.0, 1.0)
        values = smallest_q(self.target, following, next_actions)
        values = values - self.rule.penalty(self.context, steps, next_actions)
        rewards, alive = data.rewards[steps].unsqueeze(1), data.alive[steps].unsqueeze(1)
        return rewards + settings.discount * alive * values

    @torch.no_grad()
    def follow(self) -> None:
        """Let the target copies follow."""
        for copy, network in ((self.target, self.networks), (self.policy_target, self.rule.network)):
            copy.flat.lerp_(network.flat.detach(), self.settings.target_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes while critics and copies learn, for checkpoints."""
        # Only the optimiser's own counter on the device sees every step of a captured update.
        self.adam.done = int(self.adam.steps[0])
        copies = {"target": self.target.flat, "policy_target": self.policy_target.flat}
        return {**copies, **self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state from :meth:`state_dict`, in place."""
        self.target.load_state_dict({"flat": state["target"]})
        self.policy_target.load_state_dict({"flat": state["policy_target"]})
        self.adam.load_state_dict(state)


def weighed(
    q: Tensor, chosen: Tensor, actions: Tensor, q_weight: float, bc_weight: float
) -> tuple[Tensor, dict[str, Any]]:
    """``bc_weight`` times the mean squared error of ``chosen`` to ``actions`` [S, B, A], minus ``q_weight`` times the
    mean of ``q`` [S, B] over its mean size; summed over seeds, with values for the curve."""
    value, error = per_seed_mean(q), per_seed_mean((chosen - actions).square())
    size = per_seed_mean(q.abs()).clamp_min(SMALLEST_VALUE).detach()
    loss = bc_weight * error - q_weight / size * value
    info = dict(zip(CURVES, (loss.detach(), value.detach(), error.detach()), strict=False))
    return loss.sum(), info
