"""What a study takes, before it starts: counted from its params, measured for some seconds, asked of the servers."""

from __future__ import annotations

import shutil

import pytest
import yaml

from spar_core.data.entry import D4rlEntry
from spar_core.effective import check
from spar_core.errors import SparError
from spar_core.settings import load_yaml
from stages import run as whole
from stages.forecast import WORTH_SAYING, Forecast, Load, Work, forecast, lines, load_of, say
from stages.layout import Layout
from stages.parallel.sweep import CellsFailed
from stages.probe import Rate, environment_rate, training_rate
from stages.remote_size import sizes_of
from stages.study import put_study
from tests.fakes import ROOT

MLP = {"kind": "mlp", "steps": 5, "batch_size": 32, "hidden": [16]}


def project(folder) -> Layout:
    """A project with the params, studies and datasets of this one, and nothing made."""
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    for name in ("studies", "datasets"):
        (folder / name).symlink_to(ROOT / name)
    return Layout(folder)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return project(tmp_path)


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Load:
    """What the paper's study has yet to do."""
    layout = project(tmp_path_factory.mktemp("paper"))
    put_study(layout, "paper")
    return load_of(layout)


def test_the_papers_study_has_the_budgets_of_published_tables(paper):
    groups = 30 * 2
    assert paper.cells == paper.left == 30 + 3 * groups + 2 * 8 * groups + 12 * 2 * 8
    # Anchor, residual model, critic with its warm start, five rules of ours and IQL's; two with half as many steps.
    assert paper.gradient_steps == 300 * (1_000_000 + 1_000_000 + 1_005_000 + 5 * 1_000_000 + 2 * 500_000)
    gym, adroit = 9 * 10 * 1000, 3 * 10 * 100 + 9 * 10 * 200
    mazes, kitchen = 6 * 100 * 1000, 3 * 10 * 280
    assert paper.environment_steps == 10 * 8 * (gym + adroit + mazes + kitchen)
    assert len(paper.entries) == 30


def test_the_short_study_is_the_same_with_a_tenth_of_the_steps():
    full, short = (load_yaml(ROOT / f"studies/{name}.yaml") for name in ("paper", "paper_short"))
    budgets, tenths = full.pop("params"), short.pop("params")
    assert full | {"question": ""} == short | {"question": ""}

    def steps(tree):
        own = [tree.pop("steps")] if "steps" in tree else []
        return own + [step for value in tree.values() if isinstance(value, dict) for step in steps(value)]

    assert steps(budgets) == [10 * step for step in steps(tenths)]
    assert budgets == tenths


def test_settings_of_one_price_are_one_kind_of_work(paper):
    names = [work.name for work in paper.work]
    assert sorted(names) == [
        "fit_bc mlp",
        "fit_critic iql",
        "fit_residual mlp",
        "self_imitation awr",
        "self_imitation awr_scratch",
        "self_imitation rebrac",
        "self_imitation rebrac",  # with minibatches of 1024 in locomotion and Kitchen, and of 256 elsewhere
        "self_imitation spar_mlp",
        "self_imitation spar_proj",
        "self_imitation td3_bc",
        "self_imitation uniform",
    ]


def test_what_is_made_is_not_counted(layout):
    put_study(layout, "builtin")
    before = load_of(layout)
    layout.artifact("critic", "builtin/hopper-replay-v0", "iql", "0-3").mkdir(parents=True)
    after = load_of(layout)
    assert after.left == before.left - 1 and after.cells == before.cells
    assert after.gradient_steps == before.gradient_steps - 4 * 15_000
    assert before.gradient_steps < WORTH_SAYING, "a study of minutes says nothing"


def test_hours_are_rates_times_work(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(4))
    work = [
        Work("anchor", MLP, 5, "fit_bc mlp", updates=7200),
        Work("improvement", MLP, 5, "self_imitation auto", updates=10),
        Work("improvement", MLP, 5, "self_imitation spar_mlp", updates=3600, states=3600),
    ]
    asked = []

    def training(family, settings, seeds, device):
        asked.append((family, seeds, device))
        return [Rate(2.0), None, Rate(1.0, 3.0)][len(asked) - 1]

    load = Load(9, 3, work, environment_steps=3600)
    found = forecast(load, "cpu", training, lambda: 8.0)
    assert found.hours == {"fit_bc mlp": 1.0, "self_imitation spar_mlp": 1.0, "evaluate": 2.0}
    assert asked[0] == ("anchor", 5, "cpu") and found.processors == 4
    asked.clear()
    # A GPU trains one group after the other; rollouts are shared out over the cores all the same.
    assert forecast(load, "cuda", training, lambda: 8.0).hours["fit_bc mlp"] == 4.0


