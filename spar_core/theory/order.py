r"""Claim ``order``: how the normal part of the target grows with clip, curvature and singular values.

**Rank m (a chart).** For an arc through the anchor, :math:`d_k = x(w z_k) - a_b` has the normal component
:math:`(1 - \cos \kappa w z_k) / \kappa \approx \tfrac{1}{2} \kappa w^2 z_k^2`, which has no term of first order. So,
with :math:`\mathbb{E}_w` the mean under the candidates' weights,

.. math:: n^\top \sum_k w_k d_k \approx \tfrac{1}{2} \kappa w^2 \, \mathbb{E}_w |z|^2 \sim c^2 \kappa^1, \qquad
   T^\top \sum_k w_k d_k = w \, \mathbb{E}_w[z] \sim c^1

for small clips c, and likewise on a sphere. The weights do not change with c, since values are divided by their spread.
(:math:`\mathbb{E} z^2` of a clipped normal is :math:`c^2` only in the limit. So the exponent of c is a little below 2,
and that of the latents' standard deviation is nearer to 2.) The *distance* of the target from the manifold is
:math:`\tfrac{1}{2} \kappa w^2 \operatorname{Var}_w z`, of the same orders. SPAR-PROJ decodes the mean of the latents,
and its distance is zero at every order.

**Rank A.** For :math:`G = J z` with :math:`J = U \operatorname{diag}(\sigma_t, \sigma_n)` and a linear value the first
order is :math:`\sigma_i^2 g_i`, so the normal component is attenuated by :math:`(\sigma_n / \sigma_t)^2`, not removed.
At every order, with K large and :math:`\alpha_i = \sigma_i g_i / (\tau \sigma)`,

.. math:: \mathbb{E}_w[z_i] = \frac{M'(\alpha_i)}{M(\alpha_i)}, \qquad
   M(\alpha) = \mathbb{E}\, e^{\alpha \, \mathrm{clip}(z)}
   = 2 \Phi(-c) \cosh(\alpha c) + e^{\alpha^2 / 2} \big[\Phi(c - \alpha) - \Phi(-c - \alpha)\big]

Source: the first-order formula is this project's reading (docs/method.md, section 3); the rest is derived above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats
from torch import Tensor

from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.improvement.self_imitation import Targets, draw_targets
from spar_core.improvement.spar_proj import SparProjSettings
from spar_core.theory.claim import Claim, Finding, Row, pick, within
from spar_core.theory.decoders import exact_parts
from spar_core.theory.drawing import GREY, INK, MARKS, panels
from spar_core.theory.latents import clipped_variance, tilted_mean
from spar_core.theory.manifolds import Cap
from spar_core.theory.problem import Problem
from spar_core.theory.settings import TheorySettings
from spar_core.training.context import Context

SURFACES = {"arc": (1, 2), "sphere": (2, 3)}
# An exponent agrees with theory within this tolerance.
TOLERANCE = 0.1
# The clip c of full-rank decoders; it is independent of the shipped default.
FULL_CLIP = 1.0


def pieces(settings: TheorySettings) -> list[tuple[str, str, float]]:
    """Triples (part, surface, value), each a point of a series."""
    order = settings.order
    points = [("clip", name, c) for name in SURFACES for c in order.clips]
    points += [("curvature", name, k) for name in SURFACES for k in order.curvatures]
    return points + [("ratio", "line", tau) for tau in order.taus]


def targets_of(
    problem: Problem, seeds: Sequence[int], own: SparProjSettings, **decoder: Any
) -> tuple[Targets, np.ndarray, Frozen]:
    """The targets of the shipped code for a problem with an exact decoder, in 64-bit floats.

    The second value is the spread sigma of each seed [S]; the third holds the frozen parts.
    """
    frozen = exact_parts(problem, seeds, **decoder)
    targets, info = draw_targets(Context.quiet(problem.dataset(), seeds), frozen, own, 0)
    return targets, np.array(info["improvement/value_spread"]), frozen


def measure(settings: TheorySettings, piece: tuple[str, str, float]) -> list[Row]:
    """Rows with the parts of the target at one point. A piece of part "ratio" gives all points of its series."""
    part, name, value = piece
    if part == "ratio":
        return [_full_rank(settings, value, ratio) for ratio in settings.order.ratios]
    order = settings.order
    clip = value if part == "clip" else order.clips[len(order.clips) // 2]
    bend = value if part == "curvature" else settings.problem.curvature
    dim, ambient = SURFACES[name]
    data = settings.problem.model_copy(update={"data_steps": order.states})
    problem = Problem(Cap(dim, bend, settings.problem.half, ambient), data, dtype=torch.float64)
    own = SparProjSettings(
        tau=settings.training.tau, latent_clip=clip, candidates=order.candidates, states=order.states
    )
    targets, _, frozen = targets_of(problem, settings.seed_numbers, own)
    t = problem.at(targets.observations[:, :1])
    normal, along = problem.manifold.normal(t), problem.manifold.tangents(t)[..., 0]
    # A network that sees one state fits the mean of the targets.
    target = torch.stack([row.mean(0, keepdim=True) for row in targets.correction])
    base = targets.base[:, :1]
    latent = torch.stack([row.mean(0, keepdim=True) for row in targets.latent])
    decoded = base + clipped_candidates(frozen, targets.observations[:, :1], base, latent)
    return [
        {
            "series": f"{part}, {name}",
            "x": value,
            "tau": own.tau,
            "normal": _seeds((target * normal).sum(-1)),
            "tangent": _seeds((target * along).sum(-1)),
            "distance": _seeds(problem.manifold.distance(base + target)),
            "distance_proj": _seeds(problem.manifold.distance(decoded)),
        }
    ]


def _full_rank(settings: TheorySettings, tau: float, ratio: float) -> Row:
    """The row of a full-rank decoder on a line, with singular values w along it and ``ratio`` times w across it."""
    order = settings.order
    spread = settings.problem.spread
    data = settings.problem.model_copy(update={"data_steps": order.ratio_states})
    problem = Problem(Cap(1, 0.0, settings.problem.half, 2), data, dtype=torch.float64)
    own = SparProjSettings(tau=tau, latent_clip=FULL_CLIP, candidates=order.candidates, states=order.ratio_states)
    targets, sigma, _ = targets_of(problem, settings.seed_numbers, own, latents=2, normal=ratio * spread)
    t = problem.at(targets.observations[:, :1])
    target = torch.stack([row.mean(0, keepdim=True) for row in targets.correction])
    normal = (target * problem.manifold.normal(t)).sum(-1)
    along = (target * problem.manifold.tangents(t)[..., 0]).sum(-1)
    slope = data.value_normal / data.value_tangent
    alphas = [(spread * data.value_tangent / (tau * s), ratio * spread * data.value_normal / (tau * s)) for s in sigma]
    closed = [ratio * tilted_mean(a_n, FULL_CLIP) / tilted_mean(a_t, FULL_CLIP) / slope for a_t, a_n in alphas]
    return {
        "series": f"ratio, tau {tau:g}",
        "x": ratio,
        "tau": tau,
        "attenuation": _seeds(normal / along / slope),
        "first_order": ratio**2,
        "closed_form": float(np.mean(closed)),
    }


def _seeds(values: Tensor) -> list[float]:
    return [row.mean().item() for row in values]


def exponents(rows: Sequence[Row], series: str, key: str) -> list[float]:
    """Slope of log ``key`` over log x in a series, for each seed."""
    points = sorted((row for row in rows if row["series"] == series), key=lambda row: row["x"])
    x = np.log([row["x"] for row in points])
    columns = np.log(np.abs(np.array([row[key] for row in points])))
    return [float(stats.linregress(x, column).slope) for column in columns.T]


def findings(settings: TheorySettings, rows: list[Row]) -> list[Finding]:
    """The exponents, the distance that SPAR-PROJ leaves, and the attenuation."""
    found = []

    def add(name: str, says: str, values: Sequence[float], expected: float, tolerance: float) -> None:
        found.append(Finding.of(name, says, values, settings.confidence, expected, within(expected, tolerance)))

    for name in SURFACES:
        for key, part, expected, says in (
            ("normal", "clip", 2.0, "normal component of the target, exponent of c"),
            ("distance", "clip", 2.0, "distance of the target from the manifold, exponent of c"),
            ("tangent", "clip", 1.0, "tangential component of the target, exponent of c"),
            ("normal", "curvature", 1.0, "normal component, exponent of the curvature"),
            ("distance", "curvature", 1.0, "distance, exponent of the curvature"),
        ):
            values = exponents(rows, f"{part}, {name}", key)
            add(f"{key}_{part}_{name}", f"{says} ({name})", values, expected, TOLERANCE)
        clips = [row for row in rows if row["series"] == f"clip, {name}"]
        by_std = [row | {"x": clipped_variance(row["x"]) ** 0.5} for row in clips]
        values = exponents(by_std, f"clip, {name}", "normal")
        says = f"normal component of the target, exponent of the clipped latents' standard deviation ({name})"
        add(f"normal_std_{name}", says, values, 2.0, TOLERANCE / 5)
        off = [row["distance_proj"] for row in rows if row["series"].endswith(name)]
        worst = [max(values) for values in zip(*off, strict=True)]
        add(f"proj_{name}", f"largest distance of SPAR-PROJ's target from the {name}", worst, 0.0, 1e-12)
    for tau in settings.order.taus:
        series = f"ratio, tau {tau:g}"
        values = exponents(rows, series, "attenuation")
        says = f"attenuation by a full-rank decoder, exponent of sigma_n / sigma_t (tau {tau:g}), to first order"
        add(f"attenuation_tau_{tau:g}", says, values, 2.0, TOLERANCE / 2)
        closed = [row | {"closed_form": [row["closed_form"]]} for row in rows if row["series"] == series]
        (all_orders,) = exponents(closed, series, "closed_form")
        says = f"the same exponent (tau {tau:g}), with all orders of the clipped latents"
        add(f"attenuation_all_tau_{tau:g}", says, values, all_orders, TOLERANCE / 2)
        smallest = min(settings.order.ratios)
        row = pick(rows, series=series, x=smallest)
        says = f"attenuation at sigma_n / sigma_t = {smallest:g} (tau {tau:g}), with all orders"
        add(f"attenuation_value_tau_{tau:g}", says, row["attenuation"], row["closed_form"], 0.15 * row["closed_form"])
    return found


def figure(settings: TheorySettings, rows: list[Row]) -> bytes:
    """Parts of the target over c and curvature, and attenuation over the ratio of singular values, on log-log axes."""

    def series(axes: Axes, name: str, key: str, mark: str, face: str, expected: float | None, label: str) -> None:
        points = sorted((row for row in rows if row["series"] == name), key=lambda row: row["x"])
        x = np.array([row["x"] for row in points])
        y = np.array([np.mean(np.abs(row[key])) for row in points])
        axes.plot(x, y, linestyle="none", marker=mark, color=INK, markerfacecolor=face, markersize=5.5, label=label)
        if expected is not None:
            axes.plot(x, y[-1] * (x / x[-1]) ** expected, color=GREY, linewidth=1.1, zorder=0)

    def draw(fig: Figure, axes: Sequence[Axes]) -> None:
        for each, part, label in ((axes[0], "clip", "clip c of the latents"), (axes[1], "curvature", "curvature")):
            for i, name in enumerate(SURFACES):
                power = 2.0 if part == "clip" else 1.0
                series(each, f"{part}, {name}", "normal", MARKS[i], INK, power, f"normal, {name}")
                series(each, f"{part}, {name}", "distance", MARKS[i], "white", power, f"distance, {name}")
                if part == "clip":
                    series(each, f"{part}, {name}", "tangent", MARKS[2 + i], "white", 1.0, f"tangential, {name}")
            each.set_xlabel(label)
        axes[0].set_ylabel("part of the target\n(units of the action box)")
        for i, tau in enumerate(settings.order.taus):
            series(axes[2], f"ratio, tau {tau:g}", "attenuation", MARKS[4 + i], "white", None, f"tau {tau:g}")
        x = np.array(sorted(settings.order.ratios))
        axes[2].plot(x, x**2, color=GREY, linewidth=1.1, zorder=0)
        axes[2].set_xlabel("ratio of singular values,\nnormal to tangent")
        axes[2].set_ylabel("normal to tangential part,\nagainst that of the gradient")
        grids = (settings.order.clips, settings.order.curvatures, settings.order.ratios)
        for each, grid in zip(axes, grids, strict=False):
            each.set_xscale("log")
            each.set_yscale("log")
            each.minorticks_off()
            each.set_xticks(grid, [f"{value:g}" for value in grid], fontsize=9)
        low, high = axes[0].get_ylim()
        axes[1].set_ylim(low, high)
        axes[3].set_axis_off()
        grey = Line2D([], [], color=GREY, linewidth=1.1, label="slope in theory, 1 or 2")
        handles = [*axes[0].get_legend_handles_labels()[0], *axes[2].get_legend_handles_labels()[0], grey]
        axes[3].legend(handles=handles, loc="center left", frameon=False, fontsize=8.5)

    return panels(2, 2, 6.0, draw)


CLAIM = Claim(
    "order",
    "Order of the drift",
    "Of which order in the clip, the curvature and the singular values is what SPAR keeps of the normal part?",
    pieces,
    measure,
    findings,
    figure,
)
