"""The interface of every anchor: a frozen policy, for a group of seeds side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.knobs import training_data
from spar_core.anchors.quality import measure
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.settings import Settings as BaseSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import CHUNK


class AnchorSettings(BaseSettings):
    """Settings of every anchor."""

    def files(self) -> tuple[Path, ...]:
        """Files outside the dataset that the anchor is made from. A change of one makes the anchor anew."""
        return ()


class ClonedSettings(AnchorSettings):
    """Settings of every anchor that is cloned. They choose and spoil the data that it is cloned from."""

    data_share: float = Field(1.0, gt=0, le=1, description="share of the training episodes that is cloned, drawn once")
    top_share: float = Field(1.0, gt=0, le=1, description="of those, the share with the highest return that is kept")
    label_noise: float = Field(
        0.0, ge=0, description="standard deviation added to the actions, in units of the action box [-1, 1]"
    )


class Anchor(ABC):
    """A behaviour-cloned policy. It is frozen: none of its parameters ever gets a gradient."""

    Settings: ClassVar[type[AnchorSettings]]
    # Whether seeds give different anchors. They do not where nothing is drawn at random.
    seeds_differ: ClassVar[bool] = True
    # Whether all seeds of a group get one anchor, which then depends on the group (see :meth:`of_group`).
    shared: ClassVar[bool] = False
    # Whether samples differ from the deterministic action, and whether :meth:`log_density` is implemented. A committee
    # takes both from its members.
    stochastic: bool = False
    has_density: bool = False

    # --- fitting ---

    @classmethod
    def fit(cls, context: Context, settings: Any, taught: Dataset | None = None) -> Fitted:
        """Clone the actions of the training episodes, once a seed, and measure the quality of the clone.

        Args:
            context: its dataset's held-out episodes are what quality is measured on.
            settings: an instance of ``Settings``.
            taught: the dataset whose actions are cloned; the context's own for None.
        """
        seen = context.dataset if taught is None else taught
        if isinstance(settings, ClonedSettings):
            seen = training_data(seen, settings)
        fitted = cls.clone(context.on(seen), settings)
        tensors = {name: value.to(context.device) for name, value in fitted.tensors.items()}
        fitted.metrics |= measure(cls.restore(settings, tensors, context.device), context, seen)
        return fitted

    @classmethod
    @abstractmethod
    def clone(cls, context: Context, settings: Any) -> Fitted:
        """Fit to the training episodes of the context's dataset, once a seed."""

    @classmethod
    def of_group(cls, fitted: Fitted, context: Context, settings: Any) -> Fitted:
        """What the whole group makes of the fits of all its seeds. Each seed keeps its own, unless a kind says else."""
        return fitted

    @classmethod
    @abstractmethod
    def restore(cls, settings: Any, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        """The frozen anchor of the tensors that :meth:`fit` or :meth:`of_group` returned."""

    # --- acting ---

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions [S, B, A] in [-1, 1] for standardised observations [S, B, D]."""

    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Actions [S, B, A] in [-1, 1], drawn with one generator a seed. A deterministic anchor gives :meth:`act`."""
        return self.act(observations)

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log density [S, B] in nats of actions [S, B, A] in [-1, 1].

        Raises:
            NotImplementedError: the anchor has no density (``has_density``).
        """
        raise NotImplementedError(f"{type(self).__name__} has no density")

    # --- acting on the data ---

    def act_on_steps(self, data: DeviceData, steps: Tensor) -> Tensor:
        """Actions [S, B, A] at the dataset's own steps [S, B].

        An anchor that can look its training data up must leave the step's own episode out here. Otherwise its
        residuals and their radius would vanish.
        """
        return self.act(data.observations[data.index[steps]])

    def sample_on_steps(self, data: DeviceData, steps: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Samples [S, B, A] at the dataset's own steps [S, B]; see :meth:`act_on_steps`."""
        return self.sample(data.observations[data.index[steps]], generators)

    @torch.no_grad()
    def act_on_data(self, data: DeviceData, seeds: int, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Actions [S, N, A] of every seed at every step of the dataset; samples, if generators are given."""
        parts = []
        for chunk in torch.arange(len(data.actions), device=data.index.device).split(CHUNK):
            steps = chunk.expand(seeds, -1)
            parts.append(
                self.act_on_steps(data, steps) if generators is None else self.sample_on_steps(data, steps, generators)
            )
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def act_on_all(self, observations: Tensor, seeds: int) -> Tensor:
        """Actions [S, n, A] of every seed at the same observations [n, D]."""
        parts = [self.act(chunk.unsqueeze(0).expand(seeds, -1, -1)) for chunk in observations.split(CHUNK)]
        return torch.cat(parts, dim=1)
