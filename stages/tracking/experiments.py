"""The front page of an MLflow experiment: a description, and a table of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from spar_core.reporting.page.answer import PARAGRAPHS, Answer
from spar_core.study import Study
from stages.tracking.published import STUDY_TAG, with_study
from stages.tracking.registered import registered_name

# Where `mlflow ui` serves, unless it is told otherwise.
HOST, PORT = "127.0.0.1", "5000"
RESULTS = "tags.`spar.stage` = 'result'"
_VIEW = "results"
_COLUMNS = (
    "metrics.`final/return_mean`",
    "metrics.`final/gain_over_anchor`",
    "metrics.`final/gain_low`",
    "metrics.`final/gain_high`",
    "metrics.`final/fqe_mean`",
    "tags.`anchor`",
    "tags.`critic`",
    "tags.`improvement`",
)


def view_path(experiment: str) -> str:
    """Path of the page with the table of results, below the server's address and ``/#``."""
    return f"/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={_VIEW}"


def result_addresses(uri: str, server: str, datasets: Sequence[str]) -> dict[str, str]:
    """The address of the table of results, by dataset; datasets without an experiment are left out.

    Args:
        uri: of the tracking store.
        server: address of the server that shows it.
        datasets: ids.
    """
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = {dataset: client.get_experiment_by_name(dataset) for dataset in datasets}
    return {dataset: f"{server}/#{view_path(one.experiment_id)}" for dataset, one in found.items() if one is not None}


def experiment_tags(
    experiment: str, there: Mapping[str, str], dataset: str, study: Study, answers: Sequence[Answer]
) -> dict[str, str]:
    """The experiment's description, its studies, and the view that shows the results.

    Args:
        experiment: id of the experiment.
        there: present tags of the experiment.
        dataset: the dataset, which names the experiment.
        study: the study that publishes.
        answers: its verdicts on the dataset.
    """
    studies = with_study(there.get(STUDY_TAG), study)
    verdicts = "\n\n".join(
        f"Anchor `{answer.verdict.setting[1]}`, critic `{answer.verdict.setting[2]}`: **{answer.headline}** "
        + " ".join(answer.sentences)
        for answer in answers[:PARAGRAPHS]
    )
    # MLflow shows the first line until the rest is opened.
    first = f"**{answers[0].headline}** " if len(answers) == 1 else ""
    results = f"**[show the results](#{view_path(experiment)})**"
    text = f"""SPAR on `{dataset}`: {first}{results}. Studies: {studies[STUDY_TAG]}.

Study `{study.name}`. {verdicts}

The results are one run for each anchor, critic and rule. By hand, search for

    {RESULTS}

and show the columns `final/return_mean` and `final/gain_over_anchor`. A result's description links to the runs of the
stages behind it, its artifacts hold the report, and its model is the trained policy. More filters:

    tags.`spar.stage` = 'fit_critic'
    tags.anchor = 'mlp' and tags.improvement = 'spar_proj'

The policies behind the aliases are in the registered model
[{registered_name(dataset)}](#/models/{registered_name(dataset)})."""
    return {
        **studies,
        "mlflow.note.content": text,
        # Answers MLflow's question whether the experiment is about language models.
        "mlflow.experimentKind": "custom_model_development",
        # MLflow's own "share view" stores the same.
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(_view()),
    }


def _view() -> dict[str, object]:
    return {
        "searchFilter": RESULTS,
        "orderByKey": "metrics.`final/return_mean`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(_COLUMNS),
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_10_RUNS",
        "runsVisibilityMap": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
    }
