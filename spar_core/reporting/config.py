"""The section ``report`` of ``params.yaml``."""

from __future__ import annotations

from pydantic import Field

from spar_core.settings import Settings


class ReportSettings(Settings):
    """The rules that a report compares with, and the width of its intervals."""

    baseline: str = Field("anchor", description="rule that every gain is measured against")
    repair: str = Field("uniform", description="rule that shows what the residual model gives without a value")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals, a share")
