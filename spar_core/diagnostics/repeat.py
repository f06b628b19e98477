"""Train a rule once more and compare its gradients on the way.

The first training keeps only its weights, so its gradients are measured by repeating it. The repetition is also a
check: the code, data, parts and settings that the artifact names have to give its weights again, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spar_core.diagnostics.gradients import compare
from spar_core.errors import SparError
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.split import Probe
from spar_core.training.checkpoints import CurveRow
from spar_core.training.fitted import Fitted
from spar_core.training.networks import Stack
from spar_core.training.reporter import Reporter

COSINE, FITTING, IMPROVEMENT = "diagnosis/cosine", "diagnosis/fitting_norm", "diagnosis/improvement_norm"


def probe_steps(steps: int, probes: int) -> list[int]:
    """Optimiser steps (from 1) before which gradients are compared: the second, the last, and evenly between.

    Before the first update some networks have a last layer of zeros, through which no gradient reaches the others.
    """
    if not probes or steps < 2:
        return []
    found = torch.linspace(2, steps, min(probes, steps - 1), dtype=torch.float64).round().long()
    return sorted(set(found.tolist()))


@dataclass
class Watcher(Reporter):
    """Compares gradients at chosen steps, seed by seed, and passes progress on.

    Attributes:
        member: class of the rule.
        settings: of the rule.
        frozen: parts of each seed, in the order of ``seeds``.
        probes: one a seed, in the order of ``seeds``.
        at: the steps.
        forward: is told of units of work done.
    """

    member: type[Improvement] | None = None
    settings: Any = None
    frozen: Sequence[Frozen] = ()
    probes: Sequence[Probe] = ()
    at: frozenset[int] = frozenset()
    forward: Callable[[int], None] = lambda steps: None
    compared: list[CurveRow] = field(default_factory=list)

    def advance(self, steps: int) -> None:
        self.forward(steps)

    def observe(self, step: int, network: Stack) -> None:
        if self.member is None or step not in self.at:
            return
        tensors = network.state("network", len(self.seeds))
        for row, (seed, frozen, probe) in enumerate(zip(self.seeds, self.frozen, self.probes, strict=True)):
            mine = {name: value[row : row + 1].clone() for name, value in tensors.items()}
            rule = self.member.restore(frozen, self.settings, mine, str(network.flat.device))
            found = compare(rule, probe, step)
            for metric, value in zip((COSINE, FITTING, IMPROVEMENT), found, strict=True):
                self.compared.append((step, seed, metric, value))


def refuse_difference(fitted: Fitted, artifact: Mapping[str, Tensor], seeds: Sequence[int], where: str) -> None:
    """Compare the repeated weights with those of the artifact, [S, ...] each, in the order of ``seeds``.

    Raises:
        SparError: they differ; the first difference is named.
    """
    hint = (
        "was it made by other code, on another machine or device? `dvc repro --force` of its self_imitation cell makes "
        "it here; or take the dataset out of study.diagnosed"
    )
    if fitted.tensors.keys() != dict(artifact).keys():
        raise SparError(f"repeating the training of {where} gave other tensors than the artifact holds", hint)
    for name, mine in sorted(fitted.tensors.items()):
        for row, seed in enumerate(seeds):
            if not torch.equal(mine[row].cpu(), artifact[name][row].cpu()):
                raise SparError(
                    f"repeating the training of {where} did not give its weights again (seed {seed}, '{name}')", hint
                )