def test_the_forecast_in_words():
    study = check(load_yaml(ROOT / "params.yaml"))
    found = Forecast(
        Load(1000, 900, [Work("anchor", MLP, 5, "fit_bc mlp", updates=1_000_000)]), {"fit_bc mlp": 12.4}, 2
    )
    said = lines(study, found, "cpu", (2_500_000_000, 3, 2))
    assert said[0].startswith("study default: 1,000 cells, 900 of them to be made, with 5,000,000 gradient steps")
    assert "about 12 hours on this machine (2 processors)" in said[1] and "fit_bc mlp" in said[2]
    assert said[3] == "to download: 2.5 GB in 3 datasets and 2 datasets of unknown size (their server does not say)"
    assert len(lines(study, found, "cuda", (0, 0, 0))) == 3


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("anchor", MLP),
        ("critic", {"kind": "iql", "steps": 5, "warm_start_steps": 5, "hidden": [16]}),
        ("improvement", {"kind": "spar_mlp", "steps": 5, "hidden": [16], "states": 300, "refreshes": 2}),
        ("improvement", {"kind": "td3_bc", "steps": 5, "hidden": [16]}),
    ],
)
def test_a_part_is_timed_for_some_time(family, settings):
    rate = training_rate(family, settings, 2, "cpu", seconds=0.05)
    assert 0 < rate.update < 1 and (rate.state > 0) == ("states" in settings)


def test_a_part_that_trains_nothing_has_no_rate_and_an_environment_has_one():
    assert training_rate("anchor", {"kind": "knn", "neighbours": 5}, 2, "cpu") is None
    assert 0 < environment_rate(0.05) < 0.1


def entry(url: str) -> D4rlEntry:
    return D4rlEntry(title="x", source="d4rl_hdf5", url=url)


def test_sizes_come_from_the_server_and_a_silent_one_is_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.hdf5").write_bytes(b"x" * 1234)
    here, gone = f"file://{tmp_path}/a.hdf5", "http://127.0.0.1:9"
    asked = []
    real = __import__("stages.remote_size", fromlist=["_of_url"])._of_url
    monkeypatch.setattr("stages.remote_size._of_url", lambda url: asked.append(url) or real(url))
    assert sizes_of([entry(here), entry(f"{gone}/b.hdf5"), entry(f"{gone}/c.hdf5")]) == (1234, 1, 2)
    assert asked == [here, f"{gone}/b.hdf5"]


def test_a_small_study_says_nothing_and_a_wrong_one_is_left_to_the_plan(layout, capsys):
    say(layout, WORTH_SAYING)
    assert capsys.readouterr().out == ""
    params = yaml.safe_load(layout.params.read_text())
    params["critics"]["iql"]["expectille"] = 0.7
    layout.params.write_text(yaml.safe_dump(params))
    with pytest.raises(SparError, match="expectile"):
        say(layout)


def test_after_a_failure_the_others_have_a_partial_report_and_the_error_stays(monkeypatch, tmp_path, capsys):
    def failed(argv):
        raise CellsFailed("1 of 9 cells failed", "mend the causes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(whole, "sweep", failed)
    monkeypatch.setattr(whole, "make_partial_report", lambda layout: (tmp_path / "reports/x/partial", 3))
    with pytest.raises(CellsFailed, match="1 of 9"):
        whole.run([])
    assert "partial report, 3 missing cells: " in capsys.readouterr().out

    def nothing(layout):
        raise SparError("no cell of the study has been evaluated yet")

    monkeypatch.setattr(whole, "make_partial_report", nothing)
    with pytest.raises(CellsFailed):
        whole.run([])
    assert "no partial report: no cell" in capsys.readouterr().out
