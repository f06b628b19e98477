"""The built-in data are the same on every machine: the kernels that libraries choose by processor change no byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spar_core.data.entry_files import dataset_ids, load_entry
from spar_core.data.generators.behaviour import linear, load_actor
from spar_core.data.generators.rollouts import GRID, on_grid
from stages import machine
from stages.download import GENERATING, other_digest
from stages.layout import Layout

ROOT = Path(__file__).parents[1]


def path_of(name: str) -> Path:
    """The entry of a dataset."""
    return ROOT / "datasets" / f"{name}.yaml"


BUILTIN = [name for name in dataset_ids(ROOT / "datasets") if name.startswith("builtin/")]
# NumPy's name for AVX2 and FMA together.
PLAIN_NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}
KERNELS = {
    "this processor": {},
    "another BLAS kernel": {"OPENBLAS_CORETYPE": "Nehalem"},
    "NumPy without AVX2": PLAIN_NUMPY,
    "all of them": {**PLAIN_NUMPY, "OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default"},
}
SCRIPT = """
import json, sys
from pathlib import Path
from spar_core.data.entry_files import load_entry
from spar_core.data.episodes import episode_digest, episodes_digest
from spar_core.data.sources import collect

if __name__ == "__main__":
    root, workers, steps, found = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), {}
    for name in sys.argv[4:]:
        entry = load_entry(root / "datasets" / f"{name}.yaml")
        entry = entry.model_copy(update={"steps": steps or entry.steps})
        episodes = collect(entry, root, workers=workers).episodes
        found[name] = episodes_digest([episode_digest(episode) for episode in episodes])
    print(json.dumps(found))
"""


def digests(folder: Path, names: list[str], steps: int, kernels: dict[str, str], workers: int = 1) -> dict[str, str]:
    """Digests of datasets as a process of its own generates them."""
    script = folder / "digests.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(ROOT), str(workers), str(steps), *names],
        env={**os.environ, "PYTHONPATH": str(ROOT), **kernels},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_other_kernels_give_the_same_data(tmp_path):
    names = ["builtin/hopper-replay-v0", "builtin/pointmaze-umaze-v0"]
    found = [digests(tmp_path, names, 1500, kernels) for kernels in KERNELS.values()]
    assert len(set(found[0].values())) == len(names)
    assert all(other == found[0] for other in found[1:])


def test_every_built_in_entry_holds_a_digest():
    assert all(re.fullmatch(r"[0-9a-f]{32}", str(load_entry(path_of(name)).digest)) for name in BUILTIN)


@pytest.mark.slow
def test_whole_datasets_have_the_digests_of_their_entries_with_other_kernels(tmp_path):
    names = ["builtin/hopper-replay-v0", "builtin/pointmaze-umaze-v0"]
    expected = {name: load_entry(path_of(name)).digest for name in names}
    assert digests(tmp_path, names, 0, KERNELS["all of them"], workers=2) == expected


def test_a_layer_is_a_matrix_product_in_double_precision():
    actor = load_actor(ROOT / "datasets/behaviour/hopper/0095000.safetensors")
    weight, bias = actor.hidden[0]
    inputs = np.random.default_rng(0).standard_normal(len(weight))
    assert weight.dtype == np.float64
    np.testing.assert_allclose(linear(actor.hidden[0], inputs), inputs @ weight + bias, rtol=1e-12)


def test_actions_lie_on_a_grid_and_last_bits_do_not_matter():
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    rounded = on_grid(values)
    assert np.abs(rounded - values).max() <= GRID / 2
    np.testing.assert_array_equal(rounded / GRID, np.rint(rounded / GRID))
    np.testing.assert_array_equal(on_grid(np.nextafter(values, 2.0)), rounded)


def test_download_says_with_what_other_data_differ(tmp_path, monkeypatch):
    layout, name = Layout(tmp_path), "builtin/tiny-v0"
    path = layout.dataset_entry(name)
    path.parent.mkdir(parents=True)
    entry = "title: t\nsource: waypoints\nenv_id: PointMaze_UMaze-v3\nsteps: 10\n"
    path.write_text(entry)
    assert other_digest(layout, name, "a" * 32) is None
    path.write_text(f"{entry}digest: {'a' * 32}\n")
    assert other_digest(layout, name, "a" * 32) is None
    (tmp_path / "requirements.txt").write_text("mujoco==3.0.0\ngymnasium[mujoco]==0.1\nnumpy==" + np.__version__)
    monkeypatch.setattr(machine, "processor", lambda: "Some CPU")
    line = other_digest(layout, name, "b" * 32)
    assert "\n" not in line and f"digest {'b' * 32}" in line and f"expects {'a' * 32}" in line
    assert "Some CPU" in line and "where requirements.txt pins 3.0.0; gymnasium" in line and "numpy" not in line
    (tmp_path / "requirements.txt").unlink()
    assert "packages as pinned" in other_digest(layout, name, "b" * 32)


def test_the_packages_that_data_depend_on_are_pinned():
    pinned = machine.pins(ROOT / "requirements.txt")
    assert set(GENERATING) <= set(pinned)
