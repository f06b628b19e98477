"""Reference scores of environment families, and returns normalised by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, nearest, parse

TABLE = Path(__file__).with_name("reference_scores.yaml")


class Reference(Settings):
    """One row of ``reference_scores.yaml``: the returns that scores are measured against, and their source."""

    min: float = Field(description="mean return of a random policy")
    max: float = Field(description="mean return of an expert")
    source: str = Field(min_length=1, description="where the numbers were read")
    note: str = Field("", description="what to be careful about")
    max_episode_steps: int | None = Field(
        None,
        gt=0,
        description="time limit in steps that the returns were measured with; null if they do not depend on it",
    )

    @model_validator(mode="after")
    def _rising(self) -> Reference:
        if not self.min < self.max:
            raise ValueError("'max' must be above 'min'")
        return self


def reference_table() -> dict[str, Reference]:
    """All rows of ``reference_scores.yaml``, by family."""
    return {name: parse(Reference, row, f"{TABLE.name}: {name}") for name, row in load_yaml(TABLE).items()}


def reference(family: str) -> Reference:
    """The row of one family.

    Raises:
        SparError: the family has no row; the line names the nearest family.
    """
    table = reference_table()
    if family not in table:
        raise SparError(f"there are no reference scores for '{family}'", nearest(family, list(table)))
    return table[family]


def check_time_limit(family: str, max_episode_steps: int | None) -> None:
    """Make sure that a family's reference scores were measured with the environment's time limit, in steps.

    Returns grow with the time limit, so scores that were measured with another limit mean nothing. On ``pen``,
    for example, implicit Q-learning scores 83 within D4RL's 100 steps and 187 within 200 steps (Minari issue 303).
    ``max_episode_steps`` is None for data without an environment, which is not checked.

    Raises:
        SparError: the limits differ, or the family has no row.
    """
    row = reference(family)
    if None in (row.max_episode_steps, max_episode_steps) or row.max_episode_steps == max_episode_steps:
        return
    raise SparError(
        f"the reference scores of '{family}' hold for episodes of at most {row.max_episode_steps} steps, but the "
        f"environment allows {max_episode_steps}",
        f"set 'env_kwargs: {{max_episode_steps: {row.max_episode_steps}}}' in the dataset's entry, or remove "
        "'reference' to report raw returns only",
    )


def normalised_score(returns: NDArray[np.floating] | float, ref: Reference) -> NDArray[np.float64]:
    """Normalise returns [...] so that the random policy scores 0 and the expert 100.

    Source: D4RL (Fu et al. 2020, arXiv 2004.07219).
    """
    return 100.0 * (np.asarray(returns, dtype=np.float64) - ref.min) / (ref.max - ref.min)


def normalised_spread(std: NDArray[np.floating] | float, ref: Reference) -> NDArray[np.float64]:
    """Normalise standard deviations or widths of intervals [...] of returns.

    A spread is scaled like a score, but not shifted by the random policy's return.
    """
    return 100.0 * np.asarray(std, dtype=np.float64) / (ref.max - ref.min)
