"""The C program of docs/deploying.md, compiled and run on an exported policy.

The wheel of onnxruntime brings the library, which the program is linked with, and no headers. The program is compiled
against ONNX Runtime's own header where the compiler finds one (``CPATH`` may name its folder), and else against
``tests/onnxruntime_header``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from spar_core import export_policy as exporting
from spar_core import load_policy
from spar_core.export_policy import export_policy
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, ROOT, save_rule, toy_dataset
from tests.test_policy import SCALER

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
    pytest.mark.skipif(LIBRARY is None, reason="this wheel of onnxruntime holds no shared library to link with"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The program of the page, for the sizes of the toy dataset."""
    folder = tmp_path_factory.mktemp("c")
    page = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    for name, value in (("D", OBSERVATION_SIZE), ("A", ACTION_SIZE)):
        text, found = re.subn(rf"#define {name} \d+", f"#define {name} {value}", text)
        assert found == 1
    (folder / "robot.c").write_text(text)
    # A program looks for the library by its major version.
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(LIBRARY)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    words = [COMPILER, *strict, "robot.c", "-L.", "-lonnxruntime", "-o", "robot"]
    own = [COMPILER, "-fsyntax-only", "-include", "onnxruntime_c_api.h", "-x", "c", os.devnull]
    if subprocess.run(own, cwd=folder, capture_output=True).returncode:
        words += ["-I", str(ROOT / "tests/onnxruntime_header")]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "robot"


def run(program: Path, model: Path, text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    return subprocess.run([program, model], input=text, capture_output=True, text=True, env=environment)


def test_the_c_program_gives_the_policys_actions(program, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "CALLS", 1)
    monkeypatch.setattr(exporting, "WARM_UP", 0)
    save_rule(tmp_path / "policy", "spar_mlp", parts, toy_dataset(), SCALER)
    export_policy(tmp_path / "policy", tmp_path / "p.onnx")
    observations = np.random.default_rng(0).normal(0, 2, (20, OBSERVATION_SIZE)).astype(np.float32)
    done = run(program, tmp_path / "p.onnx", "\n".join(" ".join(map(repr, row)) for row in observations.tolist()))
    assert (done.returncode, done.stderr) == (0, "")
    actions = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_allclose(actions, load_policy(tmp_path / "policy").act(observations), atol=1e-4)


def test_the_c_program_says_what_is_wrong(program, tmp_path):
    done = run(program, tmp_path / "missing.onnx", "")
    assert done.returncode == 1 and "missing.onnx" in done.stderr
