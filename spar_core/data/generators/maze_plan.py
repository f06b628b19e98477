"""Shortest paths through the free cells of a maze.

A maze is a list of rows of cells, as in gymnasium-robotics: 1 is a wall, and anything else is free. Paths move up,
down, left and right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spar_core.errors import SparError

WALL = 1
# Moves as (rows, columns). If several lead to cells that are equally near to the goal, the first of them is taken.
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))

Cell = tuple[int, int]


class MazePlan:
    """Shortest paths in one maze; the distances to each goal are computed once and kept."""

    def __init__(self, cells: Sequence[Sequence[int | str]]) -> None:
        """Take the maze's rows of cells."""
        self._free = {(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell != WALL}
        self._distances: dict[Cell, dict[Cell, float]] = {}

    def path(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells of a shortest path, including ``start`` and ``goal``.

        Raises:
            SparError: ``start`` or ``goal`` is not a free cell of the maze, or no path connects them.
        """
        for cell in (start, goal):
            if cell not in self._free:
                raise SparError(f"the maze has no free cell {cell}", "place starts and goals in free cells")
        distances = self._to(goal)
        if np.isinf(distances[start]):
            raise SparError(f"no path leads from cell {start} of the maze to cell {goal}", "check its walls")
        # SciPy computes only the distances, because it does not document which of several shortest paths it returns.
        cells = [start]
        while cells[-1] != goal:
            nearer = distances[cells[-1]] - 1
            cells.append(next(cell for cell in _neighbours(cells[-1]) if distances.get(cell) == nearer))
        return cells

    def _to(self, goal: Cell) -> dict[Cell, float]:
        """Steps from each free cell to ``goal``; infinite for a cell that no path connects to it."""
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
