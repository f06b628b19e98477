"""Which way of drawing without a screen works here: MuJoCo takes one of EGL and OSMesa, and takes it at its import.

So each way is tried in a process of its own, which may fail or crash as it likes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

VARIABLE = "MUJOCO_GL"
BACKENDS = ("egl", "osmesa")
_PROBE = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
"""
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class Offscreen:
    """The value of ``MUJOCO_GL`` to draw with, or why there is none."""

    backend: str | None
    reason: str = ""

    def environment(self) -> dict[str, str]:
        """The environment variables of a process that is to draw."""
        return _environment(self.backend or "")


def find_offscreen() -> Offscreen:
    """Try what the user has set ``MUJOCO_GL`` to and nothing else, or EGL and then OSMesa."""
    chosen = os.environ.get(VARIABLE, "").strip()
    failures = []
    for backend in (chosen,) if chosen else BACKENDS:
        failure = _failure(backend)
        if failure is None:
            return Offscreen(backend)
        failures.append(f"{VARIABLE}={backend}: {failure}")
    hint = "correct or unset it" if chosen else "install libegl1 or libosmesa6"
    return Offscreen(None, f"MuJoCo draws nothing without a screen here ({'; '.join(failures)}): {hint}")


def _failure(backend: str) -> str | None:
    """Why a backend does not work, in a line; None if it does."""
    command, environment = [sys.executable, "-c", _PROBE], _environment(backend)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    return None if done.returncode == 0 else last_line(done.stderr, done.returncode)


def _environment(backend: str) -> dict[str, str]:
    environment = {**os.environ, VARIABLE: backend}
    # MuJoCo sets it for PyOpenGL. Left over from another backend, it would contradict this one.
    environment.pop("PYOPENGL_PLATFORM", None)
    return environment


def last_line(stderr: str, status: int) -> str:
    """What a failed process said of itself: the error that a traceback ends in, else its exit status."""
    lines = stderr.splitlines()
    # After the first traceback come those of objects that could not be cleared away.
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    if len(starts) > 0:
        lines = [line for line in lines[starts[0] + 1 :] if line and not line.startswith(" ")][:1]
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1][:300] if lines else f"exit status {status}"
