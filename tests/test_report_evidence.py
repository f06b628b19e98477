"""What the report concludes, on numbers with known answers: pairs, best rules, all datasets, agreement, provenance."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spar_core.anchors.mlp import MLPAnchor
from spar_core.critics.iql import IQLCritic
from spar_core.curves import COLUMNS, POINTS, condense
from spar_core.errors import SparError
from spar_core.provenance import changed_settings
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.figures.curve_figure import curves_of
from spar_core.reporting.figures.episode_figures import paired_episodes, profile
from spar_core.reporting.figures.offline_figures import quantiles_of
from spar_core.reporting.numbers.agreement import agreements
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.overall import overall
from spar_core.reporting.numbers.pairs import best_of, pairs_frame, pairs_of
from spar_core.reporting.numbers.tables import summarise
from spar_core.reporting.page.provenance import dvc_digest
from spar_core.residual import ResidualSettings

REFERENCE = {"min": 0.0, "max": 1000.0, "source": "made up"}


def rule_of(
    name: str, means: dict[int, float], *, dataset="d", reference=REFERENCE, estimates=None, anchor="a"
) -> Rule:
    """A rule with two episodes a seed, 10 above and below the seed's mean."""
    rows = [
        {"seed": seed, "episode": e, "env_seed": 100 * seed + e, "return": mean + 10 * (2 * e - 1), "length": 5}
        for seed, mean in means.items()
        for e in (0, 1)
    ]
    frame = pd.DataFrame(rows).assign(terminated=0.0, success=float("nan"))
    context = {"not_evaluated": None, "reference": reference, "label": "made up", "protocol": "last"}
    return Rule(dataset, "a", "c", name, frame, context, offline=estimates or {})


def summaries_of(rules):
    return summarise(rules, ReportSettings())


# --- pairs, and the best rule ---


def test_pairs_are_paired_by_seed_and_mirror_each_other():
    means = {"anchor": [1.0, 5.0, 3.0], "awr": [2.0, 7.0, 3.5], "spar": [2.5, 4.0, 3.0]}
    rules = [rule_of(name, dict(enumerate(values))) for name, values in means.items()]
    pairs = {(p.rule, p.other): p for p in pairs_of(summaries_of(rules), ReportSettings())}
    assert len(pairs) == 6
    there, back = pairs["awr", "anchor"], pairs["anchor", "awr"]
    known = stats.ttest_rel(means["awr"], means["anchor"]).confidence_interval(0.95)
    assert (there.difference.low, there.difference.high) == pytest.approx((known.low, known.high))
    assert there.difference.value == -back.difference.value and there.chance == pytest.approx(1 - back.chance)
    # 2 beats 1, 7 beats all three, 3.5 beats 1 and 3: 6 of 9.
    assert there.chance == pytest.approx(6 / 9) and (there.wins, back.wins) == (3, 0)
    row = pairs_frame(list(pairs.values())).set_index(["rule", "other"]).loc[("awr", "anchor")]
    assert row["seeds_above"] == 3 and row["difference"] == pytest.approx(3.5 / 3)


def test_rules_of_different_settings_have_no_pair():
    rules = [rule_of("anchor", {0: 1.0, 1: 2.0}), rule_of("anchor", {0: 1.0, 1: 2.0}, dataset="e")]
    assert pairs_of(summaries_of(rules), ReportSettings()) == []


def test_a_best_rule_is_named_only_where_every_interval_says_so():
    close = {"anchor": [100, 110, 90, 105], "awr": [300, 310, 290, 305], "spar": [301, 314, 288, 304]}
    clear = close | {"spar": [500, 512, 488, 504]}
    for means, rivals in ((close, ("awr",)), (clear, ())):
        rules = [rule_of(name, dict(enumerate(map(float, values)))) for name, values in means.items()]
        rows = summaries_of(rules)
        best = best_of(rows, pairs_of(rows, ReportSettings()))
        assert best.rule == "spar" and best.rivals == rivals and best.shown == (not rivals)
    assert best_of(rows[:1], []) is None


def test_one_seed_has_no_best_rule():
    rows = summaries_of([rule_of("anchor", {0: 1.0}), rule_of("spar", {0: 900.0})])
    assert best_of(rows, pairs_of(rows, ReportSettings())).rivals == ("anchor",)


def test_a_partial_report_pairs_the_seeds_that_both_have():
    rules = [rule_of("anchor", {0: 1.0, 1: 2.0}), rule_of("spar", {1: 5.0, 2: 6.0}), rule_of("awr", {7: 1.0})]
    rows = summarise(rules, ReportSettings(), partial=True)
    pairs = {(p.rule, p.other): p for p in pairs_of(rows, ReportSettings(), partial=True)}
    assert set(pairs) == {("anchor", "spar"), ("spar", "anchor")}
    assert pairs["spar", "anchor"].difference.value == 3.0 and pairs["spar", "anchor"].difference.n == 1


