"""A policy that exists already, frozen and versioned like any other anchor; nothing is trained.

It comes as an ONNX file, as a file of ``torch.export.save``, or as a function of the user's. A file's bytes become
part of the artifact, so a saved policy is whole without the file; of a function, the artifact holds digests of its
sources, and acting imports it again. All seeds share the one policy, which runs on the CPU.

Actions outside the bounds are clipped. ``docs/external.md`` says what is checked and what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import field_validator, model_validator
from torch import Tensor

from spar_core.anchors.base import Anchor, AnchorSettings
from spar_core.anchors.external_program import Program
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

# Observations that the policy is tried on before anything else.
TRIED = 64
WAYS = ("onnx", "torch_export", "callable")
KNOBS = ("data_share", "top_share", "label_noise")


class ExternalAnchorSettings(AnchorSettings):
    onnx: Path | None = None
    torch_export: Path | None = None
    callable: str | None = None
    sources: tuple[Path, ...] = ()
    observations: Literal["raw", "standardised"] = "raw"
    actions: Literal["raw", "unit"] = "raw"

    @field_validator("callable")
    @classmethod
    def _module_and_function(cls, value: str | None) -> str | None:
        if value is not None:
            module, _, function = value.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), function)):
                raise ValueError("expected 'module:function'")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> ExternalAnchorSettings:
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(WAYS)} (given: {', '.join(given) or 'none'})")
        if self.sources and self.callable is None:
            raise ValueError("sources belong to a callable")
        for knob in KNOBS:
            if getattr(self, knob) != type(self).model_fields[knob].default:
                raise ValueError(f"{knob} means nothing to an external policy, which is not cloned: take it out")
        return self

    def files(self) -> tuple[Path, ...]:
        if self.callable is not None:
            return (module_file(self.callable.partition(":")[0]), *self.sources)
        return (self._path(),)

    def _path(self) -> Path:
        path = self.onnx or self.torch_export
        assert path is not None
        return path


class ExternalAnchor(Anchor):
    """Wraps a policy: standardised observations to the policy's units, and its actions to [-1, 1]."""

    Settings = ExternalAnchorSettings
    seeds_differ = False

    def __init__(self, policy: External, settings: ExternalAnchorSettings, tensors: Mapping[str, Tensor]) -> None:
        self.policy, self.settings = policy, settings
        # All seeds hold the same.
        self.mean, self.std, self.low, self.high = (
            tensors[name][0].cpu() for name in ("observation_mean", "observation_std", "action_low", "action_high")
        )

    @classmethod
    def clone(cls, context: Context, settings: ExternalAnchorSettings) -> Fitted:
        dataset, seeds = context.dataset, context.seeds
        if settings.callable is None:
            tensors = {"file": np.frombuffer(read_model(settings._path()), np.uint8)}
        else:
            digests = source_digests(settings.callable, settings.sources)
            tensors = {"sources": np.stack([np.frombuffer(digest, np.uint8) for digest in digests])}
        tensors |= {
            name: getattr(dataset.scaler, name)
            for name in ("observation_mean", "observation_std", "action_low", "action_high")
        }
        one = {name: torch.from_numpy(np.array(value)).unsqueeze(0) for name, value in tensors.items()}
        anchor = cls.restore(settings, one)
        some = dataset.observations[dataset.observation_index[dataset.train_steps[:TRIED]]]
        check(anchor.policy, anchor.units(torch.as_tensor(some)).numpy(), dataset.action_size)
        return Fitted({name: value.expand(len(seeds), *value.shape[1:]).clone() for name, value in one.items()})

    @classmethod
    def restore(
        cls, settings: ExternalAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> ExternalAnchor:
        policy: External
        if settings.callable is not None:
            digests = [digest.tobytes() for digest in tensors["sources"][0].cpu().numpy()]
            policy = CallablePolicy(settings.callable, settings.sources, digests)
        else:
            kind = OnnxPolicy if settings.onnx is not None else Program
            policy = kind(tensors["file"][0].cpu().numpy().tobytes(), str(settings._path()))
        return cls(policy, settings, tensors)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        # Seed by seed: what a seed gets must not depend on the seeds beside it.
        rows = [ask(self.policy, self.units(one.cpu()).numpy(), len(self.low)) for one in observations.detach()]
        actions = torch.from_numpy(np.stack(rows))
        if self.settings.actions == "raw":
            actions = 2.0 * (actions - self.low) / (self.high - self.low) - 1.0
        return actions.clamp(-1.0, 1.0).to(observations.device)

    def units(self, observations: Tensor) -> Tensor:
        """Standardised observations in the units that the policy takes."""
        return observations * self.std + self.mean if self.settings.observations == "raw" else observations
