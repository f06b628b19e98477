"""Find out how MuJoCo can draw without a screen on this machine: by EGL or by OSMesa.

MuJoCo selects its backend at import, and a backend may crash, so each one is tried in a process of its own.
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
    """The value of ``MUJOCO_GL`` to draw with, or None and the reason."""

    backend: str | None
    reason: str = ""

    def environment(self) -> dict[str, str]:
        """The environment variables of a process that draws."""
        return _environment(self.backend or "")


def find_offscreen() -> Offscreen:
    """Try the user's value of ``MUJOCO_GL`` if there is one, else EGL and then OSMesa."""
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
    """Why a backend does not work, in one line; None if it works."""
    command, environment = [sys.executable, "-c", _PROBE], _environment(backend)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    return None if done.returncode == 0 else last_line(done.stderr, done.returncode)


def _environment(backend: str) -> dict[str, str]:
    environment = {**os.environ, VARIABLE: backend}
    # MuJoCo sets this variable for PyOpenGL; a value left from another backend would contradict this one.
    environment.pop("PYOPENGL_PLATFORM", None)
    return environment


def last_line(stderr: str, status: int) -> str:
    """The last line of a failed process: the error at the end of its traceback, else its exit status."""
    lines = stderr.splitlines()
    # The first traceback holds the cause; later ones are of objects that could not be destroyed.
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    if len(starts) > 0:
        lines = [line for line in lines[starts[0] + 1 :] if line and not line.startswith(" ")][:1]
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1][:300] if lines else f"exit status {status}"
