"""Re-anchoring rounds of a study: which policy becomes which anchor."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from spar_core.settings import Settings


class Round(Settings):
    """The policy of the rule ``improvement`` with ``critic`` on the anchor ``of`` is distilled into ``anchor``."""

    anchor: str = Field(description="variant that the round makes")
    of: str = Field(description="anchor whose policy is distilled, of the study or of an earlier round")
    critic: str = Field(description="critic of that policy, and of the new anchor's cells")
    improvement: str = Field(description="rule of that policy")


def chains(rounds: Sequence[Round]) -> list[tuple[Round, ...]]:
    """For each anchor that no later round starts from, the rounds that lead to it, in order."""
    made = {here.anchor: here for here in rounds}
    starts = {here.of for here in rounds}
    found = []
    for end in (here for here in rounds if here.anchor not in starts):
        chain = [end]
        while chain[0].of in made:
            chain.insert(0, made[chain[0].of])
        found.append(tuple(chain))
    return found
