"""Existing policies as anchors: what they are asked, what is saved of them, and what they depend on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spar_core import load_policy
from spar_core.anchors.external import ExternalAnchor, ExternalAnchorSettings
from spar_core.artifacts import write_meta
from spar_core.errors import SparError
from spar_core.improvement.anchor import AnchorAlone
from spar_core.interface import Interface
from spar_core.policy import KIND, save_policy
from spar_core.registry import parse_variant
from spar_core.residual import ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, Fitted, Part, load_tensors
from tests.external_anchors import GOOD, SCALER, SEEDS, fit, module, onnx_bytes, scaled_dataset, settings, wrapped
from tests.fakes import OBSERVATION_SIZE, ROOT, observations_for, toy_dataset


def make(way: str, folder: Path) -> ExternalAnchorSettings:
    if way == "callable":
        return settings(callable=module(folder, "mine", GOOD))
    (folder / "policy.onnx").write_bytes(onnx_bytes())
    return settings(onnx="policy.onnx")


every_way = pytest.mark.parametrize("way", ["onnx", "callable"])


# --- acting ---


@every_way
def test_an_external_anchor_is_the_wrapped_policy_on_raw_observations(way, here):
    chosen = make(way, here)
    fitted = fit(chosen)
    anchor = ExternalAnchor.restore(chosen, fitted.tensors)
    observations = observations_for(2, 20)
    raw = observations.numpy() * SCALER.observation_std + SCALER.observation_mean
    expected = SCALER.actions_to_unit(wrapped(raw))
    assert (np.abs(expected) > 1).any() and (np.abs(expected) < 1).any()
    np.testing.assert_allclose(anchor.act(observations).numpy(), expected.clip(-1, 1), rtol=1e-5, atol=1e-5)
    assert all(len(values) == 2 for values in fitted.metrics.values()) and "anchor/heldout_mse" in fitted.metrics


def test_standardised_observations_and_unit_actions_pass_as_they_are(here):
    call = module(here, "units", "def act(observations):\n    return observations[:, :3] * 0.75\n")
    chosen = settings(callable=call, observations="standardised", actions="unit")
    anchor = ExternalAnchor.restore(chosen, fit(chosen).tensors)
    observations = observations_for(2)
    assert torch.equal(anchor.act(observations), (observations[..., :3] * 0.75).clamp(-1, 1))


@every_way
def test_saved_and_restored_it_acts_the_same_without_the_file(way, here):
    chosen = make(way, here)
    fitted = fit(chosen)
    before = ExternalAnchor.restore(chosen, fitted.tensors).act(observations_for(2))
    fitted.write(here)
    if way != "callable":
        for path in chosen.files():
            path.unlink()
    again = ExternalAnchor.restore(chosen, load_tensors(here / WEIGHTS))
    assert torch.equal(again.act(observations_for(2)), before)


def test_the_export_that_the_docs_show_is_an_anchor_that_acts_as_the_network(here):
    page = (ROOT / "docs/external.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.onnx.export(" in block)
    entry = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "onnx:" in block)
    (here / "policies").mkdir()
    network = torch.nn.Sequential(torch.nn.Linear(17, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 6))
    exec(code, {"torch": torch, "network": network})
    _, chosen = parse_variant("anchor", yaml.safe_load(entry)["anchors"], "mine")
    toy = toy_dataset(sizes=(17, 6))
    anchor = ExternalAnchor.restore(chosen, ExternalAnchor.fit(Context.quiet(toy, SEEDS), chosen).tensors)
    observations = observations_for(2, 20, 17)
    with torch.no_grad():
        expected = network(observations).clamp(-1, 1)
    torch.testing.assert_close(anchor.act(observations), expected, rtol=1e-5, atol=1e-5)


# --- a whole policy ---


@every_way
def test_a_policy_artifact_is_whole(way, here):
    chosen, dataset = make(way, here), scaled_dataset()
    fitted = fit(chosen)
    anchor = ExternalAnchor.restore(chosen, fitted.tensors)
    tiny = ResidualSettings(steps=2, hidden=(4,))
    parts = {
        "anchor": Part("external", chosen, fitted.tensors),
        "residual": Part("residual", tiny, fit_residual(Context.quiet(dataset, SEEDS), anchor, tiny).tensors),
        "improvement": Part("anchor", AnchorAlone.Settings(), {}),
    }
    folder = here / "policy"
    folder.mkdir()
    interface = Interface(OBSERVATION_SIZE)
    whole = save_policy(folder, parts=parts, fitted=Fitted(), seeds=SEEDS, scaler=SCALER, interface=interface)
    write_meta(folder, KIND, params={}, inputs={}, shapes=whole.shapes(), seeds=list(SEEDS))
    if way != "callable":
        for path in chosen.files():
            path.unlink()
    raw = np.random.default_rng(0).normal(size=(7, OBSERVATION_SIZE))
    expected = np.clip(wrapped(raw), SCALER.action_low, SCALER.action_high)
    for seed in SEEDS:
        np.testing.assert_allclose(load_policy(folder, seed).act(raw), expected, rtol=1e-5, atol=1e-5)


# --- what it depends on ---


def test_files_are_named_without_importing_anything(here):
    assert settings(onnx="a/b.onnx").files() == (Path("a/b.onnx"),)
    package = here / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert settings(callable="package:act").files() == (Path("package/__init__.py"),)
    chosen = settings(callable="package.inner:act", sources=["package/other.py"])
    assert chosen.files() == (Path("package/inner.py"), Path("package/other.py"))


def test_a_callable_whose_source_has_changed_is_refused(here):
    (here / "other.py").write_text("GAIN = 1")
    chosen = settings(callable=module(here, "drifting", GOOD), sources=["other.py"])
    tensors = fit(chosen).tensors
    (here / "other.py").write_text("GAIN = 2")
    with pytest.raises(SparError, match=r"other\.py is not the source that this anchor was made from"):
        ExternalAnchor.restore(chosen, tensors)
    (here / "other.py").unlink()
    ExternalAnchor.restore(chosen, tensors)
    module(here, "drifting", GOOD + "    # edited\n")
    with pytest.raises(SparError, match=r"drifting\.py is not the source"):
        ExternalAnchor.restore(chosen, tensors)


# --- settings ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give exactly one of onnx and callable .given: none."),
        ({"onnx": "a.onnx", "callable": "a:b"}, "given: onnx, callable"),
        ({"onnx": "a.onnx", "sources": ["a.py"]}, "sources belong to a callable"),
        ({"onnx": "a.onnx", "data_share": 0.5}, "unknown key 'data_share'"),
        ({"onnx": "a.onnx", "top_share": 0.5}, "unknown key 'top_share'"),
        ({"onnx": "a.onnx", "label_noise": 0.1}, "unknown key 'label_noise'"),
        ({"callable": "a.b"}, "expected 'module:function'"),
        ({"callable": "a/b.py:act"}, "expected 'module:function'"),
        ({"onnx": "a.onnx", "actions": "scaled"}, "actions = 'scaled' is not valid"),
        ({"torch_export": "a.pt2"}, "unknown key 'torch_export'; choose from: actions, callable, .* onnx, sources"),
    ],
)
def test_wrong_settings_are_one_clear_line(values, message):
    with pytest.raises(SparError, match=message) as caught:
        parse_variant("anchor", {"mine": {"kind": "external", **values}}, "mine")
    assert "\n" not in str(caught.value)


def test_settings_survive_a_saved_policy():
    for chosen in (settings(onnx="a.onnx"), settings(callable="a:b", sources=["c.py"])):
        assert settings(**chosen.model_dump(mode="json")) == chosen
