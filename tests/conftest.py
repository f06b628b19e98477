"""Fixtures that several test files share."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.fakes import Parts, fit_parts, toy_dataset


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _module_path():
    """MLflow puts a loaded model's copy of spar_core first on the path, where other tests' processes would find it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def toy():
    """A small dataset; never write to its arrays."""
    return toy_dataset()


@pytest.fixture(scope="session")
def parts(toy) -> Parts:
    """Frozen parts of the seeds 0, 3 and 5, fitted for a few steps."""
    return fit_parts(toy, (0, 3, 5))


@pytest.fixture(scope="session")
def data():
    """Another small dataset; never write to its arrays."""
    return toy_dataset(episodes=12)


@pytest.fixture(scope="session")
def pair(data) -> Parts:
    """Frozen parts of the seeds 0 and 2, fitted to ``data``."""
    return fit_parts(data, (0, 2))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]
