"""The table of the anchor-quality analysis at full precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from spar_core.reporting.numbers.anchor_quality import DIAGNOSTICS, AnchorQuality

VERDICTS = {1: "lifts", -1: "harms", 0: "undecided"}
PARTS = ("gain", "repair", "improvement_part")
COLUMNS = (
    ["dataset", "critic", "number", "anchor", "seeds", "anchor_return", "anchor_return_low", "anchor_return_high"]
    + [f"anchor_{name}" for name in DIAGNOSTICS]
    + ["improvement", "return_mean", "return_low", "return_high"]
    + [f"{part}{end}" for part in PARTS for end in ("", "_low", "_high")]
    + ["verdict", "parameters_rule", "parameters_policy", "label"]
)


def anchors_frame(qualities: Sequence[AnchorQuality]) -> pd.DataFrame:
    """``anchors.csv``: one row per anchor and rule; rows of the baseline have no gain.

    The column ``label`` is left out where no row has a label.
    """
    frame = pd.DataFrame(list(_rows(qualities)), columns=COLUMNS)
    if frame["label"].isna().all():
        frame = frame.drop(columns="label")
    # With this type, counts stay whole numbers where some are missing.
    whole = ["parameters_rule", "parameters_policy"]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _rows(qualities: Sequence[AnchorQuality]) -> Iterator[dict[str, Any]]:
    for quality in qualities:
        for anchor in quality.anchors:
            found = [ours for trend in quality.trends for row, ours in trend.points if row.name == anchor.name]
            for summary in [anchor.summary, *found]:
                row = {
                    "dataset": quality.dataset,
                    "critic": quality.critic,
                    "number": anchor.number,
                    "anchor": anchor.name,
                    "seeds": summary.returns.n,
                    "improvement": summary.improvement,
                    "verdict": VERDICTS[summary.gain.direction] if summary.gain else None,
                    "parameters_rule": summary.parameters_rule,
                    "parameters_policy": summary.parameters_policy,
                    "label": summary.label,
                }
                estimates = {
                    "anchor_return": anchor.returns,
                    "return": summary.returns,
                    **{part: getattr(summary, part) for part in PARTS},
                }
                for name, estimate in estimates.items():
                    row["return_mean" if name == "return" else name] = estimate.value if estimate else None
                    row[f"{name}_low"] = estimate.low if estimate else None
                    row[f"{name}_high"] = estimate.high if estimate else None
                yield row | {f"anchor_{name}": anchor.diagnostics.get(name) for name in DIAGNOSTICS}
