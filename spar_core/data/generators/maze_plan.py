"""Shortest paths through the free cells of a maze.

A maze is a list of rows of cells, as in gymnasium-robotics: 1 is a wall, and anything else is free. One moves
up, down, left and right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spar_core.errors import SparError

WALL = 1
# Where several neighbours are equally near to the goal, the first of these is taken, as (rows, columns).
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))

Cell = tuple[int, int]


class MazePlan:
    """Shortest paths in one maze; distances to a goal's cell are kept for the next time."""

    def __init__(self, cells: Sequence[Sequence[int | str]]) -> None:
        self._free = {(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell != WALL}
        self._distances: dict[Cell, dict[Cell, float]] = {}

    def path(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells of a shortest path, ``start`` and ``goal`` among them.

        Raises:
            SparError: one of the two is a wall or outside the maze, or no path leads from one to the other.
        """
        for cell in (start, goal):
            if cell not in self._free:
                raise SparError(f"the maze has no free cell {cell}", "starts and goals must lie in free cells")
        distances = self._to(goal)
        if np.isinf(distances[start]):
            raise SparError(f"no path leads from cell {start} of the maze to cell {goal}", "check its walls")
        # The distances alone come from SciPy: which of several shortest paths it would give is not documented.
        cells = [start]
        while cells[-1] != goal:
            nearer = distances[cells[-1]] - 1
            cells.append(next(cell for cell in _neighbours(cells[-1]) if distances.get(cell) == nearer))
        return cells

    def _to(self, goal: Cell) -> dict[Cell, float]:
        """Steps from each free cell to ``goal``; infinite where no path leads there."""
        if goal not in self._distances:
            from scipy.sparse import coo_array
            from scipy.sparse.csgraph import dijkstra

            cells = sorted(self._free)
            number = {cell: i for i, cell in enumerate(cells)}
            pairs = [(number[cell], number[near]) for cell in cells for near in _neighbours(cell) if near in number]
            rows, columns = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
            graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(cells), len(cells))).tocsr()
            steps = dijkstra(graph, indices=number[goal], unweighted=True)
            self._distances[goal] = dict(zip(cells, steps.tolist(), strict=True))
        return self._distances[goal]


def _neighbours(cell: Cell) -> list[Cell]:
    return [(cell[0] + rows, cell[1] + columns) for rows, columns in MOVES]
