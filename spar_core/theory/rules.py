r"""The shipped rules on a synthetic problem: their losses taken apart, one step of each, and training to the end.

Each rule's loss is a **fitting** part and an **improvement** part,

.. math:: L(\theta) = L_\text{fit}(\theta) + L_\text{imp}(\theta), \qquad L_\text{imp} := L - L_\text{fit}

where :math:`L_\text{fit}` is the same loss without the critic: equal weights for the SPAR rules (the rule ``uniform``),
every weight at its mean for AWR, and the squared error alone for the value gradient. Losses, targets and networks are
those of :mod:`spar_core.improvement`; nothing of them is written anew here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spar_core.critics.calibration import values_at
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.improvement.actors import ResidualActor, new_network
from spar_core.improvement.awr import AWR, AWRSettings, advantage_weights, weighted_loss
from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.improvement.self_imitation import CandidateSettings, ProjSettings, Targets, weighted_targets
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.improvement.spar_proj import SparProj
from spar_core.improvement.value_gradient import ValueGradient, ValueGradientSettings, value_gradient_loss
from spar_core.theory.settings import TrainingSettings
from spar_core.training.context import Context
from spar_core.training.networks import Stack, per_seed_mean

MEMBERS: dict[str, tuple[type, type]] = {
    "spar_mlp": (SparMLP, CandidateSettings),
    "spar_proj": (SparProj, ProjSettings),
    "awr": (AWR, AWRSettings),
    "value_gradient": (ValueGradient, ValueGradientSettings),
}
RULES = tuple(MEMBERS)
# Those that draw candidates from the residual model.
IMITATION = ("spar_mlp", "spar_proj")


def settings_of(rule: str, training: TrainingSettings, data_steps: int) -> Any:
    """A rule's own settings, out of those that all rules share."""
    values = training.model_dump() | {"states": data_steps}
    made = MEMBERS[rule][1]
    return made(**{key: value for key, value in values.items() if key in made.model_fields})


