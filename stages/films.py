"""Film the study's anchor beside SPAR; a film stays in ``reports/<study>/film/`` until one of its policies changes."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spar_core.artifacts import META, read_json
from spar_core.data.loading import MANIFEST
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import EvaluationSettings, blocks
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.film.offscreen import Offscreen, find_offscreen
from spar_core.reporting.film.shoot import FACTS, MOVING, STRIP, Job, film_apart
from spar_core.reporting.film.takes import amount
from spar_core.reporting.page.page import Film
from spar_core.settings import load_yaml
from spar_core.study import Study
from stages.cells import Cell
from stages.layout import Layout
from stages.params import read_params, section

FOLDER = "film"
# Number of datasets that are filmed, at most; a film takes up to half a minute.
DATASETS = 3
_SPAR = ("spar_mlp", "spar_proj")


def films(study: Study, layout: Layout) -> list[Film]:
    """A film for each of the first datasets, or the reason why there is none."""
    offscreen: Offscreen | None = None
    made, kept = [], set()
    for dataset in study.datasets[:DATASETS]:
        try:
            job, cells = job_of(study, layout, dataset)
            folder = layout.report(study.name) / FOLDER / f"{dataset.replace('/', '.')}.{job.digest()[:12]}"
            if not (folder / FACTS).is_file():
                offscreen = offscreen or find_offscreen()
                print(f"Filming {', '.join(name for name, _ in job.policies)} on {dataset}")
                film_apart(job, folder, offscreen)
            kept.add(folder.name)
            made.append(_film(dataset, folder, cells, layout))
        except SparError as error:
            made.append(Film(dataset, reason=str(error)))
    _drop_old(layout.report(study.name) / FOLDER, kept)
    return made


def rules_of(study: Study, improvements: Mapping[str, Any], baseline: str) -> list[str]:
    """The rules to film: the baseline, and SPAR's variants; the last rule if the study has no variant of SPAR."""
    others = [rule for rule in study.improvements if rule != baseline]
    named = [rule for rule in others if rule in _SPAR]
    kinds = {rule: improvements.get(rule) or {} for rule in others}
    weighing = [
        rule
        for rule, values in kinds.items()
        if values.get("kind", rule) in _SPAR and values.get("weighting", "critic") == "critic"
    ]
    shown = named or weighing[:1] or others[-1:]
    return [baseline, *shown] if baseline in study.improvements else shown


def job_of(study: Study, layout: Layout, dataset: str) -> tuple[Job, list[Cell]]:
    """The film of a dataset and the filmed cells: the first anchor, critic, seed group and start state of the study.

    The committee of the group acts.

    Raises:
        SparError: the dataset has no environment, or artifacts are missing.
    """
    manifest = layout.data(dataset) / MANIFEST
    if not manifest.is_file():
        raise SparError("the artifacts of the study are not here", "`dvc repro` or `dvc pull` brings them")
    environment = read_json(manifest)["environment"]
    if environment["env_id"] is None or environment["not_evaluated"]:
        raise SparError("policies are not rolled out on this dataset")
    settings = section(layout, "evaluation", EvaluationSettings, dataset)
    report = section(layout, "report", ReportSettings)
    rules = rules_of(study, read_params(layout, dataset)["improvements"], report.baseline)
    axes = (dataset, study.anchors[0], study.critics[0])
    cells = [Cell("self_imitation", *axes, rule, study.seeds[0]) for rule in rules]
    if not all((cell.folder(layout) / META).is_file() for cell in cells):
        raise SparError("the policies of the study are not here", "`dvc repro` or `dvc pull` brings them")
    every = blocks(settings, environment["env_id"], cells[0].seed_numbers)
    block = next(block for block in every if block.seed == every[-1].seed)
    policies = tuple((str(cell.improvement), str(cell.folder(layout).resolve())) for cell in cells)
    keys = environment["observation_keys"]
    job = Job(policies, environment["env_id"], environment["env_kwargs"], keys, block.seed, tuple(block.env_seeds))
    return job, cells


def _film(dataset: str, folder: Path, cells: list[Cell], layout: Layout) -> Film:
    """The pictures of a film folder, with their text."""
    facts = load_yaml(folder / FACTS)
    rows, seed, env_seed = facts["rows"], facts["seed"], facts["env_seed"]
    first = cells[0]
    who = f"The committee of seeds {first.seeds}" if seed is None else f"Training seed {seed}, the study's only one,"
    told = "; ".join(f"`{row['name']}` {amount(row['return'])} in {row['length']} steps" for row in rows)
    sentences = [
        f"Anchor `{first.anchor}`, critic `{first.critic}`. {who} acts, and environment seed {env_seed} is the first "
        "of its evaluation; neither was chosen for what it shows. All policies start in the same state. The evidence "
        "is in the tables: one episode of each policy proves nothing.",
        f"Returns: {told}. {_agreement(facts, cells, layout)}",
    ]
    alt = f"Frames of one episode of each policy on {dataset}. Returns: {told.replace('`', '')}."
    return Film(dataset, (folder / STRIP).read_bytes(), (folder / MOVING).read_bytes(), alt, tuple(sentences))


def _agreement(facts: Mapping[str, Any], cells: list[Cell], layout: Layout) -> str:
    """A sentence that compares the returns of the filmed episodes with those of the evaluation."""
    name = "committee.csv" if facts["seed"] is None else "episodes.csv"
    evaluated = [_evaluated(cell.folder(layout, "evaluation") / name, facts["env_seed"]) for cell in cells]
    if None in evaluated:
        return ""
    filmed = [row["return"] for row in facts["rows"]]
    if filmed == evaluated:
        return "They equal those of the evaluation to the last digit."
    gave = ", ".join(map(amount, evaluated))
    return f"The evaluation gave {gave}. It ran on another machine, where sums round differently and bodies diverge."


def _evaluated(path: Path, env_seed: int) -> float | None:
    """Return of the episode of an environment seed, which no two seeds share; None if the evaluation lacks it."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["env_seed"] == str(env_seed):
                return float(row["return"])
    return None


def _drop_old(folder: Path, kept: set[str]) -> None:
    """Remove the films of policies that have changed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in kept and re.fullmatch(r".+\.[0-9a-f]{12}", path.name):
            shutil.rmtree(path)
