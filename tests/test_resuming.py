"""Work that is stopped at any step and taken up again ends as work that was left alone, to the last bit."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from spar_core import registry
from spar_core.errors import Interrupted
from spar_core.evaluation.fqe import ReturnNetwork, evaluate_in_turn
from spar_core.evolving.distillation import distil
from spar_core.registry import load_member
from spar_core.residual import fit_residual
from spar_core.training.checkpoints import Checkpoints
from spar_core.training.context import Context
from spar_core.training.loop import resumable
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Minibatches, normal, streams
from spar_core.training.reporter import Nested, Reporter
from tests.fakes import assert_same_seed, tiny_settings

SEEDS = (0, 2)


class Stopping(Reporter):
    """Asks to stop after some steps, and counts those that were done here."""

    def __init__(self, seeds, folder, after=None, seconds=0.0):
        self.asked = itertools.count(1)
        self.updates = 0
        super().__init__(seeds, [], Checkpoints(folder, seconds), lambda: self.ask(after))

    def ask(self, after):
        self.updates += 1
        return next(self.asked) == after


def ends_the_same(fit, folder):
    """Fit alone; then fit again, stopped several times on the way; compare everything."""
    alone = fit(Reporter(SEEDS))
    whole = Stopping(SEEDS, folder / "whole")
    fit(whole)
    updates = 0
    # After the first step, twice within a phase or at its end, and shortly before the end.
    for after in (1, whole.updates // 3, whole.updates // 4, whole.updates // 5):
        report = Stopping(SEEDS, folder / "stopped", after)
        with pytest.raises(
            Interrupted, match=r"stopped at step \d+ of \d+.*run the same command to resume from a checkpoint"
        ):
            fit(report)
        updates += report.updates
    last = Stopping(SEEDS, folder / "stopped")
    resumed = fit(last)
    for row, seed in enumerate(SEEDS):
        assert_same_seed(alone, row, resumed, row, seed)
    assert 0 < last.updates < whole.updates
    assert updates + last.updates == whole.updates, "no step was done twice, and none left out"


@pytest.mark.parametrize("kind", sorted(registry.ANCHORS))
def test_every_anchor(kind, data, tmp_path):
    member = load_member("anchor", kind)
    settings = tiny_settings(member)
    if not hasattr(settings, "steps"):
        pytest.skip("it is fitted in one go")
    ends_the_same(lambda report: member.fit(Context(data, SEEDS, report, "cpu"), settings), tmp_path)


@pytest.mark.parametrize("kind", sorted(registry.CRITICS))
def test_every_critic(kind, data, tmp_path):
    member = load_member("critic", kind)
    settings = tiny_settings(member)
    ends_the_same(lambda report: member.fit(Context(data, SEEDS, report, "cpu"), settings), tmp_path)


@pytest.mark.parametrize("kind", sorted(registry.IMPROVEMENTS))
def test_every_rule(kind, data, pair, tmp_path):
    member = load_member("improvement", kind)
    settings = tiny_settings(member)
    if kind in ("anchor", "best_of_n"):
        pytest.skip("it trains nothing")
    ends_the_same(
        lambda report: member.fit(Context(data, SEEDS, report, "cpu"), pair.frozen(SEEDS), settings), tmp_path
    )


def test_the_residual_model(data, pair, tmp_path):
    anchor = pair.frozen(SEEDS).anchor
    for base in ("action", "sample"):
        settings = pair.settings("residual").model_copy(update={"base": base})
        ends_the_same(lambda report, s=settings: fit_residual(Context(data, SEEDS, report), anchor, s), tmp_path / base)


def test_fitted_q_evaluation_of_several_policies(data, tmp_path):
    settings = tiny_settings(ReturnNetwork)
    acts = [lambda o, c=c: torch.full((len(SEEDS), len(o), data.action_size), c) for c in (0.1, -0.3)]

    def estimates(report):
        return [vars(found) for found in evaluate_in_turn(Context(data, SEEDS, report, "cpu"), acts, settings)]

    alone = estimates(Reporter(SEEDS))
    for after in (1, 2):
        with pytest.raises(Interrupted):
            estimates(Stopping(SEEDS, tmp_path, after))
    assert estimates(Stopping(SEEDS, tmp_path)) == alone


def test_each_seed_of_a_distillation_has_checkpoints_of_its_own(data, tmp_path):
    member = load_member("anchor", "mlp")
    settings = tiny_settings(member)

    def students(report):
        found = []
        for seed in SEEDS:
            inner = Nested(report, f"seed-{seed}", seeds=[seed])
            found.append(distil(Context(data, [seed], inner, "cpu"), member, settings, data.actions * 0.5))
        return found, sorted(report.rows)

    alone, rows = students(Reporter(SEEDS))
    for after in (3, 15):
        with pytest.raises(Interrupted):
            students(Stopping(SEEDS, tmp_path, after))
    again, rows_again = students(Stopping(SEEDS, tmp_path))
    assert rows == rows_again
    for seed, one, other in zip(SEEDS, alone, again, strict=True):
        assert_same_seed(one, 0, other, 0, seed)


# --- the loop itself ---


def walk(report, steps, name="walk"):
    """A loop whose state is one network, its optimiser, minibatches and noise; returns all that it saw."""
    network = Stack(MLPShape(3, (4,), 2), len(SEEDS)).initialise(streams(SEEDS, "walk"))
    adam = Adam(0.1, network, decay_steps=steps)
    batches, noise = Minibatches(torch.arange(50), SEEDS, 4, "walk", block=3), streams(SEEDS, "noise")
    for step in resumable(report, name, steps, adam=adam, batches=batches, noise=noise):
        x = normal(noise, 4, 3) + batches.next().unsqueeze(-1)
        loss = network(x).square().mean(dim=(1, 2))
        adam.minimise(loss.sum())
        report.log(step, {"loss": loss.detach()})
    return network.flat.detach().clone()


def test_progress_counts_what_was_done_before(tmp_path):
    with pytest.raises(Interrupted):
        walk(Stopping(SEEDS, tmp_path, 7), 10)

    class Counting(Stopping):
        units = 0

        def advance(self, steps):
            self.units += steps

    report = Counting(SEEDS, tmp_path)
    walk(report, 10)
    assert report.units == 10 * len(SEEDS) and report.updates == 3
    assert [row[0] for row in report.rows] == [step for step in range(1, 11) for _ in SEEDS]


def test_a_loop_that_had_ended_is_not_run_again_and_its_curve_is_there(tmp_path):
    alone = walk(Stopping(SEEDS, tmp_path), 10)
    again = Stopping(SEEDS, tmp_path)
    assert torch.equal(walk(again, 10), alone)
    assert again.updates == 0 and again.last("loss") == [row[3] for row in again.rows[-2:]]


def test_checkpoints_are_only_written_when_due(tmp_path):
    report = Stopping(SEEDS, tmp_path, seconds=3600.0)
    walk(report, 10)
    assert not list(tmp_path.rglob("*"))


def test_loops_of_parts_do_not_read_each_others_checkpoints(tmp_path):
    report = Stopping(SEEDS, tmp_path)
    first, second = Nested(report, "first", prefix="first"), Nested(report, "second", prefix=None)
    walk(first, 5)
    walk(second, 8)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")} == {
        "first/walk.safetensors",
        "second/walk.safetensors",
    }
    assert {row[2] for row in report.rows} == {"first/loss"} and len(second.rows) == 16


def test_a_broken_checkpoint_counts_as_none(tmp_path):
    alone = walk(Stopping(SEEDS, tmp_path), 10)
    path = tmp_path / "walk.safetensors"
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(broken)
        report = Stopping(SEEDS, tmp_path)
        assert torch.equal(walk(report, 10), alone) and report.updates == 10


def test_a_checkpoint_of_other_parts_counts_as_none(tmp_path):
    walk(Stopping(SEEDS, tmp_path), 10)
    noise = streams(SEEDS, "noise")
    report = Stopping(SEEDS, tmp_path)
    assert list(resumable(report, "walk", 3, noise=noise)) == [1, 2, 3]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints, noise = Checkpoints(tmp_path, 0.0), streams(SEEDS, "noise")
    checkpoints.save("walk", 1, [(1, 0, "loss", 0.5)], {"noise": noise})
    monkeypatch.setattr("pathlib.Path.replace", lambda *paths: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError):
        checkpoints.save("walk", 2, [], {"noise": noise})
    found = checkpoints.load("walk")
    assert found.step == 1 and found.rows == [(1, 0, "loss", 0.5)]
    assert json.dumps(found.rows) and found.states["noise"]["states"].shape[0] == len(SEEDS)
