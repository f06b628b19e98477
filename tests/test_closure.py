"""DVC does not see imports: editing a module must rerun exactly the cells whose code reaches it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spar_core import registry
from spar_core.data.entry_files import load_entry
from spar_core.effective import FAMILIES, check
from spar_core.errors import SparError
from spar_core.params import layers_of, merge
from spar_core.registry import variant_kind
from spar_core.study import Study
from spar_core.theory.claims import CLAIMS
from stages.closure import (
    COSMETIC,
    TABLES,
    closure,
    code_digest,
    code_of,
    is_cosmetic,
    member_module,
    module_file,
)
from stages.layout import Layout
from stages.plan import CODE_STAGES, code_digests, data_digest
from tests.fakes import ROOT

STUDY = {"datasets": ["mujoco/toy-v0"], "estimated": [], "diagnosed": []}
ENTRY = "title: toy\nsource: minari\ndataset: mujoco/hopper/medium-v0\n"
TRAINING = ("fit_bc", "fit_residual", "fit_critic", "self_imitation")


def modules() -> list[str]:
    """Every module of the two packages."""
    files = [path for package in ("spar_core", "stages") for path in (ROOT / package).rglob("*.py")]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files]
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.fixture
def tree(tmp_path):
    """A copy of the code, with the shipped params and a dataset that needs no file."""
    for package in ("spar_core", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["study"].update(STUDY)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    entry = tmp_path / "datasets" / "mujoco" / "toy-v0.yaml"
    entry.parent.mkdir(parents=True)
    entry.write_text(ENTRY)
    return tmp_path


def all_digests(root: Path) -> dict[str, str]:
    """The digests of plan.json, flat: "stage fit_bc", "anchor mlp", ... to digest."""
    layout = Layout(root)
    params = yaml.safe_load(layout.params.read_text())
    return flat_digests(layout, params, check(params))


def flat_digests(layout: Layout, params: dict, study: Study) -> dict[str, str]:
    merged = merge(layers_of(params))
    code = code_digests(layout.root, merged, dict.fromkeys(study.datasets, merged), study)
    flat = {f"{kind} {name}": d for kind, entries in code.items() for name, d in entries.items()}
    data = {name: data_digest(load_entry(layout.dataset_entry(name)), layout.root) for name in study.datasets}
    return {**flat, **{f"data {name}": d for name, d in data.items()}}


def changed(root: Path, edit) -> set[str]:
    """Which of these differ after an edit."""
    before = all_digests(root)
    edit()
    after = all_digests(root)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def kinds_changed(root: Path, file: str) -> set[str]:
    """The same after new code in ``file``, with the registered kind in place of each variant."""
    params = merge(layers_of(yaml.safe_load((root / "params.yaml").read_text())))

    def kind(name: str) -> str:
        family, _, variant = name.partition(" ")
        variants = params.get(FAMILIES.get(family, ""), {})
        return f"{family} {variant_kind(variant, variants[variant])}" if variant in variants else name

    names = {name for name in all_digests(root) if not of_theory(name)}
    found = {name for name in changed(root, append(root, file, CODE)) if not of_theory(name)}
    kinds = {kind(name) for name in found}
    assert found == {name for name in names if kind(name) in kinds}, "all variants of a kind change, or none"
    return kinds


def of_theory(name: str) -> bool:
    """Whether a digest is that of a synthetic claim: they run the shipped rules, and have tests of their own below."""
    return name.startswith("theory ")


def append(root: Path, file: str, text: str):
    path = root / file
    assert path.is_file()
    return lambda: path.write_text(path.read_text() + text)


CODE = "\n\ndef something_new():\n    return 1\n"


# --- what the closures hold ---


@pytest.mark.parametrize("stage", TRAINING)
def test_a_stage_reaches_members_through_their_own_digest_only(stage):
    reached = closure(ROOT, [f"stages.{stage}"])
    for table in registry.FAMILIES.values():
        for target in table.values():
            assert target.split(":")[0] not in reached
    if stage != "self_imitation":
        assert not [m for m in reached if m.startswith("spar_core.improvement.")]
        assert not [m for m in reached if m.startswith("spar_core.reporting")]


def test_a_member_reaches_its_own_module_and_no_sibling():
    for family, table in registry.FAMILIES.items():
        for kind in table:
            reached = closure(ROOT, [member_module(family, kind)])
            assert member_module(family, kind) in reached
            others = [f for f in registry.FAMILIES if f != family]
            for other in others:
                members = {target.split(":")[0] for target in registry.FAMILIES[other].values()}
                assert not members & set(reached), (family, kind)


def test_what_trains_reaches_the_networks_and_the_data():
    assert {"spar_core.training.networks", "spar_core.training.randomness", "spar_core.data.dataset"} <= set(
        closure(ROOT, ["spar_core.anchors.mlp"])
    )
    assert "spar_core.critics.calibration" in closure(ROOT, ["spar_core.critics.iql"])
    assert "spar_core.residual" in closure(ROOT, ["stages.fit_residual"])


def test_nothing_reaches_cosmetic_modules():
    assert {m for m in COSMETIC if module_file(ROOT, m) is None} == set()
    for stage in CODE_STAGES:
        reached = set(closure(ROOT, [f"stages.{stage}"]))
        assert not [module for module in reached if is_cosmetic(module)]
        assert not any(m in ("stages.tracking.store", "stages.progress") for m in reached)


# --- what an edit changes ---


def test_the_same_tree_gives_the_same_digests_wherever_it_lies(tree):
    assert all_digests(tree) == all_digests(tree)
    for stage in CODE_STAGES:
        assert code_digest(tree, [f"stages.{stage}"]) == code_digest(ROOT, [f"stages.{stage}"])


def test_editing_a_critic_changes_that_critic_alone(tree):
    # The ensemble shares the expectile loss.
    assert kinds_changed(tree, "spar_core/critics/iql.py") == {"critic iql", "critic iql_ensemble"}
    assert kinds_changed(tree, "spar_core/critics/cql.py") == {"critic cql"}
    assert kinds_changed(tree, "spar_core/critics/actor.py") == {"critic cql", "critic edac"}


def test_editing_an_anchor_changes_that_anchor_alone(tree):
    # The shipped committee clones this kind.
    assert kinds_changed(tree, "spar_core/anchors/mlp.py") == {"anchor mlp", "anchor committee"}
    assert kinds_changed(tree, "spar_core/anchors/flow.py") == {"anchor flow"}


def test_editing_a_rule_changes_it_and_its_heirs_alone(tree):
    for rule in ("spar_mlp", "spar_proj", "value_gradient", "best_of_n"):
        # A rule that chooses runs the code of its candidates.
        chooser = {"improvement auto"} if rule in ("spar_mlp", "spar_proj") else set()
        assert kinds_changed(tree, f"spar_core/improvement/{rule}.py") == {f"improvement {rule}"} | chooser
    heirs = {"improvement awr", "improvement awr_scratch"}
    assert kinds_changed(tree, "spar_core/improvement/awr.py") == heirs


def test_a_changed_file_of_an_external_anchor_changes_that_anchor_alone(tree, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / "mine.py").write_text("def act(observations):\n    return observations[:, :3]\n")
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["anchors"]["mine"] = {"kind": "external", "callable": "mine:act"}
    params["study"]["anchors"] = ["mlp", "mine"]
    (tree / "params.yaml").write_text(yaml.safe_dump(params))
    assert changed(tree, append(tree, "mine.py", "# more\n")) == {"anchor mine"}
    (tree / "mine.py").unlink()
    with pytest.raises(SparError, match=r"mine\.py"):
        all_digests(tree)


def test_editing_the_calibration_changes_what_uses_it_and_no_anchor(tree):
    found = kinds_changed(tree, "spar_core/critics/calibration.py")
    # The estimates have a value function of their own.
    rules = {f"improvement {rule}" for rule in ("value_gradient", "auto", "td3_bc", "rebrac")}
    assert found == {"stage estimate", *rules, *(f"critic {kind}" for kind in registry.CRITICS)}


def test_editing_the_networks_changes_everything_that_trains_and_no_download_or_report(tree):
    found = changed(tree, append(tree, "spar_core/training/networks.py", CODE))
    assert {"anchor mlp", "critic iql", "improvement spar_mlp", "stage fit_residual"} <= found
    assert not found & {"stage download", "stage report", "data mujoco/toy-v0"}


def test_editing_a_stage_changes_that_stage_alone(tree):
    for stage in CODE_STAGES:
        assert changed(tree, append(tree, f"stages/{stage}.py", CODE)) == {f"stage {stage}"}


def test_editing_a_claim_changes_that_claim_alone(tree):
    for claim, module in CLAIMS.items():
        file = module_file(tree, module).relative_to(tree).as_posix()
        assert changed(tree, append(tree, file, CODE)) == {f"theory {claim}"}


def test_editing_what_claims_share_or_measure_changes_them(tree):
    rules = {f"theory {claim}" for claim in ("drift", "conflict")}
    targets = rules | {"theory order", "theory modes"}
    every = {f"theory {claim}" for claim in CLAIMS}
    for file, wanted in (
        ("theory/manifolds", every | {"stage theory"}),
        ("theory/rules", rules),
        ("improvement/awr", rules),
        ("improvement/self_imitation", targets),
        ("residual", every),
    ):
        found = changed(tree, append(tree, f"spar_core/{file}.py", CODE))
        assert {name for name in found if of_theory(name)} == {name for name in wanted if of_theory(name)}, file
    assert changed(tree, append(tree, "spar_core/theory/page.py", CODE)) == {"stage theory_page"}


def test_no_dataset_or_report_reaches_a_claim_and_no_claim_a_training_stage():
    # A claim draws its figure in the look that the report's figures have.
    look = {"spar_core.reporting", "spar_core.reporting.figures", "spar_core.reporting.figures.look"}
    for module in CLAIMS.values():
        reached = set(closure(ROOT, [module]))
        assert {m for m in reached if m.startswith(("spar_core.reporting", "stages"))} <= look
    for stage in TRAINING:
        assert not [m for m in closure(ROOT, [f"stages.{stage}"]) if m.startswith("spar_core.theory")]
    # The stage loads its claim by name, so that a claim's own digest is all that says what it does.
    assert not set(CLAIMS.values()) & set(closure(ROOT, ["stages.theory"]))


def test_editing_the_report_trains_nothing(tree):
    files = [f"numbers/{name}" for name in ("tables", "reading", "offline", "flat", "pairs", "inside")]
    files += [f"page/{name}" for name in ("render", "console", "sections", "provenance", "inside")]
    for file in [*files, "figures/figures"]:
        assert changed(tree, append(tree, f"spar_core/reporting/{file}.py", CODE)) == {"stage report"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("spar_core/data/reference_scores.yaml", {"stage download"}),
        ("spar_core/reporting/page/templates/report.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/anchor_quality.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/offline.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/inside.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/diagnostics.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/pairs.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/agreement.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/overall.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/provenance.md.j2", {"stage report"}),
        ("spar_core/reporting/page/templates/rounds.md.j2", {"stage report"}),
        ("spar_core/theory/templates/theory.md.j2", {"stage theory_page"}),
        # The page that is no output of DVC.
        ("spar_core/reporting/page/templates/page.html.j2", set()),
    ],
)
def test_editing_a_data_file_changes_the_stage_that_reads_it(tree, file, stages):
    assert changed(tree, append(tree, file, "\n# more\n")) == stages


def test_editing_logging_progress_or_the_runner_changes_nothing(tree):
    others = [
        "stages.tracking.publish",
        "stages.run",
        "stages.view",
        "stages.export",
        "spar_core.export_policy",
        "stages.closure",
        "stages.plan",
        "stages.tracking.store",
    ]
    for module in sorted(COSMETIC) + others:
        file = module_file(tree, module)
        assert changed(tree, append(tree, file.relative_to(tree).as_posix(), CODE)) == set(), module


def test_comments_docstrings_and_layout_change_nothing_but_code_does(tree):
    path = tree / "spar_core" / "training" / "networks.py"
    text = path.read_text()

    def reword():
        words = text.replace('"""', '"""Reworded: ', 1).replace("# ", "# reworded: ")
        path.write_text("# a new comment\n\n" + words.replace("import math\n", "import math\n\n"))

    assert changed(tree, reword) == set()
    assert path.read_text() != text
    assert "anchor mlp" in changed(tree, lambda: path.write_text(text.replace("VECTOR = 16", "VECTOR = 32")))


def test_a_string_that_is_no_docstring_is_code(tmp_path):
    path = tmp_path / "x.py"
    codes = []
    for text in ('def f():\n    """Doc."""\n    return "a"\n', 'def f():\n    """Other."""\n    return "b"\n'):
        path.write_text(text)
        codes.append(code_of(path))
    assert codes[0] != codes[1] and "Doc" not in codes[0]


def test_adding_an_anchor_changes_no_digest_that_was_there(tree, monkeypatch):
    def add():
        source = (tree / "spar_core" / "anchors" / "mlp.py").read_text()
        (tree / "spar_core" / "anchors" / "fresh.py").write_text(source.replace("MLPAnchor", "FreshAnchor"))
        path = tree / "spar_core" / "registry.py"
        line = '    "mlp": "spar_core.anchors.mlp:MLPAnchor",\n'
        text = path.read_text()
        assert line in text
        path.write_text(text.replace(line, line + '    "fresh": "spar_core.anchors.fresh:FreshAnchor",\n'))
        # The running process has its own registry; its entry here stands for the same line.
        monkeypatch.setitem(registry.ANCHORS, "fresh", "spar_core.anchors.fresh:FreshAnchor")
        params = yaml.safe_load((tree / "params.yaml").read_text())
        params["anchors"]["fresh"] = {}
        (tree / "params.yaml").write_text(yaml.safe_dump(params))

    before = all_digests(tree)
    study = check(yaml.safe_load((tree / "params.yaml").read_text()))
    add()
    layout = Layout(tree)
    after = flat_digests(layout, yaml.safe_load(layout.params.read_text()), study)
    assert set(after) - set(before) == {"anchor fresh"}
    assert all(before[name] == digest for name, digest in after.items() if name != "anchor fresh")
    assert after["anchor fresh"] != after["anchor mlp"]


def test_a_line_of_the_registry_changes_nothing_but_its_code_does(tree):
    path = tree / "spar_core" / "registry.py"
    text = path.read_text()
    for table in sorted(TABLES):
        line = f'{table} = {{\n    "fresh": "spar_core.anchors.mlp:MLPAnchor",\n'
        assert f"{table} = {{\n" in text
        assert (
            changed(tree, lambda line=line, table=table: path.write_text(text.replace(f"{table} = {{\n", line)))
            == set()
        )
    path.write_text(text)
    found = changed(tree, append(tree, "spar_core/registry.py", CODE))
    assert {"stage fit_bc", "stage evaluate", "improvement auto"} <= found


def test_an_import_inside_a_function_counts(tree):
    file = tree / "spar_core" / "data" / "returns.py"
    lazy = "\n\ndef lazy():\n    from spar_core.evaluation import statistics\n    return statistics\n"
    file.write_text(file.read_text() + lazy)
    assert "spar_core.evaluation.statistics" in closure(tree, ["spar_core.critics.iql"])


# --- importing ---

IMPORT_ALL = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_importing_any_module_prints_nothing_and_writes_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *modules()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
    # Libraries keep caches of their own in the home folder; the project leaves nothing.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def imported(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(file: Path, *prefixes: str) -> list[str]:
    return [name for name in imported(file) if any(name == p or name.startswith(p + ".") for p in prefixes)]


# The synthetic claims share the look of the report's figures and the environment of its templates, and nothing else.
LOOK = ("spar_core.reporting.figures.look", "spar_core.reporting.page.templating")
BEYOND_THE_LOOK = tuple(
    name for name in modules() if name.startswith("spar_core.reporting.") and not any(m.startswith(name) for m in LOOK)
)
ABOVE_NUMBERS = tuple(f"spar_core.reporting.{room}" for room in ("figures", "page", "film"))
BELOW = ("spar_core.anchors", "spar_core.critics", "spar_core.improvement", "spar_core.residual", "spar_core.policy")


@pytest.mark.parametrize(
    ("where", "never"),
    [
        ("spar_core/**/*.py", ("stages", "dvc", "mlflow", "tests", "ruamel")),
        ("spar_core/data/**/*.py", (*BELOW, "spar_core.reporting", "spar_core.evaluation.rollouts", "torch.nn")),
        ("spar_core/data/environments/*.py", ("spar_core.data.readers", "spar_core.data.generators")),
        ("spar_core/data/generators/*.py", ("spar_core.data.readers", "spar_core.data.sources")),
        ("spar_core/data/readers/*.py", ("spar_core.data.generators", "spar_core.data.sources")),
        ("spar_core/training/networks.py", (*BELOW, "spar_core.data")),
        ("spar_core/training/randomness.py", (*BELOW, "spar_core.data", "spar_core.training.networks")),
        ("spar_core/anchors/*.py", ("spar_core.critics", "spar_core.improvement", "spar_core.residual")),
        ("spar_core/critics/*.py", ("spar_core.improvement", "spar_core.residual", "spar_core.anchors.mlp")),
        ("spar_core/residual.py", ("spar_core.critics", "spar_core.improvement")),
        ("spar_core/reporting/numbers/*.py", (*BELOW, *ABOVE_NUMBERS, "spar_core.training", "torch")),
        ("spar_core/reporting/figures/*.py", (*BELOW, *ABOVE_NUMBERS[1:], "spar_core.training", "torch")),
        ("spar_core/reporting/page/*.py", (*BELOW, "spar_core.reporting.film", "spar_core.training", "torch")),
        ("spar_core/theory/*.py", (*BEYOND_THE_LOOK, "spar_core.evaluation.rollouts", "spar_core.data.sources")),
        ("spar_core/improvement/*.py", ("spar_core.theory",)),
        ("stages/*.py", ("tests",)),
    ],
)
def test_dependencies_point_one_way(where, never):
    files = sorted(ROOT.glob(where))
    assert files
    assert {file.name: found for file in files if (found := reaches(file, *never))} == {}


def test_the_registry_imports_no_member():
    own = {name for name in imported(ROOT / "spar_core" / "registry.py") if module_file(ROOT, name)}
    assert own == {"spar_core.errors", "spar_core.settings"}


def test_dvc_watches_the_digest_of_every_kind_of_code_that_a_stage_runs():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in CODE_STAGES:
        watched = [key for param in stages[stage]["params"] for key in param.get("artifacts/plan.json", [])]
        assert f"code.stage.{stage}" in watched
        for family in ("anchor", "critic", "improvement"):
            uses = f"--{family}" in stages[stage]["cmd"]
            item = "item.round" if stage == "reanchor" else "item"
            assert (f"code.{family}.${{{item}.{family}}}" in watched) == uses, (stage, family)
