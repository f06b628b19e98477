"""Make sure that every cell of the study is in MLflow, from artifacts alone.

A stage that DVC restores from its cache runs no code and so logs nothing; a tracking database can be lost,
or be a new one after `dvc pull`. This step closes all such gaps, and may be repeated or interrupted freely:
runs are keyed by the digest of params, inputs and code, and an unfinished run is written anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spar_core.artifacts import META, digest_bytes, digest_file, digest_folder, digest_value, read_json
from spar_core.errors import SparError
from spar_core.settings import load_yaml, parse
from spar_core.study import Study
from stages.cells import STAGES, Cell, cell_digest, study_cells
from stages.layout import Layout
from stages.mlflow_store import DIGEST_TAG, Point, Store, tracking_uri
from stages.points import curve_points, evaluation_points, final_points, result_metrics

STUDY_TAG = "spar.study"
_REPORT_FILES = (".md", ".svg", ".png", ".json", ".csv")
_REPORT_FILE_BYTES = 2_000_000


@dataclass(frozen=True)
class Record:
    """A cell whose artifact is at hand."""

    cell: Cell
    folder: Path
    params: dict[str, Any]
    inputs: dict[str, str]
    digest: str


@dataclass
class Tally:
    """What a publish did."""

    present: int = 0
    added: int = 0
    experiments: list[str] = field(default_factory=list)


def read_records(study: Study, layout: Layout) -> list[Record]:
    """The artifacts of every cell of the study.

    Raises:
        SparError: one is missing.
    """
    digests = load_yaml(layout.digests)
    cells = study_cells(study)
    missing = [cell for cell in cells if not (cell.folder(layout) / META).is_file()]
    if missing:
        raise SparError(
            f"{len(missing)} of {len(cells)} artifacts of study '{study.name}' are missing, the first is "
            f"'{missing[0].name}' of {missing[0].dataset} ({missing[0].folder(layout)})",
            "run `dvc repro` or `dvc pull`",
        )
    records = []
    for cell in cells:
        folder = cell.folder(layout)
        meta = read_json(folder / META)
        digest = cell_digest(meta["params"], meta["inputs"], cell.code_digest(digests))
        records.append(Record(cell, folder, meta["params"], meta["inputs"], digest))
    return records


def publish(study: Study, layout: Layout) -> Tally:
    """Bring MLflow up to date with the study; safe to repeat, and to run twice at once."""
    records = read_records(study, layout)
    tally = Tally(experiments=list(study.datasets))
    version = version_tags(layout.root)
    with _readable_errors(layout.root):
        store = Store(layout.root)
        for dataset in study.datasets:
            experiment = store.experiment(dataset)
            mine = [record for record in records if record.cell.dataset == dataset]
            published = [(record, _ensure_cell(store, experiment, record, layout, tally)) for record in mine]
            for record, run in published:
                inputs = {f"spar.input.{name}": digest for name, digest in record.inputs.items()}
                store.tag(run, {**record.cell.tags(), **_study_tag(run, study), **version, **inputs})
            for key, group in _results(published).items():
                run = _ensure_result(store, experiment, key, group, published, study, layout, tally)
                store.tag(run, {**_study_tag(run, study), **version})
    return tally


Published = list[tuple[Record, Any]]
Key = tuple[str, str, str, str]


def _ensure_cell(store: Store, experiment: str, record: Record, layout: Layout, tally: Tally) -> Any:
    """The finished run of a cell, written now where there is none."""
    cell = record.cell
    with store.lock():
        tally.present += 1
        run = store.finished(experiment, record.digest, cell.tags())
        if run is not None:
            # A live run whose stage had no final values at hand.
            if not any(name.startswith("final/") for name in run.data.metrics):
                store.log(run.info.run_id, _finals(record))
            return run
        tags = {**cell.tags(), DIGEST_TAG: record.digest, "mlflow.source.name": f"stages/{cell.stage}.py"}
        run_id = store.start(experiment, cell.name, tags, record.params)
        store.log(run_id, curve_points(record.folder / "curves.csv"))
        store.log(run_id, _finals(record))
        store.dataset(run_id, cell.dataset, layout.data(cell.dataset))
        store.finish(run_id)
        tally.added += 1
        return store.client.get_run(run_id)


def _finals(record: Record) -> list[Point]:
    if record.cell.stage == "evaluate":
        return evaluation_points(record.folder / "episodes.csv")
    metrics = record.folder / "metrics.json"
    return final_points(read_json(metrics), record.cell.seed_numbers) if metrics.is_file() else []


def _results(published: Published) -> dict[Key, Published]:
    """The evaluations of the study, those of one rule's seed groups together."""
    results: dict[Key, Published] = {}
    for record, run in published:
        c = record.cell
        if c.stage == "evaluate":
            key = (c.dataset, str(c.anchor), str(c.critic), str(c.improvement))
            results.setdefault(key, []).append((record, run))
    return results


