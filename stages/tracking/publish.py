"""Make sure that every cell of the study is in MLflow, from artifacts alone.

A stage that DVC restores from its cache runs no code and logs nothing. A tracking database can be lost, or be new after
`dvc pull`. This step adds all missing runs. It may be repeated or interrupted at any time: runs are found by the digest
of params, inputs and code, and an unfinished run is written anew.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_file, read_json
from spar_core.errors import SparError
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.agreement import agreements
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.page.answer import Answer, answer
from spar_core.settings import load_yaml, parse
from spar_core.study import Study
from stages.layout import Layout
from stages.params import section
from stages.report import folders_of
from stages.tracking.experiments import HOST, PORT, experiment_tags, view_path
from stages.tracking.models import ensure_model
from stages.tracking.place import is_server, tracking_uri, without_password
from stages.tracking.points import curve_points, estimate_points, evaluation_points, final_points
from stages.tracking.published import STUDY_TAG, Record, Tally, folders, read_records, rules, with_study
from stages.tracking.registered import register
from stages.tracking.results import attach_report, ensure_result
from stages.tracking.store import DIGEST_TAG, Point, Store

# Another machine may publish the same to a shared store at this moment. MLflow then refuses to write what the other has
# just written or deleted, so the publication is repeated, at most this often. A machine that has written something also
# repeats once, to find runs that the other machine has written too.
_PASSES = 5
# Pages that the summary names, one a dataset.
_PAGES = 3


def publish(study: Study, layout: Layout) -> Tally:
    """Bring MLflow up to date with the study. Several processes may do so at once."""
    records = read_records(study, layout)
    answers = _answers(study, layout)
    version = version_tags(layout.root)
    added = models_added = 0
    with _readable_errors(layout.root):
        from mlflow.exceptions import MlflowException

        store = Store(layout.root)
        for attempt in range(_PASSES):
            tally = Tally(experiments=list(study.datasets))
            try:
                for dataset in study.datasets:
                    mine = [record for record in records if record.cell.dataset == dataset]
                    said = [answer for answer in answers if answer.verdict.setting[0] == dataset]
                    _publish_dataset(store, dataset, mine, study, layout, version, said, tally)
            except MlflowException:
                if not store.shared or attempt + 1 == _PASSES:
                    raise
                failed = True
                time.sleep(random.uniform(0.1, 1.0))
            else:
                failed = False
            added, models_added = added + tally.added, models_added + tally.models_added
            if not failed and not (store.shared and (tally.added or tally.models_added)):
                break
    tally.added, tally.models_added = added, models_added
    return tally


def _answers(study: Study, layout: Layout) -> list[Answer]:
    """The study's verdicts; none where its cells do not make a report.

    The report's settings are those of params.yaml, or the defaults in a folder without one.
    """
    try:
        settings = section(layout, "report", ReportSettings) if layout.params.is_file() else ReportSettings()
        rules = load_rules(study, folders_of(layout))
    except SparError:
        return []
    rolled = [rule for rule in rules if rule.not_evaluated is None]
    return answer(rules, agreements(rolled), settings)[0]


def attach(study: Study, layout: Layout) -> None:
    """Attach the present report to the study's result runs. Its page names the runs, so this comes last."""
    with _readable_errors(layout.root):
        store = Store(layout.root)
        for dataset in study.datasets:
            attach_report(store, store.experiment(dataset), study, layout)


