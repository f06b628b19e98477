"""The anchor that docs/adding.md adds, added: the shared suite covers it, and nothing that exists runs again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.pipeline import DATASET, REPOSITORY, Clone

pytestmark = pytest.mark.pipeline

PAGE = (REPOSITORY / "docs/adding.md").read_text(encoding="utf-8")
NAME = "random_features"


def block(language: str, marker: str) -> str:
    """The fenced block of the page that holds ``marker``."""
    blocks = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if marker in text]
    assert len(blocks) == 1, marker
    return blocks[0]


def add(clone: Clone) -> None:
    """One file, one line, and a variant, from the page."""
    (clone.folder / f"spar_core/anchors/{NAME}.py").write_text(block("python", "class RandomFeaturesAnchor"))
    line = block("python", f'    "{NAME}":')
    assert len(line.splitlines()) == 1
    clone.edit("spar_core/registry.py", "ANCHORS = {\n", "ANCHORS = {\n" + line)
    variant = yaml.safe_load(block("yaml", f"  {NAME}:\n    features"))["anchors"][NAME]
    clone.set({f"anchors.{NAME}": {**variant, "features": 20}})


def test_the_page_adds_an_anchor_that_the_shared_suite_covers_and_no_cell_runs_again(tmp_path: Path):
    clone = Clone(tmp_path / "clone")
    clone.repro()
    add(clone)
    assert clone.repro() == ["plan"], "a new member alone runs nothing"
    clone.study(anchors=["mlp", NAME])
    ran = [stage for stage in clone.repro() if "@" in stage]
    cell = f"{DATASET}-{NAME}"
    assert sorted(ran) == sorted(
        [f"{stage}@{cell}-0-1" for stage in ("fit_bc", "fit_residual")]
        + [
            f"{stage}@{cell}-iql-{rule}-0-1"
            for stage in ("self_imitation", "evaluate")
            for rule in ("anchor", "spar_mlp")
        ]
    )
    suite = clone.run(
        "python", "-m", "pytest", "-vv", "-p", "no:cacheprovider", "tests/test_anchors.py", "-k", NAME, ok=False
    )
    assert suite.returncode == 0, suite.stdout
    assert len(re.findall(rf"\[.*{NAME}.*\] PASSED", suite.stdout)) >= 15
    lint = clone.run("python", "-m", "ruff", "check", f"spar_core/anchors/{NAME}.py", ok=False)
    assert lint.returncode == 0, lint.stdout
