"""Exported policies: every anchor and rule as ONNX and as TorchScript, run without this package's code."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from spar_core import export_policy as exporting
from spar_core import load_policy
from spar_core.anchors.external_sources import OnnxPolicy
from spar_core.anchors.external_sources import check as check_external
from spar_core.artifacts import write_meta
from spar_core.errors import SparError
from spar_core.export_formats import DESCRIPTION
from spar_core.export_policy import REFUSED, export_policy
from spar_core.guard import fit_guard
from spar_core.improvement.base import Frozen
from spar_core.interface import Interface
from spar_core.policy import KIND, save_policy
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Part
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, kinds, save_rule, tiny_settings, toy_dataset
from tests.test_policy import MANIFEST, SCALER, as_dictionary

RAW = np.random.default_rng(5).normal(0, 2, (1001, OBSERVATION_SIZE)).astype(np.float32)
FORMATS = ("onnx", "torch")


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    monkeypatch.setattr(exporting, "CALLS", 3)
    monkeypatch.setattr(exporting, "WARM_UP", 1)


def save(folder, parts, anchor=("mlp", {}), rule=("spar_mlp", {}), scaler=SCALER):
    """A policy of an anchor and a rule, by kind and settings, fitted for a few steps with the seeds of ``parts``."""
    seeds, critic, of_residual = parts.seeds, parts.frozen(parts.seeds).critic, parts.settings("residual")
    member, acting = load_member("anchor", anchor[0]), load_member("improvement", rule[0])
    settings = tiny_settings(member, **anchor[1]), tiny_settings(acting, **rule[1])
    context = Context.quiet(toy_dataset(), seeds)
    cloned = member.of_group(member.fit(context, settings[0]), context, settings[0])
    restored = member.restore(settings[0], cloned.tensors)
    residual = fit_residual(context, restored, of_residual)
    frozen = Frozen(restored, ResidualModel.restore(of_residual, residual.tensors), critic)
    learned = acting.fit(context, frozen, settings[1])
    saved = {
        "anchor": Part(anchor[0], settings[0], cloned.tensors),
        "residual": Part("residual", of_residual, residual.tensors),
        "improvement": Part(rule[0], settings[1], learned.tensors),
    }
    if acting.acts_with_critic(settings[1]):
        saved["critic"] = Part("iql", parts.settings("critic"), parts.critic.tensors)
    folder.mkdir(parents=True)
    takes = Interface(OBSERVATION_SIZE)
    save_policy(folder, parts=saved, fitted=learned, seeds=seeds, scaler=scaler, interface=takes)
    write_meta(folder, KIND, params={}, inputs={}, seeds=list(seeds))


def answer(path, inputs) -> dict[str, np.ndarray]:
    """What a runtime that knows nothing of this package computes from a file."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path.read_bytes())
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
    files = {DESCRIPTION: ""}
    module = torch.jit.load(path, _extra_files=files)
    names = json.loads(files[DESCRIPTION])["outputs"]
    answers = module(*map(torch.from_numpy, inputs.values()))
    return {name: value.numpy() for name, value in zip(names, answers, strict=True)}


def check(folder, path, format, seed=None, ties=0) -> None:
    """The file acts as the policy does, but for some near ties among the actions to choose from."""
    export_policy(folder, path, format, seed)
    for rows in (1, 2, 1001):
        expected = load_policy(folder, seed).act(RAW[:rows])
        actions = answer(path, {"observations": RAW[:rows]})["actions"]
        assert actions.dtype == np.float32 and actions.shape == (rows, ACTION_SIZE)
        apart = (np.abs(actions - expected) > 2e-4).any(axis=1)
        assert apart.sum() <= ties


every_format = pytest.mark.parametrize("format", FORMATS)
# Few steps, because an exporter follows each.
SHORT = {"flow": {"flow_steps": 2}, "diffusion": {"diffusion_steps": 2}}
CHOOSES = ("mixture", "best_of_n")


