"""Logged data without an environment, through the real stages: trained on, never rolled out, and reported as such."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from spar_core import load_policy
from spar_core.errors import SparError
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.offline import summarise_offline
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.page.present import present_part
from spar_core.study import Study
from stages import cost, estimate, evaluate, plan, report
from stages.datasets import dataset_of
from stages.layout import Layout
from stages.tracking import points
from tests.pipeline import DATASET, Clone, cell_arguments, run_cells

LOGS, SHIFTED = "mine/logs-v0", "mine/shifted-v0"
RULES = ("anchor", "uniform", "spar_mlp")
SEEDS = "0-1"
ESTIMATE = "an estimate from logged data, not a return"
CLAUSE = "the plant cannot be simulated"


def write_logs(folder) -> None:
    """Twelve episodes of a process with a leak: every third one ends in a terminal state."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for episode in range(12):
        steps = 20 + episode
        actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        observations = np.zeros((steps + 1, 3), np.float32)
        observations[0] = rng.normal(size=3)
        for step in range(steps):
            push = np.append(actions[step], 0.0)
            observations[step + 1] = 0.9 * observations[step] + 0.3 * push + 0.05 * rng.normal(size=3)
        np.savez(
            folder / f"{episode:03}.npz",
            observations=observations,
            actions=actions,
            rewards=observations[1:, 0] + 2,
            terminated=episode % 3 == 0,
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A scratch checkout as the working directory in which a mixed study has run, cell by cell."""
    clone = Clone(tmp_path_factory.mktemp("logs") / "clone")
    write_logs(clone.folder / "logs")
    entries = clone.folder / "datasets/mine"
    entries.mkdir()
    (entries / "logs-v0.yaml").write_text(f"title: logs\nsource: npz\npath: logs\nnot_evaluated: {CLAUSE}\n")
    (entries / "shifted-v0.yaml").write_text("title: logs\nsource: npz\npath: logs\nreward_shift: iql\n")
    clone.study(datasets=[LOGS, DATASET, SHIFTED], improvements=list(RULES), seeds=[SEEDS], estimated=[LOGS, SHIFTED])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        patch.setenv("SPAR_WORKERS", "1")
        patch.setenv("SPAR_TRACKING", "off")
        plan.run([])
        for dataset in (LOGS, DATASET, SHIFTED):
            run_cells(dataset, RULES, SEEDS, estimated=dataset != DATASET)
        report.run([])
        yield clone


def study_of_logs(name: str) -> Study:
    return Study(
        name=name,
        datasets=(LOGS,),
        anchors=("mlp",),
        critics=("iql",),
        improvements=RULES,
        seeds=(SEEDS,),
        estimated=(LOGS,),
    )


def arguments(dataset: str, rule: str) -> list[str]:
    return cell_arguments(dataset, rule, SEEDS)


def cell(dataset: str, rule: str):
    return Layout().artifact("evaluation", dataset, "mlp", "iql", rule, SEEDS)


def context_of(dataset: str, rule: str) -> dict:
    return json.loads((cell(dataset, rule) / "context.json").read_text())


def estimate_cell(dataset: str, rule: str):
    return Layout().artifact("estimate", dataset, "mlp", "iql", rule, SEEDS)


def estimates_of(dataset: str, rule: str) -> dict:
    return json.loads((estimate_cell(dataset, rule) / "estimates.json").read_text())


def page_of(dataset: str) -> str:
    """The part of the report's page about one dataset."""
    page = (Layout().report("default") / "report.md").read_text()
    return page.split(f"\n## {dataset}\n")[1].split("\n## ")[0]


def read_csv(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((Layout().report("default") / name).read_text())))


