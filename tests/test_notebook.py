"""The notebook: it is stored without outputs, and runs in a fresh kernel."""

from __future__ import annotations

import json
import os

import pytest

from tests.fakes import ROOT

NOTEBOOK = ROOT / "docs/first_policy.ipynb"


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "\n".join(out["text"] for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out)
    assert "Nothing was rolled out" in said.replace("\n", " ") and "Health: " in said
    assert (tmp_path / "report.html").is_file() and (tmp_path / "policy.onnx").is_file()
