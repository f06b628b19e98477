"""A project made up for the tests of MLflow: every artifact of a small study, real tiny policies, and real stores."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spar_core.artifacts import write_json, write_meta
from spar_core.data.scaler import Scaler
from spar_core.policy import KIND
from spar_core.study import Study
from stages.cells import Cell, cell_digest, study_cells
from stages.layout import Layout
from stages.tracking.store import Store
from tests.fakes import fit_parts, save_rule, toy_dataset

REPO = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DATASET = "builtin/toy-v0"
SEEDS = (0, 1)
STUDY = Study(
    name="small",
    datasets=(DATASET,),
    anchors=("mlp",),
    critics=("iql",),
    improvements=("anchor", "spar_mlp"),
    seeds=("0-1",),
)
N_CELLS = 8  # download, fit_bc, fit_residual, fit_critic, and two rules with a policy and an evaluation
N_RUNS = N_CELLS + 2
STAGES = ("download", "fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate", "estimate")
DIGESTS = {
    "code": {
        "stage": {stage: f"c{number}" for number, stage in enumerate(STAGES)},
        "anchor": {"mlp": "m1"},
        "critic": {"iql": "m2"},
        "improvement": {"anchor": "m3", "spar_mlp": "m4"},
    },
    "data": {DATASET: "d0"},
}
SCALER = Scaler(
    np.array([0.5, -1.0, 0.0, 2.0, 0.25], np.float32),
    np.array([1.0, 2.0, 0.5, 1.0, 3.0], np.float32),
    np.array([-2.0, 0.0, -1.0], np.float32),
    np.array([2.0, 5.0, -0.5], np.float32),
)
TABLE = "dataset,anchor,critic,improvement,return_mean,return_low,return_high,gain_over_anchor,gain_low,gain_high"


# --- processes ---


@dataclass(frozen=True)
class Server:
    """A tracking server that runs."""

    uri: str
    process: subprocess.Popen

    def stop(self) -> None:
        stop(self.process)


@contextmanager
def serving(folder: Path, fresh_store: Path) -> Iterator[Server]:
    """A real `mlflow server` for as long as the block runs."""
    shutil.copy(fresh_store, folder / "server.db")
    port, log = free_port(), folder / "log"
    command = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", (folder / "files").as_uri()]
    process = start(command, log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield Server(f"http://127.0.0.1:{port}", process)
    finally:
        stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list, log: Path, **options) -> subprocess.Popen:
    """A process group of its own, whose output goes to a file."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"} | options.pop("environment", {})
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    with log.open("w") as out:
        return subprocess.Popen(
            [*map(str, command)], stdout=out, stderr=out, env=environment, start_new_session=True, **options
        )


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer\n{log.read_text()}")


def python(code: str, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPO), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def publisher(root: Path, study: Study = STUDY, before: str = "", **environment: str) -> subprocess.Popen:
    """A process that publishes, as the command does; ``before`` is code to run first."""
    code = f"""
        import sys
        from pathlib import Path
        from stages.entry import stage_main
        from stages.layout import Layout
        from stages.tracking.publish import publish, summary
        from spar_core.study import Study
        root, study = Path({str(root)!r}), Study.model_validate_json({study.model_dump_json()!r})
        """
    code = textwrap.dedent(code) + textwrap.dedent(before)
    code += "\nsys.exit(stage_main(lambda _: print(summary(publish(study, Layout(root)), root))))"
    return python(code, **environment)


# --- the project ---


def make_project(root: Path, study: Study = STUDY) -> Layout:
    """Every artifact of a study, and a report of it."""
    layout = Layout(root)
    layout.plan.parent.mkdir(parents=True)
    write_json(layout.plan, DIGESTS)
    for cell in study_cells(study):
        write_cell(cell, layout)
    report = layout.report(study.name)
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("# Report\n")
    (report / "figures" / "returns.svg").write_text("<svg/>")
    dataset = study.datasets[0]
    write_table(layout, study, {"anchor": "1.5,0.5,2.5,,,", "spar_mlp": "11.5,9.5,13.5,10.0,8.0,12.0"}, dataset)
    return layout


def write_table(layout: Layout, study: Study, numbers: dict[str, str], dataset: str = DATASET) -> None:
    rows = [f"{dataset},mlp,iql,{rule},{row}" for rule, row in numbers.items()]
    (layout.report(study.name) / "table.csv").write_text("\n".join([TABLE, *rows]) + "\n")


def params_of(cell: Cell) -> dict:
    return {"lr": 0.001, "hidden": [8, 8], "optimiser": {"name": cell.stage, "decay": None}}


