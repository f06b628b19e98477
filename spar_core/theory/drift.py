r"""Claim ``drift``: how far each rule leaves the manifold of the data, in one step and after training.

For the action :math:`a = a_b + \Delta` of a rule, its nearest point :math:`\pi(a)` on the manifold, and the projection
:math:`P_N` on the normal space at the rule's action of step zero, which is on the manifold:

.. math:: \text{normal share of a step} = \frac{\lVert P_N \, \delta \rVert}{\lVert \delta \rVert}, \qquad
   \text{drift} = \lVert a - \pi(a) \rVert, \qquad \text{value kept} = Q(\pi(a)) - Q(a_b)

Here :math:`\delta` is the displacement of the action by one step of gradient descent. The value kept stands beside the
drift because a rule that does not move does not drift.

On a line with a linear Q the end of training is known in closed form. SPAR and AWR end on the line. The value gradient
ends at :math:`\mathbb{E}[a] + \tfrac{A}{2} \lambda \nabla Q`, which lies :math:`\tfrac{A}{2} \lambda g_n` off the line.

Source: "manifold-normal drift" in SPAR (arXiv 2605.27877); how it is measured is this project's reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.improvement.base import Frozen
from spar_core.theory.claim import Claim, Finding, Row, above, below, pick, within
from spar_core.theory.decoders import exact_parts, learned_parts
from spar_core.theory.drawing import GREY, INK, MARKS, panels
from spar_core.theory.latents import clipped_grid
from spar_core.theory.manifolds import Manifold, manifold
from spar_core.theory.problem import Problem, states_of
from spar_core.theory.rules import RULES, imitates, one_step, settings_of, split, trained
from spar_core.theory.settings import TheorySettings

# An action within this distance counts as on the manifold; it is the rounding of 32-bit floats.
ROUNDING = 1e-5


def manifold_of(settings: TheorySettings, name: str) -> Manifold:
    """The manifold of a name, with the sizes of the settings."""
    p = settings.problem
    return manifold(name, p.curvature, p.half, p.separation)


def pieces(settings: TheorySettings) -> list[tuple[str, int]]:
    """Pairs of a manifold's name and a horizon."""
    return [(name, horizon) for name in settings.drift.manifolds for horizon in settings.drift.horizons]


def measure(settings: TheorySettings, piece: tuple[str, int]) -> list[Row]:
    """One row for each decoder and rule."""
    name, horizon = piece
    problem = Problem(manifold_of(settings, name), settings.problem, horizon)
    dataset, seeds = problem.dataset(), settings.seed_numbers
    exact = exact_parts(problem, seeds)
    learned = learned_parts(problem, dataset, settings.learned, seeds)
    rows: list[Row] = []
    for decoder, frozen in (("exact", exact), ("exact, wide", exact), ("learned", learned)):
        # AWR and the value gradient use the radius of a decoder, and nothing else of it.
        wide = decoder == "exact, wide"
        training = settings.training
        if wide:
            training = training.model_copy(update={"latent_clip": settings.drift.wide_clip})
        for rule in ("spar_mlp",) if wide else RULES if decoder == "exact" else filter(imitates, RULES):
            own = settings_of(rule, training, dataset.n_steps)
            label = decoder if imitates(rule) else "none"
            rows.append({"manifold": name, "horizon": horizon, "rule": rule, "decoder": label})
            rows[-1] |= _measure(settings, problem, dataset, frozen, rule, own)
    return rows


def _measure(settings: TheorySettings, problem: Problem, dataset: Dataset, frozen: Frozen, rule: str, own: Any) -> Row:
    seeds = settings.seed_numbers
    observations = states_of(problem, seeds)
    base = frozen.anchor.act(observations)
    parts = split(rule, dataset, frozen, own, seeds)
    with torch.no_grad():
        start = base + parts.rule.correction(observations, base)
    moved = one_step(parts, observations, base, settings.drift.step_size)
    at = problem.manifold.project(start.double())
    normal = problem.manifold.normal_part(at, moved.double()).norm(dim=-1)
    action = trained(rule, dataset, frozen, own, seeds).act(observations).double()
    nearest = problem.manifold.point(problem.manifold.project(action))
    kept = frozen.values.q(observations, nearest.float()) - settings.problem.value_offset
    return {
        "step_normal_share": _over_states(normal / moved.double().norm(dim=-1)),
        "drift": _over_states((action - nearest).norm(dim=-1)),
        "value_kept": _over_states(kept),
        "moved": _over_states((nearest - base.double()).norm(dim=-1)),
    }


