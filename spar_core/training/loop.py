"""The one training loop: minimise a loss over minibatches, with learning curves and checkpoints.

Every fit calls :func:`minimise`. :func:`resumable` counts its steps, and resumes it from a checkpoint. :class:`Update`
runs one step. On a CUDA device it captures the step once as a graph and then replays the graph, because launching the
hundred small kernels of a step one by one takes longer than running them. In a long loop, Torch's compiler first merges
them into fewer and larger kernels.

So a step may depend only on its inputs and on tensors that it changes in place: random numbers are drawn outside the
step (:class:`spar_core.training.randomness.Draws`), no value is read back, and the learning rate is passed as a tensor.
``tests/test_updates.py`` checks these rules for every registered member on the CPU, where a step is an ordinary call.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from spar_core.errors import Interrupted
from spar_core.training.checkpoints import SHORT_LOOP, Kept
from spar_core.training.context import Context
from spar_core.training.optimiser import Adam, compiled
from spar_core.training.randomness import Draws
from spar_core.training.reporter import Reporter, is_curve_point

# Values [S] for the learning curve, by metric.
Info = dict[str, Tensor]
# Maps the tensors drawn for a step (the minibatch first) to a scalar loss, summed over seeds, and values for the curve.
Loss = Callable[..., tuple[Tensor, Info]]
# Ordinary calls before the capture, in which libraries initialise themselves.
WARM = 3
# Loops of at least this many updates are compiled. Compiling takes some seconds and saves a tenth of a millisecond an
# update.
COMPILED_FROM = 50_000


def minimise(
    loss: Loss,
    context: Context,
    adam: Adam,
    draws: Mapping[str, Draws],
    *,
    name: str,
    steps: int,
    before: int = 0,
    total: int | None = None,
    logged_from: int = 0,
    after: Callable[[], None] | None = None,
    curve: Callable[[int, Info], Info] | None = None,
    kept: Mapping[str, Kept] | None = None,
    capture: bool = True,
) -> None:
    """Take ``steps`` steps of ``adam`` down the gradient of ``loss``.

    A learning curve may cover several loops. This one takes steps ``before + 1`` to ``before + steps`` of ``total``.

    Args:
        loss: is called with the next tensor of each of ``draws``, in their order.
        context: its reporter receives the progress and the learning curve, and holds the checkpoints.
        adam: the optimiser of the networks that are trained.
        draws: random tensors by name; the first are the minibatches.
        name: name of the loop among the loops of one fit, and of its checkpoint.
        steps: updates of this loop.
        before: steps of the curve that earlier loops took.
        total: steps of the whole curve; None if this loop takes them all.
        logged_from: added to the step number in the curve.
        after: called after each update to change more tensors in place, such as target networks.
        curve: maps the step and the loss's values at a point of the curve to the values that are recorded. It may raise
            an error to end a fit that has diverged.
        kept: further parts that an update changes, by name; they go into the checkpoint.
        capture: whether an update may be captured as a CUDA graph.

    Raises:
        Interrupted: the user asked to stop; a checkpoint is written first.
    """

    def update(*drawn: Tensor) -> Info:
        value, info = loss(*drawn)
        adam.step(value)
        if after is not None:
            after()
        return info

    report, total = context.report, total or steps
    run = Update(update, adam, context.device, steps, capture=capture)
    for step in resumable(report, name, steps, adam=adam, **draws, **(kept or {})):
        done = before + step
        report.observe(done, adam.stacks[0])
        info = run(*(each.next() for each in draws.values()))
        if is_curve_point(done, total):
            report.log(logged_from + done, curve(done, info) if curve else info)


def resumable(report: Reporter, name: str, steps: int, **kept: Kept) -> Iterator[int]:
    """Yield the numbers of a loop's steps, from 1 or from the step after its checkpoint, and report the progress.

    The body of the loop is one update. Everything that it changes must be in ``kept``, or be computed from ``kept``.
    Then a resumed loop gives the same result as one that was never interrupted, to the last bit. The rows that the body
    logs are part of the checkpoint. Read them with :meth:`Reporter.last` after the loop, because the body does not run
    at all if the checkpoint is that of the last step.

    Args:
        report: receives one unit of progress for each step and seed, holds the checkpoints (None for no checkpoints),
            and says when to stop.
        name: name of the loop among the loops of ``report``.
        steps: number of updates.
        kept: the parts that the loop changes, by name.

    Raises:
        Interrupted: the user asked to stop; a checkpoint is written first.
    """
    checkpoints, seeds = report.checkpoints, len(report.seeds)
    begun, first_row = time.monotonic(), len(report.rows)
    resumed_at = done = 0
    saved = checkpoints.load(name) if checkpoints else None
    if saved is not None and saved.states.keys() == kept.keys():
        for part, state in saved.states.items():
            kept[part].load_state_dict(state)
        resumed_at = done = saved.step
        report.add(saved.rows)
        report.advance(done * seeds)

    def save() -> None:
        if checkpoints:
            checkpoints.save(name, done, report.rows[first_row:], kept)

    for step in range(done + 1, steps + 1):
        yield step
        done = step
        if report.stopping():
            save()
            hint = "run the same command to resume from a checkpoint" if checkpoints else "no checkpoint is kept"
            raise Interrupted(f"stopped at step {done} of {steps} of {name}", hint)
        if checkpoints and checkpoints.due():
            save()
        report.advance(seeds)
    if checkpoints and done > resumed_at and time.monotonic() - begun > SHORT_LOOP * checkpoints.seconds:
        save()


class Update:
    """Calls ``update(*inputs)``, which ends in ``adam.step(loss)`` and returns values for the curve.

    Args:
        update: one step; its inputs have the same shapes at each call.
        adam: the optimiser.
        device: the device that the step runs on.
        steps: number of updates of the whole loop, including those before a checkpoint.
        capture: whether the update may be captured as a CUDA graph; an update that reads values back may not.
    """

    def __init__(
        self, update: Callable[..., Info], adam: Adam, device: str, steps: int, *, capture: bool = True
    ) -> None:
        self.capture = capture and torch.device(device).type == "cuda"
        self.adam = adam
        worth_it = self.capture and steps >= COMPILED_FROM and can_compile()
        self.update = compile_update(update, adam) if worth_it else update
        self.calls = 0
        self.graph: Any = None
        self.inputs: tuple[Tensor, ...] = ()
        self.info: Info = {}

    def __call__(self, *inputs: Tensor) -> Info:
        """Run one update; the next one overwrites the values that are returned."""
        self.adam.prepare()
        if not self.capture:
            return self.update(*inputs)
        self.calls += 1
        if self.calls <= WARM:
            return self._aside(inputs)
        if self.graph is None:
            self._record(inputs)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return self.info

    def _aside(self, inputs: tuple[Tensor, ...]) -> Info:
        """Run an ordinary call on a separate CUDA stream, which a later capture requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            info = self.update(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return info

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Capture an update without running it."""
        self.inputs = tuple(value.clone() for value in inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.info = self.update(*self.inputs)


def can_compile() -> bool:
    """Whether Torch can compile for a CUDA device, which needs Triton, and a C compiler for Triton's launchers."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def compile_update(update: Callable[..., Info], adam: Adam) -> Callable[..., Info]:
    """Compile an update, and the step of its optimiser."""
    # Matrix products are in float32 on purpose, so hide the advice to use TensorFloat32.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    # Without a reset, the compiler would take all loops for one function that changes too often, and stop compiling it.
    torch.compiler.reset()
    adam.compile()
    return compiled(update)
