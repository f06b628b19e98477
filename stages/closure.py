"""Digests of the code behind each kind of cell.

DVC does not see imports, so this module does: it follows the ``import`` statements of an entry point through
the project's own modules and digests what it finds. Docstrings and comments do not count. Left out are

* ``spar_core.registry``, whose lines are the members: a cell's digest holds the member that it loads instead;
* the modules and packages of ``COSMETIC``: what they do is seen by people or lies beside artifacts, and never reaches
  one (``stages.checkpointing`` says where checkpoints lie; what is in them is ``spar_core``'s, which counts).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from pathlib import Path

from spar_core import registry
from spar_core.artifacts import digest_bytes, digest_file

PACKAGES = ("spar_core", "stages")
REGISTRY = "spar_core.registry"
COSMETIC = frozenset(
    f"stages.{name}" for name in ("cells", "checkpointing", "layout", "progress", "tracked", "tracking")
)


def module_file(root: Path, module: str) -> Path | None:
    """The file of one of the project's own modules, or None for anything else."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imports(root: Path, module: str) -> set[str]:
    """The project's own modules that a module imports, wherever in the file.

    A package's ``__init__`` counts with the imports at its top only: what it imports inside a function is for
    callers from outside, such as ``spar_core.load_policy``.
    """
    file = module_file(root, module)
    assert file is not None
    found = _imported(file.read_text(encoding="utf-8"), file.name == "__init__.py")
    parents = {".".join(name.split(".")[:i]) for name in found for i in range(1, name.count(".") + 1)}
    return {name for name in found | parents if module_file(root, name)}


# The closures of a plan overlap, so each file's text is parsed once.
@functools.cache
def _imported(text: str, top_only: bool) -> frozenset[str]:
    """Full names of all that a module's text imports."""
    tree = ast.parse(text)
    nodes = tree.body if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def is_cosmetic(module: str) -> bool:
    """Whether a module, or a package that it is in, is among ``COSMETIC``."""
    parts = module.split(".")
    return any(".".join(parts[:length]) in COSMETIC for length in range(2, len(parts) + 1))


def closure(root: Path, modules: Iterable[str]) -> list[str]:
    """Modules that ``modules`` reach by imports, themselves included, sorted, without those left out."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module == REGISTRY or is_cosmetic(module):
            continue
        seen.add(module)
        waiting += imports(root, module)
    return sorted(seen)


def code_of(file: Path) -> str:
    """The code of a file in a normal form, without comments, layout and docstrings."""
    return _normal_form(file.read_text(encoding="utf-8"))


@functools.cache
def _normal_form(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


# Files that a module reads as part of what it does.
RESOURCES = {
    # Gymnasium loads it by name.
    "spar_core.data.environments.adroit": ("spar_core/data/environments/adroit_wrapper.py",),
    "spar_core.data.reference": ("spar_core/data/reference_scores.yaml",),
    "spar_core.theory.page": ("spar_core/theory/templates/theory.md.j2",),
    "spar_core.reporting.page.render": (
        "spar_core/reporting/page/templates/report.md.j2",
        "spar_core/reporting/page/templates/anchor_quality.md.j2",
        "spar_core/reporting/page/templates/diagnostics.md.j2",
        "spar_core/reporting/page/templates/offline.md.j2",
        "spar_core/reporting/page/templates/inside.md.j2",
        "spar_core/reporting/page/templates/pairs.md.j2",
        "spar_core/reporting/page/templates/agreement.md.j2",
        "spar_core/reporting/page/templates/overall.md.j2",
        "spar_core/reporting/page/templates/harm.md.j2",
        "spar_core/reporting/page/templates/regret.md.j2",
        "spar_core/reporting/page/templates/provenance.md.j2",
        "spar_core/reporting/page/templates/rounds.md.j2",
    ),
}


def code_digest(root: Path, modules: Iterable[str]) -> str:
    """Digest of the code that ``modules`` reach."""
    lines = []
    for module in closure(root, modules):
        file = module_file(root, module)
        assert file is not None
        lines.append(f"{module}\n{code_of(file)}")
        lines += [f"{name}\n{digest_file(root / name)}" for name in RESOURCES.get(module, ())]
    return digest_bytes("\n\n".join(lines).encode())


def member_module(family: str, kind: str) -> str:
    """Module of a registered member."""
    return registry.FAMILIES[family][kind].split(":")[0]
