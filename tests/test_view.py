"""The page of a study: what it adds to the report, what it says is missing, and that it is written whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml

from spar_core.artifacts import read_json
from spar_core.effective import SECTIONS
from spar_core.errors import SparError
from stages import view
from stages.cells import Cell, study_cells
from stages.cost import Spent
from stages.layout import Layout
from stages.tracking.publish import publish
from stages.tracking.run_index import Run, find_runs
from stages.tracking.store import Store
from tests.mlflow_project import STUDY, make_project
from tests.test_page import MARKDOWN, Reader, check_closed

pytest_plugins = ["tests.mlflow_fixtures"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def layout(tmp_path, environment) -> Layout:
    """A project with the artifacts and the report of the study, and no store."""
    layout = make_project(tmp_path)
    params = {section: {"x": {}} for section in SECTIONS} | {"study": STUDY.model_dump(mode="json")}
    layout.params.write_text(yaml.safe_dump(params))
    (layout.report(STUDY.name) / "report.md").write_text(MARKDOWN)
    return layout


def page_of(layout: Layout) -> Reader:
    return check_closed(view.write_page(layout, film=False).read_text())


def test_without_a_store_the_page_says_so_and_makes_none(layout):
    assert "it has no MLflow database" in page_of(layout).words
    assert not (layout.root / "mlflow.db").exists()
    assert not list(layout.report("small").glob(".*")), "a draft is left"


def test_a_store_that_does_not_work_is_said_without_its_place(layout):
    (layout.root / "mlflow.db").write_text("this is no database")
    words = page_of(layout).words
    assert "the MLflow store does not answer" in words and str(layout.root) not in words


def test_the_runs_of_these_very_artifacts_are_found(layout, fresh_store):
    shutil.copy(fresh_store, layout.root / "mlflow.db")
    assert "holds no run of these artifacts" in page_of(layout).words
    assert Store(layout.root).client.get_experiment_by_name(STUDY.datasets[0]) is None, "looking made an experiment"

    publish(STUDY, layout)
    store = Store(layout.root)
    runs = {run.info.run_name: run.info.run_id for run in store.runs(store.experiment(STUDY.datasets[0]))}
    index = find_runs(STUDY, layout)
    assert {key: run.run_id for key, run in index.results.items()} == {
        (STUDY.datasets[0], "mlp", "iql", rule): runs[f"result {rule} mlp iql"] for rule in STUDY.improvements
    }
    assert {cell: run.run_id for cell, run in index.cells.items()} == {
        cell: runs[cell.name] for cell in study_cells(STUDY)
    }
    words = page_of(layout).words
    assert all(run_id in words for run_id in runs.values()) and str(layout.root) not in words

    # Another evaluation: its cell and its result are not those of the store.
    cell = next(cell for cell in study_cells(STUDY) if cell.name == "evaluate mlp iql spar_mlp 0-1")
    meta = cell.folder(layout) / "meta.json"
    meta.write_text(json.dumps({**read_json(meta), "inputs": {"data": "another"}}))
    index = find_runs(STUDY, layout)
    assert index.cells[cell] is None and index.results[STUDY.datasets[0], "mlp", "iql", "spar_mlp"] is None
    assert index.results[STUDY.datasets[0], "mlp", "iql", "anchor"] is not None
    assert "not published" in page_of(layout).words


def test_runs_on_a_server_are_links_without_a_password():
    from types import SimpleNamespace

    from stages.tracking.run_index import _run

    info = SimpleNamespace(experiment_id="7", run_id="abc", run_name="result awr")
    found = _run(SimpleNamespace(info=info), "https://me:secret@example.org/mlflow/")
    assert found == Run("result awr", "abc", "https://example.org/mlflow/#/experiments/7/runs/abc")
    assert view._link(found) == f'<a href="{found.address}"><code>abc</code></a>'
    assert view._link(Run("x", "<b>")) == "<code>&lt;b&gt;</code>" and view._link(None) == "not published"


def test_the_page_is_the_same_when_nothing_has_changed(layout):
    first = view.write_page(layout, film=False).read_bytes()
    assert view.write_page(layout, film=False).read_bytes() == first


def test_the_page_is_written_whole_or_not_at_all(layout, monkeypatch):
    path = view.write_page(layout, film=False)
    before = path.read_bytes()
    monkeypatch.setattr(view, "build_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        view.write_page(layout, film=False)
    monkeypatch.setattr(view, "build_page", lambda *_: "\ud800")  # fails while it is written
    with pytest.raises(UnicodeEncodeError):
        view.write_page(layout, film=False)
    assert path.read_bytes() == before and not list(path.parent.glob(".*"))


def test_a_study_without_a_report_is_one_clear_line(layout):
    (layout.report("small") / "report.md").unlink()
    with pytest.raises(SparError, match=r"report\.md does not exist; run `dvc repro`") as caught:
        view.write_page(layout)
    assert "\n" not in str(caught.value)


def test_commit_and_what_has_changed_since(tmp_path):
    assert view.versions_of_project(tmp_path) == {"Commit": "none: not a git repository", "dvc.lock": "none"}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    facts = view.versions_of_project(tmp_path)
    assert re.match(r"[0-9a-f]{40}, of \d{4}-\d\d-\d\d$", facts["Commit"]) and facts["Changed since"] == "nothing"
    assert re.fullmatch(r"[0-9a-f]{32}", facts["dvc.lock"])
    (tmp_path / "dvc.lock").write_text("")
    assert view.versions_of_project(tmp_path)["Changed since"] == "dvc.lock"


def test_time_and_memory_by_stage_and_cell(layout):
    assert "No times are recorded in this copy" in page_of(layout).words
    cells = [Cell("fit_bc", "a", anchor="mlp", seeds=str(i)) for i in range(3)]
    known = [Spent(cells[0], 10.0, 2, 300.0, 250.0), Spent(cells[1], 20.0, 2, 350.0), Spent(cells[2], 600.0)]
    table = view.stage_table(known)
    assert list(table.rows[0]) == ["fit_bc", 3, "20.0 s", "10.0 min", "10.5 min", "350 MiB", "250 MiB"]
    assert table.rows[-1][0] == "all" and len(table.rows) == 2
    assert [row[1:-1] for row in view.cell_table(known).rows] == [
        ["10.0 s", 2, "300 MiB", "250 MiB"],
        ["20.0 s", 2, "350 MiB", "-"],
        ["10.0 min", "-", "-", "-"],
    ]
    path = layout.seconds(layout.data(STUDY.datasets[0]), "download")
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": 3.0, "seeds": 0, "workers": 1}')
    words = page_of(layout).words
    assert "Memory was not measured" in words and "7 of the study's 8 cells have no time here" in words


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to measure the page with")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_phone_and_a_desktop(layout, width):
    head = "| part | health | what was found | what to do |\n|---|---|---|---|\n"
    health = f"{head}| critic | red |{' found' * 60} |{' do' * 60} |\n\n"
    broad = "## `" + "y" * 200 + "`\n\n|" + " wide |" * 40 + "\n|" + "---|" * 40
    text = f"{health}{MARKDOWN}\n{'x' * 300}\n\n{broad}\n"
    (layout.report("small") / "report.md").write_text(text)
    page = view.write_page(layout, film=False)
    advice = "[...document.querySelectorAll('main > .wide')].filter(box => box.scrollWidth <= box.clientWidth).length"
    script = f"parent.postMessage(`${{innerWidth}} ${{document.scrollingElement.scrollWidth}} ${{{advice}}}`, '*')"
    measured = re.sub(r"<meta http-equiv.*?>", "", page.read_text()).replace(
        "</body>", f"<script>{script}</script></body>"
    )
    page.with_name("measured.html").write_text(measured)
    # In a frame, since no window of Chromium is narrower than 500 pixels.
    frame = page.with_name("frame.html")
    frame.write_text(
        "<script>onmessage = message => document.title = message.data</script>"
        f'<iframe src="measured.html" style="width: {width}px; border: 0"></iframe>'
    )
    profile = f"--user-data-dir={layout.root / 'profile'}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", profile]
    command += ["--window-size=1400,800", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stderr[-500:]
    assert int(found[1]) == width and int(found[2]) <= width
    assert int(found[3]) == 1, "what to do about a part's health can be read without scrolling sideways"