def trained(rule: str, dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Any:
    """The rule after its own ``fit``."""
    member = MEMBERS[rule][0]
    fitted = member.fit(Context.quiet(dataset, seeds), frozen, settings)
    return member.restore(frozen, settings, fitted.tensors)


@dataclass(frozen=True)
class Parts:
    """A rule at step zero, on all of its data at once.

    Attributes:
        network: what is trained.
        total: the loss, summed over seeds.
        fitting: the same without the critic.
        correction: (observations, base) to Delta [S, B, A], in the present state of the network.
        asked: where each part alone wants the action, as corrections of the step's anchor: (fitting, total), each
            [S, n, A] over ``observations``; the minimisers of the parts if every state had a parameter of its own.
        observations: [S, n, D], the states of ``asked``.
    """

    network: Stack
    total: Callable[[], Tensor]
    fitting: Callable[[], Tensor]
    correction: Callable[[Tensor, Tensor], Tensor]
    asked: tuple[Tensor, Tensor]
    observations: Tensor


def parts_of(rule: str, dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Parts:
    """Take a rule apart."""
    if rule in IMITATION:
        return _imitation(rule, dataset, frozen, settings, seeds)
    return (_awr if rule == "awr" else _value_gradient)(dataset, frozen, settings, seeds)


def _imitation(rule: str, dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Parts:
    data = DeviceData.of(dataset)
    flat = settings.model_copy(update={"weighting": "equal"})
    ours, equal = (weighted_targets(dataset, data, frozen, each, seeds, 0) for each in (settings, flat))
    if rule == "spar_mlp":
        made = SparMLP.at_step_zero(dataset, frozen, settings, seeds, "cpu")
        asked = (equal.correction, ours.correction)
    else:
        made = SparProj(frozen, settings, _latent_network(dataset, frozen, settings, seeds))
        asked = tuple(
            clipped_candidates(frozen, t.observations, t.base, mean_by_state(t.observations, t.latent))
            for t in (equal, ours)
        )

    def loss(targets: Targets) -> Callable[[], Tensor]:
        return lambda: made.loss(targets.observations, targets.base, targets.correction, targets.latent)[0]

    return Parts(made.network, loss(ours), loss(equal), made.correction, asked, ours.observations)


def _latent_network(dataset: Dataset, frozen: Frozen, settings: Any, seeds: Sequence[int]) -> Stack:
    return new_network(dataset, settings.inputs, settings.hidden, frozen.residual.latent_size, seeds, "cpu")


def _logged(dataset: Dataset, frozen: Frozen, seeds: Sequence[int]) -> tuple[DeviceData, Tensor, Tensor, Tensor]:
    """Data, and observations, actions and anchor actions of all steps, [S, N, .]."""
    data = DeviceData.of(dataset)
    observations, actions = data.at(torch.arange(dataset.n_steps).expand(len(seeds), -1))
    return data, observations, actions, frozen.anchor.act_on_data(data, len(seeds))


def _awr(dataset: Dataset, frozen: Frozen, settings: AWRSettings, seeds: Sequence[int]) -> Parts:
    made = AWR.at_step_zero(dataset, frozen, settings, seeds, "cpu")
    data, observations, actions, base = _logged(dataset, frozen, seeds)
    weights = advantage_weights(frozen, data, settings, len(seeds))
    same = per_seed_mean(weights).unsqueeze(1).expand_as(weights)
    targets = made.targets(data.actions, base)

    def loss(each: Tensor) -> Callable[[], Tensor]:
        return lambda: weighted_loss(made.bounded(observations, base), targets, each)[0]

    away = actions - base
    asked = (mean_by_state(observations, away), mean_by_state(observations, away, weights))
    return Parts(made.network, loss(weights), loss(same), made.correction, asked, observations)


def _value_gradient(dataset: Dataset, frozen: Frozen, settings: ValueGradientSettings, seeds: Sequence[int]) -> Parts:
    actor = ResidualActor.at_step_zero(dataset, frozen, settings, seeds, "cpu")
    data, observations, actions, base = _logged(dataset, frozen, seeds)
    critic = frozen.critic
    logged_q = values_at(critic, data, torch.arange(dataset.n_steps), len(seeds))

    def loss(weight: float) -> Callable[[], Tensor]:
        def of() -> Tensor:
            chosen = actor.action(observations, base)
            q = critic.conservative_q(observations, chosen)
            return value_gradient_loss(chosen, q, actions, logged_q, weight)[0]

        return of

    # The loss is quadratic in the action where Q is linear: its minimiser is the data's mean plus A lambda / 2 grad Q.
    at = actions.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic.conservative_q(observations, at).sum(), at)
    scale = torch.stack([settings.q_weight / row.abs().mean() for row in logged_q]).view(-1, 1, 1)
    fitted = mean_by_state(observations, actions - base)
    asked = (fitted, fitted + 0.5 * actions.shape[-1] * scale * slope)
    return Parts(actor.network, loss(settings.q_weight), loss(0.0), actor.correction, asked, observations)


def mean_by_state(observations: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Each row's values [S, n, .] replaced by their (weighted) mean over the rows of the same state and seed."""
    out = torch.empty_like(values)
    for s in range(len(values)):
        for state in observations[s, :, 0].unique():
            here = observations[s, :, 0] == state
            w = torch.ones(int(here.sum()), dtype=values.dtype) if weights is None else weights[s, here]
            out[s, here] = (w.unsqueeze(-1) * values[s, here]).sum(0) / w.sum()
    return out


def gradient(network: Stack, loss: Callable[[], Tensor]) -> Tensor:
    """Gradient of a loss in all parameters of each seed, [S, P]; it is computed here, so that it has a graph."""
    leaves = list(network.leaves.values())
    for leaf in leaves:
        leaf.requires_grad_()
    return torch.cat([g.reshape(network.n, -1) for g in torch.autograd.grad(loss(), leaves)], dim=1)


def one_step(parts: Parts, observations: Tensor, base: Tensor, size: float) -> Tensor:
    """How far one step of plain gradient descent on the total loss moves the action, [S, B, A].

    Plain, because the first step of Adam moves every parameter by the learning rate, whatever the gradient, so that its
    direction says more of Adam than of the rule.
    """
    for leaf in parts.network.leaves.values():
        leaf.requires_grad_()
    with torch.no_grad():
        before = parts.correction(observations, base)
    slopes = torch.autograd.grad(parts.total(), list(parts.network.leaves.values()))
    with torch.no_grad():
        for leaf, slope in zip(parts.network.leaves.values(), slopes, strict=True):
            leaf -= size * slope
        return parts.correction(observations, base) - before
