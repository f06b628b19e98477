"""The ``diagnosis`` section of ``params.yaml``: settings of the stages ``geometry`` and ``diagnose``."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from spar_core.settings import Settings


class DiagnosisSettings(Settings):
    """Settings of the stages ``geometry`` and ``diagnose``. They change no trained artifact."""

    states: PositiveInt = Field(2000, description="most steps measured, of training and of held-out episodes each")
    neighbourhoods: PositiveInt = Field(300, description="most held-out states whose similar states are looked up")
    neighbours: int = Field(100, ge=20, description="training steps that count as similar to a state")
    spacing: PositiveInt = Field(10, description="least distance in steps between similar steps of one episode")
    nearest: PositiveInt = Field(5, description="logged actions that a distance to the data is averaged over")
    draws: PositiveInt = Field(64, description="latents drawn for the mean candidate")
    weak_share: float = Field(
        0.1, gt=0, lt=1, description="a direction is weak below this share of the largest singular value"
    )
    dimension_neighbours: int = Field(
        20, ge=3, description="neighbours in the maximum-likelihood estimate of dimension"
    )
    cluster_share: float = Field(0.1, gt=0, lt=0.5, description="smallest share of the points that is a cluster")
    dip_level: float = Field(0.05, gt=0, lt=1, description="level of the dip test")
    resamples: PositiveInt = Field(500, description="bootstrap resamples of the episodes")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals in the artifacts")
