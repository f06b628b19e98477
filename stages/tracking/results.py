"""The result run of a rule: its numbers, its report, and links to the runs of the stages behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_bytes, digest_file, digest_folder, digest_value
from spar_core.study import Study
from stages.layout import Layout
from stages.table import STAGES
from stages.tracking.points import Folders, result_metrics
from stages.tracking.published import STUDY_TAG, Key, Published, Tally, folders
from stages.tracking.store import DIGEST_TAG, Store

_REPORT_FILES = (".md", ".html", ".svg", ".png", ".json", ".csv")
_REPORT_FILE_BYTES = 8_000_000


def ensure_result(
    store: Store, experiment: str, key: Key, published: Published, study: Study, layout: Layout, tally: Tally
) -> Any:
    """The finished result run of a rule, which is written or brought up to date."""
    stages = [(record, run) for record, run in published if key.holds(record.cell)]
    evaluations, estimates = (
        Folders(folders(published, key, stage), folders(published, key.baseline, stage))
        for stage in ("evaluate", "estimate")
    )
    metrics = result_metrics(layout.report(study.name), key, evaluations, estimates)
    identity = {"result": key, "evaluations": [digest_folder(folder) for folder in evaluations.own]}
    if "final/fqe_mean" in metrics and "final/return_mean" not in metrics:
        # Without rollouts, the estimates are the result.
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
            run = store.kept(experiment, digest, key.tags())
            tally.added += run.info.run_id == run_id
        # The metrics can change: another study has other baselines, and a report can be computed anew.
        changed = [(name, 0, value) for name, value in metrics.items() if run.data.metrics.get(name) != value]
        store.log(run.info.run_id, changed)
        run.data.metrics.update(metrics)
        _attach_report(store, run, study, layout)
        store.tag(run, _links(experiment, stages))
        for record, stage_run in stages:
            # In the run list, only runs that belong to this rule alone are nested under it.
            if record.cell.improvement:
                store.tag(stage_run, {"mlflow.parentRunId": run.info.run_id})
    return run


def _params(stages: Published) -> dict[str, Any]:
    """The params of every stage behind a result.

    The params of the dataset are left out. They are equal for all results of the experiment, and the dataset is the
    run's input, with its digest.
    """
    params: dict[str, Any] = {}
    for record, _ in stages:
        if record.cell.stage != "download":
            params |= record.params
    return params


def _links(experiment: str, stages: Published) -> dict[str, str]:
    """Tags with the run ids of the stages, and a description that links to these runs."""
    tags: dict[str, str] = {}
    links: list[str] = []
    for stage in STAGES:
        runs = [(record.cell.name, run.info.run_id) for record, run in stages if record.cell.stage == stage]
        if runs:
            tags[f"spar.run.{stage}"] = ",".join(run_id for _, run_id in runs)
        links += [f"[{name}](#/experiments/{experiment}/runs/{run_id})" for name, run_id in runs]
    # One paragraph, since MLflow hides all but the first lines.
    return {**tags, "mlflow.note.content": f"Rests on {' · '.join(links)}"}


def attach_report(store: Store, experiment: str, study: Study, layout: Layout) -> None:
    """Bring the report up to date that every result run of a study holds."""
    with store.lock():
        for run in store.runs(experiment, "tags.`spar.stage` = 'result'"):
            if study.name in run.data.tags.get(STUDY_TAG, "").split(", "):
                _attach_report(store, run, study, layout)


def _attach_report(store: Store, run: Any, study: Study, layout: Layout) -> None:
    """Copy the report and its figures to the run, unless the run holds them already.

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
