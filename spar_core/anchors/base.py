"""What every anchor is: a frozen policy of observations, for a group of seeds side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.knobs import training_data
from spar_core.anchors.quality import measure
from spar_core.data.device import DeviceData
from spar_core.settings import Settings as BaseSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import CHUNK


class AnchorSettings(BaseSettings):
    """Knobs of quality that every anchor has; they change the data it is cloned from, and nothing else."""

    data_share: float = Field(1.0, gt=0, le=1)
    top_share: float = Field(1.0, gt=0, le=1)
    label_noise: float = Field(0.0, ge=0)

    def files(self) -> tuple[Path, ...]:
        """Files outside the dataset that the anchor is made of: when one changes, the anchor is made anew."""
        return ()


class Anchor(ABC):
    """A behaviour-cloned policy, frozen: no parameter of it ever gets a gradient."""

    Settings: ClassVar[type[AnchorSettings]]
    # Whether seeds are different anchors; not where nothing is drawn at random.
    seeds_differ: ClassVar[bool] = True
    # Whether samples differ from the deterministic action.
    stochastic: ClassVar[bool] = False
    # Whether :meth:`log_density` answers.
    has_density: ClassVar[bool] = False

    # --- fitting ---

    @classmethod
    def fit(cls, context: Context, settings: AnchorSettings) -> Fitted:
        """Clone the behaviour of the dataset's training episodes, once a seed, and measure how good the clone is.

        The knobs of ``settings`` choose and spoil the data that are cloned; quality is measured on the held-out
        episodes as they are.
        """
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        seen = training_data(dataset, settings)
        fitted = cls.clone(Context(seen, seeds, report, device), settings)
        anchor = cls.restore(settings, {name: value.to(device) for name, value in fitted.tensors.items()}, device)
        fitted.metrics |= measure(anchor, dataset, seen, seeds, device)
        return fitted

    @classmethod
    @abstractmethod
    def clone(cls, context: Context, settings: AnchorSettings) -> Fitted:
        """Fit to the training episodes of ``dataset``, once a seed."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: AnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Anchor:
        """The frozen anchor of the tensors that :meth:`clone` returned."""

    # --- acting ---

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions [S, B, A] in [-1, 1] for standardised observations [S, B, D]."""

    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Actions [S, B, A] in [-1, 1], one draw each from a generator a seed; :meth:`act` where there is no chance."""
        return self.act(observations)

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log density [S, B] in nats of actions [S, B, A] in [-1, 1]; only where ``has_density``."""
        raise NotImplementedError(f"{type(self).__name__} has no density")

    # --- acting on the data ---

    def act_on_steps(self, data: DeviceData, steps: Tensor) -> Tensor:
        """Actions [S, B, A] at the dataset's own steps [S, B].

        An anchor that can look its training data up must leave the step's own episode out here: its residuals
        would vanish otherwise, and with them the radius.
        """
        return self.act(data.observations[data.index[steps]])

    def sample_on_steps(self, data: DeviceData, steps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The same as :meth:`act_on_steps`, for samples."""
        return self.sample(data.observations[data.index[steps]], generators)

    @torch.no_grad()
    def act_on_data(self, data: DeviceData, seeds: int, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Actions [S, N, A] of every seed at every step, in chunks of fixed size; samples, given generators."""
        parts = []
        for chunk in torch.arange(len(data.actions), device=data.index.device).split(CHUNK):
            steps = chunk.expand(seeds, -1)
            parts.append(
                self.act_on_steps(data, steps) if generators is None else self.sample_on_steps(data, steps, generators)
            )
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def act_on_all(self, observations: Tensor, seeds: int) -> Tensor:
        """Actions [S, n, A] of every seed on the same observations [n, D], in chunks of fixed size."""
        parts = [self.act(chunk.unsqueeze(0).expand(seeds, -1, -1)) for chunk in observations.split(CHUNK)]
        return torch.cat(parts, dim=1)
