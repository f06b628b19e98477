"""The registered anchors, critics and improvement rules, and how one is loaded by name.

Each table has one line a member, ``name: "module:class"``. The lines are strings, so a new line imports nothing. The
code digests of cells leave the tables out and count the member that a cell loads instead (:mod:`stages.closure`), so a
new line makes no existing cell run again.

``params.yaml`` names *variants*: ``improvements.uniform: {kind: spar_mlp, weighting: equal}`` is a variant of the
member ``spar_mlp``. Where ``kind`` is left out, the variant's name is its kind. An anchor's variant may also hold
``residual``: the settings of its residual model that differ from the section of that name (see
:func:`spar_core.residual.settings_for`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from spar_core.errors import SparError
from spar_core.settings import Settings, nearest, parse

ANCHORS = {
    "mlp": "spar_core.anchors.mlp:MLPAnchor",
    "gaussian": "spar_core.anchors.gaussian:GaussianAnchor",
    "mixture": "spar_core.anchors.mixture:MixtureAnchor",
    "cvae": "spar_core.anchors.cvae:CVAEAnchor",
    "flow": "spar_core.anchors.flow:FlowAnchor",
    "diffusion": "spar_core.anchors.diffusion:DiffusionAnchor",
    "knn": "spar_core.anchors.knn:KNNAnchor",
    "linear": "spar_core.anchors.linear:LinearAnchor",
    "external": "spar_core.anchors.external:ExternalAnchor",
    "committee": "spar_core.anchors.committee:CommitteeAnchor",
}

CRITICS = {
    "iql": "spar_core.critics.iql:IQLCritic",
    "iql_ensemble": "spar_core.critics.iql_ensemble:IQLEnsembleCritic",
    "cql": "spar_core.critics.cql:CQLCritic",
    "edac": "spar_core.critics.edac:EDACCritic",
    "sarsa": "spar_core.critics.sarsa:SARSACritic",
    "returns": "spar_core.critics.returns:ReturnsCritic",
}

IMPROVEMENTS = {
    "anchor": "spar_core.improvement.anchor:AnchorAlone",
    "spar_mlp": "spar_core.improvement.spar_mlp:SparMLP",
    "spar_proj": "spar_core.improvement.spar_proj:SparProj",
    "awr": "spar_core.improvement.awr:AWR",
    "awr_scratch": "spar_core.improvement.awr:AWRFromScratch",
    "value_gradient": "spar_core.improvement.value_gradient:ValueGradient",
    "td3_bc": "spar_core.improvement.td3_bc:TD3BC",
    "rebrac": "spar_core.improvement.rebrac:ReBRAC",
    "best_of_n": "spar_core.improvement.best_of_n:BestOfN",
    "auto": "spar_core.choice.auto:Auto",
}

FAMILIES = {"anchor": ANCHORS, "critic": CRITICS, "improvement": IMPROVEMENTS}


def load_member(family: str, kind: str, where: str = "") -> type[Any]:
    """The class registered as ``kind`` in ``family`` ("anchor", "critic" or "improvement").

    ``where`` is the place that names the kind, for the error line.

    Raises:
        SparError: no member has that name; the nearest one is named.
    """
    table = FAMILIES[family]
    if kind not in table:
        raise SparError(f"{where}there is no {family} kind '{kind}'", nearest(kind, list(table)))
    module, name = table[kind].split(":")
    member: type[Any] = getattr(importlib.import_module(module), name)
    return member


def variant_kind(variant: str, values: Any) -> str:
    """The registered kind behind a variant."""
    return str(values.get("kind", variant)) if isinstance(values, Mapping) else variant


def variant_kinds(variant: str, values: Any) -> tuple[str, ...]:
    """Every registered kind that a variant runs: its own, those of its candidates, and that of a committee's member."""
    own = values if isinstance(values, Mapping) else {}
    candidates, member = own.get("candidates"), own.get("member")
    inner = dict(candidates) if isinstance(candidates, Mapping) else {}
    if isinstance(member, Mapping) and "kind" in member:
        inner["member"] = member
    return tuple(dict.fromkeys([variant_kind(variant, values), *(variant_kind(*item) for item in inner.items())]))


def parse_variant(
    family: str, variants: Mapping[str, Any], name: str, where: str = "params.yaml"
) -> tuple[type[Any], Settings]:
    """The class and the validated settings of the variant ``name`` in a section; ``where`` is its file, for errors.

    Raises:
        SparError: the variant is not there, or one of its keys is wrong.
    """
    if name not in variants:
        raise SparError(f"{where} has no {family} '{name}'", nearest(name, list(variants)))
    here = f"{where}, {family} '{name}'"
    if not isinstance(variants[name] or {}, Mapping):
        raise SparError(f"{here}: expected a mapping, got {type(variants[name]).__name__}")
    values = dict(variants[name] or {})
    if family == "anchor":
        values.pop("residual", None)
    member = load_member(family, values.pop("kind", name), f"{here}: ")
    return member, parse(member.Settings, values, here)
