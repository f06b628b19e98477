"""The committed reports: their numbers are computed again from the tables beside them, without this project's code."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from spar_core.artifacts import digest_file
from spar_core.reporting.page.inside import GEOMETRY, RULES
from spar_core.reporting.page.provenance import dvc_digest
from tests.fakes import ROOT

REPORTS = ROOT / "reports"
DEFAULT = REPORTS / "default"
STUDIES = sorted(path.parent.name for path in REPORTS.glob("*/report.md"))
# Reports of earlier code have no table of episodes.
WITH_EPISODES = sorted(path.parent.name for path in REPORTS.glob("*/episodes.csv"))
KEYS = ["dataset", "anchor", "critic", "improvement"]
LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
# Numbers on a page end in these, in this order: value, and the ends of its interval.
GAIN = r"\**(-|[+-]?[\d.]+)(?: \[([+-]?[\d.]+), ([+-]?[\d.]+)\])?\**"


def page_of(study: str) -> str:
    return (REPORTS / study / "report.md").read_text(encoding="utf-8")


def seed_means(study: str, column: str = "return") -> dict[tuple[str, ...], np.ndarray]:
    """Mean of a column over the episodes of each seed, in rising order of seed, by dataset, anchor, critic and rule."""
    frame = pd.read_csv(REPORTS / study / "episodes.csv")
    means = frame.groupby([*KEYS, "seed"], sort=True)[column].apply(lambda v: math.fsum(v) / len(v))
    return {key: values.to_numpy() for key, values in means.groupby(level=KEYS)}


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Mean difference with its 95% t-interval; without width where all seeds differ by the same."""
    ends = (
        stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        if np.ptp(ours - theirs)
        else [np.mean(ours - theirs)] * 2
    )
    return float(np.mean(ours - theirs)), float(ends[0]), float(ends[1])


def tables_of(study: str) -> list[tuple[tuple[str, str, str], str]]:
    """The text below every heading of an anchor and critic, by dataset, anchor and critic."""
    page, found = page_of(study), []
    heads = [*re.finditer(r"^## (\S+/\S+)$|^### Anchor `(\S+)`, critic `(\S+)`$|^##+ .*$", page, re.MULTILINE)]
    dataset = ""
    for head, end in pairwise([*heads, None]):
        if head[1]:
            dataset = head[1]
        elif head[2]:
            found.append(((dataset, head[2], head[3]), page[head.end() : end.start() if end else len(page)]))
    return found


def rows_below(text: str, head: str) -> list[list[str]]:
    """Cells of the rows of the first table whose header begins with ``head``."""
    (header,) = [line for line in text.splitlines() if line.startswith(head)][:1]
    body = text.split(header + "\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in body]


def shows(text: str, value: float) -> bool:
    """Whether a printed number is this value, rounded to the decimals that are printed."""
    decimals = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10.0**-decimals * (1 + 1e-6) + 1e-9


def locked(kind: str) -> dict[str, str]:
    """Digests of the artifacts of a kind in dvc.lock, by path below ``artifacts/<kind>``."""
    outs = [out for stage in LOCK.values() for out in stage.get("outs", ())]
    prefix = f"artifacts/{kind}/"
    return {out["path"].removeprefix(prefix): out["md5"] for out in outs if out["path"].startswith(prefix)}


# --- files ---


def test_the_files_of_the_default_report_are_those_of_dvc_lock():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]
    kept, cached = set(), set()
    for out in [*stage["outs"], *stage["metrics"]]:
        path, cache = (out, True) if isinstance(out, str) else next((p, o["cache"]) for p, o in out.items())
        (cached if cache else kept).add(path.replace("${study.name}", "default"))
    digests = {out["path"]: out["md5"] for out in LOCK["report"]["outs"]}
    assert digests.keys() == kept | cached
    for path in kept | {path for path in cached if (ROOT / path).exists()}:
        found = ROOT / path
        assert (dvc_digest(found) if found.is_dir() else digest_file(found)) == digests[path], path


@pytest.mark.parametrize("study", STUDIES)
def test_a_report_shows_every_figure_beside_it_and_no_other(study):
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", page_of(study)))
    assert shown == {path.name for path in (REPORTS / study / "figures").iterdir()}


# --- returns, gains and scores, from the episodes ---


@pytest.mark.parametrize("study", WITH_EPISODES)
def test_the_table_of_returns_holds_the_means_of_the_episodes(study):
    table = pd.read_csv(REPORTS / study / "returns.csv").sort_values([*KEYS, "seed"])
    for column, name in (
        ("return", "return_mean"),
        ("length", "length_mean"),
        ("normalised_score", "normalised_score"),
    ):
        means = seed_means(study, column)
        for key, rows in table.groupby(KEYS):
            np.testing.assert_allclose(means[key], rows[name], rtol=1e-9, err_msg=f"{key} {name}")
        assert len(means) == table.groupby(KEYS).ngroups


