r"""A linear anchor: ridge regression of actions on observations.

.. math:: \pi(s) = \mathrm{clip}(s W + b, -1, 1), \qquad
          \min_{W, b} \; \mathbb{E} \lVert s W + b - a \rVert^2 + \lambda \lVert W \rVert^2

The solution has a closed form. Nothing is drawn at random, so every seed gets the same anchor.

Source: ridge regression (Hoerl and Kennard 1970). Rajeswaran et al. 2017 showed that linear policies can walk.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.base import Anchor, ClonedSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted


class LinearAnchorSettings(ClonedSettings):
    """Settings of ridge regression."""

    ridge: float = Field(1e-3, gt=0, description="lambda, penalty of a squared weight, with observations standardised")


class LinearAnchor(Anchor):
    """Weights [S, D, A] and biases [S, 1, A]."""

    Settings = LinearAnchorSettings
    seeds_differ = False

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def clone(cls, context: Context, settings: LinearAnchorSettings) -> Fitted:
        dataset, seeds = context.dataset, context.seeds
        train = dataset.train_steps
        observations = dataset.observations[dataset.observation_index[train]].astype(np.float64)
        actions = dataset.actions[train].astype(np.float64)
        centre, mean = observations.mean(0), actions.mean(0)
        wide = observations - centre
        gram = wide.T @ wide / len(wide) + settings.ridge * np.eye(wide.shape[1])
        weight = np.linalg.solve(gram, wide.T @ (actions - mean) / len(wide))
        tensors = {"weight": weight, "bias": (mean - centre @ weight)[None]}
        return Fitted(
            {name: torch.tensor(value, dtype=torch.float32).repeat(len(seeds), 1, 1) for name, value in tensors.items()}
        )

    @classmethod
    def restore(
        cls, settings: LinearAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> LinearAnchor:
        return cls(tensors["weight"].to(device), tensors["bias"].to(device))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        # One product a seed, because in a batched product the rounding of a row may depend on the rows beside it.
        rows = [
            torch.addmm(b, s.clone(), w.clone()) for b, s, w in zip(self.bias, observations, self.weight, strict=True)
        ]
        return torch.stack(rows).clamp(-1.0, 1.0)
