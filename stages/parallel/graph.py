"""The pipeline as DVC reads it: its stages by name, and the stages that each one depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError

from spar_core.errors import SparError

PLAN = "plan"


def read_graph(root: Path) -> dict[str, tuple[str, ...]]:
    """Stages in an order in which they can run, each with the stages that it depends on.

    ``plan`` is left out: it runs first, and all other stages depend on it.

    Raises:
        SparError: DVC cannot read the pipeline.
    """
    with _opened(root) as repo:
        return _graph_of(repo)


def _graph_of(repo: Repo) -> dict[str, tuple[str, ...]]:
    graph = repo.index.graph
    edges = {stage.addressing: {d.addressing for d in graph.successors(stage)} for stage in graph}
    order = networkx.lexicographical_topological_sort(
        networkx.DiGraph([(d, name) for name, needs in edges.items() for d in needs] or []), key=list(edges).index
    )
    return {name: tuple(sorted(edges[name] - {PLAN})) for name in order if name != PLAN}


def to_run(root: Path, targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The stages that the targets need and that are not up to date, each with those that it depends on.

    Raises:
        SparError: a target is no stage, or DVC cannot read the pipeline.
    """
    with _opened(root) as repo:
        # `dvc status` lists the stages that DVC would run although nothing before them changed.
        return without_unchanged(restrict(_graph_of(repo), targets), set(repo.status()))


def check_place(root: Path) -> None:
    """Make sure that DVC works in the project's folder.

    Raises:
        SparError: it does not, and the line says how it would.
    """
    with _opened(root):
        pass


@contextmanager
def _opened(root: Path) -> Iterator[Repo]:
    """The project as DVC sees it.

    Raises:
        SparError: DVC cannot read the pipeline.
    """
    try:
        with Repo(str(root)) as repo:
            yield repo
    except SCMError as error:
        raise SparError(
            f"DVC needs a git repository ({error})",
            "run `git init` in the project's folder, or `dvc config --local core.no_scm true` to do without",
        ) from None
    except DvcException as error:
        raise SparError(f"DVC cannot read the pipeline: {error}") from None


def without_unchanged(graph: Mapping[str, Sequence[str]], changed: Set[str]) -> dict[str, tuple[str, ...]]:
    """The part of a graph that has to run: the changed stages, and all that depend on them.

    Args:
        graph: stages in an order in which they can run, each with the stages that it depends on.
        changed: names of stages.
    """
    left: dict[str, tuple[str, ...]] = {}
    for name, needs in graph.items():
        if name in changed or any(need in left for need in needs):
            left[name] = tuple(need for need in needs if need in left)
    return left


def restrict(graph: Mapping[str, Sequence[str]], targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The part of a graph that the targets need, themselves included.

    Args:
        graph: stages, each with the stages that it depends on.
        targets: names of cells, or of stages (the name before the ``@``) for all their cells; none means all.

    Raises:
        SparError: a target is no stage of the graph.
    """
    if not targets:
        return {name: tuple(needs) for name, needs in graph.items()}
    wanted: set[str] = set()
    for target in targets:
        found = [name for name in graph if name == target or name.split("@")[0] == target]
        if not found:
            raise SparError(f"the pipeline has no stage '{target}'", "`dvc stage list --name-only` lists them")
        wanted |= set(found)
    waiting = list(wanted)
    while waiting:
        more = set(graph[waiting.pop()]) - wanted
        wanted |= more
        waiting += more
    return {name: tuple(needs) for name, needs in graph.items() if name in wanted}