# --- all datasets together ---


def test_overall_takes_the_datasets_that_every_rule_has():
    rules = [
        rule_of("anchor", {0: 100.0, 1: 200.0}),
        rule_of("anchor", {0: 300.0, 1: 500.0}, dataset="e"),
        rule_of("spar", {0: 900.0, 1: 1100.0}),
        rule_of("spar", {0: 10.0, 1: 10.0}, dataset="without", reference=None),
    ]
    entries = {entry.improvement: entry for entry in overall(rules, summaries_of(rules), ReportSettings())}
    assert {entry.tasks for entry in entries.values()} == {("d",)}
    assert entries["anchor"].values["mean"].value == pytest.approx(15.0)
    assert entries["spar"].values["optimality_gap"].value == pytest.approx(5.0), "beyond 100 counts as 100"
    assert entries["spar"].metrics() == {}, "one dataset says it in its own keys"


def test_scores_that_may_stand_in_d4rl_tables_are_never_put_together_with_others():
    rules = []
    for dataset, comparable, level in (("d4rl", True, 500.0), ("built", False, 100.0)):
        for name in ("anchor", "spar"):
            rule = rule_of(name, {0: level, 1: level}, dataset=dataset)
            rule.context |= {"comparable_to_d4rl": comparable, "label": f"label of {dataset}"}
            rules.append(rule)
    entries = overall(rules, summaries_of(rules), ReportSettings())
    told = [(e.improvement, e.comparable, e.tasks, e.label, e.values["mean"].value) for e in entries]
    assert told == [
        (name, comparable, (dataset,), f"label of {dataset}", pytest.approx(score))
        for dataset, comparable, score in (("d4rl", True, 50.0), ("built", False, 10.0))
        for name in ("anchor", "spar")
    ]


def test_nothing_is_put_together_without_reference_returns():
    rules = [rule_of("anchor", {0: 1.0}, reference=None)]
    assert overall(rules, summaries_of(rules), ReportSettings()) == []


# --- estimates against returns ---


def with_estimates(values: dict[str, tuple[float, float]]) -> list[Rule]:
    """Rules by name: mean return, and estimate, of two seeds that differ a little."""
    return [
        rule_of(
            name,
            {0: value, 1: value + 1},
            estimates={"fqe": {0: estimate, 1: estimate + 0.5}, "critic_estimate": {0: -estimate, 1: -estimate - 0.5}},
        )
        for name, (value, estimate) in values.items()
    ]


def test_an_estimate_that_ranks_as_returns_do_has_correlation_one_and_no_regret():
    rules = with_estimates({"anchor": (100.0, 1.0), "awr": (300.0, 3.0), "spar": (500.0, 50.0)})
    fqe, critic = agreements(rules)
    assert fqe.over_rules.rho == pytest.approx(1) and fqe.over_policies.rho == pytest.approx(1)
    assert (fqe.rules, fqe.policies) == (3, 6) and fqe.first == "spar" and fqe.regret == 0
    assert critic.over_rules.rho == pytest.approx(-1) and critic.first == "anchor"
    assert critic.regret == pytest.approx(400.0)
    assert fqe.metrics() == {
        "agreement/d/a/c/fqe/rank_correlation_rules": pytest.approx(1),
        "agreement/d/a/c/fqe/rank_correlation_policies": pytest.approx(1),
    }
    assert agreements(rules[:1]) == [], "one rule leaves no choice"


def test_a_dataset_of_which_a_rule_lacks_estimates_is_left_out():
    rules = [*with_estimates({"anchor": (1.0, 1.0), "spar": (2.0, 2.0)}), rule_of("awr", {0: 3.0}, dataset="e")]
    assert {found.setting for found in agreements(rules)} == {("d", "a", "c")}
    rules[0].offline["critic_estimate"].pop(1)
    assert [found.estimate for found in agreements(rules)] == ["fqe"]


# --- single episodes ---


def test_a_profile_weighs_each_seed_the_same():
    episodes = pd.DataFrame({"seed": [0, 0, 0, 0, 1], "return": [1.0, 2.0, 3.0, 4.0, 10.0]})
    levels, above = profile(episodes)
    assert levels.tolist() == [1.0, 2.0, 3.0, 4.0, 10.0]
    assert above.tolist() == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.0])


