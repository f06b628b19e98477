r"""Claim ``modes``: two disjoint arcs, D apart. Does a barycentre leave the support between them?

The anchor lies on the lower arc, half of the candidates on each, and the value grows by :math:`g_n` per unit towards
the upper one. With p the weight that the upper arc's candidates get, the barycentre of SPAR-MLP lies

.. math:: \text{distance} \approx D \min(p, 1 - p), \qquad p \approx \frac{1}{1 + e^{-2 / \tau}}

from the nearest arc: the values of two modes lie one spread on either side of their mean, so the arcs differ by
:math:`2 / \tau` in the exponent, whatever D is. The distance grows with D and vanishes only as :math:`\tau \to 0`.

SPAR-PROJ decodes the barycentre :math:`\bar z` of the latents. A decoder that chooses the arc by the **sign** of a
latent has the data as its image, so SPAR-PROJ stays on the data. A **continuous** decoder crosses the gap somewhere:
with a gate :math:`\tanh(z / \epsilon)` it decodes an action at a

.. math:: \text{distance} \approx \tfrac{D}{2} \big(1 - \lvert \tanh(\bar z / \epsilon) \rvert \big)

from an arc, and the mean of clipped latents is small where the weights of the arcs are alike. Every network is
continuous. For the learned decoder there is no closed form, since training decides what its latents mean.

Source: the two variants' residual geometry in SPAR (arXiv 2605.27877); that this is why is this project's reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.improvement.base import clipped_candidates
from spar_core.improvement.self_imitation import draw_targets
from spar_core.improvement.spar_proj import SparProjSettings
from spar_core.theory.claim import Claim, Finding, Row, above, below, pick
from spar_core.theory.decoders import exact_parts, learned_parts
from spar_core.theory.drawing import GREY, INK, LINES, MARKS, panels
from spar_core.theory.manifolds import manifold
from spar_core.theory.problem import Problem, states_of
from spar_core.theory.settings import TheorySettings
from spar_core.training.context import Context

DECODERS = ("sharp", "smooth", "learned")
RULES = ("spar_mlp", "spar_proj")
# A policy has left the support at this distance, as a share of the distance between the arcs.
LEFT = 0.05


def pieces(settings: TheorySettings) -> list[tuple[str, float]]:
    """Pairs of a decoder and a separation."""
    return [(decoder, d) for decoder in DECODERS for d in settings.modes.separations]


def measure(settings: TheorySettings, piece: tuple[str, float]) -> list[Row]:
    """One row for each temperature and rule."""
    decoder, separation = piece
    p, own, seeds = settings.problem, settings.modes, settings.seed_numbers
    data = p.model_copy(update={"value_tangent": 0.0, "data_steps": own.states})
    problem = Problem(manifold("arcs", p.curvature, p.half, separation), data)
    dataset = problem.dataset()
    if decoder == "learned":
        frozen = learned_parts(problem, dataset, settings.learned, seeds)
    else:
        frozen = exact_parts(problem, seeds, gate=own.gate if decoder == "smooth" else 0.0)
    at = states_of(problem, seeds)
    base = frozen.anchor.act(at)
    rows: list[Row] = []
    for tau in own.taus:
        rule = SparProjSettings(
            tau=tau, latent_clip=settings.training.latent_clip, candidates=own.candidates, states=own.states
        )
        targets, _ = draw_targets(Context.quiet(dataset, seeds), frozen, rule, 0)
        # In a bandit both rules converge to the mean of their targets over its one state.
        correction = torch.stack([row.mean(0, keepdim=True) for row in targets.correction])
        latent = torch.stack([row.mean(0, keepdim=True) for row in targets.latent])
        with torch.no_grad():
            decoded = clipped_candidates(frozen, at, base, latent)
        for name, moved in (("spar_mlp", correction), ("spar_proj", decoded)):
            action = (base + moved).double()
            nearest = problem.manifold.point(problem.manifold.project(action))
            gap = (action - nearest).norm(dim=-1)[:, 0]
            rows.append(
                {
                    "decoder": decoder,
                    "separation": separation,
                    "tau": tau,
                    "rule": name,
                    "distance": gap.tolist(),
                    "distance_share": (gap / separation).tolist(),
                    "closed_form": separation / (1 + math.exp(2 / tau)) if name == "spar_mlp" else None,
                }
            )
    return rows


def findings(settings: TheorySettings, rows: list[Row]) -> list[Finding]:
    """Findings on which rule leaves the support, and with which decoder."""
    found: list[Finding] = []
    own = settings.modes

    def add(name: str, says: str, values: Sequence[float], expected: float | None, holds: Any) -> None:
        found.append(Finding.of(name, says, values, settings.confidence, expected, holds))

    def over(function: Any, key: str, **wanted: Any) -> list[float]:
        picked = [row[key] for row in rows if all(row[k] == v for k, v in wanted.items())]
        return [function(values) for values in zip(*picked, strict=True)]

    usual = min(own.taus, key=lambda tau: abs(tau - settings.training.tau))
    widest, greedy = max(own.separations), min(own.taus)
    for decoder in DECODERS:
        row = pick(rows, decoder=decoder, separation=widest, tau=usual, rule="spar_mlp")
        says = (
            f"SPAR-MLP, {decoder} decoder, arcs {widest:g} apart, tau {usual:g}: distance from the support as a share "
            f"of the separation, claimed above {LEFT:g}"
        )
        closed = row["closed_form"] / widest if decoder == "sharp" else None
        add(f"mlp_{decoder}", says, row["distance_share"], closed, above(LEFT))
    row = pick(rows, decoder="sharp", separation=widest, tau=greedy, rule="spar_mlp")
    says = f"SPAR-MLP, sharp decoder, the same at tau {greedy:g}: back on the support, claimed below {LEFT:g}"
    add("mlp_greedy", says, row["distance_share"], row["closed_form"] / widest, below(LEFT))
    wrong = over(max, "distance_share", decoder="sharp", rule="spar_proj")
    says = "SPAR-PROJ, sharp decoder: largest share over all separations and tau, 0 by construction"
    add("proj_sharp", says, wrong, 0.0, below(1e-5))
    for decoder in ("smooth", "learned"):
        wrong = over(max, "distance_share", decoder=decoder, rule="spar_proj")
        says = (
            f"SPAR-PROJ, {decoder} decoder: largest share over all separations and tau; claimed to stay below {LEFT:g}"
        )
        add(f"proj_{decoder}_worst", says, wrong, None, below(LEFT))
        row = pick(rows, decoder=decoder, separation=widest, tau=usual, rule="spar_proj")
        says = f"SPAR-PROJ, {decoder} decoder, arcs {widest:g} apart, tau {usual:g}: the share, claimed below {LEFT:g}"
        add(f"proj_{decoder}_usual", says, row["distance_share"], None, below(LEFT))
        ours, theirs = (over(lambda v: sum(v) / len(v), "distance_share", decoder=decoder, rule=r) for r in RULES)
        says = f"SPAR-MLP minus SPAR-PROJ, {decoder} decoder: mean share over all; PROJ is closer if above 0"
        add(f"gap_{decoder}", says, [a - b for a, b in zip(ours, theirs, strict=True)], None, above(0.0))
    return found


def figure(settings: TheorySettings, rows: list[Row]) -> bytes:
    """Distance from the support over tau, with a panel for each decoder and a mark for each separation."""
    own = settings.modes

    def draw(fig: Figure, axes: Sequence[Axes]) -> None:
        shown = own.separations
        for each, decoder in zip(axes, DECODERS, strict=True):
            for j, rule in enumerate(RULES):
                for i, d in enumerate(shown):
                    got = [pick(rows, decoder=decoder, separation=d, tau=tau, rule=rule) for tau in own.taus]
                    means = [sum(row["distance_share"]) / len(row["distance_share"]) for row in got]
                    look: dict[str, Any] = {"linewidth": 0.9, "color": INK, "markersize": 5, "marker": MARKS[i]}
                    face, line = INK if j == 0 else "white", LINES[j]["linestyle"]
                    each.plot(own.taus, means, linestyle=line, markerfacecolor=face, **look)
            grid = [min(own.taus) * (max(own.taus) / min(own.taus)) ** (k / 60) for k in range(61)]
            each.plot(
                grid, [1 / (1 + math.exp(2 / tau)) for tau in grid], color=GREY, linewidth=2.4, zorder=0, alpha=0.6
            )
            each.set_xscale("log")
            each.set_xticks(own.taus, [f"{tau:g}" for tau in own.taus])
            each.minorticks_off()
            each.set_ylim(-0.03, 0.55)
            each.set_title(f"{decoder} decoder", fontsize=9.5, loc="left")
        axes[1].set_ylabel("distance from the support, in units of the arcs' separation")
        axes[-1].set_xlabel("temperature tau")
        handles = [
            Line2D([], [], color=INK, linestyle="-", marker="o", markersize=5, label="spar_mlp"),
            Line2D([], [], color=INK, linestyle="--", marker="o", markersize=5, mfc="white", label="spar_proj"),
            Line2D([], [], color=GREY, linewidth=2.4, alpha=0.6, label="spar_mlp, closed form"),
            *(Line2D([], [], linestyle="none", marker=MARKS[i], color=INK, markersize=5, label=f"arcs {d:g} apart")
              for i, d in enumerate(shown)),
        ]  # fmt: skip
        fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)

    return panels(len(DECODERS), 1, 8.4, draw)


CLAIM = Claim(
    "modes",
    "Two modes",
    "With two disjoint modes, does SPAR-MLP average into the gap between them, and does SPAR-PROJ not?",
    pieces,
    measure,
    findings,
    figure,
)
