"""Updates that a CUDA graph can hold: nothing is drawn, made from the host's numbers, or read back within one."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spar_core import registry
from spar_core.evaluation.fqe import ReturnNetwork, evaluate_in_turn
from spar_core.registry import load_member
from spar_core.residual import fit_residual
from spar_core.training import loop as updates
from spar_core.training.context import Context
from spar_core.training.loop import Update, compile_update
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Draws, gaussian, streams
from tests.fakes import TINY, tiny_settings

SEEDS = (0, 2)
READS_BACK = {"cql", "edac"}
# Draws, reads, tensors made of Python numbers, shapes that depend on values.
FORBIDDEN = ("rand", "normal_", "uniform_", "_local_scalar_dense", "lift_fresh", "nonzero", "item", "_to_copy.default")


class NothingFromTheHost(TorchDispatchMode):
    """Collects operations that a graph cannot hold."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        # A conversion of type stays on the device; to another device it does not.
        moves = name.startswith("_to_copy") and (kwargs or {}).get("device") is not None
        if moves or any(word in name for word in FORBIDDEN[:-1]):
            self.found.add(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def watched(monkeypatch):
    """Every update that may be captured is watched; what was found, and how many there were."""
    seen = {"found": set(), "calls": 0, "plain": 0}
    make = Update.__init__

    def init(self, update, adam, device, steps, *, capture=True):
        def within(*inputs):
            seen["calls"] += 1
            mode = NothingFromTheHost()
            with mode:
                info = update(*inputs)
            seen["found"] |= mode.found
            return info

        seen["plain"] += not capture
        make(self, within if capture else update, adam, device, steps, capture=capture)

    monkeypatch.setattr(Update, "__init__", init)
    return seen


def test_the_watcher_sees_what_it_should(watched):
    network = Stack(MLPShape(2, (3,), 1), 1).initialise(streams((0,), "x"))
    adam = Adam(0.1, network)

    def bad(x):
        loss = network(x + torch.randn(1)).square().sum() * torch.tensor(2.0)
        adam.step(loss)
        return {"loss": torch.full((1,), loss.item())}

    Update(bad, adam, "cpu", 1)(torch.ones(1, 4, 2))
    assert {name.split(".")[0] for name in watched["found"]} == {"randn", "lift_fresh", "_local_scalar_dense"}


@pytest.mark.parametrize("kind", sorted(registry.ANCHORS))
def test_every_anchor(kind, data, watched):
    member = load_member("anchor", kind)
    settings = tiny_settings(member)
    if not hasattr(settings, "steps"):
        pytest.skip("it is fitted in one go")
    member.fit(Context.quiet(data, SEEDS), settings)
    assert watched["calls"] == settings.steps and not watched["found"]


@pytest.mark.parametrize("kind", sorted(registry.CRITICS))
def test_every_critic(kind, data, watched):
    member = load_member("critic", kind)
    member.fit(Context.quiet(data, SEEDS), tiny_settings(member))
    assert watched["calls"] and not watched["found"]
    assert bool(watched["plain"]) == (kind in READS_BACK), "one that reads back has to say so"


@pytest.mark.parametrize("kind", sorted(registry.IMPROVEMENTS))
def test_every_rule(kind, data, pair, watched):
    member = load_member("improvement", kind)
    if kind in ("anchor", "best_of_n"):
        pytest.skip("it trains nothing")
    member.fit(Context.quiet(data, SEEDS), pair.frozen(SEEDS), tiny_settings(member))
    assert watched["calls"] >= TINY["steps"] and not watched["found"] and not watched["plain"]


def test_the_residual_model_and_fitted_q_evaluation(data, pair, watched):
    fit_residual(Context.quiet(data, SEEDS), pair.frozen(SEEDS).anchor, pair.settings("residual"))
    settings = tiny_settings(ReturnNetwork)

    def act(observations):
        return torch.zeros(len(SEEDS), len(observations), data.action_size)

    list(evaluate_in_turn(Context.quiet(data, SEEDS), [act], settings))
    assert watched["calls"] == 2 * TINY["steps"] and not watched["found"]


# --- draws ---


def test_a_block_changes_no_draw_and_a_step_is_contiguous():
    one, many = (Draws(SEEDS, "x", gaussian(3, 5), block=block) for block in (1, 7))
    for _ in range(20):
        a, b = one.next(), many.next()
        assert torch.equal(a, b) and a.shape == (len(SEEDS), 3, 5) and b.is_contiguous()


def test_draws_are_those_of_one_call_a_step():
    draws, generators = Draws(SEEDS, "x", gaussian(3, 5), block=4), streams(SEEDS, "x")
    for _ in range(9):
        assert torch.equal(draws.next(), torch.stack([torch.randn(3, 5, generator=g) for g in generators]))


# --- on a device ---


def train(device, steps=60, change=lambda update, adam: update):
    """A small regression with a falling learning rate; its weights and curve."""
    network = Stack(MLPShape(6, (32, 32), 2), len(SEEDS), device).initialise(streams(SEEDS, "w"))
    adam = Adam(1e-2, network, decay_steps=steps)
    draws = Draws(SEEDS, "x", gaussian(64, 6), device)

    def update(x):
        loss = (network(x) - x[..., :2]).square().mean(dim=(1, 2))
        adam.step(loss.sum())
        return {"loss": loss.detach()}

    run = Update(change(update, adam), adam, device, steps)
    losses = [run(draws.next())["loss"].tolist() for _ in range(steps)]
    return network.flat.detach().cpu(), torch.tensor(losses), run


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_captured_update_agrees_with_the_cpu():
    weights, losses, run = train("cuda")
    assert run.graph is not None
    expected, expected_losses, _ = train("cpu")
    torch.testing.assert_close(losses, expected_losses, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_compiled_update_agrees_with_a_plain_one():
    weights, losses, _ = train("cpu", change=compile_update)
    expected, expected_losses, _ = train("cpu")
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights, expected, rtol=1e-2, atol=1e-3)


def test_long_loops_are_compiled_on_a_device_alone(monkeypatch):
    monkeypatch.setattr(updates, "COMPILED_FROM", 1)
    monkeypatch.setattr(updates, "compile_update", lambda update, adam: pytest.fail("compiled"))
    train("cpu", steps=2)


def test_on_the_cpu_an_update_is_a_plain_call():
    _, losses, run = train("cpu")
    assert run.graph is None and losses[-1].max() < 0.2 * losses[0].max()
