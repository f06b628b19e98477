r"""The shipped rules on a synthetic problem: one step of each, and training to the end.

Each rule's loss is a **fitting** part and an **improvement** part,

.. math:: L(\theta) = L_\text{fit}(\theta) + L_\text{imp}(\theta), \qquad L_\text{imp} := L - L_\text{fit}

where :math:`L_\text{fit}` is the same loss without the critic: equal weights for the SPAR rules (the rule ``uniform``),
every weight at its mean for AWR, and the squared error alone for the value gradient. Each rule gives both by its own
method :meth:`spar_core.improvement.base.Improvement.split`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.self_imitation import SelfImitation
from spar_core.improvement.split import Split
from spar_core.registry import load_member
from spar_core.theory.settings import TrainingSettings
from spar_core.training.context import Context
from spar_core.training.networks import Stack

# The kinds of rules that the claims compare.
RULES = ("spar_mlp", "spar_proj", "awr", "value_gradient")


def member(rule: str) -> type[Improvement]:
    """The class of a rule."""
    found: type[Improvement] = load_member("improvement", rule)
    return found


def imitates(rule: str) -> bool:
    """Whether a rule draws candidates from the residual model."""
    return issubclass(member(rule), SelfImitation)


def settings_of(rule: str, training: TrainingSettings, data_steps: int) -> Any:
    """A rule's own settings, taken from those that all rules share."""
    values = training.model_dump() | {"states": data_steps}
    model = member(rule).Settings
    return model(**{key: value for key, value in values.items() if key in model.model_fields})


def trained(rule: str, dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Improvement:
    """The rule after its own ``fit``."""
    fitted = member(rule).fit(Context.quiet(dataset, seeds), frozen, settings)
    return member(rule).restore(frozen, settings, fitted.tensors)


def split(rule: str, dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Split:
    """The rule before its first step, taken apart."""
    return member(rule).split(Context.quiet(dataset, seeds), frozen, settings)


def gradient(network: Stack, loss: Callable[[], Tensor]) -> Tensor:
    """Gradient of a loss in all parameters of each seed, [S, P]."""
    leaves = list(network.leaves.values())
    for leaf in leaves:
        leaf.requires_grad_()
    return torch.cat([g.reshape(network.n, -1) for g in torch.autograd.grad(loss(), leaves)], dim=1)


def one_step(parts: Split, observations: Tensor, base: Tensor, size: float) -> Tensor:
    """How far one step of plain gradient descent on the total loss moves the action, [S, B, A].

    The step is plain because the first step of Adam moves every parameter by the learning rate, whatever the gradient:
    its direction would tell more about Adam than about the rule.
    """
    leaves = list(parts.rule.network.leaves.values())
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.no_grad():
        before = parts.rule.correction(observations, base)
    slopes = torch.autograd.grad(parts.total(), leaves)
    with torch.no_grad():
        for leaf, slope in zip(leaves, slopes, strict=True):
            leaf -= size * slope
        return parts.rule.correction(observations, base) - before
