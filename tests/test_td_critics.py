"""The other critics: their losses against formulas written out by hand, and fits with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spar_core.critics.actor import Actor, actor_targets, tanh_gaussian
from spar_core.critics.base import mean_of, reward_scale, spread_of
from spar_core.critics.cql import CQLCritic, CQLSettings, log_integral, mixed_actions
from spar_core.critics.edac import EDACCritic, EDACSettings, gradient_similarity, values_and_gradients
from spar_core.critics.iql_ensemble import IQLEnsembleCritic, IQLEnsembleSettings, ensemble_loss
from spar_core.critics.returns import ReturnsCritic
from spar_core.critics.sarsa import SARSACritic, SARSASettings, sarsa_loss
from spar_core.critics.stacked import Problem
from spar_core.data.returns import discounted_returns
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.randomness import streams
from tests.fakes import dataset_from, tiny_settings, toy_dataset

# Where all values are the same there is no rank correlation, and SciPy says so.
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant")

LEARN = {"hidden": (32,), "batch_size": 64, "learning_rate": 1e-2, "layer_norm": False}
TD = {**LEARN, "target_rate": 0.05}


def linear(*weights: list[float], bias: float = 0.0) -> Stack:
    """One network a row of weights, w . x + bias."""
    stack = Stack(MLPShape(len(weights[0]), (), 1), len(weights))
    stack.parameters["0.weight"][:, :, 0] = torch.tensor(weights)
    stack.parameters["0.bias"].fill_(bias)
    return stack


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def fit(member, dataset, seeds=(0,), **values):
    settings = member.Settings(**values)
    fitted = member.fit(Context.quiet(dataset, seeds), settings)
    return member.restore(settings, fitted.tensors), reward_scale(dataset, settings.return_range), fitted


def three_ends():
    """A terminated, a truncated and a terminated episode; the observation is the number of its row."""
    lengths, terminated = [2, 3, 1], [True, False, True]
    rows = np.arange(9, dtype=float)[:, None]
    actions = np.linspace(-1, 1, 6)[:, None]
    return dataset_from(rows, actions, np.array([1.0, 2.0, -1.0, 0.5, 3.0, -2.0]), lengths, terminated, [False] * 3)


def scaled(dataset, critic, scale: float) -> Problem:
    """The problem of one seed, with rewards times ``scale``."""
    return Problem(Context.quiet(dataset, (0,)), critic.settings, scale)


HERE = [0, 1, 3, 4, 5, 7]
ALL_STEPS = torch.arange(6).unsqueeze(0)


def chain(reward=lambda action: (action + 1) / 2, episodes: int = 40, length: int = 5, up: float = 0.5):
    """States 0 to 4 (one-hot), a terminal end, actions 1 with probability ``up``, else -1."""
    rng = np.random.default_rng(0)
    actions = np.where(rng.random((episodes * length, 1)) < up, 1.0, -1.0)
    observations = np.tile(np.eye(length + 1), (episodes, 1))
    heldout = np.arange(episodes) % 10 == 0
    return dataset_from(observations, actions, reward(actions[:, 0]), [length] * episodes, [True] * episodes, heldout)


# --- sums over networks ---


def test_mean_and_spread_are_those_of_torch():
    values = drawn(3, 5, 7)
    torch.testing.assert_close(mean_of(values), values.mean(1))
    torch.testing.assert_close(spread_of(values), values.std(1, correction=0))


def test_a_spread_of_zero_has_a_gradient_of_zero():
    values = torch.ones(1, 3, 2, requires_grad=True)
    spread = spread_of(values)
    assert not spread.any() and not torch.autograd.grad(spread.sum(), values)[0].any()


# --- iql_ensemble ---


def ensemble(kappa: float, q=([1.0, 0.0], [0.0, 1.0], [2.0, -1.0]), v=([1.0], [2.0], [6.0])) -> IQLEnsembleCritic:
    settings = IQLEnsembleSettings(members=len(q), kappa=kappa, hidden=(), layer_norm=False, discount=0.9)
    return IQLEnsembleCritic(linear(*q), linear(*v), settings)


def test_the_ensemble_lies_kappa_deviations_below_its_mean():
    observations, actions = torch.tensor([[[1.0], [-3.0]]]), torch.tensor([[[0.5], [2.0]]])
    members = torch.tensor([[1.0, 0.5, 1.5], [-3.0, 2.0, -8.0]])
    mean, std = members.mean(1), members.std(1, correction=0)
    for kappa in (0.0, 1.0, 2.5):
        torch.testing.assert_close(ensemble(kappa).q(observations, actions)[0], mean - kappa * std)
    torch.testing.assert_close(ensemble(1.0).uncertainty(observations, actions)[0], std)
    assert ensemble(1.0).v(observations)[0].tolist() == [3.0, -9.0]


def test_each_member_bootstraps_from_itself():
    dataset, critic = three_ends(), ensemble(1.0)
    target = linear([0.3, 2.0], [0.4, 1.0], [0.0, 0.0])
    q_errors, v_errors = [], []
    following = [1, None, 4, 5, 6, None]
    for step in range(6):
        s, a = HERE[step], float(dataset.actions[step, 0])
        members = zip((s, a, 2 * s - a), (0.3 * s + 2 * a, 0.4 * s + a, 0.0), (1.0, 2.0, 6.0), strict=True)
        for q, follower, slope in members:
            after = 0.0 if following[step] is None else slope * following[step]
            q_errors.append((q - (3.0 * float(dataset.rewards[step]) + 0.9 * after)) ** 2)
            u = follower - slope * s
            v_errors.append((0.7 if u > 0 else 0.3) * u**2)
    loss, info = ensemble_loss(critic, target, scaled(dataset, critic, 3.0), ALL_STEPS)
    assert info["critic/q_loss"].item() == pytest.approx(np.mean(q_errors), rel=1e-5)
    assert info["critic/v_loss"].item() == pytest.approx(np.mean(v_errors), rel=1e-5)
    assert loss.item() == pytest.approx(3 * (np.mean(q_errors) + np.mean(v_errors)), rel=1e-5)


def test_one_member_is_certain_and_passes_its_gradient():
    critic, _, _ = fit(IQLEnsembleCritic, chain(), members=1, warm_start_steps=5, steps=5, **TD)
    actions = torch.zeros(1, 2, 1, requires_grad=True)
    q = critic.conservative_q(torch.eye(6)[None, :2], actions)
    assert torch.autograd.grad(q.sum(), actions)[0].isfinite().all()
    assert not critic.uncertainty(torch.eye(6)[None, :2], actions).any()


def test_members_are_more_certain_of_the_data():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.2, 0.2, (200, 1))
    _, _, fitted = fit(IQLEnsembleCritic, bandit(actions, np.ones(200)), warm_start_steps=200, steps=200, **TD)
    assert fitted.metrics["critic/uncertainty_heldout"][0] < fitted.metrics["critic/uncertainty_random"][0]


# --- sarsa ---


def test_sarsa_targets_take_the_logged_next_action_v_at_a_cut_and_nothing_after_a_termination():
    dataset = three_ends()
    settings = SARSASettings(hidden=(), layer_norm=False, discount=0.9)
    critic = SARSACritic(linear([0.5, 0.25], [0.1, -1.0]), linear([2.0], bias=7.0), settings)
    actions = [float(a) for a in dataset.actions[:, 0]]

    def follower(s, a):
        return min(0.3 * s + 2.0 * a, 0.4 * s + a)

    # Steps 1 and 5 are terminated, step 4 is cut in row 6.
    after = [follower(1, actions[1]), 0, follower(4, actions[3]), follower(5, actions[4]), 2.0 * 6 + 7.0, 0]
    q_errors, v_errors = [], []
    for step, (s, a) in enumerate(zip(HERE, actions, strict=True)):
        backup = 3.0 * float(dataset.rewards[step]) + 0.9 * after[step]
        q_errors += [(0.5 * s + 0.25 * a - backup) ** 2, (0.1 * s - a - backup) ** 2]
        v_errors.append((follower(s, a) - (2.0 * s + 7.0)) ** 2)
    target = linear([0.3, 2.0], [0.4, 1.0])
    loss, info = sarsa_loss(critic, target, scaled(dataset, critic, 3.0), ALL_STEPS)
    assert info["critic/q_loss"].item() == pytest.approx(np.mean(q_errors), rel=1e-5)
    assert info["critic/v_loss"].item() == pytest.approx(np.mean(v_errors), rel=1e-5)
    assert loss.item() == pytest.approx(2 * np.mean(q_errors) + np.mean(v_errors), rel=1e-5)


def test_a_cut_at_the_very_last_step_of_the_data_bootstraps_from_v():
    dataset = dataset_from(np.arange(3.0)[:, None], np.ones((2, 1)), np.zeros(2), [2], [False], [False])
    settings = SARSASettings(hidden=(), layer_norm=False, discount=0.5)
    critic = SARSACritic(linear([0.0, 0.0], [0.0, 0.0]), linear([0.0], bias=4.0), settings)
    _, info = sarsa_loss(critic, linear([1.0, 0.0]), scaled(dataset, critic, 1.0), torch.tensor([[1]]))
    assert info["critic/q_loss"].item() == pytest.approx((0.5 * 4.0) ** 2)


@pytest.mark.parametrize("up", [0.5, 0.8])
def test_sarsa_finds_the_value_of_the_behaviour(up):
    dataset, discount = chain(up=up), 0.9
    share = float((dataset.actions[dataset.train_steps] > 0).mean())
    critic, scale, _ = fit(
        SARSACritic, dataset, discount=discount, warm_start_steps=0, steps=700, return_range=4.0, **TD
    )
    value = 0.0
    for state in reversed(range(5)):
        for action, reward in ((-1.0, 0.0), (1.0, 1.0)):
            q = critic.q(torch.eye(6)[state].view(1, 1, -1), torch.full((1, 1, 1), action)).item() / scale
            assert q == pytest.approx(reward + discount * value, abs=0.25), (state, action)
        value = share + discount * value
        assert critic.v(torch.eye(6)[state].view(1, 1, -1)).item() / scale == pytest.approx(value, abs=0.25)


@pytest.mark.parametrize("warm_start_steps", [0, 100])
def test_sarsa_goes_through_truncations(warm_start_steps):
    n, episodes, length = 480, 12, 40
    heldout = np.arange(episodes) % 4 == 0
    ones = np.ones((n + episodes, 1))
    dataset = dataset_from(ones, np.zeros((n, 1)), np.ones(n), [length] * episodes, [False] * episodes, heldout)
    critic, _, _ = fit(SARSACritic, dataset, discount=0.8, warm_start_steps=warm_start_steps, steps=400, **TD)
    assert critic.q(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)).item() == pytest.approx(5.0, abs=0.2)


# --- returns ---


def test_returns_is_regression_on_the_discounted_return():
    # A reward of 1 a step whatever the action: one return a state.
    dataset, discount = chain(reward=np.ones_like), 0.9
    critic, scale, fitted = fit(ReturnsCritic, dataset, discount=discount, steps=600, **LEARN)
    truth = discounted_returns(dataset, discount)[:5]
    for state in range(5):
        observation = torch.eye(6)[state].view(1, 1, -1)
        assert critic.v(observation).item() / scale == pytest.approx(truth[state], abs=0.1)
        for action in (-1.0, 1.0):
            q = critic.q(observation, torch.full((1, 1, 1), action)).item() / scale
            assert q == pytest.approx(truth[state], abs=0.1)
    assert {row[2] for row in fitted.curves} == {"critic/warm_start_q_loss", "critic/warm_start_v_loss"}


# --- the throw-away actor ---


def test_the_actor_has_the_density_of_a_squashed_normal():
    # Inside the bounds on the logarithm of the deviation.
    outputs, noise = drawn(6, 4).tanh(), drawn(6, 3, 2)
    actions, log_probability = tanh_gaussian(outputs, noise)
    mean, log_deviation = outputs.unsqueeze(1).chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, log_deviation.exp())
    law = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform(cache_size=1))
    torch.testing.assert_close(actions, (mean + log_deviation.exp() * noise).tanh())
    torch.testing.assert_close(log_probability, law.log_prob(actions).sum(-1), rtol=1e-3, atol=1e-3)


def test_the_density_stays_finite_at_the_edge_of_the_box():
    actions, log_probability = tanh_gaussian(torch.tensor([[50.0, -1.0]]), torch.zeros(1, 1, 1))
    assert actions.item() == 1.0 and log_probability.isfinite().all()


def tiny_problem(member=CQLCritic, seeds=(0, 1), **values) -> Problem:
    return Problem.of(Context.quiet(toy_dataset(), seeds), tiny_settings(member, **values))


def test_the_actor_climbs_the_smallest_q():
    problem = tiny_problem(hidden=(16,), learning_rate=1e-2, layer_norm=False)
    actor, critic = Actor(problem.context, problem.settings), CQLCritic.fresh(problem)
    # Of both seeds, the first network is 4 (1 + first action) and the second one the same of the second action.
    hidden, last = (critic.networks.parameters[name] for name in ("0.weight", "1.weight"))
    for weight in (hidden, last, critic.networks.parameters["0.bias"]):
        weight.zero_()
    critic.networks.parameters["0.bias"][:, 0, 0], last[:, 0, 0] = 4.0, 1.0
    hidden[0::2, 5, 0] = hidden[1::2, 6, 0] = 4.0
    observations = problem.context.data.observations[:20].expand(2, -1, -1)
    before = actor.sample(observations)[0].mean((0, 1, 2))
    for _ in range(100):
        info = actor.improve(critic, observations)
    after = actor.sample(observations)[0].mean((0, 1, 2))
    assert (after[:2] > before[:2] + 0.4).all() and abs(after[2] - before[2]) < 0.3
    assert info["critic/actor_entropy"].shape == info["critic/actor_temperature"].shape == (2,)


def test_the_temperature_falls_while_the_policy_is_more_random_than_wanted():
    problem = tiny_problem(learning_rate=1e-2)
    actor, critic = Actor(problem.context, problem.settings), CQLCritic.fresh(problem)
    observations = problem.context.data.observations[:20].expand(2, -1, -1)
    info = actor.improve(critic, observations)
    assert (info["critic/actor_entropy"] > -3).all() and (info["critic/actor_temperature"] == 1).all()
    assert all(log < 0 for log in actor.log_temperature)


@pytest.mark.parametrize("entropy", [False, True])
def test_backups_ask_the_target_about_the_actors_actions(entropy):
    dataset = three_ends()
    settings = CQLSettings(hidden=(), layer_norm=False, discount=0.9, backup_entropy=entropy, return_range=1.0)
    problem = Problem.of(Context.quiet(dataset, (0,)), settings)
    actor, again = Actor(problem.context, settings), Actor(problem.context, settings)
    actor.log_temperature = [math.log(0.5)]
    target = linear([0.3, 2.0], [0.4, 1.0])
    backup, v_target = actor_targets(actor, target, problem, ALL_STEPS)
    rows = torch.tensor(HERE, dtype=torch.float32).view(1, 6, 1)
    (next_actions, log_probability), (actions, _) = again.sample(rows + 1), again.sample(rows)

    def smaller(s, a):
        return torch.minimum(0.3 * s + 2.0 * a, 0.4 * s + a)

    after = smaller(rows + 1, next_actions[:, :, 0]).view(1, 6) - entropy * 0.5 * log_probability[:, :, 0]
    alive = torch.tensor([1.0, 0, 1, 1, 1, 0])
    expected = problem.scale * torch.as_tensor(dataset.rewards) + 0.9 * alive * after
    torch.testing.assert_close(backup, expected.view(1, 1, 6))
    torch.testing.assert_close(v_target, smaller(rows, actions[:, :, 0]).view(1, 1, 6))


@pytest.mark.parametrize(("member", "name"), [(CQLCritic, "twins"), (EDACCritic, "members")])
def test_the_actor_is_thrown_away(member, name):
    fitted = member.fit(Context.quiet(toy_dataset(), (0, 1)), tiny_settings(member))
    assert {key.split(".")[0] for key in fitted.tensors} == {name, "state_value"}


# --- cql ---


def bandit(actions: np.ndarray, rewards: np.ndarray):
    """One state, one step an episode."""
    n = len(actions)
    heldout = np.arange(n) % 10 == 0
    return dataset_from(np.ones((2 * n, 1)), actions, rewards, [1] * n, [True] * n, heldout)


def test_the_integral_is_that_of_the_exponential():
    settings = CQLSettings(hidden=(), layer_norm=False)
    context = Context.quiet(three_ends(), (0,))
    networks, observations = linear([0.5, 1.5], [0.0, -3.0]), torch.tensor([[[0.0], [2.0]]])
    actions, log_densities = mixed_actions(Actor(context, settings), streams((0,), "uniform"), observations, 20_000)
    # The integral of exp(b + w a) over [-1, 1] is exp(b) 2 sinh(w) / w.
    shapes = [math.log(2 * math.sinh(w) / w) for w in (1.5, 3.0)]
    truth = torch.tensor([[shapes[0], shapes[0] + 1.0], [shapes[1], shapes[1]]])
    assert (log_densities[..., :20_000] == -math.log(2)).all()
    for part, tolerance in ((slice(0, 20_000), 0.02), (slice(20_000, None), 0.15), (slice(None), 0.08)):
        found = log_integral(networks, observations, actions[:, :, part], log_densities[:, :, part])
        torch.testing.assert_close(found[0], truth, atol=tolerance, rtol=0.0)


def test_the_penalty_lowers_actions_outside_the_data():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.2, 0.2, (400, 1))
    dataset = bandit(actions, 1.0 + 0.1 * rng.normal(size=400))
    gaps, inside = {}, {}
    for alpha in (0.0, 5.0):
        critic, scale, _ = fit(CQLCritic, dataset, alpha=alpha, warm_start_steps=50, steps=300, return_range=2.0, **TD)
        q = critic.q(torch.ones(1, 3, 1), torch.tensor([[[-0.9], [0.0], [0.9]]]))[0] / scale
        gaps[alpha], inside[alpha] = (q[1] - torch.maximum(q[0], q[2])).item(), q[1].item()
    plain, _, _ = fit(SARSACritic, dataset, warm_start_steps=50, steps=300, return_range=2.0, **TD)
    q = plain.q(torch.ones(1, 3, 1), torch.tensor([[[-0.9], [0.0], [0.9]]]))[0] / scale
    assert gaps[5.0] > max(gaps[0.0], (q[1] - torch.maximum(q[0], q[2])).item()) + 0.5
    assert inside[0.0] == pytest.approx(1.0, abs=0.2)


# --- edac ---


def test_the_similarity_is_the_mean_pairwise_cosine():
    weights = [[0.0, 1.0, 2.0], [5.0, -3.0, 0.5], [1.0, 0.0, -1.0], [0.0, 4.0, 4.0]]
    # One observation and two actions: the gradient in the action is the last two weights, wherever it is taken.
    values, gradients = values_and_gradients(linear(*weights), drawn(1, 5, 1), drawn(1, 5, 2))
    assert values.shape == (1, 4, 5) and gradients.shape == (1, 4, 5, 2)
    vectors = torch.tensor(weights)[:, 1:]
    torch.testing.assert_close(gradients[0], vectors.unsqueeze(1).expand(-1, 5, -1))
    pairs = [F.cosine_similarity(vectors[i], vectors[j], dim=0) for i in range(4) for j in range(4) if i != j]
    assert gradient_similarity(gradients).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)


def test_a_gradient_of_zero_has_no_direction():
    gradients = torch.zeros(1, 2, 3, 2, requires_grad=True)
    similarity = gradient_similarity(gradients)
    assert similarity.item() == 0
    assert torch.autograd.grad(similarity.sum(), gradients)[0].isfinite().all()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_similarity_differentiates_through_the_networks(layer_norm):
    problem = tiny_problem(EDACCritic, seeds=(0,), layer_norm=layer_norm)
    critic, data = EDACCritic.fresh(problem), problem.context.data
    observations, actions = (value.unsqueeze(0) for value in data.at(torch.arange(8)))
    leaf = critic.networks.leaves["0.weight"].requires_grad_()

    def similarity():
        return gradient_similarity(values_and_gradients(critic.networks, observations, actions)[1]).sum()

    (gradient,) = torch.autograd.grad(similarity(), leaf)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        leaf += 1e-4 * direction
        up = leaf.clone()
    higher = similarity().item()
    with torch.no_grad():
        leaf.copy_(up - 2e-4 * direction)
    slope = (higher - similarity().item()) / 2e-4
    assert slope == pytest.approx(gradient.norm().item(), rel=0.1)


def test_the_diversity_term_turns_gradients_apart():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (300, 2))
    dataset = bandit(actions, actions.sum(1))
    found = {}
    for eta in (0.0, 10.0):
        values = {**TD, "eta": eta, "members": 3, "warm_start_steps": 100, "steps": 150, "return_range": 1.0}
        _, _, fitted = fit(EDACCritic, dataset, **values)
        found[eta] = [value for _, _, name, value in fitted.curves if name == "critic/gradient_similarity"][-1]
    assert found[0.0] > 0.8 and found[10.0] < found[0.0] - 0.2


def test_edac_takes_the_minimum_over_all_its_networks():
    settings = EDACSettings(members=3, hidden=(), layer_norm=False)
    critic = EDACCritic(linear([1.0, 0.0], [0.0, 1.0], [2.0, -1.0]), linear([1.0]), settings)
    q = critic.q(torch.tensor([[[1.0], [-3.0]]]), torch.tensor([[[0.5], [2.0]]]))
    assert q.tolist() == [[0.5, -8.0]]
