"""Check the params, drop results of cells that left the study, and write down all that the other stages depend on.

Runs at every `dvc repro`, in about a second. Writes artifacts/plan.json, whose entries the other stages take as params,
so that a cell reruns when, and only when, its own settings or code have changed:

* ``code``: a digest of the code behind every stage, member (anchor, critic, improvement rule) and claim of ``theory``;
* ``data``: a digest of what every dataset is made from, its entry and local files;
* ``settings``: by dataset, the effective settings of every member and section (``stages.params`` says how they merge);
* ``study``, ``report``, ``origins``: what the report is made with, and which settings do not come from params.yaml.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from spar_core.anchors.base import AnchorSettings
from spar_core.artifacts import META, digest_file, digest_value, write_json
from spar_core.data.entry import Entry
from spar_core.data.entry_files import load_entry
from spar_core.effective import FAMILIES, check, check_entry, settings_of
from spar_core.errors import SparError
from spar_core.params import FILE, Params, Tree, layers_of, merge, over
from spar_core.registry import parse_variant, variant_kinds
from spar_core.reporting.config import ReportSettings
from spar_core.settings import load_yaml, parse
from spar_core.study import Study
from spar_core.theory.claims import CLAIMS
from spar_core.theory.rules import RULES
from spar_core.theory.settings import TheorySettings
from stages.cells import study_cells
from stages.closure import Known, closure, code_digest, member_module
from stages.entry import stage_main
from stages.keeping import keep_policies
from stages.layout import Layout, code_root
from stages.origins import origins_of
from stages.planned import data_digest
from stages.table import STAGES

ESTIMATED = "so that their values are estimated from logged data"
THEORY_RULES = "spar_core.theory.rules"
CODE_STAGES = (*STAGES, "report", "theory", "theory_page")


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


def plan_of(layout: Layout, params: Tree, study: Study) -> dict[str, Any]:
    """Content of ``plan.json``.

    Raises:
        SparError: an entry is wrong, or lacks an environment that the study needs.
    """
    entries = {dataset: load_entry(layout.dataset_entry(dataset)) for dataset in study.datasets}
    for dataset, entry in entries.items():
        _check_environment(study, dataset, entry)
        if entry.settings:
            check_entry(params, study, dataset, entry.settings)
    layers = {dataset: layers_of(params, dataset, entry.settings) for dataset, entry in entries.items()}
    merged = {dataset: merge(trees) for dataset, trees in layers.items()}
    whole = merge(layers_of(params))
    return {
        "code": code_digests(layout.root, whole, merged, study),
        "data": {dataset: data_digest(entry, *layout.roots) for dataset, entry in entries.items()},
        "settings": {dataset: settings_of(values, study) for dataset, values in merged.items()},
        "study": study.model_dump(mode="json", exclude={"params"}),
        "report": parse(ReportSettings, whole["report"], f"{FILE}, report").model_dump(mode="json"),
        "origins": {dataset: origins_of(trees, study) for dataset, trees in layers.items()},
    }


def _check_environment(study: Study, dataset: str, entry: Entry) -> None:
    """Refuse a dataset whose policies would be neither rolled out nor estimated; say so where they are estimated."""
    # A Minari dataset names its environment itself, and is not here yet.
    if entry.not_evaluated is None and (entry.env_id is not None or entry.source == "minari"):
        return
    why = "says 'not_evaluated'" if entry.not_evaluated is not None else "names no 'env_id'"
    what = f"datasets/{dataset}.yaml {why}: policies on it are trained and not rolled out"
    if dataset not in study.estimated:
        raise SparError(what, f"add it to study.estimated, {ESTIMATED}")
    print(f"note: {what}; their values are estimated from held-out episodes")


def code_digests(root: Path, params: Params, by_dataset: Mapping[str, Params], study: Study) -> dict[str, Any]:
    """Digests of the code behind stages, variants and claims; the files that an anchor is made of count as its code."""
    home, known = code_root(root), Known()
    code: dict[str, Any] = {"stage": {name: code_digest(home, [f"stages.{name}"], known) for name in CODE_STAGES}}
    for family, section in FAMILIES.items():
        kinds = {name: variant_kinds(name, values) for name, values in params[section].items()}
        modules = {of: [member_module(family, kind) for kind in of] for of in set(kinds.values())}
        digest_of = {of: code_digest(home, names, known) for of, names in modules.items()}
        code[family] = {name: digest_of[of] for name, of in kinds.items()}
    for name in study.anchors:
        anchors = [parse_variant("anchor", values["anchors"], name)[1] for values in by_dataset.values()]
        files = dict.fromkeys(file for one in anchors if isinstance(one, AnchorSettings) for file in one.files())
        if files:
            code["anchor"][name] = digest_value([code["anchor"][name], [_file_digest(root, file) for file in files]])
    # Every claim, whichever claims theory.yaml asks for.
    code["theory"] = {name: claim_digest(home, module, known) for name, module in CLAIMS.items()}
    return code


def claim_digest(root: Path, module: str, known: Known | None = None) -> str:
    """Digest of the code behind a claim; it includes the rules that the claim loads by name."""
    by_name = THEORY_RULES in closure(root, [module], known)
    rules = [member_module("improvement", kind) for kind in RULES] if by_name else []
    return code_digest(root, [module, *rules], known)


def _file_digest(root: Path, file: Path) -> str:
    """Digest of a file that an anchor is made of.

    Raises:
        SparError: it is not there.
    """
    path = root / file
    if not path.is_file():
        hint = "an anchor of params.yaml names it: mend the path"
        if len(Layout(root).roots) > 1:
            hint = f"git does not hold it: run `dvc exp run --copy-paths {file} ...`, or give an absolute path"
        raise SparError(f"{path} does not exist", hint)
    return digest_file(path)


def refuse_hidden_edits(layout: Layout, params: Tree) -> None:
    """Refuse an edit of params.yaml that the study's own params hide, such as one by ``dvc exp run -S``.

    An edit is what differs from the last commit; without one, nothing is refused.

    Raises:
        SparError: a changed key of params.yaml has another value in the study.
    """
    committed = _committed(layout)
    if committed is None:
        return
    sections, own = layers_of(params)
    merged = over(sections.tree, own.tree)
    for path, value in _leaves(sections.tree):
        held = _at(merged, path)
        if value != held and value != _at(committed, path):
            key = ".".join(path)
            raise SparError(
                f"{FILE}: {key} = {value!r} has no effect, since the study '{params['study']['name']}' sets {held!r}",
                f"change study.params.{key} instead, or commit the change for other studies",
            )


def refuse_links(layout: Layout) -> None:
    """Refuse to run where artifacts lie behind a link: DVC would fail after the first cell, when its work is done.

    Raises:
        SparError: the folder of artifacts, or one of a kind of artifact, is a link.
    """
    for folder in (layout.artifact(), *sorted(layout.artifact().glob("*"))):
        if folder.is_symlink():
            raise SparError(
                f"{folder} is a link, and DVC does not follow it",
                "to use another disk, run `dvc cache dir --local FOLDER` and `dvc config --local cache.type symlink`",
            )


def _committed(layout: Layout) -> Any:
    """Content of params.yaml at the last commit; None where git cannot tell."""
    try:
        done = subprocess.run(["git", "show", f"HEAD:./{FILE}"], cwd=layout.root, capture_output=True, check=True)
        return yaml.safe_load(done.stdout)
    except (OSError, subprocess.CalledProcessError, yaml.YAMLError):
        return None


def _leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path; None where nothing does."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.plan``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    layout = Layout()
    refuse_links(layout)
    params = load_yaml(layout.params)
    study = check(params)
    # A project that `spar init` made has no claims.
    if layout.theory_params.is_file():
        parse(TheorySettings, load_yaml(layout.theory_params), "theory.yaml")
    refuse_hidden_edits(layout, params)
    content = plan_of(layout, params, study)
    for folder in prune(layout, study):
        print(f"not in the study any more: {folder}")
    layout.plan.parent.mkdir(parents=True, exist_ok=True)
    draft = layout.plan.with_suffix(".draft")
    write_json(draft, content)
    draft.replace(layout.plan)
    keep_policies(layout)


if __name__ == "__main__":
    sys.exit(stage_main(run))
