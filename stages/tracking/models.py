"""Trained policies as MLflow models: a rule's policies of all seeds, with the code that they act with, in one folder.

A model is logged through the client of the project's store. MLflow's own ``log_model`` would use the active run and the
tracking address of the process instead. One model belongs to one result run and is found by the digest of its policies.
A model that a killed publication left half-written is deleted.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from spar_core.artifacts import digest_folder, digest_value, read_json
from spar_core.errors import SparError
from spar_core.interface import Interface
from spar_core.policy import POLICY
from spar_core.registry import variant_kinds
from spar_core.study import Study
from stages.closure import closure, files_of, member_module
from stages.tracking.published import STUDY_TAG, Key, with_study
from stages.tracking.store import WRITER_TAG, Store, dataset_digest, pages

POLICY_DIGEST_TAG = "spar.policy_digest"
# The checkout whose code and pinned versions a model holds.
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("served_policy.py")
REQUIREMENTS = ("numpy", "torch", "safetensors", "pydantic", "pyyaml", "mlflow")


def ensure_model(
    store: Store, experiment: str, run: Any, key: Key, policies: Sequence[Path], study: Study, data: Path
) -> tuple[Any, bool]:
    """The logged model of a result run, and whether this call has logged it.

    Args:
        store: the store.
        experiment: id of the experiment.
        run: the result run.
        key: the rule.
        policies: the rule's policy artifacts, one a seed group.
        study: the study that publishes.
        data: folder of the dataset's artifact.
    """
    digest = digest_value([digest_folder(folder) for folder in policies])
    with store.lock():
        kept = _logged(store, experiment, run.info.run_id, digest)
        written = ""
        if kept is None:
            written = _log(store, experiment, run.info.run_id, key, policies, digest, study)
            # Another machine may have logged the same model meanwhile.
            kept = _logged(store, experiment, run.info.run_id, digest)
            assert kept is not None
        _update(store, run, kept, study, {"dataset_name": key.dataset, "dataset_digest": dataset_digest(data)})
    return kept, kept.model_id == written


def _log(
    store: Store, experiment: str, run_id: str, key: Key, policies: Sequence[Path], digest: str, study: Study
) -> str:
    """Log a model and return its id."""
    who = {STUDY_TAG: study.name, POLICY_DIGEST_TAG: digest, **store.writer_tag()}
    model = store.client.create_logged_model(
        experiment,
        name=re.sub(r"[/:.%\"']", "-", f"{key.improvement} {key.anchor} {key.critic}"),
        source_run_id=run_id,
        model_type="policy",
        params=_params(policies),
        tags={**key.tags(), **who},
    )
    with tempfile.TemporaryDirectory() as folder:
        files = write_model(Path(folder), policies, model_id=model.model_id, run_id=run_id)
        store.client.log_model_artifacts(model.model_id, str(files))
    # The status READY means that the model is complete.
    store.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _logged(store: Store, experiment: str, run_id: str, digest: str) -> Any | None:
    """The oldest complete model of a run and digest, or None; all other models of the run are deleted."""
    query = f"source_run_id = '{run_id}'"
    found = pages(lambda token: store.client.search_logged_models([experiment], query, page_token=token))
    whole = [m for m in found if str(m.status) == "READY" and m.tags.get(POLICY_DIGEST_TAG) == digest]
    kept = min(whole, key=lambda model: (model.creation_timestamp, model.model_id), default=None)
    for model in found:
        pending = str(model.status) == "PENDING"
        if model is kept or (
            pending and store.shared and store.writing(model.tags.get(WRITER_TAG, ""), model.last_updated_timestamp)
        ):
            continue
        _delete(store, model)
    return kept


def _delete(store: Store, model: Any) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # MLflow keeps the files of a deleted model, so they are deleted here. A failure leaves files that are never seen.
    with suppress(Exception):
        get_artifact_repository(model.artifact_location, tracking_uri=store.uri).delete_artifacts()
    store.client.delete_logged_model(model.model_id)


def _update(store: Store, run: Any, model: Any, study: Study, dataset: dict[str, str]) -> None:
    """Bring a model's tags, source run and metrics up to date."""
    from mlflow.entities import LoggedModelOutput

    tags = with_study(model.tags.get(STUDY_TAG), study)
    if any(model.tags.get(name) != value for name, value in tags.items()):
        store.client.set_logged_model_tags(model.model_id, tags)
    outputs = store.client.get_run(run.info.run_id).outputs
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        store.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    there = {metric.key: metric.value for metric in sorted(model.metrics or [], key=lambda metric: metric.timestamp)}
    finals = {name: value for name, value in run.data.metrics.items() if name.startswith("final/")}
    stale = [(name, 0, value) for name, value in finals.items() if there.get(name) != value]
    store.log(run.info.run_id, stale, model_id=model.model_id, **dataset)


