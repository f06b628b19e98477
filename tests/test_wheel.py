"""The wheel: installed elsewhere, it imports, finds its data files, acts, and runs the README's lines and `spar`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from spar_core import load_policy
from tests.fakes import OBSERVATION_SIZE, ROOT, save_rule, toy_dataset
from tests.pipeline import shrunk

pytestmark = pytest.mark.slow


def command(*words, **options) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what the package is made of, so that no build folder is left in the repository."""
    import shutil

    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "spar_core", source / "spar_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", source / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    words = ["wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out]
    command(sys.executable, "-m", "pip", *words, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A fresh environment that has the wheel, and sees this environment's Torch and NumPy through a .pth file."""
    folder = tmp_path_factory.mktemp("venv")
    command(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(command(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    command(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def test_the_wheel_holds_the_two_packages_their_data_files_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"spar_core", "stages"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("spar_core", "stages")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(names), sorted(wanted - set(names))
    # What a project begins with are links here, and files there.
    held = zipfile.ZipFile(wheel).read("stages/command/project/params.yaml")
    assert held == (ROOT / "params.yaml").read_bytes()


def test_the_light_dependencies_are_light(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    names = {line.split(":")[1].strip().split(">")[0].split("=")[0].split("<")[0] for line in required}
    assert names == {"numpy", "torch", "safetensors", "pydantic", "pyyaml"}


SCRIPT = """
    import sys
    from pathlib import Path

    import numpy as np
    import spar_core
    from spar_core.data.reference import reference_table

    assert Path(spar_core.__file__).is_relative_to(sys.prefix), spar_core.__file__
    assert "halfcheetah" in reference_table()
    templates = Path(spar_core.__file__).parent / "reporting" / "page" / "templates"
    assert (templates / "report.md.j2").read_text()
    policy = spar_core.load_policy(sys.argv[1], seed=3)
    np.save(sys.argv[3], policy.act(np.load(sys.argv[2])))
"""


def test_an_installed_wheel_finds_its_data_and_acts_outside_the_repository(python, parts, tmp_path):
    data = toy_dataset()
    save_rule(tmp_path / "policy", "spar_proj", parts, data, data.scaler)
    observations = np.random.default_rng(0).normal(size=(4, OBSERVATION_SIZE))
    np.save(tmp_path / "in.npy", observations)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    arguments = [tmp_path / "policy", tmp_path / "in.npy", tmp_path / "out.npy"]
    command(python, "-c", textwrap.dedent(SCRIPT), *arguments, cwd=tmp_path, env=environment)
    here = load_policy(tmp_path / "policy", seed=3).act(observations)
    assert np.array_equal(np.load(tmp_path / "out.npy"), here)


def outside(folder: Path, python: Path) -> dict[str, str]:
    """Variables of a shell with that Python, in which nothing leads to the repository."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SPAR_LOG")}
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "SPAR_TRACKING": "off", "HOME": str(folder)}


def write_flat_logs(path: Path) -> None:
    """Thirty episodes of a process with a leak, as arrays over all steps."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for _ in range(30):
        state = rng.normal(size=3)
        for step in range(20):
            action = rng.uniform(-1, 1, 2)
            values = (state, action, state[0] + 2, False, step == 19)
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            state = 0.9 * state + 0.3 * np.append(action, 0.0) + 0.05 * rng.normal(size=3)
    np.savez(path, **{name: np.array(values) for name, values in rows.items()})


def test_the_ten_lines_of_the_readme_run_in_an_empty_folder(python, tmp_path):
    write_flat_logs(tmp_path / "my-logs.npz")
    page = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page.split("## In one call")[1].split("\n## ")[0], re.DOTALL)
    assert len(lines.splitlines()) <= 10
    told = command(python, "-c", lines, cwd=tmp_path, env=outside(tmp_path, python))
    assert "Nothing was rolled out" in told.replace("\n", " ")
    assert (tmp_path / "report.html").is_file() and (tmp_path / "policy.onnx").is_file()


def test_a_project_of_the_installed_command_reproduces(python, tmp_path):
    write_flat_logs(tmp_path / "my-logs.npz")
    environment = outside(tmp_path, python)
    spar = [python, "-m", "stages.command.main"]
    assert command(*spar, "--version", cwd=tmp_path, env=environment).startswith("spar ")
    command(*spar, "init", "arm", "my-logs.npz", "--budget", "quick", "--seeds", "0-1", cwd=tmp_path, env=environment)
    arm = tmp_path / "arm"
    params = yaml.safe_load((arm / "params.yaml").read_text())
    params["study"]["improvements"] = ["anchor", "spar_mlp"]
    params["study"]["params"] = shrunk(params["study"]["params"])
    (arm / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command(python, "-m", "dvc", "repro", cwd=arm, env=environment)
    assert "Verdict" in (arm / "reports/mine/report.md").read_text()
    told = command(*spar, "report", cwd=arm, env=environment)
    assert "Nothing was rolled out" in told.replace("\n", " ") and (arm / "reports/mine/report.html").is_file()
