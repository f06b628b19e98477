"""The one training loop: minimise a loss over minibatches, with learning curves and checkpoints.

:func:`minimise` is what every fit calls. :func:`resumable` counts its steps and goes on from a checkpoint.
:class:`Update` runs one step. On a CUDA device it captures the step once as a graph and then replays it, because
launching the hundred small kernels of a step one by one takes longer than running them. In a long loop Torch's compiler
first makes fewer and larger kernels of them. So a step may depend on nothing but its inputs and on tensors that it
changes in place. Random numbers are drawn outside (:class:`spar_core.training.randomness.Draws`), nothing is read
back, and the learning rate goes in through a tensor. ``tests/test_updates.py`` checks these rules for every registered
member on the CPU, where a step is a plain call.
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
from spar_core.training.networks import COMPILER, Adam
from spar_core.training.randomness import Draws
from spar_core.training.reporter import Reporter, is_curve_point

# Values [S] for the learning curve, by metric.
Info = dict[str, Tensor]
# Takes what a step draws, minibatch first; gives a scalar, summed over seeds, and values for the curve.
Loss = Callable[..., tuple[Tensor, Info]]
# Plain calls before the capture, in which libraries set themselves up.
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

    A learning curve may go over several loops: this one is steps ``before + 1`` to ``before + steps`` of ``total``.

    Args:
        loss: is called with the next tensor of each of ``draws``, in their order.
        context: its reporter takes progress, curve and checkpoints.
        adam: holds the networks that are trained.
        draws: random tensors by name; the first are the minibatches.
        name: of the loop, among the loops of one fit; names its checkpoint.
        steps: updates of this loop.
        before: steps of the curve that were taken before.
        total: steps of the whole curve; those of this loop where there is no other.
        logged_from: is added to the step number in the curve.
        after: changes more tensors in place after each update, such as target networks.
        curve: takes the step and the loss's values at a point of the curve, and gives the values to record. It may
            raise to end a fit that has diverged.
        kept: what else an update changes, by name; it goes into the checkpoint.
        capture: whether an update may be captured as a CUDA graph.

    Raises:
        Interrupted: whoever runs this asked to stop; a checkpoint is written first.
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
    """Yield the steps of a loop, from 1 or from where its last checkpoint was, and report one unit a step and seed.

    The body of the loop is one update. All that it changes has to be in ``kept``, or follow from it: then a loop that
    was left and taken up again does what one that was left alone does, to the last bit. What a body logs comes back
    with the checkpoint; read it after the loop with :meth:`Reporter.last`, since a loop that had ended has no body.

    Args:
        report: also says where checkpoints lie (nowhere, for None) and whether to stop.
        name: of the loop, among the loops of ``report``.
        steps: updates.
        kept: what the loop changes.

    Raises:
        Interrupted: whoever runs this asked to stop; a checkpoint is written first.
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
            hint = "a checkpoint is kept: the same command goes on from there" if checkpoints else "nothing is kept"
            raise Interrupted(f"stopped at step {done} of {steps} of {name}", hint)
        if checkpoints and checkpoints.due():
            save()
        report.advance(seeds)
    if checkpoints and done > resumed_at and time.monotonic() - begun > SHORT_LOOP * checkpoints.seconds:
        save()


class Update:
    """Calls ``update(*inputs)``, which ends in ``adam.step(loss)`` and returns values for the curve.

    Args:
        update: one step on inputs of the same shapes each time.
        adam: its optimiser.
        device: where it runs.
        steps: of the whole loop, those before a checkpoint included.
        capture: whether it may be captured; one that reads values back may not.
    """

    def __init__(
        self, update: Callable[..., Info], adam: Adam, device: str, steps: int, *, capture: bool = True
    ) -> None:
        self.capture = capture and torch.device(device).type == "cuda"
        self.adam = adam
        self.update = compiled(update, adam) if self.capture and steps >= COMPILED_FROM and can_compile() else update
        self.calls = 0
        self.graph: Any = None
        self.inputs: tuple[Tensor, ...] = ()
        self.info: Info = {}

    def __call__(self, *inputs: Tensor) -> Info:
        """One update. The values returned are overwritten by the next one."""
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
        """A plain call on a stream of its own, as a capture needs it before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            info = self.update(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return info

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Capture an update; nothing is computed by that."""
        self.inputs = tuple(value.clone() for value in inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.info = self.update(*self.inputs)


def can_compile() -> bool:
    """Whether what Torch's compiler needs for a CUDA device is here: Triton, and a C compiler for its launchers."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def compiled(update: Callable[..., Info], adam: Adam) -> Callable[..., Info]:
    """The update as kernels of Torch's compiler, the optimiser's step too."""
    # Products are float32 on purpose.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    # Each loop is compiled on its own; without this the compiler would count them as one that changes, and give up.
    torch.compiler.reset()
    adam.compile()
    return torch.compile(update, dynamic=False, options=COMPILER)
