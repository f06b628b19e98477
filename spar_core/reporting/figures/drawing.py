"""Which figures a dataset gets, and their file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spar_core.reporting.config import ReportSettings
from spar_core.reporting.figures.anchor_figure import anchor_quality_figure
from spar_core.reporting.figures.curve_figure import curves_figure
from spar_core.reporting.figures.episode_figures import against_figure, profiles_figure
from spar_core.reporting.figures.figures import estimates_figure, gains_figure, returns_figure
from spar_core.reporting.figures.offline_figures import agreement_figure, corrections_figure
from spar_core.reporting.numbers.agreement import Agreement
from spar_core.reporting.numbers.anchor_quality import AnchorQuality
from spar_core.reporting.numbers.cells import Rule, Setting, by_setting
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.tables import Summary

# Largest number of panels in one figure.
PANELS = 4
# Number of settings of a dataset with figures of single episodes, estimates and corrections: a study of many anchors
# would have too many.
PICTURED = 3


@dataclass
class Drawn:
    """File names of a dataset's figures.

    Attributes:
        estimates: for a dataset without rollouts, in place of ``returns``, ``gains`` and ``profiles``.
        anchors: by critic.
        against, corrections, agreement: by setting, for the first ``PICTURED`` settings.
    """

    returns: list[str] = field(default_factory=list)
    estimates: list[str] = field(default_factory=list)
    gains: list[str] = field(default_factory=list)
    anchors: dict[str, str] = field(default_factory=dict)
    profiles: list[str] = field(default_factory=list)
    against: dict[Setting, str] = field(default_factory=dict)
    corrections: dict[Setting, str] = field(default_factory=dict)
    agreement: dict[Setting, str] = field(default_factory=dict)
    curves: str | None = None


def draw(
    summaries: Sequence[Summary],
    rules: Sequence[Rule],
    agreements: Sequence[Agreement],
    qualities: Sequence[AnchorQuality],
    context: Mapping[str, Any],
    settings: ReportSettings,
    figures: dict[str, bytes],
) -> Drawn:
    """Add the figures of one dataset to ``figures``; ``rules`` are those of ``summaries``, in the same order.

    Up to ``PANELS`` settings share one figure. With more settings, those that a figure of anchor quality covers have no
    other figure, and the rest are split over several figures.
    """
    # Names of datasets and critics hold no dots, so two figures cannot have the same name.
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
        settings_here = {row.setting for row in rows}
        drawn.profiles.append(f"profiles.{slug}{suffix}.svg")
        members = [rule for rule in rules if rule.setting in settings_here]
        figures[drawn.profiles[-1]] = profiles_figure(members, summaries[0].label)
    pictured = [rule for rule in rules if rule.setting in {rows[0].setting for rows in panels}]
    _draw_settings(pictured, agreements, settings.baseline, summaries[0].label, slug, drawn, figures)
    drawn.curves = _keep(f"curves.{slug}.svg", curves_figure(rules), figures)
    return drawn


def _draw_settings(
    rules: Sequence[Rule],
    agreements: Sequence[Agreement],
    baseline: str,
    label: str | None,
    slug: str,
    drawn: Drawn,
    figures: dict[str, bytes],
) -> None:
    """Figures of single settings: episodes and estimates against returns, where there are any, and corrections."""
    settings = list(dict.fromkeys(rule.setting for rule in rules))
    for setting in settings[:PICTURED]:
        members = [rule for rule in rules if rule.setting == setting]
        suffix = "" if len(settings) == 1 else "." + ".".join(name.replace("/", ".") for name in setting[1:])
        mine = [found for found in agreements if found.setting == setting]
        rolled = members[0].not_evaluated is None
        made = {
            "against": against_figure(members, baseline, label) if rolled else None,
            "agreement": agreement_figure(members, mine, label),
            "corrections": corrections_figure(members),
        }
        for kind, picture in made.items():
            if picture is not None:
                getattr(drawn, kind)[setting] = f"{kind}.{slug}{suffix}.svg"
                figures[f"{kind}.{slug}{suffix}.svg"] = picture


def _keep(name: str, picture: bytes | None, figures: dict[str, bytes]) -> str | None:
    """Add a picture to ``figures`` and return its name; None without a picture."""
    if picture is None:
        return None
    figures[name] = picture
    return name


def draw_offline(
    summaries: Sequence[OfflineSummary], rules: Sequence[Rule], settings: ReportSettings, figures: dict[str, bytes]
) -> Drawn:
    """Add the figures of one dataset without rollouts to ``figures``, each with up to ``PANELS`` settings."""
    slug = summaries[0].dataset.replace("/", ".")
    drawn = Drawn()
    panels = list(by_setting(list(summaries)).values())
    for start in range(0, len(panels), PANELS):
        suffix = f".{start // PANELS + 1}" if len(panels) > PANELS else ""
        drawn.estimates.append(f"estimates.{slug}{suffix}.svg")
        rows = [row for panel in panels[start : start + PANELS] for row in panel]
        figures[drawn.estimates[-1]] = estimates_figure(rows)
    _draw_settings(rules, [], settings.baseline, summaries[0].label, slug, drawn, figures)
    drawn.curves = _keep(f"curves.{slug}.svg", curves_figure(rules), figures)
    return drawn
