"""Re-anchoring rounds of a study: which policy becomes which anchor."""

from __future__ import annotations

from collections.abc import Sequence

from spar_core.settings import Settings


class Round(Settings):
    """The policy of the rule ``improvement`` with ``critic`` on the anchor ``of`` is distilled into ``anchor``."""

    anchor: str
    of: str
    critic: str
    improvement: str


def chains(rounds: Sequence[Round]) -> list[tuple[Round, ...]]:
    """The rounds that lead to each anchor that no later round starts from, in order."""
    made = {here.anchor: here for here in rounds}
    starts = {here.of for here in rounds}
    found = []
    for end in (here for here in rounds if here.anchor not in starts):
        chain = [end]
        while chain[0].of in made:
            chain.insert(0, made[chain[0].of])
        found.append(tuple(chain))
    return found