def _publish_dataset(
    store: Store,
    dataset: str,
    records: list[Record],
    study: Study,
    layout: Layout,
    version: dict[str, str],
    answers: list[Answer],
    tally: Tally,
) -> None:
    """Publish the experiment of a dataset: stage runs, result runs, models and the registered model."""
    experiment = store.experiment(dataset)
    tally.pages.append(view_path(experiment))
    there = store.client.get_experiment(experiment).tags
    store.describe(experiment, there, experiment_tags(experiment, there, dataset, study, answers))
    published = [(record, _ensure_cell(store, experiment, record, layout, tally)) for record in records]
    for record, run in published:
        inputs = {f"spar.input.{name}": digest for name, digest in record.inputs.items()}
        store.tag(run, {**record.cell.tags(), **with_study(run.data.tags.get(STUDY_TAG), study), **version, **inputs})
    models = {}
    for key in rules(published):
        run = ensure_result(store, experiment, key, published, study, layout, tally)
        store.tag(run, {**with_study(run.data.tags.get(STUDY_TAG), study), **version})
        policies = folders(published, key, "self_imitation")
        models[key], new = ensure_model(store, experiment, run, key, policies, study, layout.data(dataset))
        tally.models += 1
        tally.models_added += new
    register(store, dataset, models, study, layout, tally)


def _ensure_cell(store: Store, experiment: str, record: Record, layout: Layout, tally: Tally) -> Any:
    """The finished run of a cell, which is written if it is missing."""
    cell = record.cell
    with store.lock():
        tally.present += 1
        run = store.finished(experiment, record.digest, cell.tags())
        if run is not None:
            # A live run does not hold the final values of every stage.
            if not any(name.startswith("final/") for name in run.data.metrics):
                store.log(run.info.run_id, _finals(record))
            return run
        tags = {**cell.tags(), DIGEST_TAG: record.digest, "mlflow.source.name": f"stages/{cell.stage}.py"}
        run_id = store.start(experiment, cell.name, tags, record.params)
        if cell.stage != "evaluate":  # An evaluation holds the curves of the policy's parts, for the report.
            store.log(run_id, curve_points(record.folder / "curves.csv"))
        store.log(run_id, _finals(record))
        store.dataset(run_id, cell.dataset, layout.data(cell.dataset))
        store.finish(run_id)
        run = store.kept(experiment, record.digest, cell.tags())
        tally.added += run.info.run_id == run_id
        return run


def _finals(record: Record) -> list[Point]:
    if record.cell.stage == "evaluate":
        return evaluation_points(record.folder / "episodes.csv")
    if record.cell.stage == "estimate":
        return estimate_points(record.folder / "estimates.json")
    metrics = record.folder / "metrics.json"
    return final_points(read_json(metrics), record.cell.seed_numbers) if metrics.is_file() else []


def version_tags(root: Path) -> dict[str, str]:
    """Tags with the commit and the digest of ``dvc.lock``, as far as these exist."""
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
    """Turn the errors of a store into a SparError of one line."""
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
        where = without_password(tracking_uri(root))
        reason = without_password((str(error).strip() or type(error).__name__).splitlines()[0][:200])
        raise SparError(f"MLflow at {where} fails: {reason}", "nothing is lost: publish again later") from None


def summary(tally: Tally, root: Path) -> str:
    """The lines that tell the user what was published and where to look."""
    uri = without_password(tracking_uri(root))
    server, first = (uri.rstrip("/"), "") if is_server(uri) else (f"http://{HOST}:{PORT}", "`make ui`, then ")
    return "\n".join(
        [
            *(f"note: {line}" for line in tally.notes),
            f"MLflow: {tally.present} runs present, {tally.added} added, in {', '.join(tally.experiments)}; "
            f"{tally.models} models, {tally.models_added} added",
            *(f"See them: {first}{server}/#{page}" for page in tally.pages[:_PAGES]),
        ]
    )


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.tracking.publish``."""
    parser = argparse.ArgumentParser(prog="python -m stages.tracking.publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("--study-params", type=Path, default=Path("params.yaml"), metavar="FILE")
    options = parser.parse_args(argv)
    study = parse(Study, load_yaml(options.study_params).get("study"), f"{options.study_params}: study")
    layout = Layout()
    print(summary(publish(study, layout), layout.root))


if __name__ == "__main__":
    from stages.entry import stage_main

    sys.exit(stage_main(run))