@every_format
@pytest.mark.parametrize("kind", [kind for kind in kinds("anchor") if kind not in (*REFUSED, "external")])
def test_every_anchor_is_exported(parts, tmp_path, kind, format):
    save(tmp_path / "policy", parts, (kind, SHORT.get(kind, {})))
    check(tmp_path / "policy", tmp_path / f"p{exporting.FORMATS[format].suffix}", format, ties=2 * (kind in CHOOSES))


@every_format
@pytest.mark.parametrize("kind", kinds("improvement"))
def test_every_rule_is_exported(parts, tmp_path, kind, format):
    save_rule(tmp_path / "policy", kind, parts, toy_dataset(), SCALER)
    check(tmp_path / "policy", tmp_path / f"p{exporting.FORMATS[format].suffix}", format, ties=2 * (kind in CHOOSES))


def of(kind: str) -> dict:
    """A committee's member of this kind."""
    return {"member": {"kind": kind, **tiny_settings(load_member("anchor", kind), **SHORT.get(kind, {})).model_dump()}}


VARIANTS = {
    "median": (("committee", {"act": "median"}), ("spar_mlp", {})),
    "medoid": (("committee", {"act": "medoid"}), ("anchor", {})),
    "flows": (("committee", of("flow")), ("spar_proj", {})),
    "mixtures": (("committee", of("mixture")), ("best_of_n", {})),
    "gate": (("mlp", {}), ("spar_mlp", {"gate": True})),
    "state": (("mlp", {}), ("spar_proj", {"inputs": "state"})),
    "own": (("mlp", {}), ("value_gradient", {"space": "action"})),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_with_operations_of_their_own_are_exported(parts, tmp_path, name):
    save(tmp_path / "policy", parts, *VARIANTS[name])
    check(tmp_path / "policy", tmp_path / "p.onnx", "onnx", ties=2 * (name in ("medoid", "mixtures", "gate")))


@pytest.mark.parametrize(("kind", "reason"), [(kind, reason) for kind, reason in REFUSED.items()])
def test_an_anchor_that_cannot_be_exported_is_refused_in_one_line_that_says_why(parts, tmp_path, kind, reason):
    save(tmp_path / "policy", parts, (kind, {}), ("anchor", {}))
    with pytest.raises(SparError, match=f"the anchor '{kind}' cannot be exported: {reason}; use") as caught:
        export_policy(tmp_path / "policy", tmp_path / "p.onnx")
    assert "\n" not in str(caught.value) and not (tmp_path / "p.onnx").exists()


def test_a_committee_of_what_cannot_be_exported_is_refused(parts, tmp_path):
    save(tmp_path / "policy", parts, ("committee", of("knn")), ("anchor", {}))
    with pytest.raises(SparError, match="the anchor 'knn' cannot be exported"):
        export_policy(tmp_path / "policy", tmp_path / "p.onnx")


# --- what the file holds ---


@pytest.fixture(scope="module")
def hand(tmp_path_factory, parts):
    """A policy of dictionaries."""
    folder = tmp_path_factory.mktemp("hand") / "policy"
    save_rule(folder, "spar_mlp", parts, toy_dataset(), SCALER, interface=Interface.of_manifest(MANIFEST))
    return folder


@every_format
def test_a_policy_of_dictionaries_has_an_input_for_each_part(hand, tmp_path, format):
    path = tmp_path / f"p{exporting.FORMATS[format].suffix}"
    about = export_policy(hand, path, format).description
    wanted = [("achieved/hand", []), ("achieved/object", [2]), ("state", [2])]
    assert [(one["name"], one["shape"]) for one in about["inputs"]] == wanted
    inputs = {"achieved/hand": RAW[:9, 0], "achieved/object": RAW[:9, 1:3], "state": RAW[:9, 3:]}
    expected = load_policy(hand).act(as_dictionary(RAW[:9]))
    np.testing.assert_allclose(answer(path, inputs)["actions"], expected, atol=1e-5)


def test_the_file_describes_itself_and_holds_no_path_or_time(hand, tmp_path):
    export_policy(hand, tmp_path / "a.onnx")
    export_policy(hand, tmp_path / "b.onnx", origin={"dataset": "other"})
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    expected = {"dataset": "mine/hand-v0", "digest": "0123", "env_id": "Hand-v0", "anchor": "mlp", "members": 3}
    assert expected.items() <= about.items() and about["action_low"] == SCALER.action_low.tolist()
    assert [output.shape for output in session.get_outputs()] == [["batch", ACTION_SIZE]]
    whole = (tmp_path / "a.onnx").read_bytes()
    assert whole == (tmp_path / "b.onnx").read_bytes(), "what the folder says counts before what the caller says"
    assert str(tmp_path).encode() not in whole and b"/" + b"spar_core" not in whole and b".py" not in whole


def test_a_file_that_would_deviate_is_refused_and_an_older_one_stays(hand, tmp_path, monkeypatch):
    target = tmp_path / "p.onnx"
    target.write_bytes(b"older")
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(SparError, match=r"the anchor 'mlp' with the rule 'spar_mlp' .* at \d+ of 1000 observations"):
        export_policy(hand, target)
    assert target.read_bytes() == b"older" and [path.name for path in tmp_path.iterdir()] == ["p.onnx"]


def test_what_an_exporter_cannot_follow_is_one_line(hand, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.PolicyGraph, "forward", lambda self, *parts: (torch.linalg.pinv(parts[1]),))
    with pytest.raises(
        SparError, match="the anchor 'mlp' with the rule 'spar_mlp' cannot be exported to onnx: "
    ) as caught:
        export_policy(hand, tmp_path / "p.onnx")
    assert "\n" not in str(caught.value) and not (tmp_path / "p.onnx").exists()


def test_without_onnx_the_line_says_what_to_install(hand, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SparError, match=r"needs the package onnx; run `pip install \.\[export\]`"):
        export_policy(hand, tmp_path / "p.onnx")


LIGHT = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "spar_core", "safetensors"):
                raise ImportError(name)

    sys.meta_path.insert(0, Refuse())
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(sys.argv[1])
    (actions,) = session.run(None, {"observations": np.load(sys.argv[2])})
    np.save(sys.argv[3], actions)
