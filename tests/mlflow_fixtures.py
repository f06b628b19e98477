"""Fixtures of the tests of MLflow; a test module asks for them by ``pytest_plugins``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.layout import Layout
from stages.tracking.store import Store
from tests.mlflow_project import Server, make_project, serving


@pytest.fixture
def environment(monkeypatch):
    """No tracking settings of the person who runs the tests."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SPAR_TRACKING", raising=False)


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory) -> Path:
    """A database with its tables and nothing else: its creation takes seconds, so tests copy one."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Store(root)
    return root / "mlflow.db"


@pytest.fixture
def layout(tmp_path, fresh_store, environment) -> Layout:
    """A project with every artifact of the study and an empty store."""
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory, fresh_store) -> Iterator[Server]:
    """One `mlflow server` for all tests, each with a dataset of its own."""
    with serving(tmp_path_factory.mktemp("server"), fresh_store) as found:
        yield found
