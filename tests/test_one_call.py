"""SPAR in one call: it reads what users have, gives the bytes of the pipeline, and leaves nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import spar_core
from spar_core.artifacts import digest_file
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.one_call.call import external
from spar_core.one_call.data import read, source_of
from spar_core.one_call.places import AXES, Places
from spar_core.one_call.settings import budgets, default_params, settings_for_call
from spar_core.params import layers_of, merge, over
from spar_core.registry import FAMILIES, parse_variant
from spar_core.reporting.numbers.verdict import Decision
from spar_core.settings import load_yaml
from spar_core.study import EvaluationCell
from stages.table import place
from tests.fakes import ROOT
from tests.pipeline import run_cells
from tests.test_no_environment import write_logs

DATASET, SEEDS, RULE = "mine/logs-v0", "0-1", "spar_mlp"
SMALL = {"steps": 30, "hidden": [16, 16]}
TINY = {
    "anchors": {"mlp": SMALL},
    "residual": SMALL,
    "critics": {"iql": {**SMALL, "warm_start_steps": 20}},
    "improvements": {name: {**SMALL, "states": 100, "candidates": 4} for name in ("uniform", RULE)},
    "estimation": {"states": 100, "fqe": {"steps": 20, "hidden": [16, 16], "transitions": 200}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with logs, in which the pipeline's stages and one call have run."""
    folder = tmp_path_factory.mktemp("one-call")
    write_logs(folder / "logs")
    entry = folder / "datasets/mine/logs-v0.yaml"
    entry.parent.mkdir(parents=True)
    entry.write_text("title: logs\nsource: npz\npath: logs\nnot_evaluated: no environment is named\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(over(load_yaml(ROOT / "params.yaml"), TINY)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPAR_WORKERS", "1")
        patch.setenv("SPAR_TRACKING", "off")
        run_cells(DATASET, ("anchor", "uniform", RULE), SEEDS, estimated=True)
        spar_core.improve("logs", anchor="mlp", rule=RULE, seeds=2, params=TINY, name=DATASET, out="result")
    return folder


@pytest.fixture
def result(folder):
    return spar_core.load_result(folder / "result")


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "seconds")
    return {path.relative_to(root).as_posix(): digest_file(path) for path in files}


# --- what a call gives ---


def test_a_call_writes_the_bytes_of_the_pipeline(folder):
    theirs, ours = digests(folder / "artifacts"), digests(folder / "result/artifacts")
    assert ours == theirs
    kinds = {name.split("/")[0] for name in ours}
    assert kinds == {"minari", *AXES}


def test_artifacts_lie_where_the_pipeline_lays_them():
    cell = EvaluationCell("mine/a-v0", "mlp", "iql", "auto", "0-3")
    for kind in AXES:
        assert Places(Path("x")).folder(kind, cell) == Path("x/artifacts") / place(kind, cell)


def test_without_an_environment_the_verdict_says_that_it_rests_on_estimates(result):
    assert result.verdict.verdict.decision in (Decision.TRY, Decision.OPEN, Decision.KEEP)
    assert "Nothing was rolled out" in str(result.verdict)
    assert str(result).splitlines()[0].startswith(f"{DATASET}, anchor mlp, critic iql: ")
    assert {line.part for line in result.health} >= {"anchor", "critic", "residual model", "data"}


def test_the_policy_is_the_one_that_the_verdict_names(result):
    named = result.verdict.verdict.rule if result.verdict.policy else "anchor"
    assert result.rule == named
    batch = np.random.default_rng(0).normal(size=(5, 3))
    ours = spar_core.load_policy(result.folder_of(named)).act(batch)
    assert np.array_equal(result.policy.act(batch), ours) and result.policy.members == 2
    assert result.policy_of(RULE, seed=1).act(batch[0]).shape == (2,)
    with pytest.raises(SparError, match="there is no rule 'spar_mpl' here; did you mean 'spar_mlp'"):
        result.policy_of("spar_mpl")


