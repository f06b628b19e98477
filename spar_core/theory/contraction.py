r"""Claim ``contraction``: how many dimensions the candidates span, and how much of the action box.

With the eigenvalues :math:`\lambda_1 \ge \ldots \ge \lambda_A` of the covariance of the candidates
:math:`a_b + d_k` at a state:

.. math:: \text{effective dimension} = \frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2}, \qquad
   \log \text{volume} = \sum_i \tfrac{1}{2} \log \max(12 \lambda_i, \epsilon^2) - A \log 2

The effective dimension is the participation ratio. The volume is that of the evenly filled box with the same
covariance, against the action box :math:`[-1, 1]^A`, in nats. A set of lower dimension has no volume, so no side counts
as shorter than a resolution :math:`\epsilon`. On a plane with a chart for a decoder,
:math:`\lambda_i = w^2 s_z^2` for min(Z, m) directions, and 0 for the others, with

.. math:: s_z^2 = \operatorname{Var} \mathrm{clip}_{[-c, c]}(z) = 1 - 2 c \phi(c) - 2 (1 - c^2) \Phi(-c)

Latents beyond m move along normals with the small singular value :math:`\sigma_n`. The learned decoder gets data with
noise of that size across the manifold.

Source: "contraction of the search space" in SPAR (arXiv 2605.27877); the measures are this project's reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.theory.claim import Claim, Finding, Row, below, pick, within
from spar_core.theory.decoders import exact_parts, learned_parts
from spar_core.theory.drawing import GREY, INK, MARKS, panels
from spar_core.theory.latents import clipped_variance
from spar_core.theory.manifolds import Cap
from spar_core.theory.problem import REACH, Problem, states_of
from spar_core.theory.settings import TheorySettings
from spar_core.training.randomness import normal, streams

# Dimensions of the surfaces, m.
INTRINSIC = 2
SURFACES = ("plane", "sphere")
DECODERS = ("exact", "learned")


def pieces(settings: TheorySettings) -> list[tuple[str, str, int]]:
    """Triples of a surface, a decoder and a number of latents."""
    return [(name, decoder, z) for name in SURFACES for decoder in DECODERS for z in settings.contraction.latents]


def measure(settings: TheorySettings, piece: tuple[str, str, int]) -> list[Row]:
    """One row with effective dimension, volume, and the normal share of the variance."""
    name, decoder, latents = piece
    own, seeds = settings.contraction, settings.seed_numbers
    bend = 0.0 if name == "plane" else settings.problem.curvature
    exact = decoder == "exact"
    problem = Problem(
        Cap(INTRINSIC, bend, settings.problem.half, own.action_size),
        settings.problem.model_copy(update={"noise": 0.0 if exact else own.normal, "data_steps": own.data_steps}),
        dtype=torch.float64 if exact else torch.float32,
    )
    if exact:
        frozen = exact_parts(problem, seeds, latents=latents, normal=own.normal)
    else:
        learned = settings.learned.model_copy(update={"latent_per_action": latents / own.action_size})
        frozen = learned_parts(problem, problem.dataset(), learned, seeds)
    eigenvalues, share = _spectrum(settings, problem, frozen, seeds)
    a, floor = own.action_size, own.resolution**2
    sides = [0.5 * np.log(np.maximum(12 * row, floor)).sum() - a * math.log(2) for row in eigenvalues]
    return [
        {
            "surface": name,
            "decoder": decoder,
            "latents": latents,
            "dimension": [float(row.sum() ** 2 / np.square(row).sum()) for row in eigenvalues],
            "log_volume": [float(side) for side in sides],
            "normal_variance": share,
            "box_log_volume": [float(row.double().clamp(max=1).log().sum()) for row in frozen.residual.radius],
        }
    ]


def _spectrum(
    settings: TheorySettings, problem: Problem, frozen: Frozen, seeds: Sequence[int]
) -> tuple[list[np.ndarray], list[float]]:
    """Eigenvalues of the candidates' covariance, and the share of the variance that is normal, for each seed."""
    n, c = settings.contraction.draws, settings.training.latent_clip
    latents = normal(streams(seeds, "theory/candidates"), n, frozen.residual.latent_size).clamp(-c, c)
    state = states_of(problem, seeds).expand(-1, n, -1)
    base = frozen.anchor.act(state)
    with torch.no_grad():
        moved = clipped_candidates(frozen, state, base, latents).double()
    eigenvalues, shares = [], []
    for s, row in enumerate(moved):
        covariance = np.cov(row.numpy(), rowvar=False)
        eigenvalues.append(np.clip(np.linalg.eigvalsh(covariance), 0, None))
        across: Tensor = problem.manifold.normal_part(problem.at(state[s]).double(), row - row.mean(0))
        shares.append(float(across.square().sum() / (row - row.mean(0)).square().sum()))
    return eigenvalues, shares


def plane_volume(settings: TheorySettings, latents: int) -> float:
    """Log volume of an exact decoder's candidates on a plane, in closed form."""
    own, variance = settings.contraction, clipped_variance(settings.training.latent_clip)
    widths = [settings.problem.spread] * INTRINSIC + [own.normal] * (own.action_size - INTRINSIC)
    used = min(latents, own.action_size)
    sides = [max(12 * variance * w**2, own.resolution**2) for w in widths[:used]]
    sides += [own.resolution**2] * (own.action_size - used)
    return sum(0.5 * math.log(side) for side in sides) - own.action_size * math.log(2)


