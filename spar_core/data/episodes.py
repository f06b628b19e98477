"""Raw episodes, which every source is converted to, and the checks that they must pass before they are stored.

All episodes of a dataset lie one after the other in flat arrays. Each observation is stored once, so a million steps
take no more memory than their numbers. An :class:`Episode` is a view of one episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spar_core.errors import SparError

# An action outside the bounds by at most this share of their range counts as a rounding error.
ROUNDING = 1e-6
ROWS = 1 << 16  # rows checked at a time, so that a check needs little memory


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, in raw units.

    Attributes:
        observations: [T + 1, D] float32; the last row is the observation after the last step.
        actions: [T, A] float32.
        rewards: [T] float32.
        terminated: whether the last step ended in a terminal state; otherwise the episode was cut there.
        last_known: whether the source holds the observation after the last step. If not, the last row is a copy of the
            row before it.
        stops: [T] bool, steps after which no reward counts for a value although the episode goes on, because the task
            was done; None if there are none. The last step's flag is ``terminated``.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: bool
    last_known: bool = True
    stops: NDArray[np.bool_] | None = None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.rewards)


@dataclass(frozen=True)
class Episodes:
    """N steps in E episodes, in raw units, one episode after the other.

    Attributes:
        observations: [N + E, D] float32; an episode of T steps owns T + 1 rows.
        actions: [N, A] float32.
        rewards: [N] float32.
        lengths: [E] int64, steps of each episode.
        terminated: [E] bool, whether the episode's last step ended in a terminal state; otherwise it was cut there.
        last_known: [E] bool, see :class:`Episode`.
        stops: [N] bool, see :class:`Episode`; None if no episode has any.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    last_known: NDArray[np.bool_]
    stops: NDArray[np.bool_] | None = None

    @classmethod
    def empty(cls, lengths: NDArray[np.int64], observation_size: int, action_size: int) -> Episodes:
        """Allocate episodes of the given lengths [E]; their observations, actions and rewards are not initialised."""
        steps, count = int(lengths.sum()), len(lengths)
        return cls(
            np.empty((steps + count, observation_size), np.float32),
            np.empty((steps, action_size), np.float32),
            np.empty(steps, np.float32),
            np.asarray(lengths, np.int64),
            np.zeros(count, bool),
            np.ones(count, bool),
        )

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Episodes:
        """Copy single episodes into flat arrays, one after the other.

        Raises:
            SparError: there are no episodes, or the shapes of one do not fit; the line names it.
        """
        if not episodes:
            raise SparError("the dataset holds no episodes", "check its source")
        widths = (episodes[0].observations.shape[1:], episodes[0].actions.shape[1:])
        for number, episode in enumerate(episodes):
            _check_shapes(number, episode, widths)
        together = cls.empty(np.array([episode.steps for episode in episodes]), *widths[0], *widths[1])
        if any(episode.stops is not None for episode in episodes):
            together = replace(together, stops=np.zeros(together.steps, bool))
        for number, episode in enumerate(episodes):
            together.put(number, episode)
        return together

    def put(self, number: int, episode: Episode) -> None:
        """Copy ``episode`` into the place of episode ``number``.

        Raises:
            SparError: its length or its shapes are not those that were allocated.
        """
        room = self[number]
        _check_shapes(number, episode, (room.observations.shape[1:], room.actions.shape[1:]))
        if episode.steps != room.steps:
            raise SparError(
                f"episode {number} has {episode.steps} steps, expected {room.steps}", "fetch the data again"
            )
        room.observations[:], room.actions[:], room.rewards[:] = episode.observations, episode.actions, episode.rewards
        self.terminated[number], self.last_known[number] = episode.terminated, episode.last_known
        if room.stops is not None and episode.stops is not None:
            room.stops[:] = episode.stops

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Episode:
        """Views of one episode's arrays."""
        start, steps = int(self.starts[number]), int(self.lengths[number])
        first_row = start + number
        return Episode(
            self.observations[first_row : first_row + steps + 1],
            self.actions[start : start + steps],
            self.rewards[start : start + steps],
            bool(self.terminated[number]),
            bool(self.last_known[number]),
            None if self.stops is None else self.stops[start : start + steps],
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    def of_episodes(self, keep: NDArray[np.bool_]) -> Episodes:
        """The episodes that ``keep`` [E] marks, in their order; this object itself if it marks all."""
        if keep.all():
            return self
        rows, steps = np.repeat(keep, self.lengths + 1), np.repeat(keep, self.lengths)
        return Episodes(
            self.observations[rows],
            self.actions[steps],
            self.rewards[steps],
            self.lengths[keep],
            self.terminated[keep],
            self.last_known[keep],
            None if self.stops is None else self.stops[steps],
        )

    @property
    def steps(self) -> int:
        """N."""
        return len(self.rewards)

    @property
    def observation_size(self) -> int:
        """D."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """A."""
        return int(self.actions.shape[1])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First step of each episode, [E]."""
        starts: NDArray[np.int64] = (np.cumsum(self.lengths) - self.lengths).astype(np.int64)
        return starts

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode, [E]."""
        return np.array([episode.rewards.sum(dtype=np.float64) for episode in self])

    def step_at(self, index: int) -> tuple[int, int]:
        """The episode that row ``index`` of ``actions`` belongs to, and the step within that episode."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return number, int(index - self.starts[number])

    def row_at(self, row: int) -> tuple[int, int]:
        """The episode that row ``row`` of ``observations`` belongs to, and the row within that episode."""
        number = int(np.searchsorted(self.starts + np.arange(len(self)), row, side="right")) - 1
        return number, int(row - self.starts[number] - number)


@dataclass(frozen=True)
class ActionReport:
    """How many action values were clipped to the bounds.

    Attributes:
        clipped: values that lay outside the bounds.
        total: values in all, N * A.
        largest_excess: largest distance of a value from the bounds, in raw units.
    """

    clipped: int
    total: int
    largest_excess: float

    @property
    def share(self) -> float:
        """Share of the values that were clipped."""
        return self.clipped / max(self.total, 1)


@dataclass(frozen=True)
class DropReport:
    """How many episodes were left out because they have no step (``empty``), or hold a NaN or an infinity."""

    empty: int = 0
    not_finite: int = 0


def _check_shapes(number: int, episode: Episode, widths: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    steps = episode.steps
    found = (episode.observations.shape, episode.actions.shape, episode.rewards.shape)
    wanted = ((steps + 1, *widths[0]), (steps, *widths[1]), (steps,))
    if found != wanted or len(widths[0]) != 1 or len(widths[1]) != 1:
        raise SparError(
            f"episode {number} has observations {found[0]}, actions {found[1]} and rewards {found[2]}",
            "write [T + 1, D], [T, A] and [T], with the same D and A in every episode",
        )


def drop_unusable(episodes: Episodes, not_finite: str) -> tuple[Episodes, DropReport]:
    """Leave out episodes without a step, and those with a NaN or an infinity if ``not_finite`` is ``drop_episodes``.

    Raises:
        SparError: an episode holds a NaN or an infinity and ``not_finite`` is ``refuse`` (the line names the array, the
            episode and the step), or no episode is left.
    """
    some = episodes.lengths > 0
    empty = int((~some).sum())
    episodes = episodes.of_episodes(some)
    finite = np.ones(len(episodes), bool)
    for name, locate in (
        ("observations", Episodes.row_at),
        ("actions", Episodes.step_at),
        ("rewards", Episodes.step_at),
    ):
        values = getattr(episodes, name)
        for row in _rows_not_finite(values):
            number, step = locate(episodes, row)
            finite[number] = False
            if not_finite == "refuse":
                kind = "a NaN" if np.isnan(values[row]).any() else "an infinity"
                raise SparError(
                    f"{name} hold {kind} in episode {number}, step {step}",
                    "mend or remove that episode in the source, or set 'not_finite: drop_episodes' in the entry",
                )
    episodes = episodes.of_episodes(finite)
    if not len(episodes):
        raise SparError("the dataset holds no episodes", "check its source")
    return episodes, DropReport(empty, int((~finite).sum()))


def _rows_not_finite(values: NDArray[np.float32]) -> list[int]:
    rows: list[int] = []
    for start in range(0, len(values), ROWS):
        bad = ~np.isfinite(values[start : start + ROWS])
        rows += (start + np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))).tolist()
    return rows


