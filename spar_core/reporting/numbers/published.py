"""Published scores, and those of a study beside them.

``spar_core/data/published_<suite>.csv`` holds facts: one row for each published mean, with its source. The columns are
suite, task, method, score, std, seeds, protocol, source; std and seeds are empty where they are not public.

A dataset stands beside published scores only if it is the published data itself, whole, and evaluated in an environment
that the report may compare (``comparable_to_d4rl``). Everything else is left out, and the page says what and why.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from spar_core.evaluation.statistics import Estimate, normalised_score
from spar_core.registry import FAMILIES, load_member
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.tables import Summary

FILES = "published_*.csv"
FOLDER = Path(__file__).parents[2] / "data"
COLUMNS = ("suite", "task", "method", "score", "std", "seeds", "protocol", "source")
# Protocols whose scores may stand beside those of the last policy; a best checkpoint, chosen by its returns, may not.
COMPARED = ("last", "not public")
OURS = "SPAR"
# Public scores of SPAR that lie below an older method's: task, and that method.
BELOW = (("pen-human-v1", "BC"), ("antmaze-umaze-diverse-v2", "ReBRAC"), ("pen-cloned-v1", "ReBRAC"))
# Steps of D4RL's files (Gym-MuJoCo v2, Adroit v1), rounded, by a part of the task's name; the first that fits counts.
# They were not counted by us, so only data of less than half as many steps are taken for something else than the file.
STEPS = {
    "halfcheetah-medium-replay": 202_000,
    "hopper-medium-replay": 402_000,
    "walker2d-medium-replay": 302_000,
    "-medium-expert": 2_000_000,
    "pen-human": 5_000,
    "hammer-human": 11_300,
    "door-human": 6_700,
    "relocate-human": 9_900,
    "pen-cloned": 500_000,
    "pen-expert": 500_000,
    "": 1_000_000,
}


@dataclass(frozen=True)
class Published:
    """One published mean score.

    Attributes:
        suite, task: such as ``d4rl`` and ``hopper-medium-v2``.
        method: as its source calls it.
        score: normalised as the suite does it.
        std: standard deviation over seeds; None if it is not public.
        seeds: number of seeds; None if it is not public.
        protocol: which policy was evaluated: ``last``, ``best``, or the source's own words.
        source: where the number was read.
    """

    suite: str
    task: str
    method: str
    score: float
    std: float | None
    seeds: int | None
    protocol: str
    source: str

    def estimate(self, confidence: float) -> Estimate:
        """The score with a Student t-interval over seeds, where spread and number of seeds are public.

        The published deviation is taken as one with n in the denominator (NumPy's default), the wider reading.
        """
        n = self.seeds or 0
        if self.std is None or n < 2:
            return Estimate(self.score, None, None, n)
        half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * self.std / math.sqrt(n - 1)
        return Estimate(self.score, self.score - half, self.score + half, n)


@functools.cache
def published(suite: str, task: str) -> tuple[Published, ...]:
    """All rows of a task, in the order of the file."""
    return tuple(row for row in _rows(FOLDER) if (row.suite, row.task) == (suite, task))


@functools.cache
def _rows(folder: Path) -> tuple[Published, ...]:
    rows = []
    for path in sorted(folder.glob(FILES)):
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                std, seeds = float(row["std"]) if row["std"] else None, int(row["seeds"]) if row["seeds"] else None
                named = (row["suite"], row["task"], row["method"], float(row["score"]))
                rows.append(Published(*named, std, seeds, row["protocol"], row["source"]))
    return tuple(rows)


@dataclass(frozen=True)
class Pair:
    """One line of a dataset's table: a published score, the measured one of the same method, or only one of them.

    Attributes:
        method: as published; None where the study's rule is no published method.
        rule: of the study, with anchor and critic; None where the study has no such rule.
        theirs, ours: normalised scores with intervals.
        steps: optimiser steps of anchor, critic and rule behind the measured score, as text.
    """

    method: str | None
    rule: str | None
    theirs: Estimate | None
    ours: Estimate | None
    steps: str = ""

    @property
    def differs(self) -> str:
        """Where the measured score lies, if its interval and the published one do not meet; else empty."""
        if self.ours is None or self.theirs is None:
            return ""
        if None in (self.ours.low, self.ours.high, self.theirs.low, self.theirs.high):
            return "no interval"
        assert self.ours.low is not None and self.ours.high is not None
        assert self.theirs.low is not None and self.theirs.high is not None
        if self.ours.low > self.theirs.high:
            return "above"
        return "below" if self.ours.high < self.theirs.low else ""


@dataclass(frozen=True)
class Beside:
    """Published and measured scores of one dataset.

    Attributes:
        dataset: its id.
        steps: of the data.
        protocol: of the measured scores, in words.
        pairs: lines of its table.
        cited: protocol and source of the published scores.
        others: published protocols of this task that are not shown, such as ``best``.
    """

    dataset: str
    steps: int
    protocol: str
    pairs: tuple[Pair, ...]
    cited: tuple[tuple[str, str], ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What the page says about published scores: tables by dataset, and which datasets have none and why."""

    beside: tuple[Beside, ...]
    left_out: tuple[tuple[str, str], ...]


def compare(rules: Sequence[Rule], summaries: Sequence[Summary], confidence: float) -> Comparison | None:
    """Published and measured scores of every dataset that may be compared; None if nothing is published of any.

    Args:
        rules: the rules that were rolled out.
        summaries: the summaries of ``rules``, in the same order.
        confidence: of every interval.
    """
    found: dict[str, list[tuple[Rule, Summary]]] = {}
    left_out: dict[str, str] = {}
    for rule, summary in zip(rules, summaries, strict=True):
        reason = refused(rule)
        if reason is None:
            found.setdefault(rule.dataset, []).append((rule, summary))
        elif reason:
            left_out[rule.dataset] = reason
    beside = tuple(_beside(dataset, members, confidence) for dataset, members in found.items())
    return Comparison(beside, tuple(left_out.items())) if beside or left_out else None


def task_of(dataset: str) -> tuple[str, str]:
    """Suite and task of a dataset's id; the published files need not have them."""
    suite, _, task = dataset.partition("/")
    return suite, task


def refused(rule: Rule) -> str | None:
    """Why a rule's scores may not stand beside published ones, as a clause; None where they may.

    An empty clause: nothing is published under the dataset's name, so nobody expects a comparison.
    """
    context = rule.context
    if not published(*task_of(rule.dataset)):
        return ""
    if context.get("mismatch") or not context.get("comparable_to_d4rl") or not context.get("reference"):
        return str(context.get("label") or "it is other data")
    steps = int((context.get("dataset") or {}).get("steps") or 0)
    whole = next(n for part, n in STEPS.items() if part in rule.dataset)
    if task_of(rule.dataset)[0] == "d4rl" and steps < whole / 2:
        return f"it holds {steps:,} steps, and the published file of this name about {whole:,}"
    return None


def method_of(made_with: Mapping[str, Any]) -> str | None:
    """The published method that a rule is, by the kinds and the changed settings of its parts; None for none."""
    kinds = {family: part["kind"] for family, part in made_with.items()}
    changed = {family: part.get("changed") or {} for family, part in made_with.items()}
    rule = kinds.get("improvement")
    if rule in ("td3_bc", "rebrac"):
        return {"td3_bc": "TD3+BC", "rebrac": "ReBRAC"}[rule]
    if rule == "awr_scratch" and kinds.get("critic") == "iql":
        return "IQL"
    if rule in ("spar_mlp", "spar_proj") and changed["improvement"].get("weighting") != "equal":
        return OURS
    if rule == "anchor" and kinds.get("anchor") in ("mlp", "gaussian"):
        knobs = {name: changed["anchor"].get(name) for name in ("data_share", "top_share", "label_noise")}
        whole = not any(value is not None for name, value in knobs.items() if name != "top_share")
        return {None: "BC", 0.1: "10% BC"}.get(knobs["top_share"]) if whole else None
    return None


def steps_of(made_with: Mapping[str, Any]) -> str:
    """Optimiser steps of anchor, critic and rule: ``1,000,000 / 1,000,000 / 500,000``; a dash for a part without."""

    def steps(part: Mapping[str, Any], family: str) -> str:
        field = load_member(family, part["kind"]).Settings.model_fields.get("steps")
        known = (part.get("changed") or {}).get("steps", field.default if field else None)
        return "-" if known is None else f"{known:,}"

    return " / ".join(steps(made_with[family], family) for family in FAMILIES if family in made_with)


def _beside(dataset: str, members: Sequence[tuple[Rule, Summary]], confidence: float) -> Beside:
    theirs = published(*task_of(dataset))
    shown = {row.method: row for row in theirs if row.protocol in COMPARED}
    pairs: list[Pair] = []
    several = len({rule.setting for rule, _ in members}) > 1
    for rule, summary in members:
        method = method_of(rule.context.get("made_with") or {})
        row = shown.get(method or "")
        name = f"{rule.anchor}, {rule.critic}, {rule.improvement}" if several else rule.improvement
        ours = scored(summary.returns, rule.context["reference"])
        steps = steps_of(rule.context.get("made_with") or {})
        pairs.append(Pair(method, name, row.estimate(confidence) if row else None, ours, steps))
    measured = {pair.method for pair in pairs}
    pairs += [Pair(name, None, row.estimate(confidence), None) for name, row in shown.items() if name not in measured]
    first = members[0][1]
    low, high = first.episodes_a_seed
    episodes = str(low) if low == high else f"{low} to {high}"
    return Beside(
        dataset,
        int(members[0][0].context["dataset"]["steps"]),
        f"{first.protocol} policy, {first.returns.n} seeds of {episodes} episodes",
        tuple(pairs),
        tuple(dict.fromkeys((row.protocol, row.source) for row in shown.values())),
        tuple(dict.fromkeys(row.protocol for row in theirs if row.protocol not in COMPARED)),
    )


def scored(returns: Estimate, reference: Mapping[str, Any]) -> Estimate:
    """A mean return with its interval, as a normalised score."""
    bounds = float(reference["min"]), float(reference["max"])
    ends = [None if end is None else normalised_score(end, *bounds) for end in (returns.low, returns.high)]
    return Estimate(normalised_score(returns.value, *bounds), ends[0], ends[1], returns.n)


def public_scores() -> list[dict[str, Any]]:
    """SPAR's public scores, each with the published BC and the best other method of the protocol ``last``."""
    lines = []
    for row in _rows(FOLDER):
        if row.method != OURS:
            continue
        others = {o.method: o for o in published(row.suite, row.task) if o.protocol == "last"}
        best = max(others.values(), key=lambda other: other.score)
        lines.append({"task": row.task, "score": row.score, "bc": others["BC"].score, "best": best})
    return lines


def below() -> list[dict[str, Any]]:
    """Where a public score of SPAR lies below an older method's: task, score, method and that method's score."""
    lines = []
    for task, method in BELOW:
        rows = {row.method: row for row in published("d4rl", task) if row.protocol in COMPARED}
        lines.append({"task": task, "score": rows[OURS].score, "method": method, "theirs": rows[method].score})
    return lines
