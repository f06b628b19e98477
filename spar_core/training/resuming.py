"""Training loops that go on where they were left."""

from __future__ import annotations

import time
from collections.abc import Iterator

from spar_core.errors import Interrupted
from spar_core.training.checkpoints import SHORT_LOOP, Kept
from spar_core.training.reporter import Reporter


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
