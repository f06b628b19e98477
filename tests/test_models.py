"""Policies as MLflow models: logged from artifacts, registered by the report, and served by MLflow's own server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request

import numpy as np
import pandas
import pytest
from mlflow.exceptions import MlflowException

from spar_core import load_policy
from spar_core.artifacts import digest_folder, write_meta
from spar_core.errors import SparError
from spar_core.policy import KIND
from stages.layout import Layout
from stages.tracking.models import ROOT, requirements, write_model
from stages.tracking.publish import publish, summary
from stages.tracking.published import Key
from stages.tracking.registered import _as_default, choose, registered_name
from stages.tracking.store import Store
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, kinds
from tests.mlflow_project import (
    BIN,
    DATASET,
    SCALER,
    STUDY,
    aliases_of,
    all_runs,
    free_port,
    make_project,
    snapshot,
    start,
    stop,
    tiny_policy,
    wait_for,
    write_table,
)

pytest_plugins = ["tests.mlflow_fixtures"]

NAME = "builtin.toy-v0"
RAW = np.random.default_rng(0).normal(0, 3, (7, OBSERVATION_SIZE)).astype(np.float32)


def policy(folder, kind="spar_mlp", seeds=(0, 1)):
    folder.mkdir(parents=True)
    for name, content in tiny_policy(kind, seeds).items():
        (folder / name).write_bytes(content)
    write_meta(folder, KIND, params={}, inputs={})
    return folder


def load(folder):
    import mlflow

    return mlflow.pyfunc.load_model(str(folder))


# --- the files ---


def test_a_model_holds_what_acting_needs_and_no_pickle(tmp_path):
    artifact = policy(tmp_path / "0-1")
    model = write_model(tmp_path / "work", [artifact], model_id="m-1", run_id="r-1")
    files = [path for path in model.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".json", ".yaml", ".txt", ".safetensors", ""}
    for path in files:
        content = path.read_bytes()
        # What pickles of protocol 2 and above, and the zip files that Torch pickles into, begin with.
        assert not content.startswith((b"\x80", b"PK")), path
        assert b"cloudpickle" not in content or path.name == "MLmodel"
        assert str(tmp_path).encode() not in content and str(ROOT).encode() not in content, path
    assert "python_model:" not in (model / "MLmodel").read_text(), "a pickled object"
    assert digest_folder(model / "artifacts" / "0-1") == digest_folder(artifact)
    assert not list(model.rglob("__pycache__"))


def test_a_model_is_served_with_the_pins_of_the_project_and_no_others(tmp_path):
    model = write_model(tmp_path / "work", [policy(tmp_path / "0-1")])
    lines = (model / "requirements.txt").read_text().split()
    names = [line.split("==")[0] for line in lines]
    assert sorted(names) == ["mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch"]
    assert set(lines) <= set((ROOT / "requirements.txt").read_text().splitlines())


def test_an_onnx_anchor_needs_onnxruntime(tmp_path):
    artifact = policy(tmp_path / "0-1")
    description = json.loads((artifact / "policy.json").read_text())
    description["parts"]["anchor"]["settings"]["onnx"] = "policies/mine.onnx"
    (artifact / "policy.json").write_text(json.dumps(description))
    assert [line for line in requirements([artifact]) if line.startswith("onnxruntime==")]


def test_signature_and_example_say_what_goes_in_and_out(tmp_path):
    groups = [policy(tmp_path / "4-5", seeds=(4, 5)), policy(tmp_path / "0-1")]
    model = load(write_model(tmp_path / "work", groups))
    signature = model.metadata.signature
    # A schema of the input would refuse all types of numbers but one.
    assert signature.inputs is None
    assert (
        model.metadata.metadata["input"]
        == f"a batch of raw observations [B, {OBSERVATION_SIZE}], of any type of numbers"
    )
    assert str(signature.outputs) == f"[Tensor('float32', (-1, {ACTION_SIZE}))]"
    assert [(p.name, p.default) for p in signature.params.params] == [("seed", -1)], "the committee"
    assert np.array_equal(model.input_example, SCALER.observation_mean[None])


def test_a_loaded_model_acts_as_the_policy_for_every_seed_of_every_group(tmp_path):
    groups = [policy(tmp_path / "4-5", seeds=(4, 5)), policy(tmp_path / "0-1")]
    model = load(write_model(tmp_path / "work", groups))
    assert np.array_equal(model.predict(RAW), load_policy(groups[0]).act(RAW))
    for same in (RAW.astype(np.float64), RAW.astype(np.float64).tolist(), pandas.DataFrame(RAW)):
        assert np.array_equal(model.predict(same), load_policy(groups[0]).act(RAW))
    whole = np.arange(OBSERVATION_SIZE)
    assert np.array_equal(model.predict(whole), load_policy(groups[0]).act(whole)), "one observation, of integers"
    for wrong in (RAW[:, :4], RAW * np.nan, [["a"] * OBSERVATION_SIZE], [[0.0], [0.0, 1.0]]):
        with pytest.raises(MlflowException) as error:
            model.predict(wrong)
        assert error.value.error_code == "INVALID_PARAMETER_VALUE"
    for folder, seeds in zip(groups, [(4, 5), (0, 1)], strict=True):
        for seed in seeds:
            assert np.array_equal(model.predict(RAW, params={"seed": seed}), load_policy(folder, seed).act(RAW))
    with pytest.raises(Exception, match="no seed 7; it holds 4, 5, 0, 1"):
        model.predict(RAW, params={"seed": 7})


ALONE = """
    import sys
    import numpy as np

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("stages", "tests", "mlflow", "dvc", "minari", "gymnasium", "pandas", "scipy"):
                raise ImportError(name)

    sys.meta_path.insert(0, Refuse())
    observations = np.load(sys.argv[1])
    for model in sys.argv[2:]:
        for name in [name for name in sys.modules if name.split(".")[0] == "spar_core"]:
            del sys.modules[name]
        sys.path[0] = f"{model}/code"
        import spar_core
        assert spar_core.__file__.startswith(model)
        np.save(f"{model}.npy", spar_core.load_policy(f"{model}/artifacts/0-1").act(observations))
