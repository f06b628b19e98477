"""Check params.yaml, drop results of cells that left the study, and digest the code behind every cell.

Runs at every `dvc repro`, in about a second. Writes artifacts/digests.yaml: under `code` a digest for each stage, each
member (anchor, critic, improvement rule) and each claim of the stage `theory`, and under `data` a digest of the local
files of each dataset. The other stages depend on their entries as params, so a stage reruns only when code that it
imports has changed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spar_core.artifacts import META, digest_file, digest_value
from spar_core.data.entry import load_entry, source_digest
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.errors import SparError
from spar_core.evaluation.estimation import EstimationSettings
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.evolving.distillation import check_student
from spar_core.evolving.reanchoring import ReanchoringSettings
from spar_core.registry import parse_variant, variant_kinds
from spar_core.reporting.config import ReportSettings
from spar_core.residual import ResidualSettings, settings_for
from spar_core.settings import parse
from spar_core.study import Study
from spar_core.theory.claims import CLAIMS
from spar_core.theory.rules import RULES
from spar_core.theory.settings import TheorySettings
from stages.cells import study_cells
from stages.closure import closure, code_digest, member_module
from stages.entry import stage_main
from stages.layout import Layout
from stages.sections import read_whole
from stages.table import STAGES

FAMILIES = {"anchor": "anchors", "critic": "critics", "improvement": "improvements"}
ESTIMATED = "so that their values are estimated from logged data"
THEORY_RULES = "spar_core.theory.rules"
CODE_STAGES = (*STAGES, "report", "theory", "theory_page")


def check(params: Mapping[str, Any]) -> Study:
    """Validate every section, and that the study names variants that exist; return the study."""
    study = parse(Study, params["study"], "params.yaml, study")
    parse(ResidualSettings, params["residual"], "params.yaml, residual")
    parse(EvaluationSettings, params["evaluation"], "params.yaml, evaluation")
    parse(EstimationSettings, params["estimation"], "params.yaml, estimation")
    parse(DiagnosisSettings, params["diagnosis"], "params.yaml, diagnosis")
    parse(ReportSettings, params["report"], "params.yaml, report")
    parse(ReanchoringSettings, params["reanchoring"], "params.yaml, reanchoring")
    parse(TheorySettings, params["theory"], "params.yaml, theory")
    for family, section in FAMILIES.items():
        wanted = study.all_rules() if family == "improvement" else getattr(study, section)
        for name in dict.fromkeys([*params[section], *wanted]):
            parse_variant(family, params[section], name)
    for name in params["anchors"]:
        settings_for(name, params["residual"], params["anchors"])
    for made in study.rounds:
        check_student(made.anchor, made.of, params["anchors"])
    return study


def prune(layout: Layout, study: Study) -> list[Path]:
    """Remove the artifacts that the report reads of cells outside the study; DVC's cache keeps them.

    The report depends on the whole trees. A leftover would be a stale input and change the report's dependency. Each
    tree stays even when it is empty, since a dependency has to exist.
    """
    wanted = {cell.folder(layout) for cell in study_cells(study)}
    dropped: list[Path] = []
    for stage in STAGES.values():
        if stage.reported:
            tree = layout.artifact(stage.artifact)
            tree.mkdir(parents=True, exist_ok=True)
            dropped += sorted({path.parent for path in tree.rglob(META)} - wanted)
    for folder in dropped:
        shutil.rmtree(folder)
        for parent in folder.parents:
            # Remove empty parents too, but not the root of the tree.
            if parent.parent == layout.artifact() or any(parent.iterdir()):
                break
            parent.rmdir()
    return dropped


def digests(layout: Layout, params: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """Content of ``digests.yaml``."""
    root = layout.root
    code: dict[str, Any] = {"stage": {name: code_digest(root, [f"stages.{name}"]) for name in CODE_STAGES}}
    for family, section in FAMILIES.items():
        kinds = {name: variant_kinds(name, values) for name, values in params[section].items()}
        modules = {of: [member_module(family, kind) for kind in of] for of in set(kinds.values())}
        digest_of = {of: code_digest(root, names) for of, names in modules.items()}
        code[family] = {name: digest_of[of] for name, of in kinds.items()}
    for name in study.anchors:
        files = parse_variant("anchor", params["anchors"], name)[1].files()
        if files:
            code["anchor"][name] = digest_value([code["anchor"][name], [_file_digest(root / file) for file in files]])
    # Every claim, whichever claims params.yaml asks for.
    code["theory"] = {name: claim_digest(root, module) for name, module in CLAIMS.items()}
    entries = {dataset: load_entry(layout.dataset_entry(dataset)) for dataset in study.datasets}
    for dataset, entry in entries.items():
        # A Minari dataset names its environment itself, and is not here yet.
        if entry.not_evaluated is not None or (entry.env_id is None and entry.source != "minari"):
            why = "says 'not_evaluated'" if entry.not_evaluated is not None else "names no 'env_id'"
            what = f"datasets/{dataset}.yaml {why}: policies on it are trained and not rolled out"
            if dataset not in study.estimated:
                raise SparError(what, f"add it to study.estimated, {ESTIMATED}")
            print(f"note: {what}; their values are estimated from held-out episodes")
    return {"code": code, "data": {name: source_digest(entry, root) for name, entry in entries.items()}}


def claim_digest(root: Path, module: str) -> str:
    """Digest of the code behind a claim; it includes the rules that the claim loads by name."""
    by_name = THEORY_RULES in closure(root, [module])
    rules = [member_module("improvement", kind) for kind in RULES] if by_name else []
    return code_digest(root, [module, *rules])


def _file_digest(path: Path) -> str:
    """Digest of a file that an anchor is made of.

    Raises:
        SparError: it is not there.
    """
    if not path.is_file():
        raise SparError(f"{path} does not exist", "an anchor of params.yaml names it: mend the path")
    return digest_file(path)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.plan``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    layout = Layout()
    params = read_whole(layout)
    study = check(params)
    content = digests(layout, params, study)
    for folder in prune(layout, study):
        print(f"not in the study any more: {folder}")
    layout.digests.parent.mkdir(parents=True, exist_ok=True)
    draft = layout.digests.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")
    draft.replace(layout.digests)


if __name__ == "__main__":
    sys.exit(stage_main(run))
