"""The frozen parts of a policy (anchor, residual model, critic): read them from artifacts, and restore them.

The rules of improvement are not known here, so that what fits a residual model does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spar_core.anchors.base import Anchor
from spar_core.artifacts import read_meta
from spar_core.critics.base import Critic
from spar_core.errors import SparError
from spar_core.registry import load_member
from spar_core.residual import ResidualModel, ResidualSettings
from spar_core.settings import parse
from spar_core.training.fitted import WEIGHTS, Part, load_tensors


def load_part(folder: Path, kind: str, seeds: Sequence[int]) -> Part:
    """A fitted anchor, residual model or critic, with the tensors of the given seeds only.

    Args:
        folder: the artifact.
        kind: "anchor", "residual" or "critic".
        seeds: in the order that the first dimension of the tensors is to have.

    Raises:
        SparError: the artifact is missing, or does not hold one of the seeds.
    """
    meta = read_meta(folder, kind)
    missing = [seed for seed in seeds if seed not in meta["seeds"]]
    if missing:
        raise SparError(f"{folder} holds no seed {missing[0]}", f"it holds {meta['seeds']}")
    rows = [meta["seeds"].index(seed) for seed in seeds]
    tensors = {name: value[rows] for name, value in load_tensors(folder / WEIGHTS).items()}
    params = dict(meta["params"][kind])
    if kind == "residual":
        return Part(kind, parse(ResidualSettings, params, f"{folder}"), tensors)
    member = params.pop("kind")
    model = load_member(kind, member).Settings
    return Part(member, parse(model, params, f"{folder}"), tensors)


def restore_anchor(part: Part, device: str) -> Anchor:
    """The frozen anchor of a part."""
    anchor: Anchor = load_member("anchor", part.kind).restore(part.settings, part.tensors, device)
    return anchor


def restore_critic(part: Part, device: str) -> Critic:
    """The frozen critic of a part."""
    critic: Critic = load_member("critic", part.kind).restore(part.settings, part.tensors, device)
    return critic


def restore_residual(part: Part, device: str) -> ResidualModel:
    """The frozen residual model of a part."""
    assert isinstance(part.settings, ResidualSettings)
    return ResidualModel.restore(part.settings, part.tensors, device)
