"""Reference scores by environment family, and normalised scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, nearest, parse

TABLE = Path(__file__).with_name("reference_scores.yaml")


class Reference(Settings):
    """Returns that scores are measured against, and where the numbers come from.

    Attributes:
        min: mean return of a random policy.
        max: mean return of an expert.
        source: where the numbers were read.
        note: what to be careful about.
        max_episode_steps: the time limit that they were measured with; null where returns do not depend on it.
    """

    min: float
    max: float
    source: str = Field(min_length=1)
    note: str = ""
    max_episode_steps: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _rising(self) -> Reference:
        if not self.min < self.max:
            raise ValueError("'max' must be above 'min'")
        return self


def reference_table() -> dict[str, Reference]:
    """All rows of ``reference_scores.yaml``, by family."""
    return {name: parse(Reference, row, f"{TABLE.name}: {name}") for name, row in load_yaml(TABLE).items()}


def reference(family: str) -> Reference:
    """One row of the table.

    Raises:
        SparError: the family has no row; the line names the nearest one.
    """
    table = reference_table()
    if family not in table:
        raise SparError(f"there are no reference scores for '{family}'", nearest(family, list(table)))
    return table[family]


def check_time_limit(family: str, max_episode_steps: int | None) -> None:
    """Make sure that a family's reference scores hold for an environment's time limit, in steps.

    Returns grow with the time limit, so scores for another one mean nothing: on ``pen``, implicit Q-learning scores
    83 within D4RL's 100 steps and 187 within 200 (Minari issue 303). A limit of None, that of data without an
    environment, is not compared.

    Raises:
        SparError: the limits differ, or the family has no row.
    """
    row = reference(family)
    if None in (row.max_episode_steps, max_episode_steps) or row.max_episode_steps == max_episode_steps:
        return
    raise SparError(
        f"the reference scores of '{family}' hold for episodes of at most {row.max_episode_steps} steps, but the "
        f"environment allows {max_episode_steps}",
        f"set 'env_kwargs: {{max_episode_steps: {row.max_episode_steps}}}' in the dataset's entry, or take out "
        "'reference' and report returns alone",
    )


def normalised_score(returns: np.ndarray | float, ref: Reference) -> np.ndarray:
    """Returns as a percentage of the way from random (0) to expert (100), float64."""
    return 100.0 * (np.asarray(returns, dtype=np.float64) - ref.min) / (ref.max - ref.min)


def normalised_spread(std: np.ndarray | float, ref: Reference) -> np.ndarray:
    """A standard deviation or the width of an interval on the normalised scale, float64.

    A spread is scaled but not shifted, so this is not ``normalised_score`` of it.
    """
    return 100.0 * np.asarray(std, dtype=np.float64) / (ref.max - ref.min)