@pytest.mark.parametrize("study", WITH_EPISODES)
def test_metrics_are_computed_again_from_the_episodes(study):
    told = json.loads((REPORTS / study / "metrics.json").read_text())
    returns, lengths, scores = (seed_means(study, name) for name in ("return", "length", "normalised_score"))
    success = pd.read_csv(REPORTS / study / "episodes.csv").groupby(KEYS)["success"].mean()
    compared = 0
    for key, ours in returns.items():
        anchor, uniform = (returns.get((*key[:3], rule)) for rule in ("anchor", "uniform"))
        known = {"return_mean": ours.mean(), "length_mean": lengths[key].mean()}
        if np.isfinite(scores[key]).all():
            known["normalised_score"] = scores[key].mean()
        if np.isfinite(success[key]):
            known["success_rate"] = success[key]
        if key[3] != "anchor":
            gain, low, high = paired(ours, anchor)
            pooled = math.sqrt((ours.var(ddof=1) + anchor.var(ddof=1)) / 2)
            known |= {"gain_over_anchor": gain, "gain_low": low, "gain_high": high}
            if pooled > 0:
                known["gain_pooled_stds"] = gain / pooled
        if key[3] not in ("anchor", "uniform") and uniform is not None:
            known["improvement_part"] = (ours - uniform).mean()
        mine = {
            name.rpartition("/")[2]: value for name, value in told.items() if name.rpartition("/")[0] == "/".join(key)
        }
        estimates = {name: mine.pop(name) for name in ("fqe_mean", "critic_estimate") if name in mine}
        assert mine == pytest.approx(known, rel=1e-9, abs=1e-9), key
        compared += len(mine) + len(estimates)
    apart = ("overall/", "agreement/")
    of_committees = re.compile(r"/committee/\w+$")
    assert compared == len([name for name in told if not name.startswith(apart) and not of_committees.search(name)])


@pytest.mark.parametrize("study", sorted(path.parent.name for path in REPORTS.glob("*/committees.csv")))
def test_committees_are_those_of_their_table(study):
    told = json.loads((REPORTS / study / "metrics.json").read_text())
    frame = pd.read_csv(REPORTS / study / "committees.csv", dtype={"seeds": str})
    alone = pd.read_csv(REPORTS / study / "episodes.csv").groupby([*KEYS, "seed"])["return"].mean()
    rows = {tuple(row[key] for key in KEYS): row for row in frame.to_dict("records")}
    assert len(rows) == len(frame) == len([name for name in told if name.endswith("/committee/return_mean")])
    for key, row in rows.items():
        name = "/".join(key) + "/committee"
        assert told[f"{name}/return_mean"] == pytest.approx(row["return_mean"], rel=1e-9)
        assert told[f"{name}/lowest_member"] == pytest.approx(alone[key].min(), rel=1e-9)
        if key[3] != "anchor":
            gain = row["return_mean"] - rows[*key[:3], "anchor"]["return_mean"]
            assert told[f"{name}/gain"] == pytest.approx(gain, rel=1e-9)
            assert told[f"{name}/gain_low"] < gain < told[f"{name}/gain_high"]
    tables = dict(tables_of(study))
    for setting, text in tables.items():
        for rule, count, mean, *_ in rows_below(text, "| rule | committees | mean return |"):
            assert count == "1" and shows(mean, rows[*setting, rule.strip("`")]["return_mean"])


@pytest.mark.parametrize("study", WITH_EPISODES)
def test_every_number_of_returns_and_gains_on_the_page_is_that_of_the_episodes(study):
    returns, lengths, scores = (seed_means(study, name) for name in ("return", "length", "normalised_score"))
    seen, gained, pairs = set(), set(), 0
    for setting, text in tables_of(study):
        anchor, uniform = (returns.get((*setting, rule)) for rule in ("anchor", "uniform"))
        for name, seeds, mean, interval, spread, *rest in rows_below(text, "| rule | seeds | mean return |"):
            key = (*setting, name.strip("`"))
            ours = returns[key]
            seen.add(key)
            assert int(seeds) == len(ours) and shows(mean, ours.mean()) and shows(spread, ours.std(ddof=1)), key
            wanted = (
                stats.t.interval(0.95, len(ours) - 1, ours.mean(), stats.sem(ours))
                if np.ptp(ours)
                else [ours.mean()] * 2
            )
            assert all(map(shows, interval.strip("[]").split(", "), wanted)), key
            if np.isfinite(scores[key]).all():
                assert shows(rest[0], scores[key].mean()) and shows(rest[1], scores[key].std(ddof=1)), key
                rest = rest[2:]
            assert shows(rest[0], lengths[key].mean()), key
        for name, gain, *rest in rows_below(text, "| rule | gain |"):
            ours = returns[*setting, name.strip("`")]
            gained.add((*setting, name.strip("`")))
            parts = [(gain, ours, anchor)]
            if uniform is not None:
                parts += [(rest[0], uniform, anchor), (rest[1], ours, uniform)]
            for shown, one, other in parts:
                if shown != "-":
                    assert all(map(shows, re.fullmatch(GAIN, shown).groups(), paired(one, other))), (setting, name)
        for name, *cells in rows_below(text, "| | `"):
            others = [row[0] for row in rows_below(text, "| | `")]
            for other, cell in zip(others, cells, strict=True):
                if name != other:
                    pairs += 1
                    one, two = (returns[*setting, rule.strip("`")] for rule in (name, other))
                    difference, chance = cell.split("<br>")
                    assert all(map(shows, re.fullmatch(GAIN, difference).groups(), paired(one, two))), (setting, name)
                    above = np.sign(one[:, None] - two[None, :]).mean() / 2 + 0.5
                    assert shows(chance, above), (setting, name, other)
    assert seen == set(returns) and gained == {key for key in returns if key[3] != "anchor"}
    counts = [len([key for key in returns if key[:3] == setting]) for setting, _ in tables_of(study)]
    assert pairs == sum(n * (n - 1) for n in counts)