"""


def test_the_code_in_a_model_is_enough_for_every_rule(tmp_path):
    models = {}
    for kind in kinds("improvement"):
        work = tmp_path / "work" / kind
        models[kind] = write_model(work, [policy(tmp_path / kind / "0-1", kind)])
    np.save(tmp_path / "raw.npy", RAW)
    command = [sys.executable, "-c", textwrap.dedent(ALONE), tmp_path / "raw.npy", *models.values()]
    done = subprocess.run(
        [*map(str, command)], cwd=tmp_path, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    for kind, model in models.items():
        assert np.array_equal(np.load(f"{model}.npy"), load_policy(tmp_path / kind / "0-1").act(RAW)), kind


# --- logged and registered ---


def test_a_project_in_a_folder_of_any_name_is_published_there_and_nowhere_else(tmp_path, fresh_store, environment):
    root = tmp_path / "a b#c?50%[d]"
    layout = make_project(root)
    shutil.copy(fresh_store, root / "mlflow.db")
    assert publish(STUDY, layout).models_added == 2
    assert [path.name for path in tmp_path.iterdir()] == [root.name], "nothing is made outside"
    store = Store(root)
    version = store.client.get_model_version_by_alias(NAME, "champion")
    with _as_default(store.uri):
        model = load(f"models:/{NAME}@champion")
    saved = layout.artifact("policy", DATASET, "mlp", "iql", version.tags["improvement"], "0-1")
    assert np.array_equal(model.predict(RAW), load_policy(saved).act(RAW))
    assert publish(STUDY, layout).added == 0 and [path.name for path in tmp_path.iterdir()] == [root.name]


def test_every_result_has_one_model_with_tags_that_find_it(layout):
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.active_run()
    tally = publish(STUDY, layout)
    assert (tally.models, tally.models_added) == (2, 2) and "2 models, 2 added" in summary(tally, layout.root)
    assert (mlflow.get_tracking_uri(), mlflow.active_run()) == before, "the process's own state is not ours"
    store = Store(layout.root)
    experiment = store.experiment(DATASET)
    (model,) = store.client.search_logged_models([experiment], "tags.improvement = 'spar_mlp' AND tags.anchor = 'mlp'")
    assert model.name == "spar_mlp mlp iql" and model.tags["spar.study"] == "small" and model.tags["critic"] == "iql"
    assert model.params == {"seeds": "0, 1", "observation_size": str(OBSERVATION_SIZE), "action_size": str(ACTION_SIZE)}
    (result,) = [run for run in all_runs(layout) if run.info.run_id == model.source_run_id]
    assert result.info.run_name == "result spar_mlp mlp iql"
    assert {metric.key: metric.value for metric in model.metrics} == result.data.metrics
    assert model.metrics[0].dataset_name == DATASET

    # Nothing changes where nothing changed; a study that shares the rules adds its name.
    found = snapshot(layout)
    assert publish(STUDY, layout).models_added == 0 and snapshot(layout) == found
    wide = STUDY.model_copy(update={"name": "wide"})
    assert publish(wide, layout).models_added == 0
    assert store.client.get_logged_model(model.model_id).tags["spar.study"] == "small, wide"
    # It has no report, and so no say in the registry.
    assert snapshot(layout)["aliases"] == found["aliases"]


def test_aliases_follow_the_report(layout):
    client = Store(layout.root).client
    publish(STUDY, layout)
    first = snapshot(layout)
    assert first["aliases"] == aliases_of(champion="1", anchor="2")
    champion = client.get_model_version_by_alias(NAME, "champion")
    assert champion.tags["improvement"] == "spar_mlp" and champion.tags["return_low"] == "9.5"
    assert "interval [9.5, 13.5], in study `small`" in champion.description
    model = client.get_registered_model(NAME)
    assert model.tags == {"dataset": DATASET, "spar.study": "small", "spar.champion_study": "small"}
    assert f"models:/{NAME}@champion" in model.description and "no seed was selected" in model.description

    # A higher mean with a wider interval is no better.
    write_table(layout, STUDY, {"anchor": "1.5,0.5,2.5,,,", "spar_mlp": "11.5,0.1,22.9,10.0,-1.4,21.4"})
    publish(STUDY, layout)
    moved = snapshot(layout)
    assert moved["aliases"] == aliases_of(champion="2", anchor="2") and set(moved["versions"]) == set(first["versions"])

    # No interval any more: no champion.
    write_table(layout, STUDY, {"anchor": "1.5,,,,,", "spar_mlp": "11.5,,,10.0,,"})
    tally = publish(STUDY, layout)
    assert snapshot(layout)["aliases"] == aliases_of(anchor="2")
    assert summary(tally, layout.root).startswith(f"note: no champion of {DATASET}: the report has no interval")


def test_a_study_of_one_seed_leaves_the_champion_of_another_alone(layout):
    """Its report has no intervals, so it has an anchor and no champion; publishing it again changes nothing."""
    publish(STUDY, layout)
    brief = STUDY.model_copy(update={"name": "brief/one"})
    layout.report(brief.name).mkdir(parents=True)
    write_table(layout, brief, {"anchor": "1.5,,,,,", "spar_mlp": "21.5,,,20.0,,"})
    tally = publish(brief, layout)
    found = snapshot(layout)
    assert found["aliases"] == [{**aliases_of(champion="1", anchor="2")[0], "anchor-brief--one": "2"}]
    assert f"the aliases 'champion' and 'anchor' of {DATASET} stay those of study 'small'" in tally.notes
    text = Store(layout.root).client.get_registered_model(NAME).description
    assert "`champion` and `anchor` are those of study `small`" in text
    assert "- `champion`: `spar_mlp` on `mlp` and `iql`" in text and "- `anchor-brief--one`: `anchor` on `mlp`" in text
    publish(brief, layout)
    assert snapshot(layout) == found and Store(layout.root).client.get_registered_model(NAME).description == text

    # With intervals it takes them over, and each study keeps its own.
    write_table(layout, brief, {"anchor": "1.5,0.5,2.5,,,", "spar_mlp": "1.2,0.1,2.3,-0.3,-1.0,0.4"})
    publish(brief, layout)
    held = {"champion": "2", "anchor": "2", "champion-small": "1", "anchor-small": "2"}
    assert snapshot(layout)["aliases"] == [{**held, "champion-brief--one": "2", "anchor-brief--one": "2"}]


def test_a_store_of_before_names_the_study_of_its_aliases(layout):
    publish(STUDY, layout)
    client = Store(layout.root).client
    client.delete_registered_model_tag(NAME, "spar.champion_study")
    brief = STUDY.model_copy(update={"name": "brief"})
    layout.report(brief.name).mkdir(parents=True)
    write_table(layout, brief, {"anchor": "1.5,,,,,", "spar_mlp": "21.5,,,20.0,,"})
    publish(brief, layout)
    publish(brief, layout)
    assert client.get_model_version_by_alias(NAME, "champion").version == 1


def test_without_a_report_nothing_is_registered_and_publish_says_so(layout):
    shutil.rmtree(layout.report("small"))
    tally = publish(STUDY, layout)
    assert tally.models_added == 2 and snapshot(layout)["versions"] == {} and snapshot(layout)["aliases"] == []
    assert tally.notes == ["no report of study 'small', so no model is registered: run `dvc repro`, then publish again"]


def test_a_policy_that_changed_is_a_new_version(layout, fresh_store):
    publish(STUDY, layout)
    first = snapshot(layout)
    folder = layout.artifact("policy", DATASET, "mlp", "iql", "spar_mlp", "0-1")
    for name, content in tiny_policy("spar_proj").items():
        (folder / name).write_bytes(content)
    episodes = layout.artifact("evaluation", DATASET, "mlp", "iql", "spar_mlp", "0-1") / "episodes.csv"
    episodes.write_text(episodes.read_text().replace(",5,True", ",6,True"))
    assert publish(STUDY, layout).models_added == 1
    found = snapshot(layout)
    assert found["aliases"] == aliases_of(champion="3", anchor="2")
    assert {v: found["versions"][v][0] for v in first["versions"]} == {v: t[0] for v, t in first["versions"].items()}


def test_the_champion_has_the_best_lower_end_and_the_anchor_is_of_its_setting():
    keys = [Key("d", a, c, i) for a in ("flow", "mlp") for c in ("iql", "cql") for i in ("anchor", "awr")]
    models = {key: object() for key in keys}
    rows = {key: {"return_low": str(10 + i), "return_mean": str(100 - i)} for i, key in enumerate(keys)}
    assert choose(rows, models) == {"champion": keys[-1], "anchor": Key("d", "mlp", "cql", "anchor")}
    rows[keys[-1]]["return_low"] = ""  # no interval
    assert choose(rows, models)["champion"] == keys[-2]
    del models[keys[-2]]
    assert choose(rows, models)["champion"] == keys[-3], "what has no model has no alias"
    assert choose({key: {"return_low": ""} for key in keys}, models) == {"anchor": Key("d", "flow", "iql", "anchor")}
    assert registered_name("a/b-c/d-v0") == "a.b-c.d-v0"


# --- served ---


def ask(port: int, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_mlflow_serves_the_champion_with_the_actions_of_the_saved_policy(layout: Layout):
    publish(STUDY, layout)
    port, log = free_port(), layout.root / "log"
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{layout.root / 'mlflow.db'}"}
    command = [BIN / "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    # Not from within the repository: the code has to come from the model.
    process = start([*command, "--port", port, "--workers", 1], log, cwd=layout.root, environment=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        saved = layout.artifact("policy", DATASET, "mlp", "iql", "spar_mlp", "0-1")
        for body, seed in (({"inputs": RAW.tolist()}, None), ({"inputs": RAW.tolist(), "params": {"seed": 1}}, 1)):
            status, answer = ask(port, body)
            actions = np.asarray(answer["predictions"], np.float32)
            assert status == 200 and np.array_equal(actions, load_policy(saved, seed).act(RAW))
        assert not np.array_equal(load_policy(saved, 0).act(RAW), load_policy(saved, 1).act(RAW))
        status, answer = ask(port, {"inputs": RAW[:, :4].tolist()})
        assert status == 400 and "observation of shape (7, 4) given; this policy takes [5]" in answer["message"]
        status, answer = ask(port, {"inputs": RAW.tolist(), "params": {"seed": 7}})
        assert status == 400 and "no seed 7; it holds 0, 1" in answer["message"]
    finally:
        stop(process)


def test_a_list_that_does_not_pin_what_is_served_is_one_clear_line(tmp_path, monkeypatch):
    from stages.tracking import models

    (tmp_path / "requirements.txt").write_text("numpy==2.4.6\n")
    monkeypatch.setattr(models, "ROOT", tmp_path)
    with pytest.raises(SparError, match=r"requirements\.txt does not pin torch"):
        requirements([policy(tmp_path / "0-1")])


def test_a_project_made_here_is_whole(tmp_path):
    assert load_policy(make_project(tmp_path).artifact("policy", DATASET, "mlp", "iql", "anchor", "0-1")).act(
        RAW
    ).shape == (7, 3)
