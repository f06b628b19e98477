"""The library stays light: importing it, and loading and asking a policy, needs its five dependencies and no extra."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.fakes import OBSERVATION_SIZE, ROOT, save_rule, toy_dataset

# Pydantic imports its own parts on first use.
DEPENDENCIES = "import numpy, safetensors.torch, torch, yaml; from pydantic import BaseModel, Field"
POLICY = """
    import sys
    import numpy as np
    from spar_core import load_policy

    policy = load_policy(sys.argv[1], seed=3)
    policy.act(np.zeros({size}))
"""


def imported(code: str, *arguments) -> set[str]:
    """The modules outside of Python's own that a fresh interpreter has imported after running some code."""
    told = f"{textwrap.dedent(code)}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    words = [sys.executable, "-c", told, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.split() if name not in sys.stdlib_module_names and name[0] != "_"}


def test_importing_the_library_imports_its_dependencies_alone():
    light = imported(DEPENDENCIES)
    assert {"numpy", "pydantic", "safetensors", "torch", "yaml"} <= light
    assert imported("import spar_core") - light == {"spar_core"}


def test_a_policy_is_loaded_and_asked_with_these_dependencies_alone(parts, tmp_path):
    data = toy_dataset()
    save_rule(tmp_path / "policy", "spar_proj", parts, data, data.scaler)
    found = imported(POLICY.format(size=OBSERVATION_SIZE), tmp_path / "policy")
    assert found - imported(DEPENDENCIES) == {"spar_core"}
