"""Regret and harm on returns that are worked by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from spar_core.reporting.config import ReportSettings
from spar_core.reporting.figures.harm_figure import harm_figure
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.harm import harm_frame, harms
from spar_core.reporting.numbers.regret import BY_CRITIC, BY_FQE, overall_regrets, regret_frame, regrets
from spar_core.reporting.numbers.tables import summarise
from spar_core.reporting.page.render import _environment

SETTINGS = ReportSettings(baseline="anchor", repair="uniform", confidence=0.95)
REFERENCE = {"min": 0.0, "max": 200.0, "source": "made up"}


def rule(dataset: str, name: str, returns: list[float], critic: str = "iql", **values) -> Rule:
    rows = [
        {
            **{"dataset": dataset, "anchor": "mlp", "critic": critic, "improvement": name},
            **{"seed": seed, "episode": 0, "env_seed": 0, "return": value, "length": 1},
            **{"terminated": 0.0, "success": float("nan")},
        }
        for seed, value in enumerate(returns)
    ]
    context = {"reference": REFERENCE, "label": "made up", "comparable_to_d4rl": False}
    return Rule(dataset, "mlp", critic, name, pd.DataFrame(rows), context, **values)


def choice(chosen: str, mlp: tuple[float, float], proj: tuple[float, float]) -> dict:
    gains = {"spar_mlp": mlp, "spar_proj": proj}
    evidence = {name: {"fqe_gain": fqe, "critic_gain": critic} for name, (fqe, critic) in gains.items()}
    return {"chosen": chosen, "reasons": ["because"], "evidence": evidence}


def study(dataset: str = "d") -> list[Rule]:
    choices = {0: choice("spar_mlp", (5, 1), (9, 2)), 1: choice("anchor", (-1, 3), (-2, 2))}
    return [
        rule(dataset, "anchor", [100, 100]),
        rule(dataset, "spar_mlp", [140, 80]),
        rule(dataset, "spar_proj", [120, 130]),
        rule(dataset, "auto", [140, 100], choices=choices),
    ]


def by_strategy(rules):
    return {entry.strategy: entry for entry in regrets(rules, summarise(rules, SETTINGS), SETTINGS)}


def test_regret_is_against_the_option_with_the_highest_mean():
    found = by_strategy(study())
    assert {entry.hindsight for entry in found.values()} == {"spar_proj"}
    assert found["always `spar_proj`"].regret.value == 0.0
    assert found["`auto`"].regret.value == pytest.approx(((120 - 140) + (130 - 100)) / 2)
    assert found["always `anchor`"].regret.value == pytest.approx(25.0)
    assert found["always `spar_mlp`"].regret.value == pytest.approx(15.0)
    assert found["`auto`"].gain.value == pytest.approx(20.0)
    assert found["`auto`"].choices == "anchor x1, spar_mlp x1"


def test_the_best_by_an_estimate_is_picked_seed_by_seed_and_may_be_the_anchor():
    found = by_strategy(study())
    assert found[BY_FQE].choices == "anchor x1, spar_proj x1"
    assert found[BY_FQE].returns.value == pytest.approx((120 + 100) / 2)
    assert found[BY_CRITIC].choices == "spar_mlp x1, spar_proj x1"
    assert found[BY_CRITIC].returns.value == pytest.approx((120 + 80) / 2)


def test_regret_in_score_points_is_scaled_by_the_references_and_averaged_over_datasets():
    rules = study("d") + study("e")
    entries = regrets(rules, summarise(rules, SETTINGS), SETTINGS)
    found = {entry.strategy: entry for entry in overall_regrets(entries, 0.95)}
    assert found["always `anchor`"].regret.value == pytest.approx(100 * 25 / 200)
    assert found["always `anchor`"].tasks == 2 and found["always `anchor`"].runs == 4
    assert not overall_regrets(entries[: len(entries) // 2], 0.95), "one dataset is no overall"
    frame = regret_frame(entries)
    assert len(frame) == 12 and set(frame["dataset"]) == {"d", "e"}


def test_a_candidate_that_the_study_did_not_evaluate_is_no_option():
    rules = [r for r in study() if r.improvement != "spar_proj"]
    found = by_strategy(rules)
    assert "always `spar_proj`" not in found and found["`auto`"].hindsight == "spar_mlp"
    assert not by_strategy([r for r in study() if r.improvement == "auto" or r.improvement == "spar_mlp"])


def test_a_study_without_a_choice_has_no_regret():
    assert not by_strategy(study()[:3])
    assert list(regret_frame([]).columns)[:4] == ["dataset", "anchor", "critic", "strategy"]


def test_returns_that_are_success_rates_keep_their_decimals():
    rules = [
        rule("d", "anchor", [1.0, 1.0]),
        rule("d", "spar_mlp", [0.985, 0.975]),
        rule("d", "auto", [0.985, 1.0], choices=study()[3].choices),
    ]
    found = regrets(rules, summarise(rules, SETTINGS), SETTINGS)
    page = _environment().get_template("regret.md.j2")
    setting = ("d", "mlp", "iql")
    text = page.render(
        regrets={setting: found}, choices={setting: {}}, overall_regrets=[], settings=SETTINGS, confidence="95%"
    )
    (line,) = [line for line in text.splitlines() if line.startswith("| always `spar_mlp`")]
    assert "| 0.980 | -0.020 [" in line and "| +0.020 [" in line


# --- harm ---


def harmful() -> list[Rule]:
    rules = []
    for critic, mlp in (("short", [40, 42, 41, 43]), ("long", [150, 152, 149, 151]), ("middle", [60, 160, 90, 130])):
        rules.append(rule("d", "anchor", [100, 100, 100, 100], critic))
        rules.append(rule("d", "spar_mlp", mlp, critic))
    return rules


def test_harm_counts_settings_shown_below_and_seeds_that_lost_a_tenth():
    found = {entry.improvement: entry for entry in harms(summarise(harmful(), SETTINGS))}
    mine = found["spar_mlp"]
    assert mine.settings == 3 and mine.below == ("d/mlp/short",) and mine.above == 1
    assert mine.seeds == 12 and mine.lost == 4 + 1, "90 is not more than a tenth below 100"
    assert mine.worst == pytest.approx(-0.585) and mine.worst_setting == "d/mlp/short"
    assert harm_frame([mine]).iloc[0]["below_share"] == pytest.approx(1 / 3)


def test_one_setting_or_one_seed_shows_no_harm():
    assert not harms(summarise(harmful()[:2], SETTINGS))
    single = [rule("d", name, [100], critic) for critic in ("a", "b") for name in ("anchor", "spar_mlp")]
    assert not harms(summarise(single, SETTINGS))


def test_an_anchor_with_negative_returns_is_lost_by_its_size():
    rules = []
    for critic in ("a", "b"):
        rules += [rule("d", "anchor", [-100, -100], critic), rule("d", "spar_mlp", [-105, -111], critic)]
    mine = {entry.improvement: entry for entry in harms(summarise(rules, SETTINGS))}["spar_mlp"]
    assert mine.lost == 2 and mine.worst == pytest.approx(-0.08)


def test_the_figure_has_a_panel_where_there_are_several_critics_and_is_the_same_twice():
    rules = [r for r in harmful() if r.improvement == "spar_mlp" or r.improvement == "anchor"]
    summaries = summarise(rules, SETTINGS)
    picture = harm_figure(summaries, "anchor")
    assert picture is not None and picture == harm_figure(summaries, "anchor")
    assert picture != harm_figure(summarise(harmful()[:4], SETTINGS), "anchor")
    one = summarise([r for r in rules if r.critic == "short"], SETTINGS)
    assert harm_figure(one, "anchor") is None
