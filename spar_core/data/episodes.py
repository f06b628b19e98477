"""Episodes: the raw form that every source is turned into before it is stored, and what is asked of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spar_core.errors import SparError

# Beyond the bounds by at most this, relative to the span of the bounds, an action is in them up to rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, in raw units.

    Attributes:
        observations: [T + 1, D] float32; the last row is the observation after the last step.
        actions: [T, A] float32.
        rewards: [T] float32.
        terminated: whether the last step ended in a terminal state; otherwise the episode was cut there.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool

    @property
    def steps(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class ActionReport:
    """How many of the actions' numbers lay outside the bounds and were clipped, and by how much at most."""

    clipped: int
    total: int
    largest_excess: float

    @property
    def share(self) -> float:
        return self.clipped / max(self.total, 1)


def check_episodes(episodes: Sequence[Episode]) -> None:
    """Make sure that episodes are whole.

    Raises:
        SparError: no episodes, an empty episode, shapes that do not fit together, or a NaN or an infinity;
            the line names the array, the episode and the step.
    """
    if not episodes:
        raise SparError("the dataset holds no episodes", "check its source")
    widths = (episodes[0].observations.shape[1:], episodes[0].actions.shape[1:])
    for number, episode in enumerate(episodes):
        _check_shapes(number, episode, widths)
        for name in ("observations", "actions", "rewards"):
            values = getattr(episode, name)
            if not np.isfinite(values).all():
                step = int(np.argwhere(~np.isfinite(values))[0][0])
                kind = "NaN" if np.isnan(values[step]).any() else "infinity"
                raise SparError(
                    f"{name} hold a {kind} in episode {number}, step {step}",
                    "mend or remove that episode in the source",
                )


def _check_shapes(number: int, episode: Episode, widths: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    steps = episode.steps
    if steps == 0:
        raise SparError(f"episode {number} is empty", "remove it from the source")
    found = (episode.observations.shape, episode.actions.shape, episode.rewards.shape)
    wanted = ((steps + 1, *widths[0]), (steps, *widths[1]), (steps,))
    if found != wanted or len(widths[0]) != 1 or len(widths[1]) != 1:
        raise SparError(
            f"episode {number} has observations {found[0]}, actions {found[1]} and rewards {found[2]}",
            "expected [T + 1, D], [T, A] and [T] with the same D and A in every episode",
        )


def bound_actions(
    episodes: Sequence[Episode], low: np.ndarray, high: np.ndarray, rule: str
) -> tuple[list[Episode], ActionReport]:
    """Bring actions into the bounds ``low`` and ``high`` [A].

    Excesses of rounding size are clipped; larger ones are clipped where ``rule`` is ``clip``.

    Raises:
        SparError: an action lies outside the bounds, and ``rule`` is ``refuse``.
    """
    tolerance = ROUNDING * (high - low)
    clipped, total, largest, bounded = 0, 0, 0.0, []
    for number, episode in enumerate(episodes):
        excess = np.maximum(low - episode.actions, episode.actions - high)
        total += excess.size
        outside = excess > 0.0
        if not outside.any():
            bounded.append(episode)
            continue
        if rule == "refuse" and (excess > tolerance).any():
            step, dimension = (int(i) for i in np.argwhere(excess > tolerance)[0])
            raise SparError(
                f"action {episode.actions[step, dimension]:g} in episode {number}, step {step}, dimension "
                f"{dimension} lies outside the bounds [{low[dimension]:g}, {high[dimension]:g}]",
                "set 'out_of_bounds_actions: clip' in the dataset's entry to clip such actions",
            )
        clipped += int(outside.sum())
        largest = max(largest, float(excess.max()))
        bounded.append(replace(episode, actions=np.clip(episode.actions, low, high).astype(np.float32)))
    return bounded, ActionReport(clipped, total, largest)


def episode_digest(episode: Episode) -> str:
    """Digest of one episode's content, 32 hex digits."""
    digest = hashlib.md5(usedforsecurity=False)
    digest.update(repr((episode.observations.shape, episode.actions.shape, bool(episode.terminated))).encode())
    for values in (episode.observations, episode.actions, episode.rewards):
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()


def episodes_digest(digests: Sequence[str]) -> str:
    """Digest of a dataset from the digests of its episodes, in order."""
    return hashlib.md5("".join(digests).encode(), usedforsecurity=False).hexdigest()
