"""Does improving ever make an anchor worse? The number of settings in which a rule ends below or above its anchor.

A setting is a dataset, an anchor and a critic. A rule is shown below (above) its anchor where the paired interval of
the gain over seeds lies below (above) zero; a setting with one seed has no interval and is left out. With intervals of
95%, a rule that changes nothing would be shown below in about 2.5% of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.reporting.numbers.tables import Summary

COLUMNS = ["improvement", "settings", "below", "above", "below_share", "seeds", "seeds_below_by_a_tenth"]
# A seed is lost if it ends more than this share of the anchor's return below the anchor, whatever the interval is.
LOST = 0.1


def is_lost(value: float, anchor: float) -> bool:
    """Whether a policy of this return is lost against an anchor of that return."""
    return value < anchor - LOST * abs(anchor)


@dataclass(frozen=True)
class Harm:
    """One rule over all settings in which its gain has an interval.

    Attributes:
        settings: number of settings.
        below: the settings in which the rule is shown below its anchor.
        above: number of settings in which the rule is shown above its anchor.
        seeds, lost: number of seeds in all settings, and of those that end more than ``LOST`` below the anchor.
        worst: the lowest mean gain of a setting, as a share of the anchor's return.
        worst_setting: the setting of that gain.
    """

    improvement: str
    settings: int
    below: tuple[str, ...]
    above: int
    seeds: int
    lost: int
    worst: float
    worst_setting: str

    def row(self) -> dict[str, Any]:
        """The row of ``harm.csv``."""
        share = len(self.below) / self.settings
        known = (self.improvement, self.settings, len(self.below), self.above, share, self.seeds, self.lost)
        return dict(zip(COLUMNS, known, strict=True))


def harms(summaries: Sequence[Summary]) -> list[Harm]:
    """One entry per rule whose gain has an interval in at least two settings, in the study's order."""
    found = []
    for name in dict.fromkeys(summary.improvement for summary in summaries):
        rows = [s for s in summaries if s.improvement == name and s.gain is not None and s.gain.low is not None]
        if len(rows) < 2:
            continue
        lost, worst = 0, rows[0]
        for row in rows:
            for seed, gain in row.gains.items():
                lost += is_lost(row.per_seed[seed], row.per_seed[seed] - gain)
            if _relative(row) < _relative(worst):
                worst = row
        found.append(
            Harm(
                name,
                len(rows),
                tuple("/".join(row.setting) for row in rows if _direction(row) < 0),
                sum(_direction(row) > 0 for row in rows),
                sum(len(row.gains) for row in rows),
                lost,
                _relative(worst),
                "/".join(worst.setting),
            )
        )
    return found


def _direction(row: Summary) -> int:
    assert row.gain is not None
    return row.gain.direction


def _relative(row: Summary) -> float:
    """Mean gain over the absolute value of the anchor's mean return; 0 where the anchor's return is 0."""
    assert row.gain is not None
    anchor = abs(row.returns.value - row.gain.value)
    return row.gain.value / anchor if anchor > 0 else 0.0


def harm_frame(entries: Sequence[Harm]) -> pd.DataFrame:
    """``harm.csv``: one row per rule."""
    return pd.DataFrame([entry.row() for entry in entries], columns=COLUMNS)
