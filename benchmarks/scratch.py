"""A clone of the committed project to run the pipeline in, with budgets of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import ROOT
from stages.parallel.child import dvc_environment

TRAINED = ("anchors", "residual", "critics", "improvements")


def clone(folder: Path) -> dict[str, str]:
    """The committed project, with a cache of its own; returns the environment of its commands."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return dvc_environment(OMP_NUM_THREADS="1", SPAR_TRACKING="off", SPAR_WORKERS="1")


def set_params(folder: Path, share: float = 1.0, **study: Any) -> None:
    """The committed params with this study, nothing estimated or diagnosed, at this share of the optimiser steps."""
    path = folder / "params.yaml"
    params = yaml.safe_load(subprocess.check_output(["git", "show", "HEAD:params.yaml"], cwd=folder))
    params["study"] = {**params["study"], "estimated": [], "diagnosed": [], **study}
    for section in TRAINED:
        _scale(params[section], share)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _scale(values: dict[str, Any], share: float) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _scale(value, share)
        elif name in ("steps", "warm_start_steps"):
            values[name] = max(1, round(value * share)) if value else 0