def test_the_scores_of_all_datasets_together_are_those_of_the_episodes():
    scores = seed_means("default", "normalised_score")
    rows = rows_below(page_of("default").split("## All datasets together")[1], "| rule | runs | mean |")
    assert {row[0].strip("`") for row in rows} == {key[3] for key in scores}
    for name, runs, mean, iqm, median, gap in rows:
        (ours,) = [values for key, values in scores.items() if f"`{key[3]}`" == name]
        value, low, high = re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", mean).groups()
        wanted = (ours.mean(), *stats.t.interval(0.95, len(ours) - 1, ours.mean(), stats.sem(ours)))
        assert int(runs) == len(ours) and all(map(shows, (value, low, high), wanted)), name
        assert shows(iqm, stats.trim_mean(ours, 0.25)) and shows(median, ours.mean()), name
        assert shows(gap, 100 - np.minimum(ours, 100).mean()), name


# --- estimates and diagnoses, from the tables by seed ---


def test_the_estimates_of_the_default_report_are_those_of_every_seed():
    told = json.loads((DEFAULT / "metrics.json").read_text())
    table = pd.read_csv(DEFAULT / "returns.csv")
    means = table.groupby(KEYS, sort=False)[["return_mean", "fqe", "critic_estimate"]].mean()
    text = page_of("default").split("### Estimates from logged data against returns")[1]
    shown = {row[0].strip("`"): row[2:] for row in rows_below(text, "| rule | mean return | fitted-Q evaluation |")}
    assert len(shown) == len(means) == 6
    for key, row in means.iterrows():
        for cell, column, name in zip(
            shown[key[3]], ("fqe", "critic_estimate"), ("fqe_mean", "critic_estimate"), strict=True
        ):
            assert told["/".join([*key, name])] == pytest.approx(row[column]) and cell == f"{row[column]:.3g}", key
    for name, column in (("Fitted-Q evaluation", "fqe"), ("The critic's own estimate", "critic_estimate")):
        line = next(line for line in text.splitlines() if line.startswith(f"- **{name}**"))
        over_rules = stats.spearmanr(means[column], means["return_mean"]).statistic
        over_policies = stats.spearmanr(table[column], table["return_mean"]).statistic
        assert f"is {over_rules:+.2f} over the means of 6 rules" in line and f"{over_policies:+.2f} over 24" in line
        assert f"would have chosen `{means[column].idxmax()[3]}`" in line


def test_the_geometry_and_diagnoses_of_the_default_report_are_those_of_every_seed():
    rows = pd.read_csv(DEFAULT / "measures.csv", keep_default_na=False, na_values={"value": [""]})
    text = page_of("default").split("### Geometry and gradients")[1].split("\n## ")[0]
    shown = {("", name): cells for name, *cells in rows_below(text, "| anchor |")}
    shown |= {(rule, ""): cells for rule, _, *cells in rows_below(text, "| rule | anchor, critic |")}
    assert len(shown) == 7
    for (rule, anchor), cells in shown.items():
        mine = rows[(rows["improvement"] == rule.strip("`")) & (rows["anchor"].isin([anchor.strip("`"), "committee"]))]
        for name, cell in zip(RULES if rule else GEOMETRY, cells, strict=True):
            values = mine.loc[mine["name"] == name, "value"].dropna().to_numpy()
            if cell == "-":
                assert not len(values), (rule, name)
                continue
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            assert cell == f"{values.mean():.3g} ± {half:.2g}", (rule, name)


# --- where the numbers come from ---


def test_the_digests_on_the_default_page_are_those_of_dvc_lock():
    page = page_of("default").split("## Where the numbers come from")[1]
    evaluations, estimates = locked("evaluation"), locked("estimate")
    assert len(evaluations) == len(estimates) == 6
    for path, digest in evaluations.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{Path(path).parent.name}` |"))
        shown = re.findall(r"`([0-9a-f]{12})`", line)
        assert digest.startswith(shown[0]) and estimates[path].startswith(shown[1]) and len(shown) == 6
    text = page_of("default").split("### Geometry and gradients")[1].split("\n## ")[0]
    shown = re.findall(r"`([0-9a-f]{12})`", text.split("Digests of `dvc.lock`:")[1])
    wanted = {digest[:12] for kind in ("geometry", "diagnosis") for digest in locked(kind).values()}
    assert set(shown) == wanted and len(wanted) == 7