def test_an_unevaluated_cell_holds_no_episode_and_says_why(project):
    rows = (cell(LOGS, "spar_mlp") / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 and rows[0].startswith("dataset,anchor,critic,improvement,seed,episode,")
    context = context_of(LOGS, "spar_mlp")
    assert context["not_evaluated"] == CLAUSE and context["env_id"] is None and context["label"] == ESTIMATE
    offline = estimates_of(LOGS, "spar_mlp")
    assert offline["seeds"] == [0, 1] and offline["rewards"] == "logged"
    for name in ("fqe", "critic_estimate"):
        assert len(offline[name]) == 2 and np.isfinite(offline[name]).all() and offline[name][0] != offline[name][1]
    assert "anchor/heldout_mse" in context["diagnostics"] and "fqe/clipped_share" in offline["diagnostics"]


def test_an_evaluated_cell_is_as_ever(project):
    assert len((cell(DATASET, "anchor") / "episodes.csv").read_text().splitlines()) == 1 + 2 * 2
    context = context_of(DATASET, "anchor")
    assert context["not_evaluated"] is None and "fqe/clipped_share" not in context["diagnostics"]
    assert not estimate_cell(DATASET, "anchor").exists()


def test_it_says_so_in_one_line_and_writes_the_same_bytes_with_two_workers(project, capsys, monkeypatch):
    folders = (cell(LOGS, "uniform"), estimate_cell(LOGS, "uniform"))
    before = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    monkeypatch.setenv("SPAR_WORKERS", "2")
    for stage in (evaluate, estimate):
        stage.run(arguments(LOGS, "uniform"))
    assert [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders] == before
    said = [line for line in capsys.readouterr().out.splitlines() if "not evaluated" in line]
    hint = "with it in study.estimated, its policies' values are estimated"
    assert said == [f"{LOGS} is not evaluated: {CLAUSE}; {hint}"]


def test_corrections_are_those_of_the_policy_on_held_out_states(project):
    rows = pd.read_csv(estimate_cell(LOGS, "spar_mlp") / "corrections.csv")
    assert list(rows.columns) == ["seed", "quantity", "share", "value", "radius"]
    assert set(rows["quantity"]) == {"length", "action 0", "action 1"} and set(rows["seed"]) == {0, 1}
    dataset = dataset_of(Layout(), LOGS)
    observations = torch.as_tensor(dataset.observations[dataset.observation_index[dataset.heldout_steps]])
    rule = load_policy(Layout().artifact("policy", LOGS, "mlp", "iql", "spar_mlp", SEEDS), 1).rule
    batch = observations.unsqueeze(0)
    moved = (rule.act(batch) - rule.frozen.anchor.act(batch))[0].numpy()
    for name, values in {"length": np.linalg.norm(moved, axis=1), "action 1": moved[:, 1]}.items():
        mine = rows[(rows["seed"] == 1) & (rows["quantity"] == name)].set_index("share")["value"]
        assert mine[50] == pytest.approx(np.median(values), abs=1e-6)
        assert mine[100] == pytest.approx(values.max(), abs=1e-6)
    anchor = pd.read_csv(estimate_cell(LOGS, "anchor") / "corrections.csv")
    assert (anchor["value"] == 0).all()


def test_a_study_that_asks_for_no_estimate_of_logged_data_is_refused(project, tmp_path):
    params = project.params()
    try:
        project.set({"study.estimated": []})
        with pytest.raises(SparError, match=r"mine/logs-v0.yaml says 'not_evaluated'.*add it to study.estimated"):
            plan.run([])
        with pytest.raises(SparError, match=r"holds no episodes \(the plant .*add 'mine/logs-v0' to study.estimated"):
            report.run([])
    finally:
        project.set({"study": params["study"]})
        plan.run([])


def test_the_page_shows_estimates_and_no_verdict(project):
    page = page_of(LOGS)
    assert f"Not evaluated: {CLAUSE}." in page and "discounted sum (gamma = 0.99) of logged rewards" in page
    header = next(line for line in page.splitlines() if line.startswith("| rule |"))
    assert header == (
        "| rule | seeds | FQE value | 95% interval | FQE gain over `anchor`, paired 95% interval | critic's estimate |"
    )
    offline = {rule: estimates_of(LOGS, rule) for rule in RULES}
    for rule in RULES:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{rule}` | 2 |"))
        shown = {float(row.split("|")[column]) for column in (3, -2)}
        means = [np.mean(offline[rule][name]) for name in ("fqe", "critic_estimate")]
        assert sorted(shown) == pytest.approx(sorted(means), abs=0.5)
        assert row.count("|") == header.count("|") and ("[" in row.split("|")[5]) == (rule != "anchor")
    assert f"*{ESTIMATE.capitalize()}.*" in page
    assert "The anchor's diagnostics on held-out episodes: " in page and "`anchor/heldout_mse` 0." in page
    for word in ("normalised", "Beat", "Lose", "beat", "**", "mean return |"):
        assert word not in page, word
    assert "![FQE value by rule on mine/logs-v0, an estimate" in page and "returns.mine" not in page


def test_the_whole_page_reads_well(project):
    page = (Layout().report("default") / "report.md").read_text()
    assert "Tables of datasets without rollouts say so" in page and "episodes per seed: 2." in page
    overview = [line for line in page.splitlines() if line.startswith(("| mine/", "| builtin/"))]
    assert len(overview) == 3 and [ESTIMATE in line for line in overview] == [True, False, True]
    assert "**" not in overview[0]
    blocks = [block.strip() for block in page.split("\n\n") if block.strip().startswith("|")]
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    assert "\n\n\n" not in page and "None" not in page and "nan" not in page and "Undefined" not in page
    figures = {path.name for path in (Layout().report("default") / "figures").iterdir()}
    assert {part.split(")")[0] for part in page.split("](figures/")[1:]} == figures
    assert {"estimates.mine.logs-v0.svg", "returns.builtin.halfcheetah-replay-v0.svg"} <= figures
    # What evaluated datasets show is untouched by the others.
    assert "normalised score" in page_of(DATASET) and ESTIMATE not in page_of(DATASET)


def test_shifted_rewards_that_cannot_be_mapped_back_are_named(project):
    assert estimates_of(SHIFTED, "anchor")["rewards"] == "iql"
    page = page_of(SHIFTED)
    assert "Not evaluated: no environment is named for it." in page
    assert f"*{ESTIMATE.capitalize()}, of rewards after the shift 'iql'.*" in page
    assert "after the shift `iql`; the shift cannot be subtracted from the sum" in page


def test_flat_tables_keep_estimates_and_returns_apart(project):
    numbers = json.loads((Layout().report("default") / "metrics.json").read_text())
    ours = {key.rsplit("/", 1)[1] for key in numbers if key.startswith(f"{LOGS}/mlp/iql/spar_mlp/")}
    assert ours == {"fqe_mean", "fqe_gain_over_anchor", "fqe_gain_low", "fqe_gain_high", "critic_estimate"}
    offline = estimates_of(LOGS, "spar_mlp")["fqe"]
    anchor = estimates_of(LOGS, "anchor")["fqe"]
    assert numbers[f"{LOGS}/mlp/iql/spar_mlp/fqe_mean"] == pytest.approx(np.mean(offline))
    assert numbers[f"{LOGS}/mlp/iql/spar_mlp/fqe_gain_over_anchor"] == pytest.approx(
        np.subtract(offline, anchor).mean()
    )
    assert not any("fqe" in key for key in numbers if key.startswith(DATASET))
    table = {(row["dataset"], row["improvement"]): row for row in read_csv("table.csv")}
    assert table[LOGS, "anchor"]["return_mean"] == "" and table[LOGS, "anchor"]["label"] == ESTIMATE
    assert table[DATASET, "anchor"]["fqe_mean"] == "" and float(table[DATASET, "anchor"]["return_mean"]) != 0
    assert int(table[LOGS, "spar_mlp"]["parameters_rule"]) > 0
    rows = [row for row in read_csv("returns.csv") if row["dataset"] == LOGS and row["improvement"] == "spar_mlp"]
    assert [float(row["fqe"]) for row in rows] == pytest.approx(offline) and rows[0]["return_mean"] == ""
    cost.write_cost(Layout())
    costs = {(row["dataset"], row["improvement"]): row for row in read_csv("cost.csv")}
    assert costs[LOGS, "anchor"]["fqe_mean"] == table[LOGS, "anchor"]["fqe_mean"]
    assert float(costs[LOGS, "anchor"]["seconds_estimate"]) > 0


def test_the_console_shows_them_last_and_says_what_they_are(project, capsys):
    report.print_table(Layout())
    text = capsys.readouterr().out
    blocks = text.split("\n\n")
    verdicts, committee, seeds, offline, *_ = blocks
    assert all(f"{name}, anchor mlp" in verdicts for name in (DATASET, LOGS)) and "\nHealth: " in verdicts
    assert committee.startswith(DATASET) and "1 committee of 2 seeds" in committee.splitlines()[0]
    assert seeds.startswith(DATASET) and offline.startswith(LOGS)
    assert offline.splitlines()[1] == f"not evaluated: {ESTIMATE}"
    assert "FQE value" in offline and "normalised" not in offline and "better" not in offline


def test_what_mlflow_is_told_has_names_of_its_own(project):
    assert points.evaluation_points(cell(LOGS, "spar_mlp") / "episodes.csv") == []
    names = {name for name, _, _ in points.estimate_points(estimate_cell(LOGS, "spar_mlp") / "estimates.json")}
    assert {"final/fqe", "final/fqe/seed_0", "final/fqe/seed_1", "final/critic_estimate"} <= names
    assert not any("return" in name for name in names)
    key = (LOGS, "mlp", "iql", "spar_mlp")
    evaluations = points.Folders([cell(LOGS, "spar_mlp")], [cell(LOGS, "anchor")])
    estimates = points.Folders([estimate_cell(LOGS, "spar_mlp")], [estimate_cell(LOGS, "anchor")])
    found = points.result_metrics(Layout().root / "nowhere", key, evaluations, estimates)
    reported = points.result_metrics(Layout().report("default"), key, evaluations, estimates)
    assert found.keys() == {"final/fqe_mean", "final/fqe_gain_over_anchor"}
    assert all(reported[name] == pytest.approx(value) for name, value in found.items())


def test_a_study_without_any_environment_and_a_partial_report(project, tmp_path):
    study = study_of_logs("logs")
    params = project.params()
    try:
        project.set({"study": json.loads(study.model_dump_json())})
        report.run([])
        whole = (Layout().report("logs") / "report.md").read_text()
        assert "episodes per seed" not in whole and f"Not evaluated: {CLAUSE}." in whole
        assert {"return_mean", "gain_over_anchor"} <= read_header("logs/table.csv"), "as for every study"
        shutil.move(cell(LOGS, "anchor"), tmp_path / "aside")
        report.run(["--partial"])
        part = (Layout().report("logs") / "partial/report.md").read_text()
        assert "1 of the study's 3 cells are missing" in part and "FQE gain" not in part and "FQE value" in part
    finally:
        if (tmp_path / "aside").exists():
            shutil.move(tmp_path / "aside", cell(LOGS, "anchor"))
        project.set({"study": params["study"]})


def test_a_partial_report_shows_returns_whose_estimates_are_still_missing(project, tmp_path):
    study = study_of_logs("x").model_copy(update={"datasets": (LOGS, DATASET), "estimated": (LOGS, DATASET)})
    part = present_part(study, report.folders_of(Layout()))
    assert part.estimated == (LOGS,) and not part.missing, "the returns of the other stand without estimates"
    held = estimate_cell(LOGS, "uniform")
    try:
        shutil.move(held, tmp_path / "aside")
        part = present_part(study, report.folders_of(Layout()))
        assert [cell.improvement for cell in part.missing] == ["uniform"], "nothing at all is known of it"
    finally:
        shutil.move(tmp_path / "aside", held)


def read_header(name: str) -> set[str]:
    return set((Layout().root / "reports" / name).read_text().splitlines()[0].split(","))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fqe": None}, "holds no estimate from logged data"),
        ({"fqe": [1.0]}, r"'fqe' does not have one value per seed of the group '0-1'"),
        ({"seeds": [1, 0]}, "does not have one value per seed"),
        ({"critic_estimate": [1.0, None]}, "'critic_estimate' that is not finite"),
        ({"not_evaluated": "another reason"}, "differ in 'not_evaluated'"),
        ({"discount": 0.9}, "differ in 'discount'"),
        ({"not_evaluated": None}, "has no episode"),
    ],
)
def test_broken_estimates_are_refused(project, tmp_path, change, message):
    layout = Layout(tmp_path)
    for kind in ("evaluation", "estimate"):
        shutil.copytree(Layout().root / "artifacts" / kind, tmp_path / "artifacts" / kind)
    axes = (LOGS, "mlp", "iql", "uniform", SEEDS)
    said = layout.artifact("evaluation", *axes) / "context.json"
    path = said if "not_evaluated" in change else layout.artifact("estimate", *axes) / "estimates.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SparError, match=message):
        load_rules(study_of_logs("x"), report.folders_of(layout))


def rule_with(name: str, values: dict[int, float]) -> Rule:
    context = {"not_evaluated": CLAUSE, "label": ESTIMATE, "offline": {"rewards": "logged"}}
    return Rule("d", "a", "c", name, pd.DataFrame(), context, offline={"fqe": values})


def test_gains_of_estimates_are_paired_by_seed_and_a_partial_report_takes_the_shared_seeds():
    anchor, ours = {0: 1.0, 1: 3.0, 2: 2.0}, {0: 2.0, 1: 4.5, 2: 2.5}
    first, second = summarise_offline([rule_with("anchor", anchor), rule_with("awr", ours)], ReportSettings())
    paired = stats.ttest_rel(list(ours.values()), list(anchor.values())).confidence_interval(0.95)
    assert first.gain is None and second.critic_estimate is None
    assert (second.gain.value, second.gain.low, second.gain.high) == pytest.approx((1.0, paired.low, paired.high))
    lacking = [rule_with("anchor", {1: 3.0, 2: 2.0, 7: 9.0}), rule_with("awr", ours)]
    with pytest.raises(SparError, match="unpaired"):
        summarise_offline(lacking, ReportSettings())
    shared = summarise_offline(lacking, ReportSettings(), partial=True)[1].gain
    assert (shared.n, shared.value) == (2, pytest.approx(1.0))
    apart = [rule_with("anchor", {7: 9.0}), rule_with("awr", ours)]
    assert summarise_offline(apart, ReportSettings(), partial=True)[1].gain is None


@pytest.mark.slow
@pytest.mark.pipeline
def test_dvc_repro_and_publish_on_logged_data_alone(tmp_path):
    clone = Clone(tmp_path / "clone")
    write_logs(clone.folder / "logs")
    (clone.folder / "datasets/mine").mkdir()
    (clone.folder / "datasets/mine/logs-v0.yaml").write_text("title: logs\nsource: npz\npath: logs\n")
    clone.study(datasets=[LOGS], estimated=[LOGS])
    ran = clone.repro()
    assert ran[0] == "plan" and set(ran[-2:]) == {"report", "theory_page"}
    assert sum(name.startswith("evaluate@") for name in ran) == 2 and "is not evaluated" in clone.output
    assert all("/fqe_" in name or name.endswith("/critic_estimate") for name in clone.metrics())
    assert clone.repro() == ["plan"]
    said = clone.run("python", "-m", "stages.tracking.publish").stdout
    assert "12 runs present, 12 added" in said
