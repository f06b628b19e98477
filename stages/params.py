"""The params of a stage: ``params.yaml``, the study's own over it, and a dataset entry's ``settings`` over both.

Three trees of settings lie over each other: the sections of ``params.yaml``, ``study.params`` (a copy of what
``studies/<name>.yaml`` holds), and ``settings`` of ``datasets/<id>.yaml``, which concern the cells of that dataset
alone. Two rules say what comes out:

* A mapping lies over a mapping key by key. Any other value replaces the one below it.
* ``like: NAME``, in a variant or anywhere below it, stands for all of the variant ``NAME`` of the same section, its
  kind included; the keys beside ``like`` lie over that. ``NAME`` is looked up once all trees lie over each other, so
  that a setting of ``NAME`` reaches every variant like it. A mapping with ``like`` replaces the one below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spar_core.data.family import entry_values
from spar_core.errors import SparError
from spar_core.settings import Model, load_yaml, nearest, parse
from stages.layout import Layout

FILE, STUDY = "params.yaml", "the study"
LIKE = "like"
# Sections that hold variants by name.
VARIANTS = ("anchors", "critics", "improvements")
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """One of the trees: whose it is, as reports name it, and the file and key where it stands, for error lines."""

    name: str
    where: str
    tree: Tree


class Params(dict[str, Any]):
    """Sections by name. Which sections there may be is checked by ``stages.plan`` alone, so that a new section changes
    the code of no stage that does not read it."""

    def __missing__(self, name: str) -> Any:
        raise SparError(f"{FILE}: section '{name}' is missing or empty")


def layers_of(params: Tree, dataset: str | None = None, settings: Any = None) -> list[Layer]:
    """The trees from the lowest to the highest.

    Args:
        params: content of ``params.yaml``.
        dataset: whose entry has ``settings``; None for the study as a whole.
        settings: of that entry.

    Raises:
        SparError: what should be a tree is something else.
    """
    sections = {name: values for name, values in params.items() if name != "study"}
    study = params.get("study")
    own = study.get("params") if isinstance(study, Mapping) else None
    layers = [Layer(FILE, FILE, sections), Layer(STUDY, f"{FILE}, study.params", own or {})]
    if dataset is not None:
        layers.append(Layer(f"datasets/{dataset}.yaml", f"datasets/{dataset}.yaml, settings", settings or {}))
    for layer in layers:
        if not isinstance(layer.tree, Mapping):
            raise SparError(f"{layer.where}: expected a mapping, got {type(layer.tree).__name__}")
    return layers


def merge(layers: Sequence[Layer]) -> Params:
    """The trees over each other, with every ``like`` filled in.

    Raises:
        SparError: a variant is like one that is not there, or like itself; the line names the highest file.
    """
    merged: Any = {}
    for layer in layers:
        merged = over(merged, layer.tree)
    for name in VARIANTS:
        if isinstance(merged.get(name), Mapping):
            merged[name] = _filled(merged[name], f"{layers[-1].where}, {name}")
    return Params(merged)


def over(below: Any, above: Any) -> Any:
    """``above`` over ``below``, by the first rule of this module."""
    if not isinstance(above, Mapping):
        return above
    known = below if isinstance(below, Mapping) and LIKE not in above else {}
    return {**known, **{key: over(known.get(key), value) for key, value in above.items()}}


def _filled(variants: Tree, where: str) -> dict[str, Any]:
    """A section of variants with every ``like`` filled in."""

    def fill(value: Any, within: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: fill(item, within) for key, item in value.items() if key != LIKE}
        if LIKE not in value:
            return own
        name = value[LIKE]
        if name in within:
            raise SparError(f"{where}: '{name}' is like itself", "name a variant that does not lead back to it")
        if name not in variants:
            raise SparError(f"{where}: '{within[0]}' is like '{name}', which is not there", nearest(name, [*variants]))
        return over({"kind": name, **(fill(variants[name], (*within, name)) or {})}, own)

    return {name: fill(value, (name,)) for name, value in variants.items()}


def read_params(layout: Layout, dataset: str | None = None) -> Params:
    """All sections as they hold for a dataset (without one: for the study as a whole), ``study`` included.

    A dataset without an entry has no settings of its own. Asking for a section that is not there is a SparError.
    """
    params = load_yaml(layout.params)
    study = {"study": params["study"]} if params.get("study") else {}
    return Params({**merge(layers_of(params, dataset, _settings(layout, dataset))), **study})


def read_layers(layout: Layout, dataset: str) -> list[Layer]:
    """The trees that hold for a dataset."""
    return layers_of(load_yaml(layout.params), dataset, _settings(layout, dataset))


def _settings(layout: Layout, dataset: str | None) -> Any:
    """The ``settings`` of a dataset's entry."""
    values = entry_values(layout.dataset_entry(dataset)) if dataset else None
    return values.get("settings") if values else None


def section(layout: Layout, name: str, model: type[Model], dataset: str | None = None) -> Model:
    """One section as its typed model, as it holds for a dataset (without one: for the study as a whole)."""
    return parse(model, read_params(layout, dataset)[name], f"{FILE}, {name}")