def _ensure_result(
    store: Store,
    experiment: str,
    key: Key,
    evaluations: Published,
    published: Published,
    study: Study,
    layout: Layout,
    tally: Tally,
) -> Any:
    """The result run of one rule: its numbers, its report, and the way to the stage runs it rests on."""
    dataset, anchor, critic, improvement = key
    folders = [record.folder for record, _ in evaluations]
    baseline = [
        record.folder
        for (d, a, c, i), group in _results(published).items()
        if (d, a, c, i) == (dataset, anchor, critic, "anchor")
        for record, _ in group
    ]
    stages = [(record, run) for record, run in published if _rests_on(record.cell, key)]
    digest = digest_value({"result": key, "evaluations": [digest_folder(folder) for folder in folders]})
    metrics = result_metrics(layout.report(study.name), key, folders, baseline)
    axes = dict(zip(("dataset", "anchor", "critic", "improvement"), key, strict=True))
    with store.lock():
        tally.present += 1
        run = store.finished(experiment, digest, axes)
        if run is None:
            seeds = ",".join(str(record.cell.seeds) for record, _ in evaluations)
            tags = {**axes, "seeds": seeds, "spar.stage": "result", DIGEST_TAG: digest}
            tags["mlflow.source.name"] = "stages/publish.py"
            params = {record.cell.stage: record.params for record, _ in stages}
            run_id = store.start(experiment, f"result {improvement} {anchor} {critic}", tags, params)
            store.log(run_id, [(name, 0, value) for name, value in metrics.items()])
            store.dataset(run_id, dataset, layout.data(dataset))
            store.finish(run_id)
            tally.added += 1
            run = store.client.get_run(run_id)
        # The same evaluations may come in another study, with other baselines, or be summarised anew.
        store.log(
            run.info.run_id,
            [(name, 0, value) for name, value in metrics.items() if run.data.metrics.get(name) != value],
        )
        _attach_report(store, run, study, layout)
        store.tag(run, _links(experiment, stages))
        for record, stage_run in stages:
            # Only what belongs to this rule alone can be nested under it in the run list.
            if record.cell.improvement:
                store.tag(stage_run, {"mlflow.parentRunId": run.info.run_id})
    return run


def _rests_on(cell: Cell, key: Key) -> bool:
    """Whether a rule's result depends on a cell: on each axis that the cell has, they agree."""
    axes = (cell.dataset, cell.anchor, cell.critic, cell.improvement)
    return all(own in (None, wanted) for own, wanted in zip(axes, key, strict=True))


def _links(experiment: str, stages: Published) -> dict[str, str]:
    """Tags with the run ids of the stages, and a description that leads to them by a click."""
    tags: dict[str, str] = {}
    lines = ["Rests on", ""]
    for stage in STAGES:
        runs = [(record.cell.name, run.info.run_id) for record, run in stages if record.cell.stage == stage]
        tags[f"spar.run.{stage}"] = ",".join(run_id for _, run_id in runs)
        lines += [f"- [{name}](#/experiments/{experiment}/runs/{run_id})" for name, run_id in runs]
    return {**tags, "mlflow.note.content": "\n".join(lines)}


def _attach_report(store: Store, run: Any, study: Study, layout: Layout) -> None:
    """Copy the report and its figures to the run, unless it has them already."""
    folder = layout.report(study.name)
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in _REPORT_FILES and path.stat().st_size <= _REPORT_FILE_BYTES
    )
    if not files:
        return
    digest = digest_bytes("".join(digest_file(path) for path in files).encode())
    tag = f"spar.report.{study.name}"
    if run.data.tags.get(tag) == digest:
        return
    for path in files:
        where = Path("report", study.name, path.relative_to(folder)).parent.as_posix()
        store.client.log_artifact(run.info.run_id, str(path), where)
    store.tag(run, {tag: digest})


def _study_tag(run: Any, study: Study) -> dict[str, str]:
    """Runs are shared between studies: the tag lists every study that has published the run."""
    names = set(filter(None, run.data.tags.get(STUDY_TAG, "").split(", ")))
    return {STUDY_TAG: ", ".join(sorted(names | {study.name}))}


def version_tags(root: Path) -> dict[str, str]:
    """Commit and digest of ``dvc.lock``, as far as there are any."""
    tags: dict[str, str] = {}
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20)
        if commit.returncode == 0:
            tags["git.commit"] = tags["mlflow.source.git.commit"] = commit.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    lock = root / "dvc.lock"
    if lock.is_file():
        tags["dvc.lock.md5"] = digest_file(lock)
    return tags


@contextmanager
def _readable_errors(root: Path) -> Iterator[None]:
    """Turn a store that does not work into one line."""
    try:
        from filelock import Timeout
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise SparError("mlflow is not installed", "pip install -r requirements.txt") from None

    try:
        yield
    except Timeout:
        raise SparError("another process holds the lock of the MLflow store", "try again later") from None
    except (MlflowException, SQLAlchemyError) as error:
        where = _without_password(tracking_uri(root))
        reason = _without_password((str(error).strip() or type(error).__name__).splitlines()[0][:200])
        raise SparError(f"MLflow at {where} fails: {reason}", "nothing is lost: publish again later") from None


def _without_password(text: str) -> str:
    return re.sub(r"//[^@/\s]*@", "//***@", text)


def summary(tally: Tally, root: Path) -> str:
    """What to tell the user at the end."""
    uri = tracking_uri(root)
    is_server = uri.startswith(("http://", "https://"))
    look = _without_password(uri) if is_server else f"mlflow ui --backend-store-uri {_without_password(uri)}"
    return (
        f"MLflow: {tally.present} runs present, {tally.added} added, in {', '.join(tally.experiments)}\n"
        f"Look at them with: {look}"
    )


def run(argv: list[str] | None = None) -> None:
    """Command line: publish the study of ``params.yaml``."""
    parser = argparse.ArgumentParser(prog="python -m stages.publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("--study-params", type=Path, default=Path("params.yaml"), metavar="FILE")
    options = parser.parse_args(argv)
    study = parse(Study, load_yaml(options.study_params).get("study"), f"{options.study_params}: study")
    layout = Layout()
    print(summary(publish(study, layout), layout.root))


if __name__ == "__main__":
    from stages.entry import stage_main

    sys.exit(stage_main(run))
