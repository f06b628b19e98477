"""The IQL critic: its losses against formulas written out by hand, known values, and its calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spar_core.critics.base import reward_scale
from spar_core.critics.calibration import BEFORE_TERMINATION, calibrate
from spar_core.critics.iql import IQLCritic, IQLSettings, expectile_loss, iql_loss
from spar_core.critics.stacked import Problem
from spar_core.critics.warm_start import return_loss
from spar_core.data.returns import discounted_returns
from spar_core.errors import SparError
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack
from tests.fakes import KnownCritic, dataset_from, toy_dataset

# Where all values are the same there is no rank correlation, and SciPy says so.
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")

LEARN = {"hidden": (32,), "batch_size": 64, "learning_rate": 1e-2, "target_rate": 0.05, "layer_norm": False}


def linear_critic(
    observations: int, actions: int, *, q: tuple[list, list], v: list, bias: float = 0.0, **settings
) -> IQLCritic:
    """Q_i = q_i . (s, a) and V = v . s + bias, for one seed."""
    twins = Stack(MLPShape(observations + actions, (), 1), 2)
    for row, weights in enumerate(q):
        twins.parameters["0.weight"][row, :, 0] = torch.tensor(weights)
    value = Stack(MLPShape(observations, (), 1), 1)
    value.parameters["0.weight"][0, :, 0] = torch.tensor(v)
    value.parameters["0.bias"].fill_(bias)
    return IQLCritic(twins, value, IQLSettings(hidden=(), layer_norm=False, **settings))


# --- losses ---


def three_ends():
    """A terminated, a truncated and a terminated episode; the observation is the number of its row."""
    lengths, terminated = [2, 3, 1], [True, False, True]
    n = sum(lengths)
    rows = np.arange(n + 3, dtype=float)[:, None]
    actions = np.linspace(-1, 1, n)[:, None]
    rewards = np.array([1.0, 2.0, -1.0, 0.5, 3.0, -2.0])
    return dataset_from(rows, actions, rewards, lengths, terminated, [False] * 3)


def losses(critic, target, scale):
    """The loss at all steps of ``three_ends``, with rewards times ``scale``."""
    problem = Problem(Context.quiet(three_ends(), (0,)), critic.settings, scale)
    return iql_loss(critic, target, problem, torch.arange(6).unsqueeze(0))


def test_td_targets_go_through_truncations_and_stop_at_terminations():
    dataset = three_ends()
    critic = linear_critic(1, 1, q=([0.5, 0.25], [0.1, -1.0]), v=[2.0], bias=7.0, discount=0.9, expectile=0.8)
    target = linear_critic(1, 1, q=([0.3, 2.0], [0.4, 1.0]), v=[0.0]).networks
    scale, here = 3.0, [0, 1, 3, 4, 5, 7]  # rows 2, 6 and 8 are last observations
    actions = dataset.actions[:, 0]
    # Step 1 ends episode 0 and step 5 episode 2, both terminated; step 4 is cut, and bootstraps from row 6.
    following = [1, None, 4, 5, 6, None]
    q_errors, v_errors = [], []
    for step in range(6):
        after = 0.0 if following[step] is None else 2.0 * following[step] + 7.0
        backup = scale * float(dataset.rewards[step]) + 0.9 * after
        s, a = here[step], float(actions[step])
        q_errors += [(0.5 * s + 0.25 * a - backup) ** 2, (0.1 * s - a - backup) ** 2]
        u = min(0.3 * s + 2.0 * a, 0.4 * s + a) - (2.0 * s + 7.0)
        v_errors.append((0.8 if u > 0 else 0.2) * u**2)
    loss, info = losses(critic, target, scale)
    assert info["critic/q_loss"].item() == pytest.approx(np.mean(q_errors), rel=1e-5)
    assert info["critic/v_loss"].item() == pytest.approx(np.mean(v_errors), rel=1e-5)
    assert loss.item() == pytest.approx(2 * np.mean(q_errors) + np.mean(v_errors), rel=1e-5)


def test_td_gradients_reach_q_and_v_but_not_through_the_backup_or_the_target():
    dataset = three_ends()
    critic = linear_critic(1, 1, q=([0.5, 0.25], [0.1, -1.0]), v=[2.0], bias=7.0)
    target = critic.networks.copy()
    leaves = [critic.networks.leaves["0.weight"], critic.state_value.leaves["0.weight"]]
    for leaf in leaves:
        leaf.requires_grad_()
    loss, info = losses(critic, target, 1.0)
    q_gradient, v_gradient = torch.autograd.grad(loss, leaves)
    assert q_gradient.any() and not info["critic/q_loss"].requires_grad
    # V's gradient is that of the expectile loss alone: sum of -2 w u s over the steps.
    expected = 0.0
    for s, a in zip([0, 1, 3, 4, 5, 7], dataset.actions[:, 0].tolist(), strict=True):
        u = min(0.5 * s + 0.25 * a, 0.1 * s - a) - (2.0 * s + 7.0)
        expected += -2 * (0.7 if u > 0 else 0.3) * u * s / 6
    assert v_gradient[0, 0, 0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("difference", "expectile", "value"), [(2.0, 0.7, 2.8), (-2.0, 0.7, 1.2), (3.0, 0.5, 4.5), (0.0, 0.9, 0.0)]
)
def test_expectile_loss_values(difference, expectile, value):
    assert expectile_loss(torch.tensor(difference), expectile).item() == pytest.approx(value)


def test_minimising_the_expectile_loss_finds_the_expectile():
    values = torch.tensor([0.0, 10.0])
    grid = torch.linspace(0, 10, 10001)
    losses = expectile_loss(values.unsqueeze(1) - grid, 0.9).sum(0)
    # 0.9 (10 - m) = 0.1 m.
    assert grid[losses.argmin()].item() == pytest.approx(9.0, abs=2e-3)


def test_return_loss_is_the_squared_error_of_both_twins_and_of_v():
    critic = linear_critic(1, 1, q=([1.0, 0.0], [0.0, 1.0]), v=[2.0])
    observations, actions = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.5], [-0.5]]])
    returns = torch.tensor([[2.0, 4.0]])
    loss, _ = return_loss(critic, observations, actions, returns)
    first, second = ((1 - 2) ** 2 + (3 - 4) ** 2) / 2, ((0.5 - 2) ** 2 + (-0.5 - 4) ** 2) / 2
    assert loss.item() == pytest.approx(first + second + ((2 - 2) ** 2 + (6 - 4) ** 2) / 2)


def test_q_is_the_smaller_of_the_twins():
    critic = linear_critic(1, 1, q=([1.0, 0.0], [0.0, 1.0]), v=[0.0])
    q = critic.q(torch.tensor([[[1.0], [-3.0]]]), torch.tensor([[[0.5], [2.0]]]))
    assert q.tolist() == [[0.5, -3.0]]


# --- fits with a known answer ---


def fit(dataset, **values):
    settings = IQLSettings(**{**LEARN, **values})
    fitted = IQLCritic.fit(Context.quiet(dataset, (0,)), settings)
    scale = reward_scale(dataset, settings.return_range)
    return IQLCritic.restore(settings, fitted.tensors), scale, fitted


def chain(episodes: int = 40, length: int = 5):
    """States 0 to 4 (one-hot), a terminal end, actions -1 or 1 at random; the reward is 1 for action 1."""
    rng = np.random.default_rng(0)
    actions = rng.choice([-1.0, 1.0], size=(episodes * length, 1))
    observations = np.tile(np.eye(length + 1), (episodes, 1))
    rewards = (actions[:, 0] + 1) / 2
    heldout = np.arange(episodes) % 10 == 0
    return dataset_from(observations, actions, rewards, [length] * episodes, [True] * episodes, heldout)


@pytest.mark.parametrize(
    ("expectile", "value_of_a_step"), [(0.5, 0.5), (0.95, 0.95)], ids=["mean of the data", "nearly its best"]
)
def test_q_of_a_small_chain_is_near_the_truth(expectile, value_of_a_step):
    dataset, discount = chain(), 0.9
    critic, scale, _ = fit(
        dataset, expectile=expectile, discount=discount, warm_start_steps=100, steps=700, return_range=4.0
    )
    value = 0.0
    for state in reversed(range(5)):
        observation = torch.eye(6)[state].view(1, 1, -1)
        for action, reward in ((-1.0, 0.0), (1.0, 1.0)):
            q = critic.q(observation, torch.full((1, 1, 1), action)).item() / scale
            assert q == pytest.approx(reward + discount * value, abs=0.2), (state, action)
        value = value_of_a_step + discount * value


def one_state(terminated: bool, episodes: int = 12, length: int = 40):
    """A state that pays 1 a step and never changes; episodes end after 40 steps."""
    n = episodes * length
    heldout = np.arange(episodes) % 4 == 0
    return dataset_from(
        np.ones((n + episodes, 1)), np.zeros((n, 1)), np.ones(n), [length] * episodes, [terminated] * episodes, heldout
    )


@pytest.mark.parametrize("steps", [(300, 0), (0, 400), (150, 200)], ids=["warm start", "TD", "both"])
def test_truncation_does_not_lower_the_value(steps):
    critic, scale, _ = fit(one_state(False), discount=0.8, warm_start_steps=steps[0], steps=steps[1])
    q = critic.q(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)).item() / scale
    # The truth is 1 / (1 - 0.8); counting a cut as an end gives a tenth less.
    assert scale == 1.0 and q == pytest.approx(5.0, abs=0.2)


def test_termination_does_lower_the_value():
    critic, _, _ = fit(one_state(True), discount=0.8, warm_start_steps=400, steps=0)
    mean = np.mean([(1 - 0.8**k) / 0.2 for k in range(1, 41)])
    assert critic.q(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)).item() == pytest.approx(mean, abs=0.2)
    assert mean < 4.6


def test_the_warm_start_is_regression_on_returns():
    dataset, discount = chain(), 0.9
    critic, scale, fitted = fit(dataset, discount=discount, warm_start_steps=500, steps=0, return_range=4.0)
    returns = discounted_returns(dataset, discount)
    states = np.tile(np.arange(5), 40)
    for state in range(5):
        v = critic.v(torch.eye(6)[state].view(1, 1, -1)).item() / scale
        assert v == pytest.approx(returns[states == state].mean(), abs=0.2)
    assert {row[2] for row in fitted.curves} == {"critic/warm_start_q_loss", "critic/warm_start_v_loss"}


def test_heldout_episodes_are_never_fitted_to():
    dataset = chain()
    spoiled = dataset_from(
        dataset.observations,
        dataset.actions,
        np.where(dataset.heldout[dataset.episode], 100.0, dataset.rewards),
        dataset.lengths,
        dataset.terminated,
        dataset.heldout,
    )
    values = [fit(data, warm_start_steps=20, steps=20)[2].tensors for data in (dataset, spoiled)]
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


def test_divergence_is_one_clear_line():
    with pytest.raises(SparError, match=r"the critic diverged.*learning_rate"):
        fit(toy_dataset(), learning_rate=1e4, warm_start_steps=0, steps=50)


def test_nan_counts_as_divergence():
    dataset = toy_dataset()
    dataset.observations[dataset.observation_index[dataset.train_steps[0]]] = np.nan
    with pytest.raises(SparError, match="the critic diverged: mean Q is nan"):
        fit(dataset, warm_start_steps=0, steps=20)


def test_reward_scale_stretches_training_returns_to_the_range():
    dataset = chain()
    scale = reward_scale(dataset, 1000.0)
    returns = dataset.episode_returns[~dataset.heldout]
    assert scale * np.ptp(returns) == pytest.approx(1000.0)
    assert reward_scale(one_state(True), 1000.0) == 1.0


# --- calibration ---


def falls(episodes: int = 30, length: int = 60):
    """Episodes that pay little to much a step and all end in a fall; the observation is the number of the step."""
    n = episodes * length
    rows = np.concatenate([np.r_[np.arange(e * length, (e + 1) * length), -1] for e in range(episodes)])
    rewards = np.repeat(np.linspace(0.1, 1.0, episodes), length)
    heldout = np.arange(episodes) % 2 == 1
    return dataset_from(rows[:, None], np.zeros((n, 1)), rewards, [length] * episodes, [True] * episodes, heldout)


def gaps(dataset, values: np.ndarray, scale: float = 1.0, discount: float = 0.95) -> dict[str, float]:
    """Calibration of a critic that gives step i the value ``values[i]``."""
    table = torch.as_tensor(values, dtype=torch.float32)
    critic = KnownCritic(lambda observations, actions: table[observations[..., 0].long()])
    found = calibrate(critic, Context.quiet(dataset, (0,)), discount, scale)
    return {name.removeprefix("critic/"): value[0] for name, value in found.items()}


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_truth_is_calibrated(scale):
    dataset = falls()
    found = gaps(dataset, scale * discounted_returns(dataset, 0.95), scale)
    assert found["gap_best_tenth"] == pytest.approx(0.0, abs=1e-4)
    assert found["gap_before_termination"] == pytest.approx(0.0, abs=1e-4)
    assert found["rank_correlation"] == pytest.approx(1.0)


def test_a_flat_critic_lies_below_the_best_and_above_the_falls():
    dataset = falls()
    truth = discounted_returns(dataset, 0.95)
    found = gaps(dataset, np.full_like(truth, truth.mean()))
    assert found["gap_best_tenth"] < -0.5
    assert found["gap_before_termination"] > 0.3
    assert found["q_mean_heldout"] == pytest.approx(truth.mean(), rel=1e-5)


def test_gaps_are_in_standard_deviations_of_the_heldout_returns():
    dataset = falls()
    truth = discounted_returns(dataset, 0.95)
    spread = truth[dataset.heldout_steps].astype(float).std()
    found = gaps(dataset, truth + 2 * spread)
    assert found["gap_best_tenth"] == pytest.approx(2.0, abs=1e-3)
    assert found["gap_before_termination"] == pytest.approx(2.0, abs=1e-3)


def test_only_the_named_steps_count():
    dataset = falls()
    truth = discounted_returns(dataset, 0.95)
    to_end = 60 - np.arange(dataset.n_steps) % 60
    held = dataset.heldout[dataset.episode]
    # The best tenth of 15 held-out episodes is 2 episodes: numbers 27 and 29.
    best = np.isin(dataset.episode, [27, 29])
    late = to_end <= BEFORE_TERMINATION
    ignored = ~held | (~best & ~late)
    found = gaps(dataset, truth + 1000.0 * ignored)
    assert abs(found["gap_best_tenth"]) < 1e-3 and abs(found["gap_before_termination"]) < 1e-3
    assert gaps(dataset, truth + 1000.0 * best)["gap_best_tenth"] > 1
    assert gaps(dataset, truth + 1000.0 * (late & held))["gap_before_termination"] > 1


def test_without_terminations_that_gap_is_missing_not_zero():
    dataset = toy_dataset()
    cut = dataset_from(
        dataset.observations, dataset.actions, dataset.rewards, dataset.lengths, [False] * 10, dataset.heldout
    )
    critic = KnownCritic(lambda observations, actions: actions.sum(-1))
    found = calibrate(critic, Context.quiet(cut, (0,)), 0.9, 1.0)
    assert math.isnan(found["critic/gap_before_termination"][0])
    assert not math.isnan(found["critic/gap_best_tenth"][0])
