"""The model registry: one registered model for each dataset, whose aliases point to policies.

The champion of a study is the rule whose interval of the mean return has the highest lower end in the study's report,
and its anchor is the cloned policy that the champion started from. A rule without rollouts, or without an interval (a
single seed has none), is never a champion. Every study has the aliases ``champion-<study>`` and ``anchor-<study>``,
which no other study touches. The aliases ``champion`` and ``anchor`` are those of the last published study that has a
champion.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spar_core.study import Study
from stages.layout import Layout
from stages.tracking.models import POLICY_DIGEST_TAG
from stages.tracking.published import STUDY_TAG, Key, Tally, with_study
from stages.tracking.store import Store, pages

_VARIABLE = "MLFLOW_TRACKING_URI"
CHAMPION, ANCHOR = "champion", "anchor"
# On a registered model: the study that has set the aliases without a study's name.
HOLDER_TAG = "spar.champion_study"
# Columns of the report's table that become tags of a version.
_NUMBERS = ("return_mean", "return_low", "return_high", "gain_over_anchor", "gain_low", "gain_high")

Models = Mapping[Key, Any]  # the logged model of each rule
Rows = Mapping[Key, Mapping[str, str]]  # the rows of the report's table


def registered_name(dataset: str) -> str:
    """Name of a dataset's registered model. MLflow forbids the slashes of dataset ids, which hold no dots."""
    return dataset.replace("/", ".")


def report_rows(study: Study, layout: Layout) -> Rows | None:
    """Rows of the report's table by rule; None if the study has no report."""
    table = layout.report(study.name) / "table.csv"
    if not table.is_file():
        return None
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {Key(*(row[axis] for axis in Key._fields)): row for row in rows}


def choose(rows: Rows, models: Models) -> dict[str, Key]:
    """The rule that each alias points to."""
    known = {key: float(row["return_low"]) for key, row in rows.items() if key in models and row.get("return_low")}
    chosen: dict[str, Key] = {}
    if known:
        chosen[CHAMPION] = max(known, key=lambda key: known[key])
    start = chosen.get(CHAMPION, next(iter(models))).baseline
    if start in models:
        chosen[ANCHOR] = start
    return chosen


def register(store: Store, dataset: str, models: Models, study: Study, layout: Layout, tally: Tally) -> None:
    """Bring the registered model of a dataset up to date with the study's report."""
    rows = report_rows(study, layout)
    if rows is None:
        tally.note(f"no report of study '{study.name}', so no model is registered: run `dvc repro`, then publish again")
        return
    chosen = choose(rows, models)
    name = registered_name(dataset)
    if CHAMPION not in chosen:
        tally.note(f"no champion of {dataset}: the report has no interval of a mean return")
    with store.lock():
        registered = _registered(store, name)
        holds = holds_plain(registered, study, chosen)
        if not holds:
            other = _holder(registered)
            tally.note(f"the aliases '{CHAMPION}' and '{ANCHOR}' of {dataset} stay those of study '{other}'")
        wanted = {alias_of(alias, study): key for alias, key in chosen.items()}
        wanted |= chosen if holds else {}
        ours = {alias_of(alias, study) for alias in (CHAMPION, ANCHOR)} | ({CHAMPION, ANCHOR} if holds else set())
        for alias in sorted(ours & registered.aliases.keys() - wanted.keys()):
            store.client.delete_registered_model_alias(name, alias)
        versions, held = _versions(store, name), {}
        for alias, key in wanted.items():
            if key not in held:
                held[key] = _ensure_version(store, name, key, models[key], rows.get(key, {}), versions, study)
            if registered.aliases.get(alias) != str(held[key].version):
                store.client.set_registered_model_alias(name, alias, held[key].version)
        # Last, so that a killed publication leaves the old description.
        _describe(store, name, dataset, study, holds)


def alias_of(alias: str, study: Study) -> str:
    """An alias with the name of its study. MLflow forbids the slashes of study names."""
    return f"{alias}-{study.name.replace('/', '--')}"


def holds_plain(registered: Any, study: Study, chosen: Mapping[str, Key]) -> bool:
    """Whether the aliases without a study's name are to be this study's.

    They are if it has a champion, if it has set them before, or if no other study has.
    """
    return CHAMPION in chosen or _holder(registered) in (None, study.name)


def _holder(registered: Any) -> str | None:
    """The study that has set the aliases without a study's name."""
    # An older store names only the study that was published last.
    holder: str | None = registered.tags.get(HOLDER_TAG) or registered.tags.get(STUDY_TAG)
    return holder


