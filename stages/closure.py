"""Digests of the code behind each kind of cell.

DVC does not see imports. This module follows the ``import`` statements of an entry point through the project's own
modules and digests their code. Three things do not count:

* docstrings, comments and layout;
* the tables of ``spar_core.registry``: the digest of a cell holds the members that the cell loads instead;
* the modules and packages of ``COSMETIC``: their output goes to people, or beside an artifact, and never into one.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spar_core import registry
from spar_core.artifacts import digest_bytes, digest_file

PACKAGES = ("spar_core", "stages")
REGISTRY = "spar_core.registry"
TABLES = frozenset({"ANCHORS", "CRITICS", "IMPROVEMENTS"})
COSMETIC = frozenset(
    f"stages.{name}"
    for name in ("cells", "checkpointing", "failures", "layout", "planned", "progress", "table", "tracking")
)
# Files beside a module that its code reads, as glob patterns.
RESOURCES = {
    # Gymnasium loads the wrapper by name.
    "spar_core.data.environments.adroit": "adroit_wrapper.py",
    "spar_core.data.reference": "reference_scores.yaml",
    "spar_core.theory.page": "templates/*.md.j2",
    "spar_core.reporting.numbers.published": "../../data/published_*.csv",
    "spar_core.reporting.page.render": "templates/*.md.j2",
}


def module_file(root: Path, module: str) -> Path | None:
    """The file of one of the project's own modules, or None for any other module."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def files_of(root: Path, module: str) -> list[Path]:
    """The file of one of the project's own modules, then the resources that the module reads.

    Raises:
        ValueError: the project has no such module.
    """
    file = module_file(root, module)
    if file is None:
        raise ValueError(f"{module} is no module of this project")
    return [file, *(sorted(file.parent.glob(RESOURCES[module])) if module in RESOURCES else ())]


def imports(root: Path, module: str) -> set[str]:
    """The project's own modules that a module imports, at its top or inside functions.

    A package's ``__init__`` counts with the imports at its top only: the imports inside its functions, such as
    ``spar_core.load_policy``, serve callers from outside.
    """
    file = files_of(root, module)[0]
    found = _imported(file.read_text(encoding="utf-8"), file.name == "__init__.py")
    parents = {".".join(name.split(".")[:i]) for name in found for i in range(1, name.count(".") + 1)}
    return {name for name in found | parents if module_file(root, name)}


# The closures of a plan overlap, so the text of each file is parsed once.
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
    """Whether a module, or a package that holds it, is in ``COSMETIC``."""
    parts = module.split(".")
    return any(".".join(parts[:length]) in COSMETIC for length in range(2, len(parts) + 1))


@dataclass
class Known:
    """What has been found out about the modules of a tree that does not change meanwhile.

    Attributes:
        imports: the project's own modules that each module imports.
        lines: what each module adds to a digest.
    """

    imports: dict[str, set[str]] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)


def closure(root: Path, modules: Iterable[str], known: Known | None = None) -> list[str]:
    """The given modules and all that they reach by imports, sorted, without cosmetic ones.

    ``known`` is added to; closures of one tree overlap, so that it saves most of the work.
    """
    seen: set[str] = set()
    waiting, found = list(modules), (known or Known()).imports
    while waiting:
        module = waiting.pop()
        if module in seen or is_cosmetic(module):
            continue
        seen.add(module)
        if module not in found:
            found[module] = imports(root, module)
        waiting += found[module]
    return sorted(seen)


def code_of(file: Path, without: frozenset[str] = frozenset()) -> str:
    """The code of a file in a normal form, without comments, layout, docstrings and the named top-level variables."""
    return _normal_form(file.read_text(encoding="utf-8"), without)


@functools.cache
def _normal_form(text: str, without: frozenset[str]) -> str:
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Assign) and _names(node) & without)]
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


def _names(node: ast.Assign) -> set[str]:
    """The variables that an assignment sets."""
    return {target.id for target in node.targets if isinstance(target, ast.Name)}


def code_digest(root: Path, modules: Iterable[str], known: Known | None = None) -> str:
    """Digest of the code that ``modules`` reach; ``known`` as in :func:`closure`."""
    known = known or Known()
    lines = []
    for module in closure(root, modules, known):
        if module not in known.lines:
            known.lines[module] = _lines_of(root, module)
        lines += known.lines[module]
    return digest_bytes("\n\n".join(lines).encode())


def _lines_of(root: Path, module: str) -> list[str]:
    """What a module adds to a digest: its code, and the digests of its resources."""
    file, *resources = files_of(root, module)
    code = f"{module}\n{code_of(file, TABLES if module == REGISTRY else frozenset())}"
    return [code, *(f"{path.relative_to(root)}\n{digest_file(path)}" for path in resources)]


def member_module(family: str, kind: str) -> str:
    """Module of a registered member."""
    return registry.FAMILIES[family][kind].split(":")[0]
