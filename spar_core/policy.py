"""A trained policy as one artifact: anchor, residual model, rule and scaler, raw observations in, actions out.

Everything that acting needs lies in one folder (``weights.safetensors`` and ``policy.json``), so a policy can
be copied to another machine and used with NumPy, Torch and this package alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spar_core.artifacts import read_json, read_meta, write_json
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.improvement.base import Frozen, Improvement
from spar_core.interface import Interface
from spar_core.parts import load_part, restore_anchor, restore_critic, restore_residual
from spar_core.registry import load_member
from spar_core.residual import ResidualSettings
from spar_core.settings import parse
from spar_core.training.fitted import WEIGHTS, Fitted, Part, load_tensors, only, under

KIND, POLICY = "policy", "policy.json"
# Kinds of the artifacts that a policy is made from.
FROZEN = ("anchor", "residual", "critic")
# Standard deviations of the training data from their mean, beyond which an observation is far outside of them.
FAR = 20.0


class FarFromData(UserWarning):
    """An observation lies far outside the training data: its units or its order may be wrong."""


class Policy:
    """Acts with the networks of one seed, or as the committee of several: by the mean of the actions of its members.

    Attributes:
        rule: of the members side by side.
        scaler: of the dataset.
        interface: what observations hold, and in which order.
        members: number of seeds that act together.
        device: where the networks run.
    """

    def __init__(
        self, rule: Improvement, scaler: Scaler, interface: Interface, device: str = "cpu", members: int = 1
    ) -> None:
        self.rule, self.scaler, self.interface = rule, scaler, interface
        self.device, self.members = device, members
        self._warned = False

    @property
    def observation_size(self) -> int:
        """D."""
        return self.interface.observation_size

    def act(self, observation: ArrayLike | Mapping[str, Any]) -> np.ndarray:
        """Actions for raw observations. An observation far outside the training data gives one warning a policy.

        Args:
            observation: [D], or a batch [B, D], in the environment's own units. A policy that was trained on
                dictionaries also takes those, with leaves [*shape] or [B, *shape].

        Returns:
            Deterministic actions, [A] or [B, A] float32, within the environment's bounds.

        Raises:
            SparError: the observation does not fit (see :meth:`spar_core.interface.Interface.vectors`).
        """
        array = self.interface.vectors(observation)
        standardised = self.scaler.standardise(np.atleast_2d(array))
        self._warn_if_far(standardised)
        batch = torch.from_numpy(standardised).to(self.device)
        each = self.rule.act(batch.expand(self.members, -1, -1))
        # The mean of one action is that action, to the last bit.
        actions = self.scaler.actions_from_unit(each.mean(dim=0).cpu().numpy())
        return actions if array.ndim == 2 else actions[0]

    def _warn_if_far(self, standardised: NDArray[np.float32]) -> None:
        """Warn, once, of standardised observations [B, D] beyond ``FAR``."""
        if self._warned or not standardised.size:
            return
        away = np.abs(standardised)
        if away.max() > FAR:
            self._warned = True
            column = int(away.max(axis=0).argmax())
            warnings.warn(
                f"{self.interface.names()[column]} of the observation lies {away[:, column].max():.0f} standard "
                "deviations from the mean of the training data; check its units and the order of the vector",
                FarFromData,
                stacklevel=3,
            )


def save_policy(
    folder: Path,
    *,
    parts: Mapping[str, Part],
    fitted: Fitted,
    seeds: tuple[int, ...],
    scaler: Scaler,
    interface: Interface,
) -> Fitted:
    """Write weights and description into ``folder``.

    Args:
        folder: an empty folder (see ``new_artifact``).
        parts: "anchor", "residual" and "improvement", and "critic" where acting needs it.
        fitted: metrics and curves of the rule; its tensors are those of ``parts["improvement"]``.
        seeds: the group, in the order of the tensors' first dimension.
        scaler: of the dataset.
        interface: of the dataset. It is written if observations are dictionaries; of vectors the size says all.

    Returns:
        The whole policy as one :class:`Fitted`, for its shapes.
    """
    whole = Fitted(
        {name: tensor for part, content in parts.items() for name, tensor in under(part, content.tensors).items()},
        fitted.metrics,
        fitted.curves,
        fitted.documents,
    )
    whole.metrics["policy/parameters"] = [whole.parameters()] * len(seeds)
    whole.write(folder)
    description = {
        "parts": {
            name: {"kind": part.kind, "settings": part.settings.model_dump(mode="json")} for name, part in parts.items()
        },
        "seeds": list(seeds),
        "scaler": scaler.to_dict(),
        "observation_size": interface.observation_size,
    }
    if interface.layout is not None:
        description["interface"] = interface.to_dict()
    write_json(folder / POLICY, description)
    return whole


def load_policy(path: str | Path, seed: int | None = None, device: str = "cpu") -> Policy:
    """Load the committee of a policy artifact, or one of its members.

    Args:
        path: folder written by the ``self_imitation`` stage.
        seed: which of the group's seeds acts alone; None for the committee of all, which acts by the mean of their
            actions.
        device: where the networks run.

    Raises:
        SparError: there is no policy at ``path``, it is damaged, or it does not hold that seed.
    """
    folder = Path(path)
    read_meta(folder, KIND)
    description = read_json(folder / POLICY)
    seeds = description["seeds"]
    if seed is not None and seed not in seeds:
        raise SparError(f"{folder} holds no seed {seed}", f"it holds {', '.join(map(str, seeds))}")
    rows = slice(None) if seed is None else slice(seeds.index(seed), seeds.index(seed) + 1)
    tensors = {name: value[rows] for name, value in load_tensors(folder / WEIGHTS).items()}
    rule = _restore(description["parts"], tensors, device)
    scaler = Scaler.from_dict(description["scaler"])
    size, told = description["observation_size"], description.get("interface")
    interface = Interface(size) if told is None else Interface.from_dict(told)
    return Policy(rule, scaler, interface, device, len(seeds) if seed is None else 1)


def load_frozen(folders: Mapping[str, Path], seeds: Sequence[int], device: str) -> Frozen:
    """The frozen parts of the given seeds, from their artifacts.

    Args:
        folders: of "anchor", "residual" and, where a critic is needed, "critic".
        seeds: in the order that the parts are to hold them.
        device: where the networks run.

    Raises:
        SparError: an artifact is missing, or does not hold one of the seeds.
    """
    return _frozen({kind: load_part(folder, kind, seeds) for kind, folder in folders.items()}, device)


def _frozen(parts: Mapping[str, Part], device: str) -> Frozen:
    critic = restore_critic(parts["critic"], device) if "critic" in parts else None
    return Frozen(restore_anchor(parts["anchor"], device), restore_residual(parts["residual"], device), critic)


def _restore(parts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> Improvement:
    """The rule that ``policy.json`` describes, on its frozen parts."""

    def part(family: str) -> Part:
        kind = parts[family]["kind"]
        model = ResidualSettings if family == "residual" else load_member(family, kind).Settings
        settings = parse(model, parts[family]["settings"], f"{POLICY}, {family}")
        return Part(kind, settings, only(family, tensors))

    frozen = _frozen({family: part(family) for family in parts if family != "improvement"}, device)
    of_rule = part("improvement")
    rule: Improvement = load_member("improvement", of_rule.kind).restore(
        frozen, of_rule.settings, of_rule.tensors, device
    )
    return rule
