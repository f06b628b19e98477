"""A scratch clone of this project with tiny budgets, on which real `dvc repro` runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages import download, estimate, evaluate, fit_bc, fit_critic, fit_residual, self_imitation

REPOSITORY = Path(__file__).resolve().parent.parent
DATASET = "builtin/halfcheetah-replay-v0"

# Budgets that train nothing useful but pass through every line; set wherever params have such a key.
TINY = {
    "steps": 30,
    "warm_start_steps": 20,
    "hidden": [16, 16],
    "states": 200,
    "refreshes": 2,
    "memory": 500,
    "members": 2,
    "samples": 2,
}


def shrunk(values: Any) -> Any:
    """Params with tiny budgets, however deep they stand."""
    if not isinstance(values, dict):
        return values
    return {key: TINY[key] if key in TINY else shrunk(value) for key, value in values.items()}


class Clone:
    """A checkout in ``folder``: the tracked files of this project as they are now, under git and DVC."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "SPAR_TRACKING": "off",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.com",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.com",
        }
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")
        for name in filter(None, names):
            source = REPOSITORY / os.fsdecode(name)
            if source.is_file():
                target = folder / os.fsdecode(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        (folder / "dvc.lock").unlink(missing_ok=True)
        self.run("git", "init", "-q")
        self.tiny()
        if cache:
            self.run("dvc", "cache", "dir", "--local", str(cache))
        self.commit()

    def run(self, *command: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; ``dvc`` and ``python`` are this environment's."""
        program = {"dvc": [sys.executable, "-m", "dvc"], "python": [sys.executable]}.get(command[0], [command[0]])
        result = subprocess.run(
            [*program, *command[1:]],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        assert not ok or result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state", "--allow-empty")

    def tiny(self) -> None:
        """Shrink budgets and study."""
        entry = self.folder / f"datasets/{DATASET}.yaml"
        entry.write_text(entry.read_text().replace("steps: 200_000", "steps: 3_000"))
        # The default limit of 1000 steps would spend the test's time on rollouts; no reference scores hold for another.
        text = entry.read_text().replace("reference: halfcheetah\n", "")
        entry.write_text(text + "env_kwargs: {max_episode_steps: 100}\n")
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section in ("anchors", "residual", "critics", "improvements"):
            params[section] = shrunk(params[section])
        params["estimation"]["fqe"] = shrunk(params["estimation"]["fqe"])
        params["evaluation"]["episodes"] = 2
        # The synthetic claims have tests of their own; their committed results make the page.
        self.edit("theory.yaml", "claims: [drift, order, conflict, contraction, modes]", "claims: []")
        params["diagnosis"] |= {"states": 150, "neighbourhoods": 20, "neighbours": 40}
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        self.study(
            anchors=["mlp"], improvements=["anchor", "spar_mlp"], seeds=["0-1"], estimated=[], diagnosed=[], rounds=[]
        )

    def set(self, values: dict[str, object]) -> None:
        """Set params by dotted key."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for key, value in values.items():
            section = params
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def borrow(self, study: str, section: str, *names: str) -> None:
        """Put variants of a shipped study into params.yaml."""
        params = yaml.safe_load((REPOSITORY / f"studies/{study}.yaml").read_text())["params"]
        self.set({f"{section}.{name}": params[section][name] for name in names})

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def study(self, **lists: object) -> None:
        """Replace lists of the study; a study of other datasets asks for no estimates and no diagnoses but those it
        names."""
        if "datasets" in lists:
            lists = {"estimated": [], "diagnosed": []} | lists
        self.set({f"study.{name}": value for name, value in lists.items()})

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a piece of text that must be there."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1))

    def repro(self, *arguments: str, ok: bool = True, **environment: str) -> list[str]:
        """`dvc repro`; the stages that ran a command (not those restored or skipped)."""
        result = self.run("dvc", "repro", *arguments, ok=ok, **environment)
        self.output = result.stdout + result.stderr
        return [line.split("'")[1] for line in result.stdout.splitlines() if line.startswith("Running stage '")]

    def lock(self) -> dict[str, list[tuple[str, str]]]:
        """Digest of every output, by stage."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {name: [(o["path"], o["md5"]) for o in stage["outs"]] for name, stage in lock["stages"].items()}

    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "reports/default/metrics.json").read_text())


def cell_arguments(dataset: str, rule: str, seeds: str) -> list[str]:
    """Command line of one rule's cell, with the default anchor and critic."""
    return ["--dataset", dataset, "--anchor", "mlp", "--critic", "iql", "--improvement", rule, "--seeds", seeds]


def run_cells(dataset: str, rules: Sequence[str], seeds: str, *, estimated: bool = False) -> None:
    """Every stage of one dataset, up to the evaluation of its rules, in this process and the current folder."""
    download.run(["--dataset", dataset])
    for stage in (fit_bc, fit_residual):
        stage.run(["--dataset", dataset, "--anchor", "mlp", "--seeds", seeds])
    fit_critic.run(["--dataset", dataset, "--critic", "iql", "--seeds", seeds])
    for rule in rules:
        for stage in (self_imitation, evaluate, *([estimate] if estimated else [])):
            stage.run(cell_arguments(dataset, rule, seeds))
