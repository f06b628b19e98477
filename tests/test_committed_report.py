"""The committed report of the default study: every number in it is computed from raw rows, and those are dvc.lock's."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import defaultdict

import numpy as np
import pytest
import yaml
from scipy import stats

from spar_core.artifacts import digest_file
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.page.provenance import dvc_digest
from spar_core.reporting.page.render import build_report
from spar_core.settings import load_yaml, parse
from spar_core.study import Study
from stages.report import raw_of
from tests.fakes import ROOT

FOLDER = ROOT / "reports/default"
STUDY = parse(Study, {"name": "default", **load_yaml(ROOT / "studies/default.yaml")}, "studies/default.yaml")
LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
(SETTING,) = {(cell.dataset, cell.anchor, cell.critic) for cell in STUDY.cells()}
RULES = STUDY.improvements


def locked(kind: str) -> dict[str, str]:
    """What dvc.lock has for the outputs of a kind: path below ``artifacts/<kind>`` to digest."""
    outs = [out for stage in LOCK.values() for out in stage.get("outs", ())]
    prefix = f"artifacts/{kind}/"
    return {out["path"].removeprefix(prefix): out["md5"] for out in outs if out["path"].startswith(prefix)}


def rows_of(rule: str) -> list[dict[str, str]]:
    path = FOLDER.joinpath("raw/evaluation", *SETTING, rule, "0-3", "episodes.csv")
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def seed_returns(rule: str) -> dict[int, float]:
    by_seed = defaultdict(list)
    for row in rows_of(rule):
        by_seed[int(row["seed"])].append(float(row["return"]))
    return {seed: math.fsum(values) / len(values) for seed, values in by_seed.items()}


@pytest.fixture(scope="module")
def rendered():
    """The report anew, from the raw rows alone."""
    return build_report(STUDY, raw_of(FOLDER), ReportSettings())


@pytest.mark.parametrize("kind", ["evaluation", "estimate", "geometry", "diagnosis"])
def test_the_raw_rows_are_the_artifacts_of_dvc_lock(kind):
    outs = locked(kind)
    assert len(outs) == (1 if kind == "geometry" else len(RULES))
    for path, digest in outs.items():
        assert dvc_digest(FOLDER / "raw" / kind / path) == digest, path
    kept = {p.parent.relative_to(FOLDER / "raw" / kind).as_posix() for p in (FOLDER / "raw" / kind).rglob("meta.json")}
    assert kept == set(outs)


def test_every_file_of_the_report_is_the_one_that_dvc_lock_names():
    outs = {out["path"]: out["md5"] for out in LOCK["report"]["outs"]}
    assert {"reports/default/report.md", "reports/default/figures", "reports/default/metrics.json"} <= outs.keys()
    for path, digest in outs.items():
        found = ROOT / path
        assert (dvc_digest(found) if found.is_dir() else digest_file(found)) == digest, path


@pytest.mark.parametrize("folder", sorted((ROOT / "reports").glob("*/raw")), ids=lambda path: path.parent.name)
def test_every_report_that_keeps_its_rows_is_what_they_give(folder):
    name = folder.parent.name
    study = parse(Study, {"name": name, **load_yaml(ROOT / f"studies/{name}.yaml")}, f"studies/{name}.yaml")
    again = build_report(study, raw_of(folder.parent), ReportSettings())
    assert again.files["report.md"].decode() == (folder.parent / "report.md").read_text(encoding="utf-8")
    assert set(again.figures) == {path.name for path in (folder.parent / "figures").iterdir()}


@pytest.mark.parametrize("name", ["table.csv", "returns.csv", "pairs.csv", "overall.csv", "anchors.csv"])
def test_the_tables_are_what_the_raw_rows_give(rendered, name):
    ours, theirs = (
        list(csv.reader(io.StringIO(text))) for text in (rendered.files[name].decode(), (FOLDER / name).read_text())
    )
    assert ours[0] == theirs[0] and len(ours) == len(theirs)
    for mine, committed in zip(ours, theirs, strict=True):
        for a, b in zip(mine, committed, strict=True):
            # Another processor may round the last digit otherwise.
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-9, abs=1e-9), (name, a, b)


def test_metrics_are_recomputed_from_the_episodes_without_this_projects_code():
    metrics = json.loads((FOLDER / "metrics.json").read_text())
    means = {rule: seed_returns(rule) for rule in RULES}
    context = json.loads(FOLDER.joinpath("raw/evaluation", *SETTING, "anchor", "0-3", "context.json").read_text())
    low, high = context["reference"]["min"], context["reference"]["max"]
    told = defaultdict(dict)
    for key, value in metrics.items():
        if not key.startswith(("agreement/", "overall/")):
            rule, name = key.rsplit("/", 2)[1:]
            told[rule][name] = value
    assert set(told) == set(RULES)
    anchor = np.array(list(means["anchor"].values()))
    uniform = np.array(list(means["uniform"].values()))
    for rule in RULES:
        ours = np.array(list(means[rule].values()))
        estimates = json.loads(FOLDER.joinpath("raw/estimate", *SETTING, rule, "0-3", "estimates.json").read_text())
        known = {
            "return_mean": ours.mean(),
            "normalised_score": 100 * (ours.mean() - low) / (high - low),
            "length_mean": np.mean([int(row["length"]) for row in rows_of(rule)]),
            "fqe_mean": np.mean(estimates["fqe"]),
            "critic_estimate": np.mean(estimates["critic_estimate"]),
        }
        if rule != "anchor":
            interval = stats.ttest_rel(ours, anchor).confidence_interval(0.95)
            pooled = math.sqrt((ours.var(ddof=1) + anchor.var(ddof=1)) / 2)
            known |= {
                "gain_over_anchor": (ours - anchor).mean(),
                "gain_low": interval.low,
                "gain_high": interval.high,
                "gain_pooled_stds": (ours - anchor).mean() / pooled,
            }
        if rule not in ("anchor", "uniform"):
            known["improvement_part"] = (ours - uniform).mean()
        assert told[rule] == pytest.approx(known), rule


def test_every_number_of_the_returns_table_is_one_of_the_raw_rows():
    page = (FOLDER / "report.md").read_text(encoding="utf-8")
    for rule in RULES:
        line = next(line for line in page.splitlines() if re.match(rf"\| `{rule}` \| 4 \| \**-?\d", line))
        values = list(seed_returns(rule).values())
        mean, interval = np.mean(values), stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        shown = [cell.strip(" *") for cell in line.split("|")[2:9]]
        assert shown[0] == "4" and shown[1] == f"{mean:.0f}" and shown[3] == f"{np.std(values, ddof=1):.0f}"
        assert shown[2] == f"[{interval[0]:.0f}, {interval[1]:.0f}]"


def test_the_digests_on_the_page_are_those_of_dvc_lock():
    page = (FOLDER / "report.md").read_text(encoding="utf-8").split("## Where the numbers come from")[1]
    evaluations, estimates = locked("evaluation"), locked("estimate")
    for rule in RULES:
        line = next(line for line in page.splitlines() if line.startswith(f"| `{rule}` |"))
        path = "/".join([*SETTING, rule, "0-3"])
        shown = re.findall(r"`([0-9a-f]{12})`", line)
        assert evaluations[path].startswith(shown[0]) and estimates[path].startswith(shown[1])
        meta = json.loads((FOLDER / "raw/evaluation" / path / "meta.json").read_text())
        assert [meta["inputs"][part][:12] for part in ("anchor", "residual", "critic", "policy")] == shown[2:]


def test_the_numbers_seen_inside_are_those_of_the_raw_rows():
    text = (FOLDER / "report.md").read_text(encoding="utf-8").split("### Geometry and gradients")[1].split("\n## ")[0]
    shown = {"diagnosis/distance_ratio_policy": 1, "diagnosis/improvement_weak_share": 3}
    for rule in RULES:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{rule}` |"))
        path = FOLDER.joinpath("raw/diagnosis", *SETTING, rule, "0-3", "measures.csv")
        with path.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["value"]]
        for name, column in shown.items():
            values = [float(row["value"]) for row in rows if row["name"] == name]
            cell = line.split("|")[3:][column].strip()
            assert cell == "-" if not values else cell.startswith(f"{np.mean(values):.3g} ±"), (rule, name)
