r"""A committee: one anchor for all seeds of a group, which acts by the mean of the policies that the seeds cloned.

.. math:: \pi(s) = \frac{1}{M} \sum_{m=1}^{M} \pi_m(s) \quad (\text{``act: mean``}), \qquad
   \pi(s) = \pi_{j}(s), \; j = \arg\min_m \sum_i \lVert \pi_m(s) - \pi_i(s) \rVert \quad (\text{``medoid``})

``median`` takes the median of each action dimension. Each of the M members is one policy of the kind in ``member``,
cloned with one seed of the group. The independent unit is therefore the group: all its seeds stand on the same anchor.
The mean of members that act in clearly different ways may be an action that none of them takes; the medoid is always
an action of a member.

Source: averaging of networks that differ in their seed (Hansen and Salamon 1990; bagging, Breiman 1996, draws the data
anew too). Its use as the anchor of SPAR is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor

from spar_core.anchors.base import Anchor, AnchorSettings, ClonedSettings
from spar_core.anchors.knobs import training_data
from spar_core.anchors.quality import measure
from spar_core.data.device import DeviceData
from spar_core.errors import SparError
from spar_core.registry import parse_variant
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted

MEMBER = "member"


class CommitteeSettings(AnchorSettings):
    """Settings of a committee. What its members are cloned from stands in the settings of the member."""

    member: dict[str, Any] = Field(
        {"kind": "mlp"}, description="the anchor that each seed clones: its kind and settings, such as {like: mlp}"
    )
    act: Literal["mean", "median", "medoid"] = Field("mean", description="what is made of the members' actions")

    @field_validator("member")
    @classmethod
    def _member_is_an_anchor(cls, member: dict[str, Any]) -> dict[str, Any]:
        if member.get("kind", MEMBER) in (MEMBER, "committee", "external"):
            raise ValueError("say which anchor the seeds clone, as in {like: mlp}; it has to be one that is trained")
        try:
            parse_variant("anchor", {MEMBER: member}, MEMBER)
        except SparError as error:
            raise ValueError(str(error)) from None
        return member

    def parsed(self) -> tuple[type[Anchor], ClonedSettings]:
        """Class and settings of a member."""
        member, settings = parse_variant("anchor", {MEMBER: self.member}, MEMBER)
        assert isinstance(settings, ClonedSettings)
        return member, settings

    @property
    def steps(self) -> int:
        """Optimiser steps of one seed."""
        return int(getattr(self.parsed()[1], "steps", 0))


class CommitteeAnchor(Anchor):
    """The members of a group, the same for each of its S seeds.

    Args:
        members: M policies of each seed side by side, S * M of them.
        settings: of the committee.
        size: M.
    """

    Settings: ClassVar[type[CommitteeSettings]] = CommitteeSettings
    seeds_differ = False
    shared = True

    def __init__(self, members: Anchor, settings: CommitteeSettings, size: int) -> None:
        self.members, self.settings, self.size = members, settings, size
        self.stochastic, self.has_density = members.stochastic, members.has_density

    @classmethod
    def fit(cls, context: Context, settings: CommitteeSettings, taught: Any = None) -> Fitted:
        """Clone the members of the context's seeds. :meth:`of_group` makes the committee of them."""
        member, of_member = settings.parsed()
        seen = training_data(context.dataset if taught is None else taught, of_member)
        return member.clone(context.on(seen), of_member)

    @classmethod
    def clone(cls, context: Context, settings: CommitteeSettings) -> Fitted:
        return cls.fit(context, settings)

    @classmethod
    def of_group(cls, fitted: Fitted, context: Context, settings: CommitteeSettings) -> Fitted:
        seeds = len(context.seeds)
        tensors = {
            name: value.unsqueeze(0).expand(seeds, *value.shape).contiguous() for name, value in fitted.tensors.items()
        }
        on_device = {name: value.to(context.device) for name, value in tensors.items()}
        seen = training_data(context.dataset, settings.parsed()[1])
        quality = measure(cls.restore(settings, on_device, context.device), context, seen)
        return Fitted(tensors, {**fitted.metrics, **quality}, fitted.curves, fitted.documents)

    @classmethod
    def restore(cls, settings: CommitteeSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        member, of_member = settings.parsed()
        size = next(iter(tensors.values())).shape[1]
        flat = {name: value.flatten(0, 1) for name, value in tensors.items()}
        return cls(member.restore(of_member, flat, device), settings, size)

    # --- acting ---

    def act(self, observations: Tensor) -> Tensor:
        return self._together(self.members.act(self._wide(observations)))

    def act_on_steps(self, data: DeviceData, steps: Tensor) -> Tensor:
        return self._together(self.members.act_on_steps(data, self._wide(steps)))

    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Actions [S, B, A], each a draw of one member, which is drawn uniformly. Deterministic members give `act`."""
        if not self.stochastic:
            return self.act(observations)
        return self._one_of(self.members.sample(self._wide(observations), self._each(generators)), generators)

    def sample_on_steps(self, data: DeviceData, steps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        if not self.stochastic:
            return self.act_on_steps(data, steps)
        return self._one_of(self.members.sample_on_steps(data, self._wide(steps), self._each(generators)), generators)

    @torch.no_grad()
    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log density [S, B] of what :meth:`sample` draws, the even mixture of the members."""
        each = self.members.log_density(self._wide(observations), self._wide(actions))
        log_sum: Tensor = each.unflatten(0, (-1, self.size)).logsumexp(dim=1)
        return log_sum - math.log(self.size)

    def _wide(self, values: Tensor) -> Tensor:
        """Values [S, ...] for every member, [S * M, ...]."""
        return values.repeat_interleave(self.size, dim=0)

    def _each(self, generators: Sequence[torch.Generator]) -> list[torch.Generator]:
        """The generator of a seed, for each of its members in turn."""
        return [generator for generator in generators for _ in range(self.size)]

    def _together(self, actions: Tensor) -> Tensor:
        """What the committee makes of its members' actions [S * M, B, A], [S, B, A]."""
        return together(actions.unflatten(0, (-1, self.size)), self.settings.act)

    def _one_of(self, actions: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The action of a member drawn uniformly at each state, [S, B, A]."""
        each = actions.unflatten(0, (-1, self.size))
        shape = each.shape[2:3]
        picks = torch.stack([torch.randint(self.size, shape, generator=generator) for generator in generators])
        return of_member(each, picks.to(each.device))


@torch.no_grad()
def together(actions: Tensor, how: Literal["mean", "median", "medoid"]) -> Tensor:
    """One action [S, B, A] of those of M members, [S, M, B, A].

    The median of an even number of members is the mean of the middle two. Of several medoids, the first counts.
    """
    if how == "mean":
        return actions.mean(dim=1)
    if how == "median":
        # As `quantile` does to the last bit, in operations that ONNX has.
        ordered, m = actions.sort(dim=1).values, actions.shape[1]
        return torch.lerp(ordered[:, (m - 1) // 2], ordered[:, m // 2], 0.5)
    apart = (actions.unsqueeze(1) - actions.unsqueeze(2)).norm(dim=-1).sum(dim=1)
    return of_member(actions, apart.argmin(dim=1))


def of_member(actions: Tensor, picks: Tensor) -> Tensor:
    """The action [S, B, A] of the member ``picks`` [S, B] among those of M members, [S, M, B, A]."""
    index = picks[:, None, :, None].expand(-1, 1, -1, actions.shape[-1])
    return actions.gather(1, index).squeeze(1)