def findings(settings: TheorySettings, rows: list[Row]) -> list[Finding]:
    """Dimensions and volumes below, at and above the intrinsic dimension."""
    found: list[Finding] = []

    def add(name: str, says: str, values: Sequence[float], expected: float | None, holds: Any) -> None:
        found.append(Finding.of(name, says, values, settings.confidence, expected, holds))

    sizes = settings.contraction.latents
    for z in sizes:
        row = pick(rows, surface="plane", decoder="exact", latents=z)
        says = f"exact decoder, Z = {z}, plane: log volume of the candidates, against the closed form"
        expected = plane_volume(settings, z)
        add(f"volume_plane_{z}", says, row["log_volume"], expected, within(expected, 0.1))
    for surface in SURFACES:
        for decoder in DECODERS:
            for z in sizes:
                expected = float(min(z, INTRINSIC))
                row = pick(rows, surface=surface, decoder=decoder, latents=z)
                says = f"{decoder} decoder, Z = {z}, {surface}: effective dimension, claimed min(Z, {INTRINSIC})"
                add(f"dimension_{surface}_{decoder}_{z}", says, row["dimension"], expected, within(expected, 0.25))
    for surface in SURFACES:
        row = pick(rows, surface=surface, decoder="learned", latents=max(sizes))
        says = (
            f"learned decoder, Z = {max(sizes)}, {surface}: log volume of candidates minus rho's box's, claimed below 0"
        )
        gaps = [a - b for a, b in zip(row["log_volume"], row["box_log_volume"], strict=True)]
        add(f"below_box_{surface}", says, gaps, None, below(0.0))
    add(
        "box",
        "log volume of rho's box on the plane, as the pipeline reports contraction: below 0 where it is one",
        pick(rows, surface="plane", decoder="learned", latents=max(sizes))["box_log_volume"],
        None,
        below(0.0),
    )
    row = pick(rows, surface="plane", decoder="learned", latents=max(sizes))
    # Draws along the manifold are clipped; draws across it are not.
    wide = INTRINSIC * settings.problem.spread**2 * clipped_variance(REACH)
    across = (settings.contraction.action_size - INTRINSIC) * settings.contraction.normal**2
    says = (
        f"learned decoder, Z = {max(sizes)}, plane: share of the candidates' variance across the data, "
        "claimed below the data's own"
    )
    own = across / (wide + across)
    add("normal_variance", says, row["normal_variance"], own, below(own))
    return found


def figure(settings: TheorySettings, rows: list[Row]) -> bytes:
    """Effective dimension and log volume over the number of latents."""

    def draw(fig: Figure, axes: Sequence[Axes]) -> None:
        sizes = settings.contraction.latents
        places = range(len(sizes))
        for key, each in (("dimension", axes[0]), ("log_volume", axes[1])):
            for i, surface in enumerate(SURFACES):
                for decoder in DECODERS:
                    got = [pick(rows, surface=surface, decoder=decoder, latents=z)[key] for z in sizes]
                    means = [sum(values) / len(values) for values in got]
                    face = INK if decoder == "exact" else "white"
                    shift = 0.08 * (i - 0.5)
                    each.plot([x + shift for x in places], means, linestyle="none", marker=MARKS[i], color=INK,
                              markerfacecolor=face, markersize=6, label=f"{surface}, {decoder} decoder")  # fmt: skip
            each.set_xticks(list(places), [str(z) for z in sizes])
            each.axvline(sizes.index(INTRINSIC) if INTRINSIC in sizes else -1, color=GREY, linewidth=0.8, zorder=0)
        axes[0].step([-0.4, *places, len(sizes) - 0.6], [min(sizes[0], 2), *[min(z, 2) for z in sizes], 2], where="mid",
                     color=GREY, linewidth=1.1, linestyle="--", zorder=0, label="min(latents, 2)")  # fmt: skip
        axes[0].set_ylabel("effective dimension\nof the candidates")
        axes[0].set_ylim(0, 1.15 * axes[0].get_ylim()[1])
        axes[1].plot(list(places), [plane_volume(settings, z) for z in sizes], color=GREY, linewidth=1.1, zorder=0,
                     label="plane, closed form")  # fmt: skip
        axes[1].axhline(0, color=INK, linewidth=0.8)
        axes[1].text(len(sizes) - 0.8, -0.6, "the action box", ha="right", va="top", fontsize=8.5)
        axes[1].set_ylabel("log volume against the\naction box, nats")
        axes[1].set_xlabel(f"latents (the line marks the data's dimension, {INTRINSIC};"
                           f" actions have {settings.contraction.action_size})")  # fmt: skip
        handles = [*axes[0].get_legend_handles_labels()[0], *axes[1].get_legend_handles_labels()[0][-1:]]
        fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)

    return panels(2, 1, 6.8, draw)


CLAIM = Claim(
    "contraction",
    "Contraction of the search space",
    "How many dimensions do the candidates span, and how much of the action box, by the latent's size?",
    pieces,
    measure,
    findings,
    figure,
)
