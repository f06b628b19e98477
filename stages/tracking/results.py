"""The result run of a rule: its numbers, its report, and the way to the stage runs that it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_bytes, digest_file, digest_folder, digest_value
from spar_core.study import Study
from stages.cells import STAGES
from stages.layout import Layout
from stages.tracking.points import Folders, result_metrics
from stages.tracking.published import STUDY_TAG, Key, Published, Tally, folders
from stages.tracking.store import DIGEST_TAG, Store

_REPORT_FILES = (".md", ".html", ".svg", ".png", ".json", ".csv")
_REPORT_FILE_BYTES = 8_000_000


def ensure_result(
    store: Store, experiment: str, key: Key, published: Published, study: Study, layout: Layout, tally: Tally
) -> Any:
    """The finished result run of a rule, written or brought up to date."""
    stages = [(record, run) for record, run in published if key.holds(record.cell)]
    evaluations, estimates = (
        Folders(folders(published, key, stage), folders(published, key.baseline, stage))
        for stage in ("evaluate", "estimate")
    )
    metrics = result_metrics(layout.report(study.name), key, evaluations, estimates)
    identity = {"result": key, "evaluations": [digest_folder(folder) for folder in evaluations.own]}
    if "final/fqe_mean" in metrics and "final/return_mean" not in metrics:
        # Nothing was rolled out: the result is the estimates.
        identity["estimates"] = [digest_folder(folder) for folder in estimates.own]
    digest = digest_value(identity)
    with store.lock():
        tally.present += 1
        run = store.finished(experiment, digest, key.tags())
        if run is None:
            seeds = ",".join(record.cell.seeds or "" for record, _ in stages if record.cell.stage == "evaluate")
            tags = {**key.tags(), "seeds": seeds, "spar.stage": "result", DIGEST_TAG: digest}
            tags["mlflow.source.name"] = "stages/tracking/publish.py"
            run_id = store.start(
                experiment, f"result {key.improvement} {key.anchor} {key.critic}", tags, _params(stages)
            )
            store.log(run_id, [(name, 0, value) for name, value in metrics.items()])
            store.dataset(run_id, key.dataset, layout.data(key.dataset))
            store.finish(run_id)
            run = store.finished(experiment, digest, key.tags())
            tally.added += run.info.run_id == run_id
        # The same evaluations may come in another study, with other baselines, or be summarised anew.
        changed = [(name, 0, value) for name, value in metrics.items() if run.data.metrics.get(name) != value]
        store.log(run.info.run_id, changed)
        run.data.metrics.update(metrics)
        _attach_report(store, run, study, layout)
        store.tag(run, _links(experiment, stages))
        for record, stage_run in stages:
            # Only what belongs to this rule alone can be nested under it in the run list.
            if record.cell.improvement:
                store.tag(stage_run, {"mlflow.parentRunId": run.info.run_id})
    return run


def _params(stages: Published) -> dict[str, Any]:
    """The params of every stage below a result, by the names that they have there.

    Those of the dataset are left out: they are the same for every result of the experiment, and the dataset is the
    run's input, with its digest.
    """
    params: dict[str, Any] = {}
    for record, _ in stages:
        if record.cell.stage != "download":
            params |= record.params
    return params


def _links(experiment: str, stages: Published) -> dict[str, str]:
    """Tags with the run ids of the stages, and a description that leads to them by a click."""
    tags: dict[str, str] = {}
    links: list[str] = []
    for stage in STAGES:
        runs = [(record.cell.name, run.info.run_id) for record, run in stages if record.cell.stage == stage]
        if runs:
            tags[f"spar.run.{stage}"] = ",".join(run_id for _, run_id in runs)
        links += [f"[{name}](#/experiments/{experiment}/runs/{run_id})" for name, run_id in runs]
    # In one paragraph, since MLflow hides what does not fit into a few lines.
    return {**tags, "mlflow.note.content": f"Rests on {' · '.join(links)}"}


def attach_report(store: Store, experiment: str, study: Study, layout: Layout) -> None:
    """Bring the report that every result run of a study has up to date, such as after its page was written."""
    with store.lock():
        for run in store.runs(experiment, "tags.`spar.stage` = 'result'"):
            if study.name in run.data.tags.get(STUDY_TAG, "").split(", "):
                _attach_report(store, run, study, layout)


def _attach_report(store: Store, run: Any, study: Study, layout: Layout) -> None:
    """Copy the report and its figures to the run, unless it has them already.

    Episodes, measures and a partial report are left out, since every run would hold those of all rules.
    """
    folder = layout.report(study.name)
    left_out = {"episodes.csv", "measures.csv", "partial"}
    found = (path for path in folder.rglob("*") if not left_out & set(path.relative_to(folder).parts))
    files = sorted(path for path in found if path.suffix in _REPORT_FILES and path.stat().st_size <= _REPORT_FILE_BYTES)
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