def _over_states(values: Tensor) -> list[float]:
    """Mean over the states [S, H] of each seed."""
    return [row.mean().item() for row in values.double()]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _minus(ours: Row, theirs: Row) -> list[float]:
    """Difference of the normal shares of one step, for each seed."""
    return [a - b for a, b in zip(ours["step_normal_share"], theirs["step_normal_share"], strict=True)]


def _per_way(row: Row) -> list[float]:
    """Drift over the distance covered along the manifold, since temperatures make rules move more or less far."""
    return _ratio(row["drift"], row["moved"])


def arc_distance(settings: TheorySettings) -> float:
    """Distance from the arc of the action at which SPAR-MLP ends in a bandit with many candidates."""
    p, t = settings.problem, settings.training
    problem = Problem(manifold_of(settings, "arc"), p, dtype=torch.float64)
    z, weights = clipped_grid(t.latent_clip)
    points = problem.manifold.point(torch.from_numpy(p.spread * z).unsqueeze(-1)).numpy()
    value = points @ problem.gradient(torch.zeros(1, dtype=torch.float64)).numpy()
    spread = np.sqrt(np.average((value - np.average(value, weights=weights)) ** 2, weights=weights))
    weights = weights * np.exp(value / (t.tau * spread))
    mean = np.average(points, axis=0, weights=weights)
    return float(problem.manifold.distance(torch.from_numpy(mean)))


def findings(settings: TheorySettings, rows: list[Row]) -> list[Finding]:
    """The findings of the claim."""
    confidence = settings.confidence
    found = []

    def add(name: str, says: str, values: Sequence[float], expected: float | None, holds: Any) -> None:
        found.append(Finding.of(name, says, values, confidence, expected, holds))

    def worst(key: str, **wanted: Any) -> list[float]:
        picked = [row[key] for row in rows if all(row[k] == v for k, v in wanted.items())]
        return [max(values) for values in zip(*picked, strict=True)]

    add(
        "proj_exact",
        "SPAR-PROJ with an exact decoder stays on the manifold: its largest drift over all problems is rounding",
        worst("drift", rule="spar_proj", decoder="exact"),
        0.0,
        below(ROUNDING),
    )
    connected = [row for row in rows if (row["rule"], row["decoder"]) == ("spar_proj", "exact")]
    connected = [row["step_normal_share"] for row in connected if row["manifold"] != "arcs"]
    if connected:
        says = "SPAR-PROJ, exact decoder: largest normal share of one step where the manifold is in one piece"
        add("step_proj", says, [max(values) for values in zip(*connected, strict=True)], 0.0, below(0.01))
    p, t = settings.problem, settings.training
    lines = [row for row in rows if row["manifold"] == "line" and row["horizon"] == 1]
    if lines:
        mlp, awr, vg = (pick(lines, rule=rule, decoder=d) for rule, d in
                        (("spar_mlp", "exact"), ("awr", "none"), ("value_gradient", "none")))  # fmt: skip
        share = p.value_normal / (p.value_normal**2 + p.value_tangent**2) ** 0.5
        says = "The value gradient: normal share of one step on the line, near that of the value's gradient"
        add("step_value_gradient_line", says, vg["step_normal_share"], share, within(share, 0.05))
        says = "SPAR-MLP with an exact decoder: the same, claimed below 0.01"
        add("step_mlp_line", says, mlp["step_normal_share"], 0.0, below(0.01))
        add("mlp_line", "SPAR-MLP with an exact decoder does not drift from a line", mlp["drift"], 0.0, below(1e-3))
        add("awr_line", "Nor does AWR", awr["drift"], 0.0, below(1e-3))
        # lambda = alpha / mean |Q|, and mean |Q| is nearly the offset, since the advantages average to nearly 0.
        expected = t.q_weight / p.value_offset * p.value_normal
        says = "The value gradient drifts by lambda g_n A / 2 (here A = 2), the closed form"
        add("value_gradient_line", says, vg["drift"], expected, within(expected, 0.05 * expected))
    for name in dict.fromkeys(row["manifold"] for row in rows):
        if name == "line":
            continue
        closed = arc_distance(settings) if name == "arc" else None
        ours = [row for row in rows if (row["manifold"], row["rule"], row["decoder"]) == (name, "spar_mlp", "exact")]
        says = f"SPAR-MLP with an exact decoder leaves the {name} of a bandit: its curvature is not removed"
        if name == "arcs":
            says = "SPAR-MLP with an exact decoder leaves the two arcs of a bandit, between which it averages"
        if name == "arcs":
            share = worst("step_normal_share", manifold=name, rule="spar_proj", decoder="exact")
            told = (
                "SPAR-PROJ, sharp decoder: normal share of one step on two arcs, claimed below 0.01; a step is a jump"
            )
            add("step_proj_arcs", told, share, None, below(0.01))
        else:
            gaps = [
                _minus(pick(rows, manifold=name, horizon=h, rule="spar_mlp", decoder="exact"),
                       pick(rows, manifold=name, horizon=h, rule="value_gradient"))
                for h in settings.drift.horizons
            ]  # fmt: skip
            told = f"SPAR-MLP: normal share of one step on the {name} minus the value gradient's, claimed below 0"
            add(f"step_mlp_{name}", told, [max(values) for values in zip(*gaps, strict=True)], None, below(0.0))
        holds = above(ROUNDING) if closed is None else within(closed, 0.1 * closed)
        add(f"mlp_{name}", says, ours[0]["drift"], closed, holds)
        for decoder, other, label in (
            ("exact", "value_gradient", "the value gradient"),
            ("exact", "awr", "AWR"),
            ("exact, wide", "awr", "AWR"),
        ):
            wide = f" with c = {settings.drift.wide_clip:g}, the data's reach" if decoder != "exact" else ""
            says = f"SPAR-MLP{wide}: drift per way on the {name} over {label}'s (largest of horizons), claimed below 1"
            ratios = [
                _ratio(_per_way(pick(rows, manifold=name, horizon=h, rule="spar_mlp", decoder=decoder)),
                       _per_way(pick(rows, manifold=name, horizon=h, rule=other)))
                for h in settings.drift.horizons
            ]  # fmt: skip
            key = f"mlp{'_wide' if wide else ''}_to_{other}_{name}"
            add(key, says, [max(values) for values in zip(*ratios, strict=True)], None, below(1.0))
    ratio = []
    for row in rows:
        if row["rule"] == "spar_proj" and row["decoder"] == "learned":
            climber = pick(rows, manifold=row["manifold"], horizon=row["horizon"], rule="value_gradient")
            ratio.append(_ratio(_per_way(row), _per_way(climber)))
    add(
        "proj_learned",
        "With the learned decoder SPAR-PROJ drifts too, by less than the value gradient for the same way on every "
        "problem (largest ratio below 1)",
        [max(values) for values in zip(*ratio, strict=True)],
        None,
        below(1.0),
    )
    return found


