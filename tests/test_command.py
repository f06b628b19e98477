"""The command `spar`: what it prints, what it writes, and the project that it makes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import yaml

import spar_core
from spar_core.settings import load_yaml
from stages import failures, plan
from stages.command.calls import tree
from stages.command.main import main
from stages.command.project import pipeline
from stages.layout import Layout
from stages.logs import level, quiet
from tests.fakes import ROOT
from tests.test_no_environment import write_logs
from tests.test_one_call import TINY


def settings(values: dict, path: tuple[str, ...] = ()) -> list[str]:
    """Options `--set` for a tree."""
    words = []
    for key, value in values.items():
        here = (*path, key)
        words += settings(value, here) if isinstance(value, dict) else ["--set", f"{'.'.join(here)}={value}"]
    return words


@pytest.fixture
def logs(here, monkeypatch):
    """An empty working directory with logs in it."""
    write_logs(here / "logs")
    monkeypatch.setenv("SPAR_WORKERS", "1")
    monkeypatch.setenv("SPAR_TRACKING", "off")
    return here


def refused(capsys, *words: str) -> str:
    """The one line of a command that fails."""
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"spar {spar_core.__version__}\n"
    assert spar_core.__version__ in (ROOT / "CITATION.cff").read_text()


def test_check_says_what_was_read_and_how_healthy_it_is(logs, capsys):
    assert main(["check", "logs"]) == 0
    told = capsys.readouterr().out
    assert "mine/logs-v0: 306 steps in 12 episodes" in told and "ends: 4 in a terminal state, 8 cut" in told
    assert "amber: The dataset has 12 episodes" in told
    assert [path.name for path in logs.iterdir()] == ["logs"]
    assert "nothing.npz does not exist" in refused(capsys, "check", "nothing.npz")
    assert "action_lwo" in refused(capsys, "check", "logs", "--entry", "action_lwo=1")


def test_a_policy_is_improved_reported_and_exported(logs, capsys):
    words = ["improve", "logs", "--out", "out", "--rule", "spar_mlp", "--seeds", "2", *settings(TINY)]
    assert main([*words, "--quiet"]) == 0
    told = capsys.readouterr()
    assert "Nothing was rolled out" in told.out.replace("\n", " ") and told.err == ""
    assert "Report: out/report.html" in told.out and (logs / "out/report.html").is_file()
    assert main(["report", "out", "--page", "page.html"]) == 0
    assert capsys.readouterr().out.split("\n\n")[0] == told.out.split("\n\n")[0]
    assert main(["export", "out", "--rule", "spar_mlp", "--format", "torch"]) == 0
    (written,) = (logs / "out/exports").rglob("*.pt")
    assert written.relative_to(logs / "out/exports").as_posix() == "mine/logs-v0/committee/iql/spar_mlp/0-1.pt"
    assert "latency" in capsys.readouterr().out
    assert "out exists" in refused(capsys, *words)
    assert "holds no result" in refused(capsys, "report", "logs")
    assert "is no result of `spar improve`" in refused(capsys, "export", "logs", "--rule", "anchor")


def test_a_project_is_made_in_which_a_study_can_be_planned(logs, capsys, monkeypatch):
    assert main(["init", "arm", "logs", "--budget", "quick"]) == 0
    arm = logs / "arm"
    assert {path.name for path in arm.iterdir()} >= {"dvc.yaml", "params.yaml", "studies", "datasets", ".dvc", ".git"}
    assert load_yaml(arm / "studies/mine.yaml")["params"]["residual"]["steps"] == 1000
    monkeypatch.chdir(arm)
    plan.run([])
    planned = yaml.safe_load(Layout().plan.read_text())
    assert planned["settings"]["mine/logs-v0"]["anchors"]["committee"]["member"]["steps"] == 1000
    assert main(["new-study", "wide", "--anchors", "flow", "mlp", "--question", "Which?"]) == 0
    study = load_yaml(arm / "params.yaml")["study"]
    assert (study["name"], study["anchors"], study["seeds"]) == ("wide", ["flow", "mlp"], ["0-3"])
    assert study["estimated"] == ["mine/logs-v0"]
    plan.run([])
    capsys.readouterr()
    assert "did you mean 'flow'" in refused(capsys, "new-study", "other", "--anchors", "flwo")
    assert not (arm / "studies/other.yaml").exists()
    assert "studies/wide.yaml exists" in refused(capsys, "new-study", "wide")
    assert main(["check", "mine/logs-v0"]) == 0
    assert "mine/logs-v0: 306 steps" in capsys.readouterr().out
    assert "says how mine/logs-v0 is read" in refused(capsys, "check", "mine/logs-v0", "--name", "mine/other-v0")


def test_a_project_needs_no_data_of_ones_own_and_is_made_whole_or_not_at_all(logs, capsys):
    assert main(["init", "maze"]) == 0
    assert load_yaml(logs / "maze/datasets/builtin/pointmaze-umaze-v0.yaml")["source"] == "waypoints"
    assert "is not empty" in refused(capsys, "init", "maze")
    wrong = ("none", "--env-id Reacher-v5", "logs --seeds 0", "logs --budget qick", "logs --policy mine.onnx")
    for words in (*wrong, "logs --seeds x"):
        refused(capsys, "init", "new", *words.split())
    assert sorted(path.name for path in logs.iterdir()) == ["logs", "maze"]


def test_the_pipeline_of_a_project_is_that_of_the_repository_without_claims():
    ours, theirs = yaml.safe_load(pipeline()), yaml.safe_load((ROOT / "dvc.yaml").read_text())
    dropped = {"theory", "theory_page"}
    assert ours["stages"] == {name: stage for name, stage in theirs["stages"].items() if name not in dropped}
    assert "theory" not in pipeline() and "vars" not in ours


def test_settings_of_a_command_line_are_a_tree():
    assert tree(["a.b=1", "a.c=[1, 2]", "d=x"], "--set") == {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    for pair in ("a", "=1", "a.=1", "a=[", "a.b.c=1"):
        with pytest.raises(spar_core.errors.SparError, match="--set"):
            tree(["a.b=1", pair], "--set")


def test_levels_of_the_log(monkeypatch, capsys):
    monkeypatch.delenv("SPAR_LOG", raising=False)
    assert level() == "info" and not quiet()
    monkeypatch.setenv("SPAR_LOG", "warning")
    assert quiet() and level("debug") == "debug"
    monkeypatch.setenv("SPAR_LOG", "lots")
    assert "SPAR_LOG='lots' is not a level" in refused(capsys, "check", "logs")


def test_a_missing_package_is_named_with_what_installs_it():
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_package")
    hint = "run `pip install 'spar-core[pipeline]'`"
    assert failures.line_of(caught.value) == f"the package 'no_such_package' is not installed; {hint}"


def test_the_command_needs_neither_dvc_nor_mlflow():
    code = (
        "import sys\nfrom stages.command.main import main\nimport spar_core.one_call.call, spar_core.one_call.result\n"
        "print(sorted({'dvc', 'mlflow'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
