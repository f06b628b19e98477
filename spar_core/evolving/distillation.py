r"""Distil a policy into an anchor: clone its actions at the training observations.

Objective: that of the anchor's own kind, on the steps :math:`(s, \pi(s))` in place of the logged :math:`(s, a)`; for
``mlp``,

.. math:: \min_\theta \; \mathbb{E}_s \lVert \pi_\theta(s) - \pi(s) \rVert^2

over the observations of the training episodes. So the student is an ordinary anchor. Held-out steps keep their logged
actions, and the student's quality is measured against those, as for every anchor.

Source: policy distillation (Rusu et al. 2016, arXiv 1511.06295). Here the policy is continuous and deterministic, and
the student minimises its own cloning loss on logged states.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.anchors.base import Anchor
from spar_core.anchors.committee import CommitteeSettings
from spar_core.anchors.training import TrainedAnchorSettings
from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.errors import SparError
from spar_core.registry import parse_variant, variant_kind
from spar_core.training.context import Context
from spar_core.training.fitted import CURVES, METRICS, WEIGHTS, Fitted, load_tensors

# Settings in which a student may differ from the anchor that it follows. All others decide its networks.
FREE = frozenset({"steps", "batch_size", "learning_rate", "cosine_decay", "data_share", "top_share", "label_noise"})


def check_student(student: str, of: str, variants: Mapping[str, Any], file: str = "params.yaml") -> None:
    """Check that the variant ``student`` of the section ``anchors`` can follow the variant ``of``.

    A refused round passes the anchor on as it is, so both must be of one kind and have the same networks. Of a
    committee, it passes on the seed's own member.

    Raises:
        SparError: a variant does not exist or is not valid, the two differ in kind or networks, or the student's kind
            does not learn by gradient steps. (Nearest neighbours would memorise the policy's actions, linear regression
            could not follow them, and an external policy is not trained.)
    """
    (_, ours), (_, theirs) = (parse_variant("anchor", variants, name, file) for name in (student, of))
    kind, other = (variant_kind(name, variants[name]) for name in (student, of))
    if isinstance(theirs, CommitteeSettings):
        other, (_, theirs) = str(theirs.member["kind"]), theirs.parsed()
    where = f"{file}, anchor '{student}'"
    if not isinstance(ours, TrainedAnchorSettings):
        raise SparError(
            f"{where}: no policy can be distilled into the kind '{kind}'", "choose one that trains a network"
        )
    why = "a refused round passes the anchor on as it is, so both need the same kind and networks"
    if kind != other:
        raise SparError(f"{where} is of kind '{kind}', and '{of}', which it follows, of kind '{other}'", why)
    for name, value in ours.model_dump(mode="json").items():
        before = theirs.model_dump(mode="json")[name]
        if name not in FREE and value != before:
            raise SparError(f"{where}: {name} = {value}, and '{of}', which it follows, has {before}", why)


def relabelled(dataset: Dataset, actions: np.ndarray) -> Dataset:
    """The dataset with ``actions`` [N, A] in place of the logged actions of its training episodes."""
    taught = dataset.actions.copy()
    taught[dataset.train_steps] = actions[dataset.train_steps]
    return replace(dataset, actions=taught)


def distil(context: Context, member: type[Anchor], settings: TrainedAnchorSettings, actions: np.ndarray) -> Fitted:
    """Fit an anchor to a policy.

    Args:
        context: the logged dataset, and one seed. Each seed's policy may have actions of its own, so that seeds are
            fitted one by one.
        member: the student's kind.
        settings: the student's. Its data settings choose and spoil the policy's actions.
        actions: the policy's actions [N, A] in [-1, 1]. Those at held-out steps are not used.
    """
    return member.fit(context, settings, relabelled(context.dataset, actions))


def passed_on(folder: Path, seed: int) -> Fitted:
    """Weights, final metrics and curves of one seed of a fitted anchor; of a committee, the weights of its member.

    Raises:
        SparError: the anchor's folder is missing or broken, or does not hold the seed.
    """
    meta = read_meta(folder, "anchor")
    seeds = meta["seeds"]
    if seed not in seeds:
        raise SparError(f"{folder} holds no seed {seed}", f"it holds {seeds}")
    row = seeds.index(seed)
    tensors = {name: value[row : row + 1] for name, value in load_tensors(folder / WEIGHTS).items()}
    if meta["params"]["anchor"]["kind"] == "committee":
        # Every seed holds the members of all; its own member is the one of its row.
        tensors = {name: value[:, row] for name, value in tensors.items()}
    missing = float("nan")
    metrics = {
        name: [missing if values[row] is None else values[row]] for name, values in read_json(folder / METRICS).items()
    }
    with (folder / CURVES).open(encoding="utf-8", newline="") as handle:
        rows = itertools.islice(csv.reader(handle), 1, None)
        curves = [(int(step), int(s), metric, float(value)) for step, s, metric, value in rows if int(s) == seed]
    return Fitted(tensors, metrics, curves)
