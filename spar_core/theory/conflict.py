r"""Claim ``conflict``: do fitting and improvement pull against each other, and in which direction?

With the loss in two parts (:mod:`spar_core.theory.rules`) and :math:`g` their gradients in all parameters,

.. math::
   \cos = \frac{\langle g_\text{fit}, g_\text{imp} \rangle}{\lVert g_\text{fit} \rVert \, \lVert g_\text{imp} \rVert},
   \qquad \text{cancelled} = 1 - \frac{\lVert g_\text{fit} + g_\text{imp} \rVert}
   {\lVert g_\text{fit} \rVert + \lVert g_\text{imp} \rVert}

**A trap.** Where training has ended, :math:`g_\text{fit} + g_\text{imp} = 0`. The cosine is then -1 for *every* rule,
which says that training has converged and nothing about the rule. So the cosine is read during training, where given
shares of the way to the minimiser are covered,

.. math:: p = 1 - \lVert \Delta_\theta - \Delta^* \rVert / \lVert \Delta_0 - \Delta^* \rVert, \qquad
   \Delta^* = \arg\min L \text{ per state}

and for two problems, since the sign of the cosine depends on this choice: the data's centre lies **ahead** of the
anchor in the direction of growing tangential value, or **behind** it. What cancels at the end is the displacement that
the improvement part asks for,

.. math:: v = \arg\min L - \arg\min L_\text{fit} \quad \text{per state}, \qquad
   \text{normal share} = \lVert P_N v \rVert / \lVert v \rVert

with :math:`P_N` normal to the data's tangent at the fitted action. The tangential part of v is the improvement itself,
and fitting opposes it as it opposes any change. The normal part is a conflict that no data support. On a curved
manifold even a displacement along the curve has a normal share of :math:`\kappa |v| / 2`.

Source: "fitting-improvement gradient conflict" in SPAR (arXiv 2605.27877); the decomposition is this project's reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from spar_core.errors import SparError
from spar_core.improvement.split import Split
from spar_core.theory.claim import Claim, Finding, Row, above, below, pick, within
from spar_core.theory.decoders import exact_parts
from spar_core.theory.drawing import GREY, INK, LINES, panels
from spar_core.theory.manifolds import manifold
from spar_core.theory.problem import Problem, states_of
from spar_core.theory.rules import RULES, gradient, settings_of, split
from spar_core.theory.settings import TheorySettings
from spar_core.training.optimiser import Adam

MANIFOLDS = ("line", "arc")
# The side of the anchor on which the data's centre lies, and the sign of the tangential value that gives this side.
SIDES = {"ahead": 1.0, "behind": -1.0}
SAID = {"ahead": "ahead of", "behind": "behind"}
# Below this ratio of the fitting gradient's length to the other's, the cosine is noise.
NEGLIGIBLE = 0.02
# Shares of the way at which the gradients are compared.
WAY = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pieces(settings: TheorySettings) -> list[tuple[str, str, str]]:
    """Triples of a manifold's name, a side and a rule."""
    return [(name, side, rule) for name in MANIFOLDS for side in SIDES for rule in RULES]


def measure(settings: TheorySettings, piece: tuple[str, str, str]) -> list[Row]:
    """One row for each share of the way, one for the last step, and one for the displacement that is asked for."""
    name, side, rule = piece
    conflict, seeds = settings.conflict, settings.seed_numbers
    p = settings.problem.model_copy(update={"value_tangent": SIDES[side] * settings.problem.value_tangent})
    problem = Problem(manifold(name, p.curvature, p.half, p.separation), p, conflict.horizon, conflict.shift)
    dataset, frozen = problem.dataset(), exact_parts(problem, seeds)
    parts = split(rule, dataset, frozen, settings_of(rule, settings.training, dataset.n_steps), seeds)
    fitted, wanted = (_by_state(problem, parts.observations, asked) for asked in parts.wanted)
    names = {"manifold": name, "side": side, "rule": rule}
    rows = [{**names, "way": way, **values} for way, values in _along(problem, frozen, parts, wanted, settings)]
    return [*rows, {**names, "way": "asked", **_asked(problem, frozen, fitted, wanted, seeds)}]


