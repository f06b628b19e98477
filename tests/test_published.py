"""Published scores: the tables, the reader, and what the report says beside them."""

from __future__ import annotations

import json

import pytest

from spar_core.data.ogbench import task_of
from spar_core.errors import SparError
from spar_core.reporting.numbers import published
from spar_core.reporting.numbers.published import COLUMNS, all_published
from stages.layout import Layout
from tests.test_report import report_of, study_of, write_cells


def test_rows_of_ogbench_are_single_tasks_on_released_data_with_their_own_reward():
    rows = [row for row in all_published() if row.suite == "ogbench-singletask"]
    assert len(rows) == 1031 and all(0 <= row.score <= 100 and row.method and row.source for row in rows)
    assert not [row for row in rows if "sparse" in row.protocol or "100M" in row.protocol]
    for name in {row.task for row in rows}:
        task_of(name)
    found = published.published("ogbench-singletask", "cube-single-play-singletask-task2-v0")
    fql = [row for row in found if row.method == "FQL" and row.protocol == "fql: last3@1M"]
    assert [(row.score, row.std, row.seeds) for row in fql] == [(97.0, 2.0, 8)]
    assert not [row for row in found if "[ix" in row.source]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite,task\n", r"published_x.csv has the columns .*; write suite,task,method"),
        (",".join(COLUMNS) + "\ns,t,m,high,,,p,q\n", "published_x.csv, line 2, is not valid"),
        (",".join(COLUMNS) + "\ns,t,m,1,1,2.5,p,q\n", "published_x.csv, line 2, is not valid"),
    ],
)
def test_a_table_that_is_not_valid_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "published_x.csv").write_text(text)
    monkeypatch.setattr(published, "TABLES", tmp_path)
    all_published.cache_clear()
    with pytest.raises(SparError, match=message):
        all_published()
    all_published.cache_clear()


@pytest.mark.parametrize(
    ("differs", "said"),
    [("they are of all 1000 published episodes", "They do not compare with the scores above"), ("", "ours is 'pre'.")],
)
def test_the_report_shows_them_apart_and_says_whether_they_compare(tmp_path, differs, said):
    layout = Layout(tmp_path)
    write_cells(layout, study_of())
    assert "Published scores" not in report_of(layout, study_of()).files["report.md"].decode()
    named = {
        "suite": "ogbench-singletask",
        "task": "cube-single-play-singletask-task2-v0",
        "differs": differs,
        "note": "Rows `fql:` are 'post'; ours is 'pre'.",
    }
    for path in layout.root.rglob("context.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "published": named}))
    text = report_of(layout, study_of()).files["report.md"].decode()
    assert "Published scores of cube-single-play-singletask-task2-v0" in text and said in text
    assert "| FQL | 97.0 | 2.0 | 8 | fql: last3@1M | arXiv:2502.02538 Table 3 |" in text
