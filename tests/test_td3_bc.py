"""TD3+BC and ReBRAC: their losses against formulas written out by hand, and fits with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spar_core.improvement.base import Frozen
from spar_core.improvement.rebrac import ReBRAC
from spar_core.improvement.td3_bc import TD3BC, Critics, weighed
from spar_core.training.context import Context
from tests.fakes import ConstantAnchor, KnownCritic, LinearDecoder, dataset_from, tiny_settings, toy_dataset

# Steps 1 and 5 end in terminal states; step 4 is cut, and the observation is the number of its row.
LENGTHS, TERMINATED = [2, 3, 1], [True, False, True]
REWARDS = [1.0, 2.0, -1.0, 0.5, 3.0, -2.0]
AFTER = [1, 2, 4, 5, 6, 8]
ALIVE = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
STEPS = torch.arange(6).unsqueeze(0)
NOISE = torch.tensor([0.5, -0.5, 10.0, -10.0, 0.0, 1.0]).view(1, 6, 1)
Q = ([0.3, 2.0], [0.4, 1.0])


def three_ends():
    rows = np.arange(9, dtype=float)[:, None]
    actions = np.linspace(-1, 1, 6)[:, None]
    return dataset_from(rows, actions, np.array(REWARDS), LENGTHS, TERMINATED, [False] * 3)


def frozen(actions: int = 1) -> Frozen:
    nothing = KnownCritic(lambda observations, actions: observations.new_zeros(observations.shape[:2]))
    return Frozen(ConstantAnchor([0.0] * actions), LinearDecoder([[0.1]] * actions, 1, 0.5), nothing)


def prepared(member, **values) -> Critics:
    """Linear critics with the weights Q, and the policy tanh(s / 10), all equal to their target copies."""
    settings = member.Settings(hidden=(), layer_norm=False, discount=0.9, **values)
    context = Context.quiet(three_ends(), (0,))
    rule = member.at_step_zero(context, frozen(), settings)
    critics = Critics(context, settings, rule)
    for stack, weights in ((critics.target, Q), (critics.policy_target, ([0.1],))):
        for name, value in stack.parameters.items():
            value.copy_(torch.tensor(weights).unsqueeze(-1) if name.endswith("weight") else torch.zeros_like(value))
    return critics


def next_actions() -> np.ndarray:
    """The target policy's actions: with noise of a standard deviation of 0.2, clipped to 0.5."""
    shake = np.clip(0.2 * NOISE.numpy().ravel(), -0.5, 0.5)
    return np.clip(np.tanh(0.1 * np.array(AFTER)) + shake, -1, 1)


def smaller(s, a):
    return np.minimum(0.3 * s + 2.0 * a, 0.4 * s + a)


def test_targets_ask_the_target_copies_about_the_shaken_target_policy_and_stop_at_terminations():
    found = prepared(TD3BC).targets(STEPS, NOISE)
    expected = np.array(REWARDS) + 0.9 * np.array(ALIVE) * smaller(np.array(AFTER), next_actions())
    torch.testing.assert_close(found.ravel(), torch.as_tensor(expected, dtype=torch.float32))


def test_rebrac_takes_the_squared_distance_to_the_logged_next_action_off_the_value():
    logged = np.linspace(-1, 1, 6)
    found = prepared(ReBRAC, critic_bc=0.7).targets(STEPS, NOISE)
    # After step 4, which is cut, no action was logged.
    distance = np.array([(a - b) ** 2 for a, b in zip(next_actions(), [*logged[1:], 0.0], strict=True)])
    distance[4] = 0.0
    values = smaller(np.array(AFTER), next_actions()) - 0.7 * distance
    expected = np.array(REWARDS) + 0.9 * np.array(ALIVE) * values
    torch.testing.assert_close(found.ravel(), torch.as_tensor(expected, dtype=torch.float32))


