"""Which figures a dataset gets, and what they are called: as many as stay readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spar_core.reporting.anchor_figure import anchor_quality_figure
from spar_core.reporting.anchor_quality import AnchorQuality
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.console import by_setting
from spar_core.reporting.figures import estimates_figure, gains_figure, returns_figure
from spar_core.reporting.offline import OfflineSummary
from spar_core.reporting.tables import Summary

# Panels one above the other that still make one figure.
PANELS = 4


@dataclass
class Drawn:
    """Names of a dataset's figures; ``anchors`` by critic, ``estimates`` where nothing was rolled out."""

    returns: list[str] = field(default_factory=list)
    estimates: list[str] = field(default_factory=list)
    gains: list[str] = field(default_factory=list)
    anchors: dict[str, str] = field(default_factory=dict)


def draw(
    summaries: Sequence[Summary],
    qualities: Sequence[AnchorQuality],
    context: Mapping[str, Any],
    settings: ReportSettings,
    figures: dict[str, bytes],
) -> Drawn:
    """Add the figures of one dataset to ``figures``.

    Up to four (anchor, critic) settings share one figure. Beyond, those that a figure of anchor quality covers
    have no other, and the rest are split over several.
    """
    # A dot cannot be part of a dataset's or a critic's name, so two figures cannot meet in one file.
    slug = summaries[0].dataset.replace("/", ".")
    drawn = Drawn()
    for quality in qualities:
        picture = anchor_quality_figure(quality, settings.baseline)
        if picture is not None:
            name = f"anchors.{slug}.{quality.critic.replace('/', '.')}.svg"
            drawn.anchors[quality.critic] = name
            figures[name] = picture
    panels = list(by_setting(list(summaries)).values())
    if len(panels) > PANELS:
        panels = [rows for rows in panels if rows[0].critic not in drawn.anchors]
    groups = [panels[start : start + PANELS] for start in range(0, len(panels), PANELS)]
    for number, group in enumerate(groups, start=1):
        rows = [row for panel in group for row in panel]
        suffix = f".{number}" if len(groups) > 1 else ""
        drawn.returns.append(f"returns.{slug}{suffix}.svg")
        figures[drawn.returns[-1]] = returns_figure(rows, context.get("dataset") or {})
        gains = gains_figure(rows, settings.baseline)
        if gains is not None:
            drawn.gains.append(f"gains.{slug}{suffix}.svg")
            figures[drawn.gains[-1]] = gains
    return drawn


def draw_offline(summaries: Sequence[OfflineSummary], figures: dict[str, bytes]) -> Drawn:
    """Add the figures of one dataset without rollouts to ``figures``, four settings each."""
    slug = summaries[0].dataset.replace("/", ".")
    drawn = Drawn()
    panels = list(by_setting(list(summaries)).values())
    for start in range(0, len(panels), PANELS):
        suffix = f".{start // PANELS + 1}" if len(panels) > PANELS else ""
        drawn.estimates.append(f"estimates.{slug}{suffix}.svg")
        rows = [row for panel in panels[start : start + PANELS] for row in panel]
        figures[drawn.estimates[-1]] = estimates_figure(rows)
    return drawn