def inputs_of(cell: Cell) -> dict[str, str]:
    return {"data": "0123456789abcdef0123456789abcdef"} if cell.stage != "download" else {}


def digest_of(cell: Cell) -> str:
    return cell_digest(params_of(cell), inputs_of(cell), cell.code_digest(DIGESTS))


def write_cell(cell: Cell, layout: Layout) -> None:
    folder = cell.folder(layout)
    folder.mkdir(parents=True)
    kind = cell.stage
    if cell.stage == "download":
        manifest = {"source": {"kind": "builtin"}, "digest": "0123456789abcdef0123456789abcdef", "steps": 100}
        write_json(folder / "manifest.json", {**manifest, "env_id": "Toy-v0", "episodes": 2})
    elif cell.stage == "evaluate":
        bonus = 10.0 if cell.improvement == "spar_mlp" else 0.0
        rows = [
            f"{cell.dataset},{cell.anchor},{cell.critic},{cell.improvement},{s},{e},{e},{s + e + bonus},5,True,"
            for s in cell.seed_numbers
            for e in range(3)
        ]
        head = "dataset,anchor,critic,improvement,seed,episode,env_seed,return,length,terminated,success"
        (folder / "episodes.csv").write_text("\n".join([head, *rows]) + "\n")
        write_json(folder / "context.json", {"reference": {"min": 0.0, "max": 20.0}})
    elif cell.stage == "estimate":
        bonus = 10.0 if cell.improvement == "spar_mlp" else 0.0
        seeds = list(cell.seed_numbers)
        estimates = {"seeds": seeds, "fqe": [s + bonus for s in seeds], "critic_estimate": [s - 1.0 for s in seeds]}
        write_json(folder / "estimates.json", {**estimates, "discount": 0.99, "rewards": "logged", "diagnostics": {}})
    else:
        lines = ["step,seed,metric,value"]
        lines += [f"{t},{s},toy/loss,{s + 1 / t}" for t in range(1, 501) for s in cell.seed_numbers]
        (folder / "curves.csv").write_text("\n".join(lines) + "\n")
        write_json(folder / "metrics.json", {"loss": [1.0, 3.0], "n": 7})
        if cell.stage == "self_imitation":
            kind = KIND
            for name, content in tiny_policy(str(cell.improvement), cell.seed_numbers).items():
                (folder / name).write_bytes(content)
    write_meta(folder, kind, params=params_of(cell), inputs=inputs_of(cell))


@functools.cache
def _parts():
    return fit_parts(toy_dataset(), SEEDS)


@functools.cache
def tiny_policy(kind: str, names: tuple[int, ...] = SEEDS) -> dict[str, bytes]:
    """Weights and description of a policy that was trained for a few steps; its two seeds are called ``names``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "policy"
        save_rule(folder, kind, _parts(), toy_dataset(), SCALER, names)
        return {file: (folder / file).read_bytes() for file in ("policy.json", "weights.safetensors")}


# --- what is in a store ---


def aliases_of(study: Study = STUDY, **versions: str) -> list[dict[str, str]]:
    """The aliases of a registered model that one study alone has set, as :func:`snapshot` lists them."""
    return [{**versions, **{f"{alias}-{study.name}": version for alias, version in versions.items()}}]


def all_runs(layout: Layout, dataset: str = DATASET) -> list:
    store = Store(layout.root)
    return store.runs(store.experiment(dataset))


def by_name(layout: Layout, dataset: str = DATASET) -> dict:
    runs = all_runs(layout, dataset)
    names = {run.info.run_name: run for run in runs}
    assert len(names) == len(runs), "a run is there twice"
    return names


def snapshot(layout: Layout, dataset: str = DATASET) -> dict:
    """Runs, models, versions and aliases by identity, for comparing two moments."""
    store = Store(layout.root)
    experiment = store.experiment(dataset)
    name = dataset.replace("/", ".")
    models = store.client.search_logged_models([experiment])
    registered = [model for model in store.client.search_registered_models() if model.name == name]
    return {
        "runs": {run.info.run_id: (run.info.run_name, run.info.status) for run in store.runs(experiment)},
        "models": {model.model_id: (model.name, str(model.status), model.source_run_id) for model in models},
        "versions": {
            version.version: (version.source, dict(version.tags), version.description)
            for version in store.client.search_model_versions(f"name = '{name}'")
        },
        "aliases": [{k: str(v) for k, v in model.aliases.items()} for model in registered],
    }
