"""Where the settings of a study come from: params.yaml, the study's own params, or the entry of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spar_core.params import FILE, LIKE, Layer, Tree, merge, over
from spar_core.study import Study


def origins_of(layers: Sequence[Layer], study: Study) -> dict[str, Any]:
    """The name of the layer that gives each setting, for those that params.yaml does not give.

    By section, variant (of those that the study uses) and key. ``residual`` goes by anchor, what it changes included.
    """
    found: dict[str, Any] = merge([Layer(layer.name, layer.where, _names(layer.tree, layer.name)) for layer in layers])
    for section, names in study.variants().items():
        found[section] = {name: found[section].get(name) or {} for name in names}
    common = found["residual"]
    found["residual"] = {name: over(common, values.get("residual") or {}) for name, values in found["anchors"].items()}
    return _beyond(found)


def _names(tree: Tree, name: str) -> dict[str, Any]:
    """The tree with the name of its layer in place of every value, but for what says which variant is meant."""
    return {
        key: value if key in (LIKE, "kind") else _names(value, name) if isinstance(value, Mapping) else name
        for key, value in tree.items()
    }


def _beyond(tree: Tree) -> dict[str, Any]:
    """What remains of a tree of names without params.yaml and the kinds."""
    found = {}
    for key, value in tree.items():
        kept = _beyond(value) if isinstance(value, Mapping) else value
        if kept and kept != FILE and key != "kind":
            found[key] = kept
    return found
