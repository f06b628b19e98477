"""The params of a stage: ``params.yaml``, the study's own over it, and a dataset entry's ``settings`` over both.

The trees are the sections of ``params.yaml``, ``study.params`` (a copy of what ``studies/<name>.yaml`` holds), and
``settings`` of ``datasets/<id>.yaml``, which concern the cells of that dataset alone. :mod:`spar_core.params` says how
they merge.
"""

from __future__ import annotations

from typing import Any

from spar_core.data.family import entry_values
from spar_core.params import FILE, Layer, Params, layers_of, merge
from spar_core.settings import Model, load_yaml, parse
from stages.layout import Layout


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
