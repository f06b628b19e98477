"""``python -m stages.export`` in a project of one small dataset."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest

from spar_core import export_policy as exporting
from spar_core import load_policy
from spar_core.artifacts import digest_folder, write_meta
from spar_core.errors import SparError
from spar_core.export_formats import DESCRIPTION
from spar_core.policy import KIND
from stages import download, export
from stages.datasets import dataset_of
from stages.layout import Layout
from tests.fakes import fit_parts, save_rule

LOGS = "mine/logs-v0"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy in a project, which is the working directory."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    (root / "logs").mkdir()
    for episode in range(12):
        steps = 20 + episode
        logged = {"observations": rng.normal(size=(steps + 1, 4)), "actions": rng.uniform(-1, 1, (steps, 2))}
        np.savez(root / f"logs/{episode:03}.npz", rewards=rng.normal(size=steps), terminated=False, **logged)
    entry = root / f"datasets/{LOGS}.yaml"
    entry.parent.mkdir(parents=True)
    entry.write_text("title: logs\nsource: npz\npath: logs\nnot_evaluated: no simulator\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SPAR_TRACKING", "off")
        patch.setattr(exporting, "CALLS", 3)
        patch.setattr(exporting, "WARM_UP", 1)
        download.run(["--dataset", LOGS])
        layout = Layout()
        data, folder = dataset_of(layout, LOGS), layout.artifact("policy", LOGS, "mlp", "iql", "spar_mlp", "0,2")
        save_rule(folder, "spar_mlp", fit_parts(data, (0, 2)), data, data.scaler)
        write_meta(folder, KIND, params={}, inputs={"dataset": digest_folder(layout.data(LOGS))}, seeds=[0, 2])
        yield folder


def description(path) -> dict:
    return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map[DESCRIPTION])


def test_an_export_lies_below_exports_by_the_policys_path_and_names_the_data(policy, capsys):
    export.run([str(policy)])
    path = Layout().root / f"exports/{LOGS}/mlp/iql/spar_mlp/0,2.onnx"
    said = capsys.readouterr().out
    for words in (str(path), "anchor mlp", "a committee of 2", "takes observations [batch, 4]", "p50", "p99"):
        assert words in said
    assert description(path)["dataset"] == LOGS and len(description(path)["digest"]) == 32
    export.run([str(policy), "--seed", "2", "--format", "torch"])
    assert path.with_name("0,2-seed-2.pt").is_file()


@pytest.mark.filterwarnings("ignore::spar_core.policy.FarFromData")
def test_a_guard_is_fitted_to_the_policys_own_data(policy, tmp_path):
    export.run([str(policy), "--guard", "1.5", "--output", str(tmp_path / "p.onnx")])
    assert description(tmp_path / "p.onnx")["guard"]["limit"] == 1.5
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    observations = np.zeros((2, 4), np.float32)
    _, distance, disagreement, correction = session.run(None, {"observations": observations})
    assert distance.shape == disagreement.shape == correction.shape == (2,) and (distance < 1).all()
    export.run([str(policy), "--distance", "--output", str(tmp_path / "d.onnx")])
    actions = onnxruntime.InferenceSession(tmp_path / "d.onnx").run(["actions"], {"observations": 99 + observations})[0]
    np.testing.assert_allclose(actions, load_policy(policy).act(99 + observations), atol=1e-5)


def test_a_policy_elsewhere_is_exported_and_has_no_guard(policy, tmp_path):
    shutil.copytree(policy, tmp_path / "copied")
    export.run([str(tmp_path / "copied"), "--output", str(tmp_path / "p.onnx")])
    assert description(tmp_path / "p.onnx")["dataset"] is None
    with pytest.raises(SparError, match="a guard is fitted to that dataset"):
        export.run([str(tmp_path / "copied"), "--guard", "1"])


def test_dataset_files_that_have_changed_since_are_not_the_policys(policy, tmp_path):
    meta = (policy / "meta.json").read_text()
    write_meta(policy, KIND, params={}, inputs={"dataset": "0" * 32}, seeds=[0, 2])
    try:
        with pytest.raises(SparError, match="a guard is fitted to that dataset"):
            export.run([str(policy), "--distance", "--output", str(tmp_path / "p.onnx")])
    finally:
        (policy / "meta.json").write_text(meta)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["logs"], "meta.json does not exist"),
        (["POLICY", "--seed", "9"], "holds no seed 9; it holds 0, 2"),
        (["POLICY", "--output", "artifacts/policy/p.onnx"], "which DVC tracks; name another place"),
        (["POLICY", "--guard", "-1"], "limit -1.0 is not positive"),
    ],
)
def test_what_cannot_be_exported_is_one_line(policy, words, message):
    with pytest.raises(SparError, match=message) as caught:
        export.run([str(policy) if word == "POLICY" else word for word in words])
    assert "\n" not in str(caught.value)
