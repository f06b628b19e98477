"""Real `dvc repro` in scratch clones, with tiny budgets: what runs, what does not, and equal bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from spar_core.artifacts import digest_folder
from tests.pipeline import DATASET, Clone

pytestmark = pytest.mark.pipeline

CELL = f"{DATASET}-mlp-iql"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Clone:
    """A clone in which the whole tiny study has run, two workers over two seeds."""
    clone = Clone(tmp_path_factory.mktemp("base") / "clone")
    clone.first = clone.repro(SPAR_WORKERS="2")
    clone.commit()
    return clone


@pytest.fixture
def clone(base, tmp_path) -> Clone:
    """A copy of the base clone, with its cache, to change at will."""
    copy = Clone.__new__(Clone)
    copy.folder, copy.environment = tmp_path / "clone", base.environment
    shutil.copytree(base.folder, copy.folder, symlinks=True)
    return copy


def changed(clone: Clone) -> set[str]:
    """Stages that DVC would run, after a plan; a changed param or dependency each, not what follows from it."""
    clone.run("python", "-m", "stages.plan")
    return set(json.loads(clone.run("dvc", "status", "--json").stdout)) - {"plan"}


def kinds(stages: set[str] | list[str]) -> set[str]:
    return {stage.split("@")[0] for stage in stages}


def test_every_stage_runs_once_and_a_second_repro_trains_nothing(base):
    assert kinds(base.first) == {
        "plan",
        "download",
        "fit_bc",
        "fit_residual",
        "fit_critic",
        "self_imitation",
        "evaluate",
        "report",
        "theory_page",
    }
    assert len(base.first) == 11
    assert base.repro() == ["plan"]


def test_artifacts_have_a_meta_with_kind_params_inputs_and_shapes(base):
    metas = sorted((base.folder / "artifacts").rglob("meta.json"))
    kinds_found = {json.loads(path.read_text())["kind"] for path in metas}
    assert kinds_found == {"dataset", "anchor", "residual", "critic", "policy", "evaluation"}
    for path in metas:
        meta = json.loads(path.read_text())
        assert meta["params"] and set(meta) >= {"kind", "params", "inputs", "shapes"}
        if meta["kind"] not in ("dataset",):
            assert all(len(digest) == 32 for digest in meta["inputs"].values()) and meta["inputs"]
    text = "".join(path.read_text() for path in metas)
    assert str(base.folder) not in text and "run_id" not in text


def test_changing_tau_runs_only_that_rule_its_evaluation_and_the_report(clone):
    clone.set({"improvements.spar_mlp.tau": 0.5})
    assert clone.repro() == ["plan", f"self_imitation@{CELL}-spar_mlp-0-1", f"evaluate@{CELL}-spar_mlp-0-1", "report"]


def test_a_new_anchor_is_one_file_and_one_line_and_leaves_data_critic_and_old_cells_alone(clone):
    source = (clone.folder / "spar_core/anchors/mlp.py").read_text()
    (clone.folder / "spar_core/anchors/wide.py").write_text(source.replace("MLPAnchor", "WideAnchor"))
    line = '    "mlp": "spar_core.anchors.mlp:MLPAnchor",\n'
    clone.edit("spar_core/registry.py", line, line + '    "wide": "spar_core.anchors.wide:WideAnchor",\n')
    clone.set({"anchors.wide": {"steps": 10, "hidden": [8, 8]}})
    clone.study(anchors=["mlp", "wide"])
    ran = clone.repro()
    assert kinds(ran) == {"plan", "fit_bc", "fit_residual", "self_imitation", "evaluate", "report"}
    assert all("-wide" in stage for stage in ran if "@" in stage)
    assert any("/wide/" in key for key in clone.metrics())


def test_rules_that_are_asked_of_some_anchors_only_run_beside_the_product(clone):
    clone.set({"anchors.short": {**clone.params()["anchors"]["mlp"], "kind": "mlp", "steps": 10}})
    clone.study(anchors=["mlp", "short"], also={"anchors": ["short"], "improvements": ["awr"]})
    clone.repro()
    rules = {key.split("/")[4] for key in clone.metrics() if "/short/" in key}
    assert rules == {"anchor", "spar_mlp", "awr"}
    assert not any("/mlp/" in key and "/awr/" in key for key in clone.metrics())
    # The same cell as part of the product comes out of the cache.
    clone.study(anchors=["short"], improvements=["anchor", "spar_mlp", "awr"], also={"anchors": [], "improvements": []})
    assert kinds(clone.repro()) == {"plan", "report"}
    assert any("/short/" in key and "/awr/" in key for key in clone.metrics())


def test_rounds_run_beside_the_base_cells_and_rerun_none_of_them(clone):
    """The rule `anchor` corrects nothing, so that its policy is never refused for what the critic thinks of it."""
    rounds = [
        {"anchor": "mlp_round_1", "of": "mlp", "critic": "iql", "improvement": "anchor"},
        {"anchor": "mlp_round_2", "of": "mlp_round_1", "critic": "iql", "improvement": "anchor"},
    ]
    clone.borrow("evolving", "anchors", "mlp_round_1", "mlp_round_2")
    clone.set({"reanchoring.largest_share": 1.0, "reanchoring.states": 200})
    clone.study(improvements=["anchor"], rounds=rounds)
    base = {name: outs for name, outs in clone.lock().items() if "@" in name}
    ran = clone.repro(SPAR_WORKERS="2")
    made = ["fit_residual_round", "self_imitation_round", "evaluate_round"]
    assert kinds(ran) == {"plan", "reanchor", *made, "report"} and len(ran) == 2 + 2 * 4
    after = clone.lock()
    assert {name: after[name] for name in base} == base
    anchors = clone.folder / f"artifacts/anchor/{DATASET}"
    for number in (1, 2):
        decision = json.loads((anchors / f"mlp_round_{number}/0-1/decision.json").read_text())
        assert decision["round"] == number and [row["accepted"] for row in decision["seeds"]] == [True, True]
    page = (clone.folder / "reports/default/report.md").read_text()
    assert "### Rounds from anchor `mlp`, critic `iql`" in page and any("/mlp_round_2/" in k for k in clone.metrics())
    # One worker writes the same bytes.
    folder = anchors / "mlp_round_1/0-1"
    digest = digest_folder(folder)
    words = [word for axis, value in rounds[0].items() for word in (f"--{axis}", value)]
    shutil.rmtree(folder)
    command = ("python", "-m", "stages.reanchor", "--dataset", DATASET, *words, "--seeds", "0-1")
    clone.run(*command, SPAR_WORKERS="1")
    assert digest_folder(folder) == digest
    clone.set({"reanchoring.confidence": 0.9})
    assert changed(clone) == {name for name in ran if name.startswith("reanchor")}
    # A round that leaves takes its evaluations along, and what stays is up to date but for the report.
    clone.study(rounds=[])
    assert changed(clone) == {"report"}
    assert not (clone.folder / f"artifacts/evaluation/{DATASET}/mlp_round_1").exists()


def test_params_of_a_study_and_of_an_entry_reach_their_cells_and_leave_no_trace(clone):
    """Entering a study runs what its params concern, `dvc exp run -S` tries a value of it, and leaving it restores."""
    lists = {name: value for name, value in clone.params()["study"].items() if name != "name"}
    own = {"improvements": {"spar_mlp": {"tau": 0.5}}}
    (clone.folder / "studies/default.yaml").write_text(yaml.safe_dump(lists))
    (clone.folder / "studies/own.yaml").write_text(yaml.safe_dump({**lists, "params": own}))
    clone.run("python", "-m", "stages.study", "default")
    clone.commit()
    assert clone.repro() == ["plan"]
    before, lock = (clone.folder / "params.yaml").read_bytes(), clone.lock()
    entry = clone.folder / f"datasets/{DATASET}.yaml"
    plain = entry.read_text()
    entry.write_text(plain + "settings: {improvements: {spar_mlp: {latent_clip: 0.7}}}\n")
    clone.run("python", "-m", "stages.study", "own")
    cells = [f"{stage}@{CELL}-spar_mlp-0-1" for stage in ("self_imitation", "evaluate")]
    assert clone.repro() == ["plan", *cells, "report"]
    meta = clone.folder / f"artifacts/policy/{DATASET}/mlp/iql/spar_mlp/0-1/meta.json"
    found = json.loads(meta.read_text())["params"]["improvement"]
    plan = json.loads((clone.folder / "artifacts/plan.json").read_text())
    assert found == plan["settings"][DATASET]["improvements"]["spar_mlp"]
    assert (found["tau"], found["latent_clip"]) == (0.5, 0.7)
    page = (clone.folder / "reports/own/report.md").read_text()
    assert "(all others are at them), and what sets them if it is not params.yaml:" in page
    assert f"`latent_clip` = 0.7 (datasets/{DATASET}.yaml)" in page and "`tau` = 0.5 (the study)" in page
    clone.run("dvc", "exp", "run", "-S", "study.params.improvements.spar_mlp.tau=0.3")
    assert json.loads(meta.read_text())["params"]["improvement"]["tau"] == 0.3
    clone.run("git", "checkout", "params.yaml")
    entry.write_text(plain)
    assert (clone.folder / "params.yaml").read_bytes() == before
    assert clone.repro() == ["plan", "report"], "the cells come back from the cache"
    assert clone.lock() == lock
    assert "(the study)" not in (clone.folder / "reports/default/report.md").read_text()


def test_times_stay_out_of_every_output(clone):
    clone.run("python", "-m", "stages.cost")
    lines = (clone.folder / "reports/default/cost.csv").read_text().splitlines()
    assert len(lines) == 3 and all(line.count(",") == lines[0].count(",") for line in lines)
    assert "" not in lines[1].split(","), "every stage has left its time"
    assert clone.repro() == ["plan"], "times are nobody's dependency"


def test_an_edit_reruns_exactly_the_cells_whose_imports_reach_it(clone):
    clone.edit("spar_core/critics/calibration.py", "BEST_SHARE = 0.1", "BEST_SHARE = 0.2")
    stages = changed(clone)
    # Acting with the critic imports its module too, so the cells that load it follow; anchor and data do not.
    assert kinds(stages) == {"fit_critic", "self_imitation", "evaluate"}
    clone.edit("spar_core/critics/calibration.py", "BEST_SHARE = 0.2", "BEST_SHARE = 0.1")
    assert changed(clone) == set()
    clone.edit(
        "spar_core/improvement/spar_mlp.py", "- targets.correction / radius", "- 0.5 * targets.correction / radius"
    )
    assert changed(clone) == {f"self_imitation@{CELL}-spar_mlp-0-1", f"evaluate@{CELL}-spar_mlp-0-1"}


def test_editing_logging_progress_plots_or_docs_retrains_nothing(clone):
    clone.edit("stages/progress.py", "10.0", "11.0")
    clone.edit("stages/tracking/live.py", "_FLUSH_SECONDS = 5.0", "_FLUSH_SECONDS = 6.0")
    clone.edit("spar_core/anchors/mlp.py", "Deterministic behaviour cloning.", "Cloning by regression.")
    (clone.folder / "README.md").write_text("new words")
    assert changed(clone) == set()
    with (clone.folder / "spar_core/reporting/figures/figures.py").open("a") as file:
        file.write("\n\nNEW = 1\n")
    assert changed(clone) == {"report"}


def test_rewording_a_dataset_entry_retrains_nothing(clone):
    clone.edit(f"datasets/{DATASET}.yaml", "title: HalfCheetah", "title: The cheetah")
    assert clone.repro() == ["plan"]


def test_a_param_of_one_rule_leaves_the_others_alone_even_where_variants_share_a_kind(clone):
    clone.study(improvements=["anchor", "spar_mlp", "uniform"])
    clone.repro()
    clone.set({"improvements.uniform.tau": 0.7})
    assert changed(clone) == {f"self_imitation@{CELL}-uniform-0-1"}


def test_a_shrunk_study_reports_no_stale_cell(clone):
    clone.study(improvements=["anchor"])
    assert clone.repro() == ["plan", "report"]
    assert not any("spar_mlp" in key for key in clone.metrics())
    assert not (clone.folder / f"artifacts/evaluation/{DATASET}/mlp/iql/spar_mlp").exists()
    clone.study(improvements=["anchor", "spar_mlp"])
    assert "self_imitation" not in kinds(clone.repro()), "a cell that comes back is restored, not trained"
    assert any("spar_mlp" in key for key in clone.metrics())


def test_a_new_seed_group_keeps_the_old_one(clone):
    clone.study(seeds=["0-1", "2"])
    ran = clone.repro()
    assert all(stage.endswith("-2") for stage in ran if "@" in stage) and len(ran) == 9


@pytest.mark.slow
def test_two_clones_and_any_number_of_workers_give_equal_digests(tmp_path):
    locks = []
    for name, workers in (("a", "2"), ("b", "1")):
        clone = Clone(tmp_path / name)
        clone.study(improvements=["uniform", "spar_mlp", "spar_proj", "awr", "best_of_n"], seeds=["0-3"])
        clone.repro(SPAR_WORKERS=workers)
        locks.append(clone.lock())
    assert locks[0] == locks[1] and len(locks[0]) == 17


def test_dvc_metrics_plots_dag_and_experiments_work(clone):
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json").stdout)
    assert any("return_mean" in key for key in shown[""]["data"]["reports/default/metrics.json"]["data"])
    html = clone.run("dvc", "plots", "show", "-o", "plots").stdout
    assert "index.html" in html
    page = (clone.folder / "plots/index.html").read_text()
    assert page.count('<img src="static/') > 2 and "http" not in page, "it shows figures without a network"
    assert "self_imitation" in clone.run("dvc", "dag", "--mermaid").stdout
    described = clone.run("dvc", "stage", "list").stdout
    assert "Clone the behaviour" in described
    clone.run("dvc", "exp", "run", "-S", "improvements.spar_mlp.tau=0.5")
    rows = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    assert any(row.get("experiments") for row in rows)
    assert yaml.safe_load((clone.folder / "params.yaml").read_text())["improvements"]["spar_mlp"]["tau"] == 0.5


def test_publish_fills_mlflow_from_artifacts_without_duplicates(clone):
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{clone.folder}/mlflow.db"}
    first = clone.run("python", "-m", "stages.tracking.publish", **environment).stdout
    assert "10 runs present, 10 added" in first, first
    second = clone.run("python", "-m", "stages.tracking.publish", **environment).stdout
    assert "10 runs present, 0 added" in second, second


def test_a_killed_stage_leaves_nothing_behind(clone):
    clone.set({"anchors.mlp.steps": 1_000_000})
    out = clone.folder / f"artifacts/anchor/{DATASET}/mlp/5"
    command = [sys.executable, "-m", "stages.fit_bc", "--dataset", DATASET, "--anchor", "mlp", "--seeds", "5"]
    process = subprocess.Popen(command, cwd=clone.folder, env=clone.environment, stderr=subprocess.PIPE, text=True)
    time.sleep(5)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study.anchors": ["mpl"]}, "params.yaml has no anchor 'mpl'; did you mean 'mlp'?"),
        ({"study.datasets": ["builtin/halfcheetah-replay-v1"]}, "did you mean 'builtin/halfcheetah-replay-v0'?"),
        ({"study.seeds": ["0-1", "1-2"]}, "seed 1 is listed twice"),
        ({"anchors.mlp.learning_rat": 0.1}, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"residuals": {}}, "unknown section 'residuals'; did you mean 'residual'?"),
        ({"improvements.spar_mlp.tau": -1}, "tau = -1 is not valid"),
        ({"reanchoring.largest_shar": 0.1}, "unknown key 'largest_shar'; did you mean 'largest_share'?"),
    ],
)
def test_bad_params_stop_the_pipeline_with_one_line(clone, change, said):
    clone.set(change)
    result = clone.run("python", "-m", "stages.plan", ok=False)
    assert result.returncode == 1
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
    before = (clone.folder / "dvc.lock").read_bytes()
    assert clone.run("dvc", "repro", ok=False).returncode != 0
    assert (clone.folder / "dvc.lock").read_bytes() == before


def test_help_of_every_stage_says_what_it_reads_and_writes():
    for stage in ("download", "fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate", "report", "plan"):
        text = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}", "--help"],
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert len(text) > 150, stage
