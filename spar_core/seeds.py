"""Groups of seeds as text, such as ``"0-3"``: what one cell of a study trains side by side."""

from __future__ import annotations

import re

from spar_core.errors import SparError

_SEED = "0|[1-9][0-9]*"


def parse_seeds(group: str) -> tuple[int, ...]:
    """Seeds of a group: ``"0-3"`` is 0, 1, 2, 3; ``"5"`` is 5; ``"0,4-5"`` is 0, 4, 5.

    A group is a part of paths and command lines, so a seed has one spelling, and no spaces stand in between.

    Raises:
        SparError: the text is something else, or holds a seed twice.
    """
    seeds: list[int] = []
    for part in group.split(","):
        match = re.fullmatch(rf"({_SEED})(?:-({_SEED}))?", part)
        if not match:
            plain = "".join(group.split())
            hint = f'write "{plain}", without spaces' if plain and plain != group else 'write "0-3", "5" or "0,4-5"'
            raise SparError(f"seed group '{group}' is not valid", hint)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SparError(f"seed group '{group}' is not valid", f'write "{last}-{first}", the lower seed first')
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise SparError(f"seed group '{group}' holds a seed twice", "list each seed once")
    return tuple(seeds)
