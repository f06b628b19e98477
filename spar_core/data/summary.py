"""Lines that say how a user's data were read, so that a wrong reading shows before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.collected import Collected
from spar_core.data.names import unusual


def summary(manifest: Mapping[str, Any]) -> list[str]:
    """What the dataset holds, in one line; then why policies are not rolled out, or what a replay showed."""
    returns, environment = manifest["returns"], manifest["environment"]
    lines = [
        f"{manifest['dataset']}: {manifest['steps']} steps in {manifest['episodes']} episodes, return mean "
        f"{returns['mean']:.1f}, best {returns['best']:.1f}; {manifest['heldout_episodes']} episodes held out"
    ]
    if environment["not_evaluated"]:
        lines.append(f"policies will not be rolled out: {environment['not_evaluated']}")
    elif environment["replay"]:
        lines.append(f"replayed in {environment['env_id']}: {environment['replay']['reading']}")
    return lines


def reading(data: Collected, manifest: Mapping[str, Any]) -> list[str]:
    """Ranges, ends by kind, what each unusual array was taken for, and what can be read in two ways.

    Args:
        data: as collected.
        manifest: of the prepared dataset.
    """
    episodes, source = data.episodes, data.provenance
    terminal = int(episodes.terminated.sum())
    cut = len(episodes) - terminal
    apart = [
        f"{count} {what}"
        for count, what in (
            (source.get("unmarked_cuts", 0), "not marked in the file"),
            (int((~episodes.last_known & ~episodes.terminated).sum()), "before an observation that is not known"),
        )
        if count
    ]
    lines = [
        f"read: {_range('observations', episodes.observations)}, {_range('actions', episodes.actions)}, "
        f"{_range('rewards', episodes.rewards)} (the first {episodes.rewards[0]:.6g}, the last "
        f"{episodes.rewards[-1]:.6g})",
        f"ends: {terminal} in a terminal state, {cut} cut" + (f" ({', '.join(apart)})" if apart else ""),
    ]
    if episodes.stops is not None:
        lines.append(
            f"stops: {int(episodes.stops.sum())} steps begin in a state that solves the task; values end there"
        )
    renamed = [f"{meaning} from '{name}'" for meaning, name in unusual(source.get("arrays", {})).items()]
    if renamed:
        lines.append(f"taken: {', '.join(renamed)}")
    dropped = ((data.dropped.empty, "without a step"), (data.dropped.not_finite, "with a NaN or an infinity"))
    lines += [f"dropped: {count} episodes {why}" for count, why in dropped if count]
    notes = [*data.notes]
    if all(not (actions % 1).any() for actions in (episodes.actions[:1000], episodes.actions)):
        notes.append("every action is a whole number; if the actions are choices, they are not supported")
    if "misaligned" in manifest:
        notes.append(_misaligned(manifest["misaligned"]))
    return lines + [f"note: {note}" for note in notes]


def _misaligned(found: Mapping[str, Any]) -> str:
    offset = found["offset"]
    whose = f"{abs(offset)} row{'' if abs(offset) == 1 else 's'} {'later' if offset > 0 else 'earlier'}"
    own, best = found["explained"]["0"], found["explained"][str(offset)]
    return (
        f"actions {whose} explain {best:.0%} of the changes of observations, and those of the same row {own:.0%}; "
        "check that a row holds the action that was taken at its observation"
    )


def _range(name: str, values: NDArray[np.float32]) -> str:
    size = f" [{values.shape[1]}]" if values.ndim > 1 else ""
    return f"{name}{size} from {values.min():.6g} to {values.max():.6g}"