def _params(policies: Sequence[Path]) -> dict[str, str]:
    descriptions = [read_json(folder / POLICY) for folder in policies]
    return {
        "seeds": ", ".join(str(seed) for description in descriptions for seed in description["seeds"]),
        "observation_size": str(descriptions[0]["observation_size"]),
        "action_size": str(len(descriptions[0]["scaler"]["action_low"])),
    }


def write_model(folder: Path, policies: Sequence[Path], model_id: str | None = None, run_id: str | None = None) -> Path:
    """Write an MLflow model into a new folder below ``folder``, and return the new folder.

    Args:
        folder: an empty folder.
        policies: policy artifacts of one rule, one a seed group.
        model_id: of the logged model, if there is one.
        run_id: of the logged model's run.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    description = read_json(policies[0] / POLICY)
    mean = np.asarray(description["scaler"]["observation_mean"], np.float32)
    actions = len(description["scaler"]["action_low"])
    single = np.dtype(np.float32)
    # Without a schema of the input: MLflow would refuse observations of another type of numbers, such as Gymnasium's.
    signature = ModelSignature(
        outputs=Schema([TensorSpec(single, (-1, actions))]),
        # A negative seed is the committee of the first group.
        params=ParamSchema([ParamSpec("seed", DataType.long, -1)]),
    )
    target = folder / "model"
    # The keys are sorted when the model is loaded. MLflow takes a path for an address, so it is given copies of the
    # policies: the project's path may hold characters that have a meaning there, such as `?`.
    artifacts = {
        f"group_{number:03}": folder / "policies" / str(number) / one.name for number, one in enumerate(policies)
    }
    for policy, copy in zip(policies, artifacts.values(), strict=True):
        shutil.copytree(policy, copy)
    model = Model(model_uuid=model_id, model_id=model_id, run_id=run_id)
    with _quiet():
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(SCRIPT),
            artifacts={key: str(copy) for key, copy in artifacts.items()},
            code_paths=[str(_acting_code(folder / "code", policies))],
            signature=signature,
            input_example=mean[None],
            # Without a list, MLflow would load the model in another process to see what it imports.
            pip_requirements=requirements(policies),
            mlflow_model=model,
            metadata={"input": _input(description)},
        )
    # Remove the paths of this machine.
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = SCRIPT.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(target / "MLmodel"))
    for cache in target.rglob("__pycache__"):
        shutil.rmtree(cache)
    return target


def _input(description: dict[str, Any]) -> str:
    """What a model takes, in words."""
    size, told = description["observation_size"], description.get("interface")
    vectors = f"a batch of raw observations [B, {size}], of any type of numbers"
    if told is None:
        return vectors
    parts = ", ".join(f"'{path}' {list(shape)}" for path, shape in Interface.from_dict(told).parts().items())
    return f"{vectors}; or dictionaries or columns of the parts {parts}"


def _acting_code(folder: Path, policies: Sequence[Path]) -> Path:
    """Copy the modules of ``spar_core`` that these policies act with, and no others, into ``folder``."""
    parts = [part for policy in policies for part in read_json(policy / POLICY)["parts"].items()]
    members = [
        member_module(name, kind)
        for name, part in parts
        if name != "residual"
        for kind in variant_kinds(part["kind"], part["settings"])
    ]
    for module in closure(ROOT, ["spar_core.policy", *members]):
        for source in files_of(ROOT, module):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder / "spar_core"


def requirements(policies: Sequence[Path]) -> list[str]:
    """The packages that acting needs, with the versions that requirements.txt pins; else the installed ones.

    Raises:
        SparError: requirements.txt does not pin one of the packages.
    """
    anchors = [read_json(policy / POLICY)["parts"]["anchor"]["settings"] for policy in policies]
    names = [*REQUIREMENTS, *(["onnxruntime"] if any(anchor.get("onnx") for anchor in anchors) else [])]
    if not (ROOT / "requirements.txt").is_file():  # an installed package
        return [f"{name}=={metadata.version(name)}" for name in names]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.split("==")[0].strip(): line.strip() for line in lines if "==" in line}
    missing = [name for name in names if name not in pins]
    if missing:
        raise SparError(
            f"requirements.txt does not pin {missing[0]}", "a logged model is served with the pinned versions"
        )
    return [pins[name] for name in names]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide MLflow's remarks on the model, which the user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("mlflow.models", "mlflow.pyfunc", "mlflow.types", "mlflow.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
