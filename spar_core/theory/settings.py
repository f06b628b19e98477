"""Settings of the synthetic suite: the section ``theory`` of ``params.yaml``."""

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
# A slope needs three points to have a spread.
SlopeGrid = Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]


class ProblemSettings(Settings):
    """Data and values of every problem; lengths in units of the action box [-1, 1]."""

    data_steps: int = Field(512, ge=64, multiple_of=64)
    spread: float = Field(0.2, gt=0, lt=1)
    noise: float = Field(0.0, ge=0)
    reach: float = Field(0.3, ge=0, lt=1)
    curvature: float = Field(1.0, gt=0, lt=3)
    half: float = Field(0.8, gt=0, le=1)
    separation: float = Field(0.8, gt=0, lt=2)
    radius: float = Field(0.9, gt=0, le=2)
    value_offset: float = 10.0
    value_tangent: float = 1.0
    value_normal: float = 1.0


class TrainingSettings(Settings):
    """Networks of the rules."""

    steps: PositiveInt = 400
    batch_size: PositiveInt = 128
    learning_rate: float = Field(3e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (32, 32)
    inverse_temperature: float = Field(3.0, ge=0)
    q_weight: float = Field(2.5, ge=0)
    tau: float = Field(1.0, gt=0)
    latent_clip: float = Field(1.0, gt=0)
    candidates: int = Field(32, ge=2)


class DriftSettings(Settings):
    manifolds: tuple[str, ...] = NAMES
    horizons: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4)
    step_size: float = Field(0.01, gt=0)
    wide_clip: float = Field(2.0, gt=0)

    @field_validator("manifolds")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in names if name not in NAMES]
        if wrong or not names:
            raise ValueError(f"'{(wrong or [''])[0]}' is no manifold; choose from {', '.join(NAMES)}")
        return names


class OrderSettings(Settings):
    states: int = Field(512, ge=64, multiple_of=64)
    candidates: int = Field(64, ge=2)
    clips: SlopeGrid = (0.02, 0.04, 0.08, 0.16)
    curvatures: SlopeGrid = (0.25, 0.5, 1.0, 2.0)
    ratios: SlopeGrid = (1.0, 0.5, 0.25, 0.125)
    taus: Grid = (1.0, 4.0)
    ratio_states: int = Field(4096, ge=64, multiple_of=64)


class ConflictSettings(Settings):
    shift: float = Field(0.2, ge=0, lt=1)
    horizon: PositiveInt = 4
    steps: int = Field(300, ge=10)
    learning_rate: float = Field(2e-3, gt=0)


class ContractionSettings(Settings):
    action_size: int = Field(6, ge=3)
    latents: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 3, 6, 12)
    normal: float = Field(0.02, gt=0)
    resolution: float = Field(1e-3, gt=0)
    draws: int = Field(4096, ge=64, multiple_of=64)
    data_steps: int = Field(2048, ge=64, multiple_of=64)


class ModesSettings(Settings):
    separations: Grid = (0.2, 0.4, 0.8, 1.2)
    taus: Grid = (0.1, 0.5, 1.0, 2.0, 5.0)
    gate: float = Field(0.3, gt=0)
    states: int = Field(512, ge=64, multiple_of=64)
    candidates: int = Field(32, ge=2)


class TheorySettings(Settings):
    """The whole section; each claim has a part of its own, and shares the rest."""

    claims: tuple[str, ...] = tuple(CLAIMS)
    seeds: str = "0-3"
    confidence: float = Field(0.95, gt=0, lt=1)
    problem: ProblemSettings = ProblemSettings()
    training: TrainingSettings = TrainingSettings()
    learned: ResidualSettings = ResidualSettings()
    drift: DriftSettings = DriftSettings()
    order: OrderSettings = OrderSettings()
    conflict: ConflictSettings = ConflictSettings()
    contraction: ContractionSettings = ContractionSettings()
    modes: ModesSettings = ModesSettings()

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
        return parse_seeds(self.seeds)

    def of(self, claim: str) -> Any:
        """The part of one claim."""
        return getattr(self, claim)
