"""Verdict and health on constructed studies with known answers: what to do, which policy, which part is at fault."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spar_core.improvement.self_imitation import SelfImitationSettings
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.flat import numbers_of
from spar_core.reporting.numbers.health import FLOOR, State, findings
from spar_core.reporting.numbers.reading import COLUMNS
from spar_core.reporting.numbers.verdict import Decision, verdicts
from spar_core.reporting.page.answer import PARAGRAPHS, answer, answer_of, console_answer, health_of
from spar_core.reporting.page.console import console_table

SETTINGS = ReportSettings(baseline="anchor", repair="uniform", confidence=0.95)
SETTING = ("made/data-v0", "mlp", "iql")
HEALTHY = {
    "anchor/bimodal_share": [0.04],
    "anchor/heldout_mse": [0.15],
    "anchor/train_mse": [0.14],
    "residual/norm_heldout": [0.81],
    "residual/norm_train": [0.80],
    "residual/clipped_share": [0.005],
    "residual/kl": [3.0],
    "critic/rank_correlation": [0.9],
    "critic/gap_best_tenth": [-0.1],
    "critic/gap_before_termination": [0.1],
    "improvement/value_spread": [0.2],
    "improvement/weight_mean": [5.0],
}


def rule(name, committees, seeds=None, *, groups=("0-3",), spread=30.0, setting=SETTING, episodes=20, **diagnostics):
    """A rule whose committees have these mean returns, and whose single seeds return ``seeds`` (or the same)."""
    members = {group: tuple(range(4 * i, 4 * i + 4)) for i, group in enumerate(groups)}
    if groups == ("0",):
        members = {"0": (0,)}
    noise = np.random.default_rng(list(name.encode())).normal(0, spread, episodes)
    noise -= noise.mean()
    alone, together = [], []
    for i, (group, own) in enumerate(members.items()):
        for j, seed in enumerate(own):
            level = committees[i] if seeds is None else seeds[4 * i + j]
            rows = {"seed": seed, "episode": range(episodes), "env_seed": range(episodes), "return": level + noise}
            alone.append(pd.DataFrame(rows))
        if len(own) > 1:
            rows = {"seeds": group, "env_seed": range(episodes), "return": committees[i] + noise}
            together.append(pd.DataFrame(rows))
    episodes_of = pd.concat(alone, ignore_index=True)
    for column in COLUMNS:
        if column not in episodes_of:
            episodes_of[column] = 0.0
    return Rule(
        *setting,
        name,
        episodes_of,
        {"env_id": "Made-v0", "not_evaluated": None, "dataset": {"episodes": 200}},
        diagnostics=HEALTHY | {key.replace("__", "/"): [value] for key, value in diagnostics.items()},
        committees=pd.concat(together, ignore_index=True) if together else pd.DataFrame(columns=["seeds", "env_seed"]),
        groups=members,
    )


def estimated(name, values):
    """A rule of a dataset without an environment: a fitted-Q value of each seed."""
    context = {"not_evaluated": "no simulator", "label": "estimates", "dataset": {"episodes": 200}}
    context["offline"] = {"rewards": "logged"}
    offline = {"fqe": dict(enumerate(values))}
    seeds = tuple(range(len(values)))
    return Rule(*SETTING, name, pd.DataFrame(columns=COLUMNS), context, offline=offline, groups={"0-3": seeds})


def the(rules):
    (found,) = verdicts(rules, SETTINGS)
    return found


def text(rules) -> str:
    found = answer_of(the(rules), SETTINGS, findings(rules, [], "uniform"))
    return " ".join([found.headline, *found.sentences])


def test_a_large_gain_is_deployed_and_split_into_repair_and_critic():
    rules = [rule("anchor", [1000]), rule("uniform", [1200]), rule("spar_mlp", [3000]), rule("awr", [2000])]
    found = the(rules)
    assert (found.decision, found.rule, found.group, found.members) == (Decision.DEPLOY, "spar_mlp", "0-3", 4)
    assert found.policy == "artifacts/policy/made/data-v0/mlp/iql/spar_mlp/0-3"
    assert found.gain.value == pytest.approx(2000)
    assert (found.repair.value, found.improvement.value) == pytest.approx((200, 1800))
    assert (found.unit, found.units, found.rules) == ("episodes", 20, 3)
    assert found.tied == found.worse == () and not found.lost
    said = text(rules)
    assert said.startswith("Deploy `spar_mlp`. Its committee of 4 seeds returns 3000, and that of the anchor 1000")
    assert "(`uniform`) changes the value by +200" in said and "the critic brings on top of that: +1800" in said
    assert "a new training run may differ" in said and f"whole folder `{found.policy}`" in said


def test_a_gain_that_is_all_repair_deploys_the_rule_without_a_critic():
    # `awr` returns a little more than `uniform`, but by less than the noise of the episodes.
    found = the([rule("anchor", [1000]), rule("uniform", [1500]), rule("awr", [1503])])
    assert (found.decision, found.rule) == (Decision.REPAIR, "uniform")


@pytest.mark.parametrize(("repair", "said"), [(1010, "so no change is shown"), (700, "by -300")])
def test_repair_that_does_nothing_or_harms_is_said_so(repair, said):
    assert said in text([rule("anchor", [1000]), rule("uniform", [repair]), rule("spar_mlp", [1900])])


def test_intervals_widen_with_the_number_of_rules_that_are_compared():
    def gain_of(others):
        return the([rule("anchor", [1000]), rule("best", [1025]), *(rule(f"r{i}", [900]) for i in range(others))])

    assert gain_of(0).decision is Decision.DEPLOY
    assert gain_of(40).decision is Decision.OPEN
    assert gain_of(40).gain.high > gain_of(0).gain.high


def test_nothing_gained_and_harm_keep_the_policy():
    rules = [rule("anchor", [1000]), rule("uniform", [1001]), rule("spar_mlp", [700])]
    found = the(rules)
    assert found.decision is Decision.KEEP and found.worse == ("spar_mlp",)
    assert text(rules).startswith("Keep your policy.") and "Shown to return less than it: `spar_mlp`." in text(rules)


def test_a_gain_that_is_possible_but_not_shown_is_not_decided():
    rules = [rule("anchor", [1000], spread=900), rule("spar_mlp", [1300], spread=900)]
    found = the(rules)
    assert found.decision is Decision.OPEN
    loss, gain = f"{-found.gain.low:.0f}", f"{found.gain.high:.0f}"
    assert f"anything from a loss of {loss} to a gain of {gain} is possible. Evaluate more episodes" in text(rules)


def test_lost_seeds_of_a_good_committee_are_named():
    rules = [rule("anchor", [3000]), rule("spar_mlp", [3300], seeds=[3250, 880, 3200, 760])]
    assert the(rules).lost == pytest.approx({1: 880, 3: 760})
    line = answer(rules, [], SETTINGS)[1][-1]
    assert (line.part, line.state) == ("single seeds", State.AMBER)
    assert line.found.startswith("Alone, seed 1 returns 880, seed 3 returns 760, and the anchor 3000")


def test_red_health_qualifies_the_verdict():
    def study(level, **broken):
        return [rule(name, [value], **broken) for name, value in (("anchor", 1000), ("uniform", 1010), ("awr", level))]

    shifted = study(2000)
    for one in shifted:
        one.context["dataset"] = {"episodes": 200, "misaligned": 0.2}
    assert text(shifted).startswith("No verdict: the data are red")
    critic = text(study(1005, critic__rank_correlation=0.1))
    assert critic.startswith("Keep your policy for now.") and "had no fair trial" in critic
    anchor = text(study(2000, anchor__train_mse=0.001))
    assert anchor.startswith("Deploy `awr`.") and "red health (anchor)" in anchor


def test_with_several_groups_the_unit_is_a_committee():
    groups = ("0-3", "4-7", "8-11")
    rules = [
        rule("anchor", [1000, 1010, 990], groups=groups),
        rule("spar_mlp", [1500, 1600, 1400], groups=groups),
    ]
    found = the(rules)
    assert (found.unit, found.units, found.group) == ("committees", 3, "4-7")
    assert found.decision is Decision.DEPLOY and "over 3 committees." in text(rules)
    # One committee of three is ruined: the mean gain is no longer shown.
    torn = [rules[0], rule("spar_mlp", [1500, 1600, 100], groups=groups)]
    assert the(torn).decision is Decision.OPEN


def test_one_seed_is_judged_over_its_episodes_and_one_episode_not_at_all():
    found = the([rule("anchor", [1000], groups=("0",)), rule("awr", [2000], groups=("0",))])
    assert (found.decision, found.members, found.group, found.unit) == (Decision.DEPLOY, 1, "0", "episodes")
    rules = [rule("anchor", [1000], groups=("0",), episodes=1), rule("awr", [2000], groups=("0",), episodes=1)]
    assert the(rules).decision is Decision.OPEN and text(rules).startswith("Not decided; keep your policy meanwhile.")
    assert "Nothing has an interval." in text(rules)


def test_tied_rules_are_named():
    rules = [rule("anchor", [1000]), rule("awr", [2000]), rule("best_of_n", [2001]), rule("spar_mlp", [1500])]
    found = the(rules)
    assert {found.rule, *found.tied} == {"awr", "best_of_n"}


def test_without_a_simulator_a_policy_is_tried_and_not_deployed():
    rules = [estimated("anchor", [10, 11, 12, 10]), estimated("spar_mlp", [20, 21, 22, 21])]
    assert the(rules).decision is Decision.TRY and the(rules).group == "0-3"
    assert text(rules).startswith("Test `spar_mlp` against your policy before it replaces it. Nothing was rolled out.")
    assert the([rules[0], estimated("spar_mlp", [9, 13, 11, 10])]).decision is Decision.OPEN
    assert the([estimated("anchor", [10]), estimated("spar_mlp", [20])]).decision is Decision.OPEN


def test_a_study_without_the_baseline_or_without_another_rule():
    assert verdicts([rule("awr", [1000])], SETTINGS) == []
    assert the([rule("anchor", [1000])]).decision is Decision.OPEN
    assert "no rule besides `anchor`" in text([rule("anchor", [1000])])


BROKEN = {
    "memorising anchor": ("anchor", State.RED, {"anchor__train_mse": 0.01}),
    "short critic": ("critic", State.RED, {"critic__rank_correlation": 0.1}),
    "diverged critic": ("critic", State.RED, {"critic__gap_best_tenth": 40.0}),
    "critic that underrates": ("critic", State.AMBER, {"critic__gap_best_tenth": -0.7}),
    "flat critic": ("critic", State.RED, {"improvement__value_spread": FLOOR}),
    "weights of nearly zero": ("critic", State.RED, {"improvement__weight_mean": 2e-5}),
    "unused latent": ("residual model", State.RED, {"residual__kl": 0.001}),
    "small radius": ("residual model", State.RED, {"residual__clipped_share": 0.3}),
    "two behaviours": ("data", State.AMBER, {"anchor__bimodal_share": 0.4}),
    "estimate that runs away": ("estimates", State.RED, {"fqe__clipped_share": 0.9}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_part_is_the_only_one_that_is_not_green(fault):
    part, state, values = BROKEN[fault]
    lines = health_of(findings([rule("spar_mlp", [1000], **values)], [], "uniform"))
    assert {line.part: line.state for line in lines if line.state is not State.GREEN} == {part: state}
    (line,) = [line for line in lines if line.part == part]
    assert line.found.endswith(".") and line.advice.endswith(".") and "{" not in line.found


def test_healthy_parts_are_green_and_equal_weights_are_no_flat_critic():
    rules = [rule("uniform", [1000], improvement__value_spread=FLOOR), rule("spar_mlp", [1000])]
    lines = health_of(findings(rules, [], "uniform"))
    assert [line.part for line in lines] == ["data", "anchor", "residual model", "critic"]
    assert {line.state for line in lines} == {State.GREEN}


def test_the_console_has_a_line_for_every_setting_and_names_only_parts_at_fault():
    rules = []
    for number in range(PARAGRAPHS + 1):
        setting = (f"made/data{number}-v0", "mlp", "iql")
        broken = {"critic__rank_correlation": 0.1} if number == 2 else {}
        rules += [rule("anchor", [1000], setting=setting, **broken), rule("awr", [2000], setting=setting, **broken)]
    said = console_answer(*answer(rules, [], SETTINGS)).splitlines()
    assert said[0] == "made/data0-v0, anchor mlp, critic iql: Deploy awr."
    assert said[PARAGRAPHS + 1] == "Health: data green, anchor green, residual model green, critic red."
    assert said[PARAGRAPHS + 2].startswith(
        "  red: The critic's values of held-out steps have a rank correlation of 0.1"
    )
    assert len(said) < 10 and max(map(len, said)) <= 100


def test_the_console_calls_a_gain_repair_where_the_critic_is_not_shown_to_add_to_it():
    awr = rule("awr", [1503], seeds=[1450, 1560, 1480, 1530])
    rules = [rule("anchor", [1000]), rule("uniform", [1500]), awr, rule("spar_mlp", [2500])]
    numbers = numbers_of(rules, SETTINGS)
    lines = console_table(numbers.summaries, SETTINGS, committees=numbers.committees).splitlines()
    marks = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("uniform", "awr", "spar_mlp"))}
    assert marks == {"uniform": "better", "awr": "repair", "spar_mlp": "better"}


def test_the_floor_of_the_spread_is_that_of_the_rules():
    assert SelfImitationSettings.model_fields["spread_floor"].default == FLOOR