def test_both_critics_step_down_to_the_least_squares_fit_of_their_targets():
    critics = prepared(TD3BC, critic_learning_rate=0.3)
    errors = [critics.learn(STEPS, NOISE).item() for _ in range(1500)]
    observations, actions = critics.context.data.at(STEPS)
    inputs = torch.cat([observations, actions, torch.ones(1, 6, 1)], -1)[0].double()
    targets = critics.targets(STEPS, NOISE).view(6, 1).double()
    fitted = inputs @ torch.linalg.lstsq(inputs, targets).solution
    assert errors[-1] == pytest.approx((fitted - targets).square().mean().item(), rel=1e-3)
    assert errors[-1] < 0.9 * errors[0]


def test_the_policys_loss_is_the_papers():
    q = torch.tensor([[[1.0, -3.0], [5.0, -9.0]]])
    chosen, actions = torch.tensor([[[0.5, 0.0], [1.0, -1.0]]]), torch.zeros(1, 2, 2)
    error = (0.25 + 0.0 + 1.0 + 1.0) / 4

    def loss(member, **values):
        settings = member.Settings(**values)
        return member(frozen(2), settings, None).policy_loss(q, chosen, actions)[0].item()

    # The first critic: values of mean -1 and mean size 2. The smaller one: -4 and 5.
    assert loss(TD3BC, q_weight=2.5) == pytest.approx(error + 2.5 * 1.0 / 2.0)
    assert loss(ReBRAC, actor_bc=0.1) == pytest.approx(0.1 * 2 * error + 4.0 / 5.0)
    assert weighed(torch.zeros(1, 2), chosen, actions, 1.0, 1.0)[0].isfinite()


def bandit(n: int = 400):
    """One state, one step an episode; the reward is the action."""
    actions = np.random.default_rng(0).uniform(-0.6, 0.6, (n, 1))
    return dataset_from(np.ones((2 * n, 1)), actions, actions[:, 0], [1] * n, [True] * n, np.arange(n) % 10 == 0)


def learned(member, **values) -> float:
    """The action in the only state after a fit."""
    options = {"steps": 250, "batch_size": 64, "hidden": (16,), "learning_rate": 1e-2, "critic_learning_rate": 1e-2}
    settings = member.Settings(**options, **values)
    fitted = member.fit(Context.quiet(bandit(), (0,)), frozen(), settings)
    assert fitted.metrics["improvement/q_loss"][0] < 0.1
    return member.restore(frozen(), settings, fitted.tensors).act(torch.ones(1, 1, 1)).item()


def test_the_weights_trade_value_against_the_data():
    assert abs(learned(TD3BC, q_weight=0.0)) < 0.2 and learned(TD3BC, q_weight=20.0) > 0.7
    assert abs(learned(ReBRAC, actor_bc=100.0)) < 0.2 and learned(ReBRAC, actor_bc=0.001) > 0.7


@pytest.mark.parametrize("delay", [1, 3])
def test_the_critics_take_their_steps_for_each_of_the_policys(delay, monkeypatch):
    seen = []
    learn = Critics.learn
    monkeypatch.setattr(Critics, "learn", lambda self, steps, noise: seen.append(self) or learn(self, steps, noise))
    settings = tiny_settings(TD3BC, policy_delay=delay, steps=5)
    TD3BC.fit(Context.quiet(toy_dataset(), (0, 1)), frozen(3), settings)
    assert len(seen) == 5 * delay and seen[-1].state_dict()["done"] == 5 * delay


def test_all_that_learns_comes_back_from_a_checkpoint():
    critics, again = prepared(TD3BC), prepared(TD3BC)
    for _ in range(3):
        critics.learn(STEPS, NOISE)
        critics.follow()
    again.load_state_dict({name: value.clone() for name, value in critics.state_dict().items()})
    for one in (critics, again):
        one.learn(STEPS, NOISE)
    assert torch.equal(critics.networks.flat, again.networks.flat) and torch.equal(
        critics.target.flat, again.target.flat
    )


def test_frozen_parts_are_not_asked():
    settings, context = tiny_settings(ReBRAC), Context.quiet(toy_dataset(), (0, 1))
    one = ReBRAC.fit(context, frozen(3), settings).tensors
    other = Frozen(ConstantAnchor([0.5] * 3), frozen(3).residual, None)
    assert all(torch.equal(value, ReBRAC.fit(context, other, settings).tensors[name]) for name, value in one.items())
