"""Wall times are kept beside the artifacts, never inside them, and come back as the cost of a rule."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from spar_core.artifacts import new_artifact
from spar_core.effective import SECTIONS
from spar_core.errors import SparError
from spar_core.study import Study
from stages.cells import Cell
from stages.cost import Spent, cost_table, spent, write_cost
from stages.layout import Layout
from stages.tracking.tracked import peak_memory, tracked
from tests.fakes import ROOT

STUDY = {
    "name": "tiny",
    "datasets": ["a/b-v0"],
    "anchors": ["mlp"],
    "critics": ["iql"],
    "improvements": ["anchor", "spar_mlp"],
    "seeds": ["0-1", "2"],
}


@pytest.fixture
def layout(tmp_path) -> Layout:
    params = {section: {"x": {}} for section in SECTIONS} | {"study": STUDY}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    table = pd.DataFrame(
        {
            "dataset": "a/b-v0",
            "anchor": "mlp",
            "critic": "iql",
            "improvement": ["anchor", "spar_mlp"],
            "seeds": 3,
            "return_mean": [1.0, 2.0],
            "parameters_rule": [0, 7],
        }
    )
    report = tmp_path / "reports/tiny"
    report.mkdir(parents=True)
    table.to_csv(report / "table.csv", index=False)
    return Layout(tmp_path)


def leave(layout: Layout, cell: Cell, seconds: float) -> None:
    path = layout.seconds(cell.folder(layout), cell.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds, "seeds": 1, "workers": 1}))


def test_a_stage_leaves_its_time_beside_its_artifact(layout):
    cell = Cell("fit_bc", "a/b-v0", anchor="mlp", seeds="0-1")
    with tracked(layout, cell, {}, {}):
        with new_artifact(cell.folder(layout)) as folder:
            (folder / "weights").write_text("w")
    path = layout.seconds(cell.folder(layout), cell.stage)
    assert not path.is_relative_to(cell.folder(layout)) and [p.name for p in cell.folder(layout).iterdir()] == [
        "weights"
    ]
    found = json.loads(path.read_text())
    assert 0 <= found["seconds"] < 60 and found["seeds"] == 2


def test_a_stage_leaves_the_memory_of_its_process_and_of_its_largest_child(layout):
    program = "x = b'1' * {}_000_000"
    for size in (150, 250):
        subprocess.run([sys.executable, "-c", program.format(size)], check=True)
    cell = Cell("fit_bc", "a/b-v0", anchor="mlp", seeds="0-1")
    with tracked(layout, cell, {}, {}):
        big = b"1" * 100_000_000
    del big
    found = json.loads(layout.seconds(cell.folder(layout), cell.stage).read_text())
    assert 100 < found["peak_mib"] < 10_000 and found["peak_mib_of_a_worker"] > 238
    assert peak_memory()["peak_mib"] > found["peak_mib"] - 1, "a peak, not what is held now"


def test_a_process_without_children_has_no_memory_of_a_worker():
    code = "from stages.tracking.tracked import peak_memory; print(peak_memory()['peak_mib_of_a_worker'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_files_from_before_memory_was_measured_still_tell_the_time(layout):
    cells = [Cell("fit_bc", "a/b-v0", anchor="mlp", seeds=seeds) for seeds in ("0-1", "2")]
    leave(layout, cells[0], 3.0)
    path = layout.seconds(cells[1].folder(layout), "fit_bc")
    path.write_text('{"seconds": 4.0, "seeds": 1, "workers": 2, "peak_mib": 300.5, "peak_mib_of_a_worker": null}')
    known, unknown = spent(layout, Study(**STUDY))
    assert known == [Spent(cells[0], 3.0, 1), Spent(cells[1], 4.0, 2, 300.5)]
    assert len(unknown) > 0 and not set(cells) & set(unknown)
    assert cost_table(layout, Study(**STUDY))["seconds_fit_bc"].tolist() == [7.0, 7.0]


def test_a_stage_that_fails_leaves_no_time(layout):
    cell = Cell("fit_bc", "a/b-v0", anchor="mlp", seeds="0-1")
    with pytest.raises(SparError), tracked(layout, cell, {}, {}):
        raise SparError("the critic diverged")
    assert not layout.seconds(cell.folder(layout), cell.stage).exists()


def test_every_kind_of_cell_has_a_time_of_its_own(layout):
    axes = ("a/b-v0", "mlp", "iql", "awr", "0")
    cells = [
        Cell(stage, *axes)
        for stage in ("download", "fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate")
    ]
    assert len({layout.seconds(cell.folder(layout), cell.stage) for cell in cells}) == len(cells)


def test_the_cost_of_a_rule_sums_its_seed_groups_and_shares_its_parts(layout):
    axes = ("a/b-v0", "mlp", "iql")
    for seeds, factor in (("0-1", 1), ("2", 10)):
        leave(layout, Cell("fit_bc", "a/b-v0", anchor="mlp", seeds=seeds), 1.0 * factor)
        leave(layout, Cell("fit_residual", "a/b-v0", anchor="mlp", seeds=seeds), 2.0 * factor)
        leave(layout, Cell("fit_critic", "a/b-v0", critic="iql", seeds=seeds), 3.0 * factor)
        leave(layout, Cell("self_imitation", *axes, "spar_mlp", seeds), 4.0 * factor)
        leave(layout, Cell("evaluate", *axes, "spar_mlp", seeds), 5.0 * factor)
    leave(layout, Cell("self_imitation", *axes, "anchor", "2"), 6.0)
    table = cost_table(layout, Study(**STUDY)).set_index("improvement")
    stages = ["fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate"]
    assert table.loc["spar_mlp", [f"seconds_{s}" for s in stages]].tolist() == [11.0, 22.0, 33.0, 44.0, 55.0]
    assert table.loc["spar_mlp", "parameters_rule"] == 7 and table.loc["spar_mlp", "return_mean"] == 2.0
    assert pd.isna(table.loc["anchor", "seconds_self_imitation"]), "one group's time is missing: no half sum"
    assert table.loc["anchor", "seconds_fit_critic"] == 33.0


def test_the_file_says_where_it_is_and_needs_a_report(layout, capsys):
    write_cost(layout)
    assert "cost.csv" in capsys.readouterr().out
    assert pd.read_csv(layout.report("tiny") / "cost.csv")["improvement"].tolist() == ["anchor", "spar_mlp"]
    (layout.report("tiny") / "table.csv").unlink()
    with pytest.raises(SparError, match="dvc repro"):
        write_cost(layout)