def _by_state(problem: Problem, observations: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` [S, n, A] at each state of the problem, [S, H, A], which a network of the state can fit."""
    rows = []
    for seen, each in zip(observations[..., 0], values, strict=True):
        rows.append(torch.stack([each[torch.isclose(seen, state)].mean(0) for state in problem.states[:, 0]]))
    return torch.stack(rows)


def _along(
    problem: Problem, frozen: Any, parts: Split, wanted: Tensor, settings: TheorySettings
) -> list[tuple[Any, dict[str, list[float]]]]:
    """Train on all data at once, and compare the gradients when each share of the way is first covered."""
    conflict, seeds = settings.conflict, settings.seed_numbers
    observations = states_of(problem, seeds)
    base = frozen.anchor.act(observations)
    adam = Adam(conflict.learning_rate, parts.rule.network, decay_steps=conflict.steps)
    covered: list[list[tuple[float, ...]]] = [[] for _ in seeds]
    first = None
    for step in range(conflict.steps + 1):
        with torch.no_grad():
            left = (parts.rule.correction(observations, base) - wanted).flatten(1).norm(dim=1)
        first = left if first is None else first
        if step == conflict.steps or any(len(each) < len(WAY) for each in covered):
            total, fit = (gradient(parts.rule.network, of).double() for of in (parts.total, parts.fitting))
            last = _compare(fit, total - fit)
            for s, values in enumerate(zip(*last.values(), strict=True)):
                done = 1.0 - float(left[s] / first[s])
                while len(covered[s]) < len(WAY) and done >= WAY[len(covered[s])]:
                    covered[s].append(values)
        if step < conflict.steps:
            adam.minimise(parts.total())
    if any(len(each) < len(WAY) for each in covered):
        raise SparError(f"training ends before {WAY[-1]:.0%} of the way", "raise conflict.steps in theory.yaml")
    points = [(way, {key: [each[i][k] for each in covered] for k, key in enumerate(last)}) for i, way in enumerate(WAY)]
    return [*points, ("end", last)]


def _compare(fit: Tensor, improve: Tensor) -> dict[str, list[float]]:
    """Cosine, cancelled share and lengths of two gradients [S, P]."""
    a, b = fit.norm(dim=1), improve.norm(dim=1)
    cosine = (fit * improve).sum(1) / (a * b)
    cancelled = 1 - (fit + improve).norm(dim=1) / (a + b)
    return {"cosine": cosine.tolist(), "cancelled": cancelled.tolist(), "fit": a.tolist(), "improve": b.tolist()}


def _asked(problem: Problem, frozen: Any, fitted: Tensor, wanted: Tensor, seeds: Sequence[int]) -> dict[str, Any]:
    """Lengths, along and across the data's tangent, of the displacement that the improvement part asks for."""
    base = frozen.anchor.act(states_of(problem, seeds))
    away = (wanted - fitted).double()
    normal = problem.manifold.normal_part(problem.manifold.project((base + fitted).double()), away)
    along = [row.norm(dim=-1).mean().item() for row in away - normal]
    across = [row.norm(dim=-1).mean().item() for row in normal]
    share = [b / (a**2 + b**2) ** 0.5 for a, b in zip(along, across, strict=True)]
    return {"asked_tangent": along, "asked_normal": across, "normal_share": share}


def findings(settings: TheorySettings, rows: list[Row]) -> list[Finding]:
    """The trap, the cosines at the start, and the normal shares of the displacement that is asked for."""
    found: list[Finding] = []

    def add(name: str, says: str, values: Sequence[float], expected: float | None, holds: Any) -> None:
        found.append(Finding.of(name, says, values, settings.confidence, expected, holds))

    for rule in RULES:
        last = pick(rows, manifold="arc", side="ahead", rule=rule, way="end")["cosine"]
        says = f"{rule}: cosine at the end of training (arc); -1 for every rule once it has converged, so no finding"
        add(f"end_{rule}", says, last, -1.0, within(-1.0, 0.05))
    for side in SIDES:
        theirs = pick(rows, manifold="arc", side=side, rule="value_gradient", way=WAY[0])["cosine"]
        for rule in ("spar_mlp", "awr"):
            ours = pick(rows, manifold="arc", side=side, rule=rule, way=WAY[0])["cosine"]
            says = (
                f"{rule}: cosine at the start minus the value gradient's, data {SAID[side]} the anchor (arc); "
                "a softer conflict if above 0"
            )
            add(f"start_{side}_{rule}", says, [a - b for a, b in zip(ours, theirs, strict=True)], None, above(0.0))
    start = pick(rows, manifold="arc", side="ahead", rule="spar_proj", way=WAY[0])
    says = (
        "spar_proj: fitting gradient over improvement's at the start (arc); it starts at the decoder's centre, fitted"
    )
    sizes = [a / b for a, b in zip(start["fit"], start["improve"], strict=True)]
    add("start_spar_proj", says, sizes, 0.0, below(0.1))
    p = settings.problem
    share = p.value_normal / (p.value_normal**2 + p.value_tangent**2) ** 0.5
    for name in MANIFOLDS:
        row = pick(rows, manifold=name, side="ahead", rule="value_gradient", way="asked")
        # The gradient is constant, and the data's tangent is turned by the shift along the arc.
        turn = 0.0 if name == "line" else settings.conflict.shift * p.curvature
        expected = math.sin(math.atan2(p.value_normal, p.value_tangent) - turn)
        says = f"value_gradient: normal share of what improvement asks for ({name}), against the closed form"
        add(f"normal_{name}_value_gradient", says, row["normal_share"], expected, within(expected, 0.02))
        for rule in RULES[:-1]:
            values = pick(rows, manifold=name, side="ahead", rule=rule, way="asked")["normal_share"]
            bound = 0.01 if name == "line" else share / 4
            add(
                f"normal_{name}_{rule}",
                f"{rule}: the same ({name}), claimed below {bound:.2g}",
                values,
                None,
                below(bound),
            )
    return found


def figure(settings: TheorySettings, rows: list[Row]) -> bytes:
    """Cosine along the way on the arc for both sides, and the displacement that improvement asks for."""

    def draw(fig: Figure, axes: Sequence[Axes]) -> None:
        for each, side in zip(axes, SIDES, strict=False):
            for rule, look in zip(RULES, LINES, strict=False):
                curve = [pick(rows, manifold="arc", side=side, rule=rule, way=way) for way in WAY]
                curve = [row for row in curve if sum(row["fit"]) > NEGLIGIBLE * sum(row["improve"])]
                cosines = [sum(row["cosine"]) / len(row["cosine"]) for row in curve]
                each.plot([100 * row["way"] for row in curve], cosines, label=rule, **look)
            each.set_ylim(-1.1, 1.1)
            each.set_ylabel("cosine of the gradients\nof fitting and improvement")
            each.set_title(f"arc, data {SAID[side]} the anchor in value", fontsize=9.5, loc="left")
        axes[1].set_xlabel("share of the way covered, %\n(at the end every rule is at -1)")
        axes[0].legend(frameon=False, fontsize=8.5, loc="upper right")
        ticks = []
        for i, name in enumerate(MANIFOLDS):
            for j, rule in enumerate(RULES):
                row = pick(rows, manifold=name, side="ahead", rule=rule, way="asked")
                y = i * (len(RULES) + 0.6) + j
                ticks.append((y, f"{rule}, {name}"))
                along, across = (sum(row[k]) / len(row[k]) for k in ("asked_tangent", "asked_normal"))
                marked: dict[str, Any] = {"edgecolor": INK, "height": 0.36}
                labels = ("along the tangent", "normal to it") if y == 0 else (None, None)
                axes[2].barh(y - 0.19, along, color="white", label=labels[0], **marked)
                axes[2].barh(y + 0.19, across, color=GREY, label=labels[1], **marked)
        axes[2].set_yticks([y for y, _ in ticks], [label for _, label in ticks], fontsize=8.5)
        axes[2].invert_yaxis()
        axes[2].set_xlabel("displacement that improvement asks for\n(units of the action box)")
        axes[2].legend(frameon=False, fontsize=8.5, loc="upper right")

    return panels(3, 1, 9.0, draw)


CLAIM = Claim(
    "conflict",
    "Conflict of fitting and improvement",
    "Do the gradients of fitting and of improving oppose each other, and does any of it lie across the data?",
    pieces,
    measure,
    findings,
    figure,
)
