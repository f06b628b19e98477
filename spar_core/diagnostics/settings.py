"""The ``diagnosis`` section of ``params.yaml``: where a trained cell is looked at, and how closely."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from spar_core.settings import Settings


class DiagnosisSettings(Settings):
    """Settings of the stages ``geometry`` and ``diagnose``; they change no trained artifact."""

    # Steps of training and of held-out episodes that are measured, at most, of each.
    states: PositiveInt = 2000
    # Held-out states among them whose similar training states are looked up, at most.
    neighbourhoods: PositiveInt = 300
    # Training steps that count as similar to one of them.
    neighbours: int = Field(100, ge=20)
    # Steps that two of those from one episode lie apart, at least.
    spacing: PositiveInt = 10
    # Logged actions of a neighbourhood that the distance to the data is a mean over.
    nearest: PositiveInt = 5
    # Latents drawn for the mean candidate.
    draws: PositiveInt = 64
    # A direction is weak below this share of the largest singular value.
    weak_share: float = Field(0.1, gt=0, lt=1)
    # Neighbours behind the maximum-likelihood estimate of dimension.
    dimension_neighbours: int = Field(20, ge=3)
    # Smallest share of the points that is a cluster.
    cluster_share: float = Field(0.1, gt=0, lt=0.5)
    # Level of the dip test.
    dip_level: float = Field(0.05, gt=0, lt=1)
    # Points of training at which gradients are compared; 0 repeats no training.
    probes: int = Field(40, ge=0, le=200)
    # Training steps that the gradients are means over.
    probe_states: PositiveInt = 512
    # Resamples of the bootstrap over episodes.
    resamples: PositiveInt = 500
    # Coverage of every interval.
    confidence: float = Field(0.95, gt=0, lt=1)
