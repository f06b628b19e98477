"""Choosing from logged data: evidence on cases that are known, the decision step by step, and the rule ``auto``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spar_core.choice.auto import Auto, AutoSettings
from spar_core.choice.decide import ANCHOR, DecisionSettings, decide
from spar_core.choice.evidence import Evidence, Trust, by_episode, gather, trust_in
from spar_core.data.scaler import Scaler
from spar_core.evaluation.fqe import FQESettings
from spar_core.evaluation.support import QUANTILE, Support, off_support
from spar_core.improvement.anchor import AnchorAlone
from spar_core.improvement.base import Frozen, Improvement
from spar_core.policy import load_policy
from spar_core.registry import load_member
from spar_core.settings import parse
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors, only, save_tensors
from spar_core.training.reporter import Reporter
from tests.fakes import (
    CANDIDATES,
    ConstantAnchor,
    KnownCritic,
    LinearDecoder,
    dataset_from,
    fit_parts,
    observations_for,
    save_rule,
    tiny_settings,
    toy_dataset,
)

SEEDS = (0, 3, 5)
SCALER = Scaler(*(np.full(n, v, np.float32) for n, v in ((5, 0.0), (5, 1.0), (3, -1.0), (3, 1.0))))
SOUND = Trust(-0.2, 0.1)
GOOD = Evidence(1.0, 0.1, 0.2, 50.0, 5.0, 1.0, 0.0, 0.05, 0.05, 0.3)
SETTINGS = DecisionSettings()


def but(**values) -> Evidence:
    return dataclasses.replace(GOOD, **values)


# --- the decision ---


def test_a_candidate_that_passes_every_test_is_chosen():
    choice = decide(SOUND, {"a": GOOD}, SETTINGS)
    assert choice.name == "a" and len(choice.reasons) == 1


@pytest.mark.parametrize(
    ("trust", "word"),
    [(Trust(-1.01, 0.0), "below"), (Trust(0.0, 1.01), "above"), (Trust(-2.5, float("nan")), "not converged")],
)
def test_a_critic_that_is_not_calibrated_leaves_the_anchor_whatever_it_says(trust, word):
    choice = decide(trust, {"a": but(critic_gain=1e6)}, SETTINGS)
    assert choice.name == ANCHOR and word in choice.reasons[0]


@pytest.mark.parametrize("trust", [Trust(-0.99, 0.99), Trust(5.0, -5.0), Trust(float("nan"), float("nan"))])
def test_calibration_is_one_sided_and_where_nothing_is_known_of_it_it_stops_nothing(trust):
    assert decide(trust, {"a": GOOD}, SETTINGS).name == "a"


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"critic_gain": -0.1}, "critic's eyes"),
        ({"critic_gain_error": 0.41}, "critic's eyes"),
        ({"doubt": 0.81}, "critic's eyes"),
        ({"fqe": 49.0, "fqe_gain": -51.0}, "fitted-Q"),
        ({"off_support": 0.11}, "off support"),
        ({"critic_gain": float("nan")}, "critic's eyes"),
    ],
)
def test_each_test_refuses_alone_and_says_why(bad, word):
    choice = decide(SOUND, {"a": but(**bad)}, SETTINGS)
    assert choice.name == ANCHOR
    assert "a is refused" in choice.reasons[0] and word in choice.reasons[0]


def test_an_estimate_within_the_margin_of_the_anchors_is_no_reason_to_refuse():
    assert decide(SOUND, {"a": but(fqe=51.0, fqe_gain=-49.0)}, SETTINGS).name == "a"
    negative = but(fqe=-145.0, fqe_gain=-45.0)
    assert decide(SOUND, {"a": negative}, SETTINGS).name == "a", "the margin is of the estimate's size"
    assert decide(SOUND, {"a": but(fqe=-155.0, fqe_gain=-55.0)}, SETTINGS).name == ANCHOR


def test_of_gains_that_are_level_the_one_that_moves_least_is_chosen():
    short = but(critic_gain=0.95, reach=0.2)
    greedy = but(critic_gain=1.0, reach=0.5)
    timid = but(critic_gain=0.7, reach=0.1)
    assert decide(SOUND, {"greedy": greedy, "short": short, "timid": timid}, SETTINGS).name == "short"
    assert decide(SOUND, {"greedy": greedy, "timid": timid}, SETTINGS).name == "greedy"
    assert (
        decide(SOUND, {"greedy": greedy, "short": short, "timid": timid}, DecisionSettings(slack=0.6)).name == "timid"
    )


def test_what_moves_as_little_goes_to_the_first_in_the_list():
    first, second = but(reach=0.105), but(reach=0.100)
    assert decide(SOUND, {"first": first, "second": second}, SETTINGS).name == "first"
    assert decide(SOUND, {"second": second, "first": first}, SETTINGS).name == "second"
    assert decide(SOUND, {"first": first, "second": second}, DecisionSettings(ties=0.01)).name == "second"


def test_what_is_refused_sets_no_standard():
    refused = but(critic_gain=100.0, reach=0.01, off_support=0.9)
    assert decide(SOUND, {"refused": refused, "other": GOOD}, SETTINGS).name == "other"


# --- the evidence ---


def line_data():
    """One observation dimension; actions follow it, held-out episodes too."""
    rng = np.random.default_rng(0)
    lengths = [40] * 10
    observations = rng.uniform(-1, 1, size=(410, 1))
    index = np.arange(400) + np.repeat(np.arange(10), lengths)
    actions = np.repeat(0.5 * observations[index], 2, axis=1) + rng.normal(0, 0.02, (400, 2))
    return dataset_from(observations, actions, actions[:, 0], lengths, [False] * 10, [i % 5 == 0 for i in range(10)])


def test_support_is_the_distance_to_the_nearest_logged_action_of_similar_states():
    dataset = line_data()
    support = Support(dataset, neighbours=5)
    observations = dataset.observations[dataset.observation_index[dataset.train_steps[:50]]]
    similar = support.similar(observations)
    assert similar.shape == (50, 5, 2)
    logged = dataset.actions[dataset.train_steps[:50]]
    np.testing.assert_allclose(Support.distance(similar, logged), 0.0, atol=1e-7)
    far = Support.distance(similar, logged + np.array([3.0, 4.0], np.float32))
    assert far.min() > 4.8 and far.max() < 5.2


def test_the_logged_actions_themselves_are_off_support_at_a_twentieth():
    yardstick = np.random.default_rng(1).exponential(size=2000)
    assert off_support(yardstick, yardstick).mean() == pytest.approx(1 - QUANTILE, abs=0.002)
    assert off_support(yardstick + 100, yardstick).all() and not off_support(0 * yardstick, yardstick).any()


def test_an_error_is_over_episodes_and_not_over_steps():
    values, episode = np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1])
    found, error = by_episode(values, episode)
    assert found == 3.0 and error == pytest.approx(2.0)
    assert by_episode(values, np.zeros(4)) == (2.0, 0.0)


class Shifted(Improvement):
    """Adds the same to every action."""

    @classmethod
    def fit(cls, *args):
        raise NotImplementedError

    @classmethod
    def restore(cls, *args):
        raise NotImplementedError

    def correction(self, observations, base):
        return torch.full_like(base, self.settings)


def test_evidence_of_a_known_shift_under_a_known_critic():
    dataset = line_data()
    # Worth 3 per unit of the first action coordinate; the second network says 1.
    critic = KnownCritic(lambda observations, actions: 3 * actions[..., 0])
    critic.members = lambda observations, actions: torch.stack([3 * actions[..., 0], actions[..., 0]], dim=1)
    frozen = Frozen(ConstantAnchor([0.0, 0.0]), LinearDecoder(torch.eye(2).tolist(), 2, 0.5), critic)
    quick = FQESettings(steps=5, batch_size=16, hidden=(8,))
    rules = {"near": Shifted(frozen, 0.1), "far": Shifted(frozen, 0.9), "none": Shifted(frozen, 0.0)}
    anchor = AnchorAlone(frozen, AnchorAlone.Settings())
    found = gather(Context.quiet(dataset, (0, 1)), anchor, rules, 100, quick)
    for name, shift in (("near", 0.1), ("far", 0.9), ("none", 0.0)):
        assert len(found[name]) == 2
        for mine in found[name]:
            assert mine.critic_gain == pytest.approx(3 * shift, abs=1e-6)
            assert mine.critic_gain_error == pytest.approx(0.0, abs=1e-6)
            assert mine.doubt == pytest.approx(shift, abs=1e-6)
            assert mine.reach == pytest.approx(shift / 0.5, abs=1e-5)
    none = found["none"][0]
    assert none.fqe_gain == 0.0 and none.off_support == none.off_support_anchor
    assert found["far"][0].off_support == 1.0 > found["near"][0].off_support


def test_trust_is_the_critics_own_calibration_and_unknown_where_it_does_not_say():
    dataset = toy_dataset()
    parts = fit_parts(dataset, SEEDS)
    trust = trust_in(parts.frozen(SEEDS).critic, Context.quiet(dataset, SEEDS))
    assert [t.gap_best_tenth for t in trust] == pytest.approx(parts.critic.metrics["critic/gap_best_tenth"])
    assert trust[0] != trust[1]
    unknown = trust_in(KnownCritic(lambda observations, actions: actions[..., 0]), Context.quiet(dataset, (0, 1)))
    assert all(np.isnan(t.gap_best_tenth) for t in unknown)


# --- the rule ---


@pytest.fixture(scope="module")
def toy():
    return toy_dataset()


@pytest.fixture(scope="module")
def parts(toy):
    return fit_parts(toy, SEEDS)


def fitted(toy, parts, **decision):
    settings = tiny_settings(Auto, decision=DecisionSettings(**decision))
    return settings, Auto.fit(Context.quiet(toy, SEEDS), parts.frozen(SEEDS), settings)


# Thresholds that let no critic through.
NOTHING = {"largest_underestimate": 1e-9, "largest_overestimate": 1e-9}


@pytest.mark.parametrize("kind", CANDIDATES)
def test_a_candidate_is_fitted_as_it_would_be_alone(toy, parts, kind):
    _, result = fitted(toy, parts)
    member = load_member("improvement", kind)
    alone = member.fit(Context.quiet(toy, SEEDS), parts.frozen(SEEDS), tiny_settings(member))
    assert alone.tensors
    for name, value in alone.tensors.items():
        assert torch.equal(result.tensors[f"{kind}.{name}"], value)


def test_a_seed_acts_as_what_it_chose(toy, parts):
    settings, result = fitted(toy, parts)
    frozen, observations = parts.frozen(SEEDS), observations_for(3)
    each = [frozen.anchor.act(observations)]
    for name in settings.names:
        member = load_member("improvement", name)
        inner = {k.removeprefix(f"{name}."): v for k, v in result.tensors.items() if k.startswith(f"{name}.")}
        each.append(member.restore(frozen, tiny_settings(member), inner).act(observations))
    assert not torch.equal(each[1], each[2])
    for chosen in ([0, 1, 2], [2, 2, 0], [1, 0, 1]):
        tensors = result.tensors | {"chosen": torch.tensor(chosen).unsqueeze(1)}
        actions = Auto.restore(frozen, settings, tensors).act(observations)
        for row, index in enumerate(chosen):
            assert torch.equal(actions[row], each[index][row])


def test_a_saved_choice_is_the_same_whatever_order_its_candidates_are_kept_in(toy, parts, tmp_path):
    """JSON with sorted keys keeps no order, and neither do DVC's params."""
    settings, result = fitted(toy, parts)
    folder = tmp_path / "policy"
    save_rule(folder, "auto", parts, toy, SCALER)
    tensors = load_tensors(folder / WEIGHTS)
    observations = observations_for(1)
    for index, name in enumerate(["anchor", *settings.names]):
        tensors["improvement.chosen"] = torch.full((3, 1), index)
        save_tensors(folder / WEIGHTS, tensors)
        loaded = load_policy(folder, 3).rule
        row = SEEDS.index(3)
        expected = parts.frozen((3,)).anchor.act(observations)
        if name != "anchor":
            member = load_member("improvement", name)
            inner = {k: v[row : row + 1] for k, v in only(name, result.tensors).items()}
            expected = member.restore(parts.frozen((3,)), tiny_settings(member), inner).act(observations)
        assert torch.equal(loaded.act(observations), expected), name