"""


def test_an_onnx_file_acts_without_torch_and_this_package(parts, tmp_path):
    save_rule(tmp_path / "policy", "spar_proj", parts, toy_dataset(), SCALER)
    export_policy(tmp_path / "policy", tmp_path / "p.onnx")
    np.save(tmp_path / "in.npy", RAW)
    files = [str(tmp_path / name) for name in ("p.onnx", "in.npy", "out.npy")]
    words = [sys.executable, "-c", textwrap.dedent(LIGHT), *files]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), load_policy(tmp_path / "policy").act(RAW), atol=1e-5)


def test_an_exported_policy_can_be_the_anchor_of_the_next(parts, tmp_path):
    save_rule(tmp_path / "policy", "spar_mlp", parts, toy_dataset(), SCALER)
    export_policy(tmp_path / "policy", tmp_path / "p.onnx")
    external = OnnxPolicy((tmp_path / "p.onnx").read_bytes(), "p.onnx")
    check_external(external, RAW[:20], ACTION_SIZE)
    np.testing.assert_allclose(external(RAW[:20]), load_policy(tmp_path / "policy").act(RAW[:20]), atol=1e-5)


# --- the guard ---


def test_a_guards_distance_is_one_at_the_chosen_quantile_and_grows_away_from_the_data():
    data = toy_dataset(episodes=60)
    guard = fit_guard(data)
    held = guard.distance(data.observations[data.observation_index[data.heldout_steps]])
    assert np.quantile(held, 0.99) == pytest.approx(1.0, rel=1e-5)
    away = guard.distance(np.linspace(0, 30, 50, dtype=np.float32)[:, None] * np.ones(OBSERVATION_SIZE, np.float32))
    assert (np.diff(away[10:]) > 0).all() and away[-1] > 10
    with pytest.raises(SparError, match="limit 0 is not positive"):
        fit_guard(data, 0)


def test_one_centre_is_the_mahalanobis_distance():
    data = toy_dataset(episodes=60)
    states = data.observations[data.observation_index[data.train_steps]].astype(np.float64)
    away = states - states.mean(axis=0)
    inverse = np.linalg.inv(np.cov(states, rowvar=False) + 0.01 * np.eye(OBSERVATION_SIZE))
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    ours = fit_guard(data, centres=1).distance(states.astype(np.float32))
    np.testing.assert_allclose(ours / ours.mean(), expected / expected.mean(), rtol=1e-3)


@every_format
def test_a_guarded_file_gives_the_distance_and_lets_the_anchor_act_beyond_the_limit(parts, tmp_path, format):
    for rule in ("spar_mlp", "anchor"):
        save_rule(tmp_path / rule, rule, parts, toy_dataset(), SCALER)
    guard, path = fit_guard(toy_dataset(), limit=1.5), tmp_path / f"p{exporting.FORMATS[format].suffix}"
    about = export_policy(tmp_path / "spar_mlp", path, format, guard=guard).description
    assert about["guard"] == {"centres": len(guard.centres), "limit": 1.5}
    found = answer(path, {"observations": RAW})
    distance = guard.distance(SCALER.standardise(RAW))
    np.testing.assert_allclose(found["distance"], distance, rtol=1e-4)
    far = distance > 1.5
    assert 0.05 < far.mean() < 0.95 and found["disagreement"].shape == (len(RAW),)
    policy, anchor = (load_policy(tmp_path / rule).act(RAW) for rule in ("spar_mlp", "anchor"))
    np.testing.assert_allclose(found["actions"], np.where(far[:, None], anchor, policy), atol=1e-4)


def test_an_actions_distance_is_one_at_the_chosen_quantile_of_the_logged_actions(parts, tmp_path):
    data = toy_dataset(episodes=60)
    save_rule(tmp_path / "policy", "spar_mlp", parts, data, data.scaler)
    policy = load_policy(tmp_path / "policy")
    guard = fit_guard(data, policy=policy)
    states = torch.from_numpy(data.observations[data.observation_index[data.heldout_steps]])
    base = policy.rule.frozen.anchor.act_on_all(states, policy.members).clamp(-1, 1).mean(dim=0).numpy()
    away = np.sqrt((((data.actions[data.heldout_steps] - base) / guard.reach) ** 2).mean(axis=1))
    assert np.quantile(away, 0.99) == pytest.approx(1.0, rel=1e-4)
    train = data.actions[data.train_steps].std(axis=0)
    assert guard.reach.shape == (ACTION_SIZE,) and (guard.reach > 0.5 * train).all()


@every_format
def test_a_guard_of_actions_lets_the_anchor_act_where_the_policy_goes_too_far(parts, tmp_path, format):
    for rule in ("value_gradient", "anchor"):
        save_rule(tmp_path / rule, rule, parts, toy_dataset(), SCALER)
    policy, anchor = (load_policy(tmp_path / rule) for rule in ("value_gradient", "anchor"))
    half = (SCALER.action_high - SCALER.action_low) / 2
    moved = np.abs(policy.act(RAW) - anchor.act(RAW)) / half
    reach = np.quantile(moved, 0.5, axis=0).astype(np.float32)
    guard = replace(fit_guard(toy_dataset(), limit=1e3), limit=1.0, scale=1e3, reach=reach)
    path = tmp_path / f"p{exporting.FORMATS[format].suffix}"
    assert (
        export_policy(tmp_path / "value_gradient", path, format, guard=guard).description["outputs"][-1] == "correction"
    )
    found = answer(path, {"observations": RAW})
    expected = np.sqrt(((moved / reach) ** 2).mean(axis=1))
    np.testing.assert_allclose(found["correction"], expected, rtol=1e-2, atol=1e-3)
    far = found["correction"] > 1
    assert 0.1 < far.mean() < 0.9 and found["distance"].max() < 1
    wanted = np.where(far[:, None], anchor.act(RAW), policy.act(RAW))
    np.testing.assert_allclose(found["actions"], wanted, atol=1e-4)


def test_members_that_agree_have_no_disagreement(parts, tmp_path):
    save(tmp_path / "policy", parts, ("committee", {}), ("anchor", {}))
    export_policy(tmp_path / "policy", tmp_path / "p.onnx", guard=fit_guard(toy_dataset()))
    assert answer(tmp_path / "p.onnx", {"observations": RAW})["disagreement"].max() < 1e-5
