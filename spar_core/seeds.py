"""Groups of seeds as text, such as ``"0-3"``: what one cell of a study trains side by side."""

from __future__ import annotations

import re

from spar_core.errors import SparError


def parse_seeds(group: str) -> tuple[int, ...]:
    """Seeds of a group: ``"0-3"`` is 0, 1, 2, 3; ``"5"`` is 5; ``"0,4-5"`` is 0, 4, 5.

    Raises:
        SparError: the text is something else, or holds a seed twice.
    """
    seeds: list[int] = []
    for part in str(group).split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise SparError(f"seed group '{group}' is not valid", 'write "0-3", "5" or "0,4-5"')
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise SparError(f"seed group '{group}' holds a seed twice", "list each seed once")
    return tuple(seeds)