def test_a_result_is_reported_and_exported(result, tmp_path):
    page = result.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!DOCTYPE html>") and result.verdict.headline in page.read_text()
    assert "Runs in MLflow" not in page.read_text()
    folder = result.report(tmp_path / "report")
    assert {"report.md", "returns.csv", "figures"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(SparError, match="report exists; name a new folder"):
        result.report(folder)
    exported = result.export(tmp_path / "policy.pt", "torch", rule=RULE, distance=True)
    assert exported.path.is_file() and exported.description["dataset"] == DATASET
    assert exported.description["outputs"][0] == "actions" and len(exported.description["outputs"]) > 1


def test_a_result_without_a_folder_lives_as_long_as_it_is_held(folder, monkeypatch):
    monkeypatch.chdir(folder)
    made = spar_core.improve("logs", rule="anchor", seeds="1", params=TINY)
    where = made.folder
    assert made.rules == ("anchor", "uniform") and made.policy.members == 1 and where.is_dir()
    del made
    assert not where.exists()


def test_with_an_environment_policies_are_rolled_out(folder, tmp_path):
    made = spar_core.improve(
        folder / "logs",
        rule="anchor",
        seeds=2,
        params={**TINY, "evaluation": {"episodes": 2}},
        env_id="tests.toy_envs:Toy-v0",
        entry={"env_kwargs": {"max_episode_steps": 40}, "data_env_id": "Toy-v0"},
        out=tmp_path / "result",
    )
    verdict = made.verdict.verdict
    assert (verdict.unit, verdict.units, verdict.anchor) == ("episodes", 2, 40.0)
    assert "rolled out" not in str(made.verdict)


# --- what it takes ---


def flat(folder: Path) -> dict[str, np.ndarray]:
    """The episodes of a folder as arrays over all steps."""
    parts = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    ends = [np.arange(len(part["rewards"])) == len(part["rewards"]) - 1 for part in parts]
    return {
        "observations": np.concatenate([part["observations"][:-1] for part in parts]),
        "next_observations": np.concatenate([part["observations"][1:] for part in parts]),
        "actions": np.concatenate([part["actions"] for part in parts]),
        "rewards": np.concatenate([part["rewards"] for part in parts]),
        "terminals": np.concatenate([end & bool(part["terminated"]) for part, end in zip(parts, ends, strict=True)]),
        "timeouts": np.concatenate([end & ~bool(part["terminated"]) for part, end in zip(parts, ends, strict=True)]),
    }


def episodes(folder: Path) -> list[dict]:
    """The same in Minari's form."""
    found = []
    for number, path in enumerate(sorted(folder.glob("*.npz"))):
        part = dict(np.load(path))
        end = np.arange(len(part["rewards"])) == len(part["rewards"]) - 1
        flags = {"terminations": end & bool(part["terminated"]), "truncations": end & ~bool(part["terminated"])}
        kept = {name: part[name] for name in ("observations", "actions", "rewards")}
        found.append({"id": number, "seed": None, "infos": {"x": end}, **kept, **flags})
    return found


@pytest.mark.parametrize("form", ["folder", "arrays", "episodes", "objects", "npz", "hdf5"])
def test_every_form_holds_the_same_episodes(folder, tmp_path, form):
    logs = folder / "logs"
    if form == "folder":
        given = logs
    elif form == "arrays":
        given = flat(logs)
    elif form == "npz":
        given = tmp_path / "mine.npz"
        np.savez(given, **flat(logs))
    elif form == "hdf5":
        given = tmp_path / "mine.hdf5"
        with h5py.File(given, "w") as file:
            for name, values in flat(logs).items():
                file[name] = values
    else:
        given = episodes(logs)
        if form == "objects":
            given = [type("EpisodeData", (), {})() for _ in given]
            for one, values in zip(given, episodes(logs), strict=True):
                vars(one).update(values)
    found = read(source_of(given, tmp_path, DATASET))
    manifest = found.prepared.manifest
    assert manifest["digest"] == load_yaml(folder / "artifacts/data/mine/logs-v0/manifest.json")["digest"]
    assert (manifest["terminated_episodes"], manifest["truncated_episodes"]) == (4, 8)
    assert found.lines()[0].startswith(f"{DATASET}: 306 steps in 12 episodes")


def test_ids_come_from_paths(folder, tmp_path):
    shutil.copytree(folder / "logs", tmp_path / "My Robot_2")
    assert source_of(tmp_path / "My Robot_2", tmp_path).dataset == "mine/my-robot_2-v0"
    assert source_of("D4RL/pen/human-v2", tmp_path).dataset == "d4rl/pen/human-v2"


def test_a_function_is_a_policy():
    from tests import external_policy

    assert external(external_policy.act) == {"kind": "external", "callable": "tests.external_policy:act"}
    assert external("mine:act") == {"kind": "external", "callable": "mine:act"}
    with pytest.raises(SparError, match="is not a function at the top of a module"):
        external(lambda observations: observations)


WRONG = {
    "budget": ({"budget": "qick"}, "there is no budget 'qick'; did you mean 'quick'"),
    "rule": ({"rule": "spar_mpl"}, "there is no improvement 'spar_mpl'; did you mean 'spar_mlp'"),
    "anchor": ({"anchor": "external"}, "there is no anchor 'external'"),
    "setting": ({"params": {"critics": {"iql": {"stesp": 1}}}}, "params, critic 'iql': unknown key 'stesp'; did you"),
    "section": ({"params": {"critic": {}}}, "params: unknown section 'critic'; did you mean 'critics'"),
    "study": ({"params": {"study": {}}}, "params: a call has no study"),
    "seeds": ({"seeds": 0}, "seeds=0 is not a number of seeds"),
    "group": ({"seeds": "3-0"}, "seed group '3-0' is not valid"),
    "policy": ({"policy": "none.onnx"}, "none.onnx does not exist; give an ONNX file"),
    "workers": ({"workers": 0}, "workers=0 is not a number of processes"),
    "entry": ({"entry": {"action_lwo": 1}}, "entry: unknown key 'action_lwo'; did you mean 'action_low'"),
    "settings": ({"entry": {"settings": {}}}, "'settings' has no effect here; give these settings as params"),
    "bounds": ({"entry": {"action_high": 0.5}}, "action"),
    "name": ({"name": "Mine"}, "'Mine' is not a dataset id"),
    "folder": ({"dataset": "lgos"}, "lgos does not exist; give a file, a folder, or a Minari id"),
    "kind": ({"dataset": 3}, "data of type int cannot be read"),
    "nothing": ({"dataset": []}, "the list of episodes is empty"),
    "array": ({"dataset": [{"observations": [[0.0]], "actions": [[0.0]]}]}, "episode 0 has no array 'rewards'"),
    "dictionary": (
        {"dataset": [{"observations": {"a": [[0.0]]}, "actions": [[0.0]], "rewards": [0.0]}]},
        "episode 0: 'observations' is a dictionary of a; join its arrays",
    ),
    "text": (
        {"dataset": {"observations": [["a"]], "actions": [[0.0]], "rewards": [0.0]}},
        "the data: 'observations' holds <U1, not numbers",
    ),
    "ragged": (
        {"dataset": {"observations": [[0.0], [0.0, 1.0]], "actions": [[0.0]], "rewards": [0.0]}},
        "the data: the rows of 'observations' differ in length",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch, fault):
    values, message = WRONG[fault]
    shutil.copytree(folder / "logs", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparError, match=message) as caught:
        spar_core.improve(**{"dataset": "logs", "out": "result", **values})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_result_is_never_replaced(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = digests(folder / "result")
    with pytest.raises(SparError, match="result exists; remove it, or name another folder"):
        spar_core.improve("logs", params=TINY, out="result")
    assert digests(folder / "result") == before
    with pytest.raises(SparError, match="logs holds no result of `spar improve`"):
        spar_core.load_result("logs")


# --- settings ---


def test_the_defaults_are_those_of_params_yaml():
    theirs = merge(layers_of(load_yaml(ROOT / "params.yaml")))
    for family in FAMILIES:
        section = f"{family}s"
        ours = settings_for_call("default", {}, {})[section]
        for name in default_params()[section]:
            assert parse_variant(family, ours, name) == parse_variant(family, theirs[section], name), name
    assert EvaluationSettings(**theirs["evaluation"]) == EvaluationSettings()


@pytest.mark.parametrize("budget", ["quick", "default", "paper"])
def test_a_budget_suits_every_member(budget):
    assert set(budgets()) == {"quick", "default", "paper"}
    params = settings_for_call(budget, {}, {})
    steps = {name: parse_variant("anchor", params["anchors"], name)[1] for name in ("mlp", "flow")}
    wanted = {"quick": 1000, "default": 6000, "paper": 1_000_000}[budget]
    assert {settings.steps for settings in steps.values()} == {wanted}
    # The caller's settings lie over the budget's, and reach the same variants as in params.yaml.
    own = settings_for_call(budget, {"anchors": {"mlp": {"steps": 7}}}, {"anchor": "committee"})
    assert own["anchors"]["mlp"]["steps"] == own["anchors"]["committee"]["member"]["steps"] == 7
    own = settings_for_call(budget, {"improvements": {"spar_mlp": {"tau": 7.0}}}, {})["improvements"]
    assert own["auto"]["candidates"]["spar_mlp"]["tau"] == 7.0 and own["uniform"]["tau"] == 0.3


def test_the_budget_of_the_paper_is_that_of_its_study():
    study = load_yaml(ROOT / "studies/paper.yaml")["params"]
    assert over(budgets()["paper"], study) == budgets()["paper"]
