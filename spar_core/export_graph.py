"""A policy as one function of tensors: scaler, anchor, rule, clipping, committee and guard in one PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.committee import CommitteeAnchor, together
from spar_core.data.scaler import IGNORED
from spar_core.guard import Guard
from spar_core.policy import Policy

ACTIONS, DISTANCE, DISAGREEMENT, CORRECTION = "actions", "distance", "disagreement", "correction"
OBSERVATIONS = "observations"


class PolicyGraph(torch.nn.Module):
    """What :meth:`spar_core.policy.Policy.act` computes, in operations of PyTorch alone.

    Args:
        policy: on the CPU.
        anchor: the policy's own; if it is a committee, which all seeds share, that of one seed.
        guard: adds the output ``distance``, for several seeds ``disagreement``, and if it guards actions
            ``correction``; None for actions alone.
        file: the ONNX file that the anchor runs, where it does; no exporter of PyTorch can follow that anchor.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    half_range: Tensor
    whitening: Tensor
    centres: Tensor
    reach: Tensor

    def __init__(self, policy: Policy, anchor: Anchor, guard: Guard | None = None, file: bytes | None = None) -> None:
        super().__init__()
        self.file = file
        self.rule, self.anchor, self.members, self.guard = policy.rule, anchor, policy.members, guard
        self.parts = policy.interface.parts()
        scaler = policy.scaler
        half = 0.5 * (scaler.action_high - scaler.action_low)
        arrays = {
            "mean": scaler.observation_mean,
            "std": scaler.observation_std,
            "low": scaler.action_low,
            "high": scaler.action_high,
            "half_range": half,
        }
        if guard is not None:
            arrays |= {"whitening": guard.whitening, "centres": guard.centres}
            if guard.reach is not None:
                arrays["reach"] = guard.reach
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array, np.float32)))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs: the parts of a dictionary, or ``observations`` for vectors."""
        return [path or OBSERVATIONS for path in self.parts]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        if self.guard is None:
            return [ACTIONS]
        disagreement = [DISAGREEMENT] if self.members > 1 else []
        return [ACTIONS, DISTANCE, *disagreement, *([] if self.guard.reach is None else [CORRECTION])]

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Raw actions [B, A] of raw observations, and the guard's outputs [B].

        Args:
            parts: those of the observations, [B, *shape] each, in the order of ``inputs``.
        """
        standardised = self.standardise(*parts)
        return self.corrected(standardised, self._anchor(standardised, self._wide(standardised)))

    def standardise(self, *parts: Tensor) -> Tensor:
        """Standardised observations [B, D] of the parts of raw ones."""
        raw = torch.cat([part.reshape(part.shape[0], -1) for part in parts], dim=1) if len(parts) > 1 else parts[0]
        return (raw - self.mean) / self.std

    def corrected(self, standardised: Tensor, base: Tensor) -> tuple[Tensor, ...]:
        """The outputs, for standardised observations [B, D] and the anchor's actions [S, B, A] in [-1, 1]."""
        each = (base + self.rule.deployed(self._wide(standardised), base)).clamp(-1.0, 1.0)
        unit = each.mean(dim=0)
        further: list[Tensor] = []
        if self.guard is not None:
            anchor = base.clamp(-1.0, 1.0).mean(dim=0)
            furthest = distance = self._distance(standardised)
            further.append(distance)
            if self.members > 1:
                further.append(self._disagreement(each))
            if self.guard.reach is not None:
                correction = ((unit - anchor) / self.reach).square().mean(dim=1).sqrt()
                further.append(correction)
                furthest = torch.maximum(distance, correction)
            if self.guard.limit is not None:
                unit = torch.where((furthest > self.guard.limit).unsqueeze(1), anchor, unit)
        actions = self.low + (unit + 1.0) * self.half_range
        return torch.minimum(torch.maximum(actions, self.low), self.high), *further

    def _wide(self, standardised: Tensor) -> Tensor:
        """The same observations for each member, [S, B, D]."""
        return standardised.unsqueeze(0).expand(self.members, -1, -1)

    def _anchor(self, standardised: Tensor, wide: Tensor) -> Tensor:
        """The anchor's actions [S, B, A]. A committee is asked once, because all seeds share it."""
        if not isinstance(self.anchor, CommitteeAnchor):
            return self.anchor.act(wide)
        # This repeats `CommitteeAnchor.act` in operations whose sizes the ONNX exporter can follow.
        each = self.anchor.members.act(standardised.unsqueeze(0).expand(self.anchor.size, -1, -1))
        return together(each.unsqueeze(0), self.anchor.settings.act).expand(self.members, -1, -1)

    def _distance(self, standardised: Tensor) -> Tensor:
        """The guard's distance [B]; see :mod:`spar_core.guard`."""
        assert self.guard is not None
        away = (standardised @ self.whitening).unsqueeze(1) - self.centres
        return away.square().sum(dim=2).min(dim=1).values.sqrt() / self.guard.scale

    def _disagreement(self, each: Tensor) -> Tensor:
        """Spread [B] of the members' actions [S, B, A], in units of the residual model's radius."""
        radius = self.rule.frozen.residual.radius.mean(dim=0)
        apart = (each - each.mean(dim=0)) / radius
        return apart.square().mean(dim=(0, 2)).sqrt()


def observations_near_data(policy: Policy, count: int) -> NDArray[np.float32]:
    """Raw observations [count, D]: three in four are spread as the training data are, and the others three times as
    wide. The same in every call."""
    scaler, rng = policy.scaler, np.random.default_rng(0)
    width = np.where(np.arange(count) % 4 == 3, 3.0, 1.0)[:, None]
    std = np.where(scaler.observation_std < IGNORED, scaler.observation_std, 0.0)
    raw = scaler.observation_mean + rng.normal(size=(count, len(std))) * width * std
    return raw.astype(np.float32)


def split_parts(policy: Policy, vectors: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
    """The inputs by name, [B, *shape] each, that hold the vectors [B, D]."""
    found, start = {}, 0
    for path, shape in policy.interface.parts().items():
        stop = start + int(np.prod(shape, dtype=int))
        found[path or OBSERVATIONS] = np.ascontiguousarray(vectors[:, start:stop].reshape(len(vectors), *shape))
        start = stop
    return found
