r"""Distil a policy into an anchor: clone its actions at the training observations.

Objective: that of the anchor's own kind, on the steps :math:`(s, \pi(s))` in place of the logged :math:`(s, a)`; for
``mlp``,

.. math:: \min_\theta \; \mathbb{E}_s \lVert \pi_\theta(s) - \pi(s) \rVert^2

over the observations of the training episodes. So the student is an ordinary anchor. Held-out steps keep their logged
actions, and its quality is measured against those, as every anchor's is.

Source: policy distillation (Rusu et al. 2016, arXiv 1511.06295), here of a deterministic continuous policy by the
student's own cloning loss on logged states.
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
from spar_core.anchors.knobs import training_data
from spar_core.anchors.quality import measure
from spar_core.anchors.training import TrainedAnchorSettings
from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.errors import SparError
from spar_core.members import parse_variant, variant_kind
from spar_core.training.context import Context
from spar_core.training.fitted import CURVES, METRICS, WEIGHTS, Fitted, load_tensors

# What a student may do otherwise than the anchor it follows: how it is fitted. All else shapes its networks.
FREE = frozenset({"steps", "batch_size", "learning_rate", "cosine_decay", "data_share", "top_share", "label_noise"})


def check_student(student: str, of: str, variants: Mapping[str, Any]) -> None:
    """Check that the variant ``student`` of the section ``anchors`` can follow the variant ``of``.

    A refused round passes the anchor on as it is, so that both must be of one kind and have the same networks.

    Raises:
        SparError: one of them is not there or not valid, the student's kind does not learn by gradient steps (nearest
            neighbours would memorise the policy's actions, linear regression could not follow them, and an external
            policy is not ours to fit), or the two differ.
    """
    (_, ours), (_, theirs) = (parse_variant("anchor", variants, name) for name in (student, of))
    kind, other = (variant_kind(name, variants[name]) for name in (student, of))
    where = f"params.yaml, anchor '{student}'"
    if not isinstance(ours, TrainedAnchorSettings):
        raise SparError(f"{where}: no policy can be distilled into the kind '{kind}'", "take one that trains a network")
    why = "a refused round passes the anchor on as it is, so both need the same kind and networks"
    if kind != other:
        raise SparError(f"{where} is of kind '{kind}', and '{of}', which it follows, of kind '{other}'", why)
    for name, value in ours.model_dump(mode="json").items():
        before = theirs.model_dump(mode="json")[name]
        if name not in FREE and value != before:
            raise SparError(f"{where}: {name} = {value}, and '{of}', which it follows, has {before}", why)


def relabelled(dataset: Dataset, actions: np.ndarray) -> Dataset:
    """The dataset with ``actions`` [N, A] in place of those logged, in the training episodes."""
    taught = dataset.actions.copy()
    taught[dataset.train_steps] = actions[dataset.train_steps]
    return replace(dataset, actions=taught)


def distil(context: Context, member: type[Anchor], settings: TrainedAnchorSettings, actions: np.ndarray) -> Fitted:
    """Fit an anchor of the kind ``member`` to a policy of the same seed.

    Args:
        context: the logged dataset, and the one seed of policy and student. Each seed has actions of its own, so seeds
            are fitted one by one.
        member: the student's kind.
        settings: the student's; its knobs of quality choose and spoil what it is taught.
        actions: of the policy, [N, A] in [-1, 1]; those of held-out steps are not looked at.
    """
    dataset = context.dataset
    seen = training_data(relabelled(dataset, actions), settings)
    fitted = member.clone(context.on(seen), settings)
    anchor = member.restore(
        settings, {name: value.to(context.device) for name, value in fitted.tensors.items()}, context.device
    )
    fitted.metrics |= measure(anchor, dataset, seen, context.seeds, context.device)
    return fitted


def passed_on(folder: Path, seed: int) -> Fitted:
    """One seed of a fitted anchor as it is: weights, final metrics and curves.

    Raises:
        SparError: the anchor is missing or broken, or does not hold the seed.
    """
    seeds = read_meta(folder, "anchor")["seeds"]
    if seed not in seeds:
        raise SparError(f"{folder} holds no seed {seed}", f"it holds {seeds}")
    row = seeds.index(seed)
    tensors = {name: value[row : row + 1] for name, value in load_tensors(folder / WEIGHTS).items()}
    missing = float("nan")
    metrics = {
        name: [missing if values[row] is None else values[row]] for name, values in read_json(folder / METRICS).items()
    }
    with (folder / CURVES).open(encoding="utf-8", newline="") as handle:
        rows = itertools.islice(csv.reader(handle), 1, None)
        curves = [(int(step), int(s), metric, float(value)) for step, s, metric, value in rows if int(s) == seed]
    return Fitted(tensors, metrics, curves)