def _registered(store: Store, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    for attempt in range(2):
        try:
            found = store.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" or attempt:
                raise
            try:
                store.client.create_registered_model(name)
            except MlflowException as other:
                # Another machine may have created it meanwhile.
                if other.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        else:
            # A server gives the versions of aliases as text, a database as numbers.
            found._aliases = {alias: str(version) for alias, version in found.aliases.items()}
            return found
    raise AssertionError("created and not there")


def _versions(store: Store, name: str) -> list[Any]:
    query = f"name = '{name}'"
    found = pages(lambda token: store.client.search_model_versions(query, page_token=token))
    return sorted(found, key=lambda version: int(version.version))


def _ensure_version(
    store: Store, name: str, key: Key, model: Any, row: Mapping[str, str], versions: list[Any], study: Study
) -> Any:
    """The version that holds a logged model, with the numbers of the report; it is created if it is missing."""
    source = f"models:/{model.model_id}"
    ours = [version for version in versions if _model_of(version) == model.model_id]
    if not ours:
        with _as_default(store.uri):
            store.client.create_model_version(
                name, source, run_id=model.source_run_id, model_id=model.model_id, await_creation_for=0
            )
        versions[:] = _versions(store, name)
        ours = [version for version in versions if _model_of(version) == model.model_id]
    # Machines that write at once can make several versions; every machine keeps the first.
    version, *others = ours
    others += [v for v in versions if _same_policy(v, model) and v not in ours and _is_gone(store, _model_of(v))]
    for other in others:
        store.client.delete_model_version(name, other.version)
    versions[:] = [v for v in versions if v not in others]
    tags = {
        **{axis: value for axis, value in key.tags().items() if axis != "dataset"},
        "seeds": model.params["seeds"],
        POLICY_DIGEST_TAG: model.tags[POLICY_DIGEST_TAG],
        **with_study(version.tags.get(STUDY_TAG), study),
        **{number: f"{float(row[number]):.6g}" for number in _NUMBERS if row.get(number)},
    }
    for tag, value in tags.items():
        if version.tags.get(tag) != value:
            store.client.set_model_version_tag(name, version.version, tag, value)
    text = _version_text(key, tags, row, study)
    if version.description != text:
        store.client.update_model_version(name, version.version, text)
    return version


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """Set the process's tracking address for a moment: the registry looks up logged models there, not in its client."""
    import mlflow
    from mlflow.tracking._tracking_service import utils

    before, variable = utils._tracking_uri, os.environ.get(_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        # Setting the address also sets or unsets the environment variable.
        if variable is not None:
            os.environ[_VARIABLE] = variable


def _model_of(version: Any) -> str:
    return str(version.model_id or version.source.removeprefix("models:/"))


def _same_policy(version: Any, model: Any) -> bool:
    return bool(version.tags.get(POLICY_DIGEST_TAG) == model.tags[POLICY_DIGEST_TAG])


def _is_gone(store: Store, model_id: str) -> bool:
    """Whether a logged model was deleted, in favour of a model of another machine."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise
    return False


def _version_text(key: Key, tags: Mapping[str, str], row: Mapping[str, str], study: Study) -> str:
    text = f"Rule `{key.improvement}` on anchor `{key.anchor}` and critic `{key.critic}`, seeds {tags['seeds']}."
    if row.get("return_mean"):
        text += f" Mean return {tags['return_mean']}"
        if row.get("return_low"):
            text += f", interval [{tags['return_low']}, {tags['return_high']}]"
        text += f", in study `{study.name}`."
    return text


def _describe(store: Store, name: str, dataset: str, study: Study, holds: bool) -> None:
    """Bring the description and the tags of a registered model up to date with its aliases."""
    registered = _registered(store, name)
    versions = {str(version.version): version for version in _versions(store, name)}
    holder = study.name if holds else str(_holder(registered))
    tags = {STUDY_TAG: study.name, HOLDER_TAG: holder, "dataset": dataset}
    served = CHAMPION if CHAMPION in registered.aliases else ANCHOR
    lines = [
        f"Policies trained offline on `{dataset}`. Input: a batch of raw observations. Output: actions in the "
        "environment's units: the mean of the actions of all seeds of the first group. The param `seed` chooses one of "
        "the trained seeds instead; no seed was selected by its evaluation.",
        "",
        "The champion of a study is the rule whose interval of the mean return has the highest lower end in its "
        "report, and its anchor is the cloned policy that the rules start from. "
        f"`{CHAMPION}` and `{ANCHOR}` are those of study `{holder}`. Aliases:",
        "",
        *(f"- `{alias}`: {_rule_of(versions[at].tags)}" for alias, at in sorted(registered.aliases.items())),
        "",
        f"Serve it: `mlflow models serve -m models:/{name}@{served} --env-manager local`",
    ]
    text = "\n".join(lines)
    if registered.description != text:
        store.client.update_registered_model(name, text)
    for tag, value in tags.items():
        if registered.tags.get(tag) != value:
            store.client.set_registered_model_tag(name, tag, value)


def _rule_of(tags: Mapping[str, str]) -> str:
    """The rule of a version, by the version's tags."""
    return f"`{tags.get('improvement')}` on `{tags.get('anchor')}` and `{tags.get('critic')}`"
