"""An existing policy, frozen and versioned like any other anchor. Nothing is trained.

The policy is an ONNX file or a function of the user's. The bytes of a file become part of the artifact, so a saved
policy is complete without the file. Of a function, the artifact holds digests of its sources, and acting imports the
function again. All seeds share the one policy, which runs on the CPU.

Actions outside the bounds are clipped. ``docs/external.md`` says what is checked and what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from spar_core.anchors.base import Anchor, AnchorSettings
from spar_core.anchors.external_sources import (
    CallablePolicy,
    External,
    OnnxPolicy,
    ask,
    check,
    module_file,
    read_model,
    source_digests,
)
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted

# Number of the dataset's observations that the policy is checked with.
TRIED = 64
# Parts of the dataset's scaler that are saved with the policy.
UNITS = ("observation_mean", "observation_std", "action_low", "action_high")


class ExternalAnchorSettings(AnchorSettings):
    """Settings of an existing policy. Exactly one of ``onnx`` and ``callable`` is given."""

    onnx: Path | None = Field(None, description="path of an ONNX file")
    callable: str | None = Field(None, description="a function, as 'module:function'")
    sources: tuple[Path, ...] = Field((), description="further files that the function depends on")
    observations: Literal["raw", "standardised"] = Field(
        "raw", description="units of the observations that the policy takes: raw or standardised"
    )
    actions: Literal["raw", "unit"] = Field(
        "raw", description="units of the actions that the policy gives: raw, or unit for [-1, 1]"
    )

    @field_validator("callable")
    @classmethod
    def _module_and_function(cls, value: str | None) -> str | None:
        if value is not None:
            module, _, function = value.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), function)):
                raise ValueError("expected 'module:function'")
        return value

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        given = [key for key in ("onnx", "callable") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of onnx and callable (given: {', '.join(given) or 'none'})")
        if self.sources and self.callable is None:
            raise ValueError("sources belong to a callable")
        return self

    def files(self) -> tuple[Path, ...]:
        if self.onnx is not None:
            return (self.onnx,)
        assert self.callable is not None
        return (module_file(self.callable.partition(":")[0]), *self.sources)


class ExternalAnchor(Anchor):
    """Wraps a policy: standardised observations to the policy's units, and the policy's actions to [-1, 1]."""

    Settings: ClassVar[type[ExternalAnchorSettings]] = ExternalAnchorSettings
    seeds_differ = False

    def __init__(self, policy: External, settings: ExternalAnchorSettings, tensors: Mapping[str, Tensor]) -> None:
        self.policy, self.settings = policy, settings
        # All seeds hold the same values.
        self.mean, self.std, self.low, self.high = (tensors[name][0].cpu() for name in UNITS)

    @classmethod
    def clone(cls, context: Context, settings: ExternalAnchorSettings) -> Fitted:
        dataset, seeds = context.dataset, len(context.seeds)
        arrays = _saved_policy(settings) | {name: getattr(dataset.scaler, name) for name in UNITS}
        one = {name: torch.from_numpy(np.array(value)).unsqueeze(0) for name, value in arrays.items()}
        anchor = cls.restore(settings, one)
        some = dataset.observations[dataset.observation_index[dataset.train_steps[:TRIED]]]
        check(anchor.policy, anchor.units(torch.as_tensor(some)).numpy(), dataset.action_size)
        return Fitted({name: value.expand(seeds, *value.shape[1:]).clone() for name, value in one.items()})

    @classmethod
    def restore(cls, settings: ExternalAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        policy: External
        if settings.callable is not None:
            digests = [digest.tobytes() for digest in tensors["sources"][0].cpu().numpy()]
            policy = CallablePolicy(settings.callable, settings.sources, digests)
        else:
            policy = OnnxPolicy(tensors["file"][0].cpu().numpy().tobytes(), str(settings.onnx))
        return cls(policy, settings, tensors)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        # One call a seed, so that the answer to a seed does not depend on the seeds beside it.
        rows = [ask(self.policy, self.units(one.cpu()).numpy(), len(self.low)) for one in observations.detach()]
        actions = torch.from_numpy(np.stack(rows))
        if self.settings.actions == "raw":
            actions = 2.0 * (actions - self.low) / (self.high - self.low) - 1.0
        return actions.clamp(-1.0, 1.0).to(observations.device)

    def units(self, observations: Tensor) -> Tensor:
        """Standardised observations in the units that the policy takes."""
        return observations * self.std + self.mean if self.settings.observations == "raw" else observations


def _saved_policy(settings: ExternalAnchorSettings) -> dict[str, np.ndarray]:
    """The bytes of the policy's file, or the digests of the function's sources."""
    if settings.onnx is not None:
        return {"file": np.frombuffer(read_model(settings.onnx), np.uint8)}
    assert settings.callable is not None
    digests = source_digests(settings.callable, settings.sources)
    return {"sources": np.stack([np.frombuffer(digest, np.uint8) for digest in digests])}
