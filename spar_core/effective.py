"""The effective settings of a study: all params checked, and spelt out dataset by dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.errors import SparError
from spar_core.evaluation.estimation import EstimationSettings
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.evolving.distillation import check_student
from spar_core.evolving.reanchoring import ReanchoringSettings
from spar_core.params import FILE, Layer, Params, Tree, layers_of, merge
from spar_core.registry import parse_variant, variant_kind, variant_kinds
from spar_core.reporting.config import ReportSettings
from spar_core.residual import ResidualSettings, settings_for
from spar_core.settings import Settings, nearest, parse
from spar_core.study import Study

FAMILIES = {"anchor": "anchors", "critic": "critics", "improvement": "improvements"}
# Sections that a stage reads for each dataset; an entry may change these and the variants.
BY_DATASET: dict[str, type[Settings]] = {
    "reanchoring": ReanchoringSettings,
    "evaluation": EvaluationSettings,
    "estimation": EstimationSettings,
    "diagnosis": DiagnosisSettings,
}
MODELS: dict[str, type[Settings]] = {"residual": ResidualSettings, **BY_DATASET, "report": ReportSettings}
# All of params.yaml but the study.
SECTIONS = (*FAMILIES.values(), *MODELS)


def check(params: Tree, file: str | None = None) -> Study:
    """Validate params.yaml and the study in it; return the study.

    Args:
        params: content of params.yaml.
        file: where the study stands, if not in params.yaml.

    Raises:
        SparError: a section is missing, or something is wrong; the line names the file in which it stands.
    """
    if not isinstance(params.get("study"), Mapping):
        raise SparError(f"{FILE}: section 'study' is missing or empty")
    study = parse(Study, params["study"], file or f"{FILE}, study")
    lowest, own = layers_of(params)
    merged = checked([lowest])
    if own.tree:
        merged = checked([lowest, Layer(own.name, f"{file}, params" if file else own.where, own.tree)])
    for family, section in FAMILIES.items():
        for name in study.variants()[section]:
            parse_variant(family, merged[section], name)
    for made in study.rounds:
        check_student(made.anchor, made.of, merged["anchors"])
    return study


def check_entry(params: Tree, study: Study, dataset: str, settings: Tree) -> None:
    """Validate the settings of a dataset's entry over params.yaml and the study.

    Raises:
        SparError: they name something that is not there, or a wrong value, or would change the kind of a variant.
    """
    layers = layers_of(params, dataset, settings)
    below, where = merge(layers[:-1]), layers[-1].where
    allowed = [name for name in SECTIONS if name != "report"]
    for name, values in settings.items():
        if name not in allowed:
            raise SparError(f"{where}: unknown section '{name}'", nearest(name, allowed))
        for variant in values if name in FAMILIES.values() and isinstance(values, Mapping) else ():
            if variant not in below[name]:
                raise SparError(f"{where}, {name}: there is no '{variant}'", nearest(variant, list(below[name])))
    above = checked(layers)
    for name in FAMILIES.values():
        for variant, values in above[name].items():
            if variant_kinds(variant, values) != variant_kinds(variant, below[name][variant]):
                raise SparError(
                    f"{where}, {name}: '{variant}' would be of another kind", "name another variant in the study"
                )
    for made in study.rounds:
        check_student(made.anchor, made.of, above["anchors"], where)


def checked(layers: Sequence[Layer]) -> Params:
    """The layers over each other, validated; what is wrong is taken to stand in the highest of them."""
    where, tree = layers[-1].where, layers[-1].tree
    for name in tree:
        if name not in SECTIONS:
            raise SparError(f"{where}: unknown section '{name}'", nearest(name, list(SECTIONS)))
    merged = merge(layers)
    for name in SECTIONS:
        if not isinstance(merged.get(name), Mapping):
            raise SparError(f"{where}: section '{name}' is missing or empty")
    for name, model in MODELS.items():
        parse(model, merged[name], f"{where}, {name}")
    for family, section in FAMILIES.items():
        for name in merged[section]:
            parse_variant(family, merged[section], name, where)
    for name in merged["anchors"]:
        settings_for(name, merged["residual"], merged["anchors"], where)
    return merged


def settings_of(params: Params, study: Study) -> dict[str, Any]:
    """Every setting that a cell of the study depends on, defaults spelt out, from the merged params of its dataset.

    By section, and by variant where a section holds variants. ``residual`` goes by anchor, what it changes included.
    """
    found: dict[str, Any] = {name: _plain(parse(model, params[name], name)) for name, model in BY_DATASET.items()}
    members = study.variants()
    for family, section in FAMILIES.items():
        variants = params[section]
        found[section] = {
            name: {"kind": variant_kind(name, variants[name]), **_plain(parse_variant(family, variants, name)[1])}
            for name in members[section]
        }
    residual, anchors = params["residual"], params["anchors"]
    found["residual"] = {name: _plain(settings_for(name, residual, anchors)) for name in members["anchors"]}
    return found


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")
