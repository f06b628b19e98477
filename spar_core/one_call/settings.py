"""The settings of one call: the defaults of every member, a budget over them, and the caller's own over both.

The defaults are those of the code, which are also those of ``params.yaml`` in the repository. So a call and a pipeline
with that file train the same networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spar_core.effective import FAMILIES, MODELS, SECTIONS, checked
from spar_core.errors import SparError
from spar_core.params import Layer, Params, Tree
from spar_core.registry import FAMILIES as REGISTERED
from spar_core.registry import load_member, parse_variant
from spar_core.settings import load_yaml, nearest

BUDGETS = Path(__file__).parent / "budgets.yaml"
WHERE = "params"  # as error lines name what the caller sets
# The name of the caller's own policy among the anchors.
OWN = "policy"


def default_params() -> dict[str, Any]:
    """One variant of every member, and every section, at its defaults; an external anchor needs a policy."""
    variants: dict[str, dict[str, Any]] = {}
    for family, section in FAMILIES.items():
        kinds = [kind for kind in REGISTERED[family] if kind not in ("external", "committee", "auto")]
        variants[section] = {kind: load_member(family, kind).Settings().model_dump(mode="json") for kind in kinds}
    # As in params.yaml, settings of `mlp` reach the committee's member, and those of a rule the candidates of `auto`.
    variants["anchors"]["committee"] = {"member": {"like": "mlp"}}
    rules = variants["improvements"]
    rules["uniform"] = {**rules["spar_mlp"], "kind": "spar_mlp", "weighting": "equal"}
    rules["auto"] = {"candidates": {rule: {"like": rule} for rule in ("spar_proj", "spar_mlp")}}
    return {**variants, **{section: {} for section in MODELS}}


def budgets() -> dict[str, Tree]:
    """The budgets by name: trees of settings."""
    return {name: tree or {} for name, tree in load_yaml(BUDGETS).items()}


def settings_for_call(
    budget: str, own: Tree, members: Mapping[str, str], policy: Tree | None = None, entry: Tree | None = None
) -> Params:
    """All sections, with the budget and the caller's own settings in them.

    Args:
        budget: a name in ``budgets.yaml``.
        own: the caller's settings, a tree of the shape of ``params.yaml`` without ``study``.
        members: the variant of each family (anchor, critic, improvement) that is asked for.
        policy: settings of the caller's own policy as an external anchor; None without one.
        entry: ``settings`` of the dataset's entry; None without one.

    Raises:
        SparError: the budget or a member does not exist, or a setting is wrong; the line names the nearest right one.
    """
    known = budgets()
    if budget not in known:
        raise SparError(f"there is no budget '{budget}'", nearest(str(budget), list(known)))
    if not isinstance(own, Mapping):
        raise SparError(f"{WHERE}: expected a mapping, got {type(own).__name__}")
    if "study" in own:
        raise SparError(f"{WHERE}: a call has no study", f"choose from: {', '.join(SECTIONS)}")
    defaults = default_params()
    if policy is not None:
        defaults["anchors"][OWN] = policy
    layers = [
        Layer("defaults", "the defaults", defaults),
        Layer(f"budget {budget}", f"budget {budget}", known[budget]),
        Layer("entry", "entry, settings", entry or {}),
        Layer("params", WHERE, own),
    ]
    params = checked(layers)
    for family, name in members.items():
        if name not in params[FAMILIES[family]]:
            raise SparError(f"there is no {family} '{name}'", nearest(name, list(params[FAMILIES[family]])))
        parse_variant(family, params[FAMILIES[family]], name, WHERE)
    return params