def test_episodes_are_paired_by_their_start():
    ours, base = rule_of("spar", {0: 5.0, 1: 7.0}), rule_of("anchor", {1: 1.0, 0: 2.0})
    frame = paired_episodes(ours, base)
    assert len(frame) == 4
    assert (frame["return"] - frame["return_baseline"]).tolist() == [3.0, 3.0, 6.0, 6.0]


# --- curves ---


def test_curves_are_condensed_to_means_and_ends(tmp_path):
    anchor = tmp_path / "anchor"
    anchor.mkdir()
    lines = [f"{step},{seed},anchor/loss,{seed + step}" for seed in (0, 1) for step in range(1, 1001)]
    (anchor / "curves.csv").write_text("step,seed,metric,value\n" + "\n".join(lines) + "\n")
    condense({"anchor": anchor, "critic": tmp_path / "untrained"}, tmp_path / "out.csv")
    frame = pd.read_csv(tmp_path / "out.csv")
    assert list(frame.columns) == COLUMNS and len(frame) == POINTS
    assert frame["step"].iloc[0] == 1 and frame["step"].iloc[-1] == 1000
    assert np.allclose(frame["mean"], frame["step"] + 0.5)
    assert np.allclose(frame["low"], frame["step"]) and np.allclose(frame["high"], frame["step"] + 1)
    (anchor / "curves.csv").write_text("step,seed,metric,value\n1,0,anchor/loss,much\n")
    with pytest.raises(SparError, match=r"curves\.csv is missing or broken"):
        condense({"anchor": anchor}, tmp_path / "out.csv")


def test_a_part_that_several_rules_share_is_drawn_once():
    def curves(part: str, level: float) -> pd.DataFrame:
        return pd.DataFrame([[part, f"{part}/loss", 1, 4, level, level - 1, level + 1]], columns=COLUMNS)

    rules = []
    for name, level in (("awr", 5.0), ("spar", 7.0)):
        rule = rule_of(name, {0: 1.0})
        rule.curves = [pd.concat([curves("anchor", 2.0), curves("improvement", level)])]
        rules.append(rule)
    found = curves_of(rules).set_index(["part", "owner"])["mean"]
    assert found.to_dict() == {("anchor", "a"): 2.0, ("improvement", "awr"): 5.0, ("improvement", "spar"): 7.0}


def test_seed_groups_of_a_curve_weigh_as_many_seeds_as_they_have():
    rule = rule_of("spar", {0: 1.0})
    rows = [["improvement", "improvement/loss", 1, seeds, mean, mean, mean] for seeds, mean in ((4, 0.0), (1, 10.0))]
    rule.curves = [pd.DataFrame([row], columns=COLUMNS) for row in rows]
    (found,) = curves_of([rule]).to_dict("records")
    assert (found["mean"], found["low"], found["high"]) == (2.0, 0.0, 10.0)


def test_quantiles_of_corrections_are_means_over_seeds():
    rule = rule_of("spar", {0: 1.0})
    rows = [[seed, "length", share, seed + share, 1.0] for seed in (0, 1) for share in (0, 50, 100)]
    rule.corrections = [pd.DataFrame(rows, columns=["seed", "quantity", "share", "value", "radius"])]
    assert quantiles_of(rule).loc["length"].to_dict() == {0: 0.5, 50: 50.5, 100: 100.5}


# --- where the numbers come from ---


def test_the_digest_of_a_folder_is_the_one_that_dvc_has(tmp_path):
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    folder = tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    (folder / "b.csv").write_text("1\n")
    (folder / "below" / "a.json").write_text("{}\n")
    system = LocalFileSystem()
    _, _, found = build(HashFileDB(system, str(tmp_path / "cache")), str(folder), system, "md5", dry_run=True)
    assert dvc_digest(folder) == found.hash_info.value
    listed = [
        {"md5": hashlib.md5(b"1\n").hexdigest(), "relpath": "b.csv"},
        {"md5": hashlib.md5(b"{}\n").hexdigest(), "relpath": "below/a.json"},
    ]
    assert dvc_digest(folder) == hashlib.md5(json.dumps(listed).encode()).hexdigest() + ".dir"


def test_only_settings_that_are_not_the_defaults_are_named():
    anchor = {"kind": "mlp", **MLPAnchor.Settings().model_dump(mode="json")}
    assert changed_settings("anchor", anchor) == {}
    assert changed_settings("anchor", anchor | {"steps": 7, "hidden": [8]}) == {"steps": 7, "hidden": [8]}
    critic = {"kind": "iql", **IQLCritic.Settings(expectile=0.9).model_dump(mode="json")}
    assert changed_settings("critic", critic) == {"expectile": 0.9}
    residual = ResidualSettings(beta=0.5).model_dump(mode="json")
    assert changed_settings("residual", residual) == {"beta": 0.5}