def bound_actions(
    episodes: Episodes, low: NDArray[np.float32], high: NDArray[np.float32], rule: str
) -> tuple[Episodes, ActionReport]:
    """Clip actions to the bounds ``low`` and ``high`` [A], and count what was clipped.

    Excesses up to ``ROUNDING`` are always clipped, larger ones only if ``rule`` is ``clip``.

    Raises:
        SparError: an action lies further outside the bounds, and ``rule`` is ``refuse``; the line says where.
    """
    tolerance = ROUNDING * (high - low)
    clipped, largest = 0, 0.0
    for start in range(0, episodes.steps, ROWS):
        actions = episodes.actions[start : start + ROWS]
        excess = np.maximum(low - actions, actions - high)
        if rule == "refuse" and (excess > tolerance).any():
            step, dimension = (int(i) for i in np.argwhere(excess > tolerance)[0])
            number, at = episodes.step_at(start + step)
            raise SparError(
                f"action {actions[step, dimension]:g} in episode {number}, step {at}, dimension "
                f"{dimension} lies outside the bounds [{low[dimension]:g}, {high[dimension]:g}]",
                "set 'out_of_bounds_actions: clip' in the dataset's entry to clip such actions",
            )
        clipped += int((excess > 0.0).sum())
        largest = max(largest, float(excess.max()))
    report = ActionReport(clipped, episodes.actions.size, max(largest, 0.0))
    if clipped:
        episodes = replace(episodes, actions=np.clip(episodes.actions, low, high, dtype=np.float32))
    return episodes, report


def episode_digest(episode: Episode) -> str:
    """Digest of one episode's content, 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    shape = (episode.observations.shape, episode.actions.shape, bool(episode.terminated))
    digest.update(repr(shape if episode.last_known else (*shape, "last observation unknown")).encode())
    for values in (episode.observations, episode.actions, episode.rewards):
        digest.update(np.ascontiguousarray(values, dtype="<f4").data)
    if episode.stops is not None and episode.stops[:-1].any():
        digest.update(np.packbits(episode.stops).data)
    return digest.hexdigest()


def episodes_digest(digests: Sequence[str]) -> str:
    """Digest of a dataset from the digests of its episodes, in order; 32 hexadecimal digits."""
    return hashlib.md5("".join(digests).encode(), usedforsecurity=False).hexdigest()