@pytest.mark.parametrize("order", [("spar_mlp", "a", "spar_proj"), ("spar_proj", "spar_mlp", "a")])
def test_the_preferred_kind_comes_first_and_the_rest_by_name(order):
    kinds = {"a": {"kind": "spar_mlp"}, "spar_mlp": {}, "spar_proj": {}}
    settings = AutoSettings(candidates={name: kinds[name] for name in order})
    assert settings.names == ["spar_proj", "a", "spar_mlp"]
    assert AutoSettings(candidates=dict(kinds), preferred="spar_mlp").names == ["a", "spar_mlp", "spar_proj"]


def test_a_critic_that_is_not_trusted_leaves_the_anchor_exactly(toy, parts):
    settings, result = fitted(toy, parts, **NOTHING)
    assert [found["chosen"] for found in result.documents["choice"]] == [ANCHOR] * 3
    frozen, observations = parts.frozen(SEEDS), observations_for(3)
    rule = Auto.restore(frozen, settings, result.tensors)
    assert not rule.rules, "nothing is loaded that no seed chose"
    assert torch.equal(rule.act(observations), frozen.anchor.act(observations))


def test_what_was_chosen_is_written_with_evidence_and_reasons(toy, parts, tmp_path):
    _, result = fitted(toy, parts)
    result.write(tmp_path)
    assert (tmp_path / "choice.json").is_file()
    for seed, found in zip(SEEDS, result.documents["choice"], strict=True):
        assert found["seed"] == seed and found["reasons"]
        assert set(found["evidence"]) == set(CANDIDATES)
        assert set(found["evidence"]["spar_mlp"]) == {field.name for field in dataclasses.fields(Evidence)}


def test_steps_count_what_the_progress_bar_is_told(toy, parts):
    class Counting(Reporter):
        done = 0

        def advance(self, steps):
            self.done += steps

    report = Counting(SEEDS)
    settings = tiny_settings(Auto)
    Auto.fit(Context(toy, SEEDS, report, "cpu"), parts.frozen(SEEDS), settings)
    assert report.done == settings.steps * len(SEEDS)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({}, "name at least one"),
        ({"anchor": {}}, "always is one"),
        ({"inner": {"kind": "auto"}}, "no candidate"),
        ({"spar_mlpp": {}}, "did you mean 'spar_mlp'"),
        ({"spar_mlp": {"taus": 1.0}}, "did you mean 'tau'"),
    ],
)
def test_candidates_that_are_none_are_refused_in_one_line(candidates, message):
    with pytest.raises(Exception, match=message) as error:
        parse(AutoSettings, {"candidates": candidates}, "params.yaml, improvement 'auto'")
    assert "\n" not in str(error.value)
