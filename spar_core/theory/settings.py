"""Settings of the geometric claims: the section ``theory``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from spar_core.errors import SparError
from spar_core.residual import ResidualSettings
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings
from spar_core.theory.claims import CLAIMS
from spar_core.theory.manifolds import NAMES

Grid = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
# The spread of a slope needs three points.
SlopeGrid = Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]


class ProblemSettings(Settings):
    """Data and values of every problem; lengths are in units of the action box [-1, 1]."""

    data_steps: int = Field(512, ge=64, multiple_of=64, description="logged steps of a problem")
    spread: float = Field(0.2, gt=0, lt=1, description="w, standard deviation of the data along the manifold")
    noise: float = Field(0.0, ge=0, description="standard deviation of the data across the manifold")
    reach: float = Field(0.3, ge=0, lt=1, description="how far along the manifold the anchor's actions go")
    curvature: float = Field(1.0, gt=0, lt=3, description="curvature of arcs and sphere, per unit of length")
    half: float = Field(0.8, gt=0, le=1, description="half-length of line and arcs, radius of the sphere's patch")
    separation: float = Field(0.8, gt=0, lt=2, description="distance of the two arcs")
    radius: float = Field(0.9, gt=0, le=2, description="rho of exact decoders")
    value_offset: float = Field(10.0, description="q_0, value of the anchor's action")
    value_tangent: float = Field(1.0, description="g_t, slope of the value along the manifold")
    value_normal: float = Field(1.0, description="g_n, slope of the value across the manifold")


class TrainingSettings(Settings):
    """Networks and temperatures that all rules share."""

    steps: PositiveInt = Field(400, description="optimiser steps")
    batch_size: PositiveInt = Field(128, description="states in a minibatch")
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of Adam")
    cosine_decay: bool = Field(True, description="let the learning rate fall to zero along half a cosine")
    hidden: tuple[PositiveInt, ...] = Field((32, 32), description="width of each hidden layer")
    inverse_temperature: float = Field(3.0, ge=0, description="AWR: weight of the advantage in the exponent")
    q_weight: float = Field(2.5, ge=0, description="value gradient: alpha of TD3+BC")
    tau: float = Field(1.0, gt=0, description="SPAR: temperature, in units of the spread of values within a state")
    latent_clip: float = Field(1.0, gt=0, description="SPAR: c, in standard deviations of the prior")
    candidates: int = Field(32, ge=2, description="SPAR: K, candidates for each state")


class DriftSettings(Settings):
    """Settings of the claim ``drift``."""

    manifolds: tuple[str, ...] = Field(NAMES, description="where the data lie")
    horizons: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 4), description="steps of an episode; 1 is a bandit"
    )
    step_size: float = Field(0.01, gt=0, description="size of the one step of gradient descent")
    wide_clip: float = Field(2.0, gt=0, description="a second c for SPAR-MLP, as wide as the data reach")

    @field_validator("manifolds")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in names if name not in NAMES]
        if wrong or not names:
            raise ValueError(f"'{(wrong or [''])[0]}' is no manifold; choose from {', '.join(NAMES)}")
        return names


class OrderSettings(Settings):
    """Settings of the claim ``order``."""

    states: int = Field(512, ge=64, multiple_of=64, description="rows of targets behind a point")
    candidates: int = Field(64, ge=2, description="K, candidates for each state")
    clips: SlopeGrid = Field((0.02, 0.04, 0.08, 0.16), description="values of c, in the fit of its exponent")
    curvatures: SlopeGrid = Field((0.25, 0.5, 1.0, 2.0), description="curvatures, in the fit of their exponent")
    ratios: SlopeGrid = Field((1.0, 0.5, 0.25, 0.125), description="sigma_n / sigma_t of full-rank decoders")
    taus: Grid = Field((1.0, 4.0), description="temperatures with full-rank decoders")
    ratio_states: int = Field(
        4096, ge=64, multiple_of=64, description="rows of targets behind a point, with full-rank decoders"
    )


class ConflictSettings(Settings):
    """Settings of the claim ``conflict``."""

    shift: float = Field(0.2, ge=0, lt=1, description="distance of the data's centre from the anchor")
    horizon: PositiveInt = Field(4, description="steps of an episode")
    steps: int = Field(300, ge=10, description="optimiser steps on all data at once")
    learning_rate: float = Field(2e-3, gt=0, description="learning rate of Adam")


class ContractionSettings(Settings):
    """Settings of the claim ``contraction``."""

    action_size: int = Field(6, ge=3, description="dimensions of the action; the data have 2")
    latents: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 2, 3, 6, 12), description="numbers of latent dimensions"
    )
    normal: float = Field(
        0.02, gt=0, description="sigma_n of latents beyond 2, and noise of the learned decoder's data"
    )
    resolution: float = Field(1e-3, gt=0, description="side below which no volume is counted")
    draws: int = Field(4096, ge=64, multiple_of=64, description="candidates")
    data_steps: int = Field(2048, ge=64, multiple_of=64, description="logged steps that the learned decoder sees")


class ModesSettings(Settings):
    """Settings of the claim ``modes``."""

    separations: Grid = Field((0.2, 0.4, 0.8, 1.2), description="distances of the two arcs")
    taus: Grid = Field((0.1, 0.5, 1.0, 2.0, 5.0), description="temperatures")
    gate: float = Field(0.3, gt=0, description="width of the smooth decoder's gate, in latent standard deviations")
    states: int = Field(512, ge=64, multiple_of=64, description="rows of targets")
    candidates: int = Field(32, ge=2, description="K, candidates for each state")


class TheorySettings(Settings):
    """The whole section. Each claim has a part of its own; the claims share the rest."""

    claims: tuple[str, ...] = Field(tuple(CLAIMS), description="claims that are measured")
    seeds: str = Field("0-3", description="seeds, trained together; intervals are over them")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of every interval")
    problem: ProblemSettings = Field(ProblemSettings(), description="data and values of every problem")
    training: TrainingSettings = Field(TrainingSettings(), description="networks and temperatures of all rules")
    learned: ResidualSettings = Field(ResidualSettings(), description="the learned decoder")
    drift: DriftSettings = Field(DriftSettings(), description="claim drift")
    order: OrderSettings = Field(OrderSettings(), description="claim order")
    conflict: ConflictSettings = Field(ConflictSettings(), description="claim conflict")
    contraction: ContractionSettings = Field(ContractionSettings(), description="claim contraction")
    modes: ModesSettings = Field(ModesSettings(), description="claim modes")

    @field_validator("claims")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CLAIMS:
                raise ValueError(f"'{name}' is no claim; choose from {', '.join(CLAIMS)}")
        if len(set(names)) < len(names):
            raise ValueError("a claim is listed twice")
        return names

    @field_validator("seeds")
    @classmethod
    def _a_group(cls, group: str) -> str:
        try:
            seeds = parse_seeds(group)
        except SparError as error:
            raise ValueError(str(error)) from None
        if len(seeds) < 2:
            raise ValueError("an interval needs two seeds or more")
        return group

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds as numbers."""
        return parse_seeds(self.seeds)

    def of(self, claim: str) -> Any:
        """The settings of one claim."""
        return getattr(self, claim)
