"""The state of a sweep: which cells wait, run or have ended, and which cell runs next."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


class Schedule:
    """Cells that wait, run, or have ended.

    A cell is ready when all cells that it depends on are done. Cells that depend on a failed cell are left out. The
    ready cell with the longest chain of dependent cells runs first.

    Args:
        graph: cells, each with the cells that it depends on.
        weights: expected time of each cell, in any unit; the default is 1.
    """

    def __init__(self, graph: Mapping[str, Sequence[str]], weights: Mapping[str, float] | None = None) -> None:
        self.graph = {name: tuple(needs) for name, needs in graph.items()}
        self.waiting = dict.fromkeys(self.graph)
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.left_out: set[str] = set()
        self._dependents: dict[str, list[str]] = {name: [] for name in self.graph}
        for name, needs in self.graph.items():
            for need in needs:
                self._dependents[need].append(name)
        self._chain = self._chains(weights or {})
        self._order = {name: number for number, name in enumerate(self.graph)}
        self._unmet = {name: len(needs) for name, needs in self.graph.items()}
        self._ready: list[tuple[float, int, str]] = []
        for name in self.graph:
            self._when_ready(name)

    def _when_ready(self, name: str) -> None:
        if self._unmet[name] == 0:
            heapq.heappush(self._ready, (-self._chain[name], self._order[name], name))

    def _chains(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Sum of the weights on the longest chain from each cell to an end of the pipeline."""
        chain: dict[str, float] = {}
        left = {name: len(after) for name, after in self._dependents.items()}
        ends = [name for name, n in left.items() if n == 0]
        while ends:
            name = ends.pop()
            behind = max((chain[after] for after in self._dependents[name]), default=0.0)
            chain[name] = weights.get(name, 1.0) + behind
            for need in self.graph[name]:
                left[need] -= 1
                if left[need] == 0:
                    ends.append(need)
        return chain

    def start(self) -> str | None:
        """Count the next ready cell as running and return it; None if no cell is ready."""
        if not self._ready:
            return None
        name = heapq.heappop(self._ready)[2]
        del self.waiting[name]
        self.running.add(name)
        return name

    def finish(self, name: str, ok: bool) -> None:
        """Count a running cell as done (``ok``) or failed."""
        self.running.remove(name)
        (self.done if ok else self.failed).add(name)
        if ok:
            for after in self._dependents[name]:
                self._unmet[after] -= 1
                self._when_ready(after)
        else:
            behind = list(self._dependents[name])
            while behind:
                other = behind.pop()
                if other in self.waiting:
                    del self.waiting[other]
                    self.left_out.add(other)
                    behind += self._dependents[other]

    @property
    def ended(self) -> int:
        """Number of cells that will not run any more."""
        return len(self.done) + len(self.failed) + len(self.left_out)

    def over(self) -> bool:
        """Whether no cell runs and no cell waits."""
        return not self.running and not self.waiting