def figure(settings: TheorySettings, rows: list[Row]) -> bytes:
    """Drift after training, with a panel for each horizon and a row for each manifold."""
    kinds = list(dict.fromkeys((row["rule"], row["decoder"]) for row in rows))
    names = list(dict.fromkeys(row["manifold"] for row in rows))
    shades = {"learned": "white", "exact, wide": GREY}
    looks = {kind: (MARKS[i], shades.get(kind[1], INK)) for i, kind in enumerate(kinds)}
    named = {
        "exact, wide": f"exact, c = {settings.drift.wide_clip:g}",
        "exact": "exact decoder",
        "learned": "learned decoder",
    }
    floor = 1e-7

    def draw(fig: Figure, axes: Sequence[Axes]) -> None:
        for each, horizon in zip(axes, settings.drift.horizons, strict=True):
            for kind, (mark, face) in looks.items():
                for y, name in enumerate(names):
                    row = pick(rows, manifold=name, horizon=horizon, rule=kind[0], decoder=kind[1])
                    drop = (kinds.index(kind) - (len(kinds) - 1) / 2) * 0.13
                    xs = [max(floor, value) for value in row["drift"]]
                    each.scatter(xs, [y + drop] * len(xs), marker=mark, s=16, facecolor=face, edgecolor=INK, lw=0.7)
            each.set_xscale("log")
            each.set_xlim(floor / 2, 1.5)
            each.axvline(ROUNDING, color=GREY, linestyle=":", linewidth=1.2)
            each.set_yticks(range(len(names)), names)
            each.set_ylim(len(names) - 0.45, -0.55)
            each.tick_params(axis="y", length=0)
            title = "bandit" if horizon == 1 else f"chain of {horizon} steps"
            each.set_title(title, fontsize=10, loc="left")
        axes[-1].set_xlabel(
            "distance from the data's manifold after training, a mark a seed\n"
            "(units of the action box; 1e-7 stands for less)"
        )
        handles = [
            Line2D([], [], linestyle="none", marker=mark, markerfacecolor=face, color=INK, markersize=5,
                   label=rule if label == "none" else f"{rule}, {named.get(label, label)}")
            for (rule, label), (mark, face) in looks.items()
        ]  # fmt: skip
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="rounding of 32-bit floats"))
        fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)

    count = len(settings.drift.horizons)
    return panels(count, 1, 1.6 + count * (0.6 + 0.5 * len(names)), draw)


CLAIM = Claim(
    "drift",
    "Normal drift",
    "How far does each rule leave the manifold of the data, where the value's gradient has a normal part?",
    pieces,
    measure,
    findings,
    figure,
)
