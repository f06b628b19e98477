"""Every member on a CUDA device: it agrees with the CPU, repeats itself, resumes, and acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spar_core import registry
from spar_core.evaluation.fqe import ReturnNetwork, evaluate_in_turn
from spar_core.policy import load_policy
from spar_core.registry import load_member
from spar_core.residual import fit_residual
from spar_core.training import loop as updates
from spar_core.training.context import Context
from spar_core.training.reporter import Reporter
from tests.fakes import save_rule, tiny_settings
from tests.test_resuming import ends_the_same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
SEEDS = (0, 2)


def agrees_and_repeats(fit, folder):
    """``fit(report, device)`` on both, twice on the device, and there stopped and resumed."""
    expected, found, again = (fit(Reporter(SEEDS), device) for device in ("cpu", "cuda", "cuda"))
    assert found.tensors.keys() == expected.tensors.keys() and found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.tensors.items():
        assert found.tensors[name].device.type == "cpu", "what is saved comes back from the device"
        assert torch.equal(found.tensors[name], again.tensors[name]), name
        torch.testing.assert_close(found.tensors[name], value, rtol=1e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert [row[:3] for row in found.curves] == [row[:3] for row in expected.curves]
    pairs = zip(found.curves, expected.curves, strict=True)
    assert all(np.isclose(a[3], b[3], rtol=2e-2, atol=2e-3, equal_nan=True) for a, b in pairs)
    if found.curves:
        ends_the_same(lambda report: fit(report, "cuda"), folder)


@pytest.mark.parametrize("kind", sorted(registry.ANCHORS))
def test_every_anchor(kind, data, tmp_path):
    member = load_member("anchor", kind)
    settings = tiny_settings(member)
    agrees_and_repeats(lambda report, device: member.fit(Context(data, SEEDS, report, device), settings), tmp_path)


@pytest.mark.parametrize("kind", sorted(registry.CRITICS))
def test_every_critic(kind, data, tmp_path):
    member = load_member("critic", kind)
    settings = tiny_settings(member)
    agrees_and_repeats(lambda report, device: member.fit(Context(data, SEEDS, report, device), settings), tmp_path)


@pytest.mark.parametrize("kind", sorted(registry.IMPROVEMENTS))
def test_every_rule(kind, data, pair, tmp_path):
    member = load_member("improvement", kind)
    settings = tiny_settings(member)

    def fit(report, device):
        return member.fit(Context(data, SEEDS, report, device), pair.frozen(SEEDS, device), settings)

    agrees_and_repeats(fit, tmp_path)


@pytest.mark.parametrize("kind", sorted(registry.IMPROVEMENTS))
def test_every_policy_acts_as_on_the_cpu(kind, data, pair, tmp_path):
    save_rule(tmp_path / "policy", kind, pair, data, data.scaler)
    observations = np.random.default_rng(0).normal(size=(9, data.observation_size)).astype(np.float32)
    for seed in SEEDS:
        here, there = (load_policy(tmp_path / "policy", seed, device).act(observations) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("base", ["action", "sample"])
def test_the_residual_model(base, data, pair, tmp_path):
    settings = pair.settings("residual").model_copy(update={"base": base})

    def fit(report, device):
        return fit_residual(Context(data, SEEDS, report, device), pair.frozen(SEEDS, device).anchor, settings)

    agrees_and_repeats(fit, tmp_path)


def test_fitted_q_evaluation(data):
    settings = tiny_settings(ReturnNetwork)

    def values(device):
        acts = [lambda o, c=c: o.new_full((len(SEEDS), len(o), data.action_size), c) for c in (0.1, -0.3)]
        return [found.values for found in evaluate_in_turn(Context.quiet(data, SEEDS, device), acts, settings)]

    np.testing.assert_allclose(values("cuda"), values("cpu"), rtol=1e-2)


@pytest.mark.skipif(not updates.can_compile(), reason="no Triton or no C compiler here")
@pytest.mark.parametrize("kind", ["mlp", "iql", "spar_proj"])
def test_long_loops_are_compiled(kind, data, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(updates, "COMPILED_FROM", 1)
    family = next(family for family, members in registry.FAMILIES.items() if kind in members)
    member = load_member(family, kind)
    settings = tiny_settings(member)

    def fit(report, device):
        frozen = (pair.frozen(SEEDS, device),) if family == "improvement" else ()
        return member.fit(Context(data, SEEDS, report, device), *frozen, settings)

    agrees_and_repeats(fit, tmp_path)
