"""Re-anchoring rounds of a study: which policy becomes which anchor."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from spar_core.settings import Settings


class Round(Settings):
    """One round: a policy is distilled into the next anchor."""

    anchor: str = Field(description="name of the anchor that the policy is distilled into")
    of: str = Field(description="name of the anchor that the policy corrects")
    critic: str = Field(description="name of the critic that the policy was fitted with")
    improvement: str = Field(description="name of the rule that made the policy")


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
