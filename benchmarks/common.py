"""What benchmarks share: the machine's name, processes side by side, and where results go."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from stages.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """The machine and the libraries that set its speed."""
    import torch

    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def write(name: str, told: Mapping[str, Any]) -> None:
    """Write benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": None, **told} | {"machine": machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(name: str) -> Any:
    """What :func:`write` wrote, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def module(name: str, *arguments: object) -> list[str]:
    """The command of a module of this project, with this interpreter."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def side_by_side(commands: Sequence[Sequence[str]]) -> list[Any]:
    """Run all commands at once, one thread each; what the last line of each one's output says, as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) for command in commands
    ]
    outputs = [process.communicate()[0] for process in running]
    for process in running:
        if process.returncode != 0:
            sys.exit(f"error: `{' '.join(map(str, process.args))}` failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]
