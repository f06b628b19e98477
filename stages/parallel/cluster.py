"""Run the cells of the study on a Ray cluster: `python -m stages.parallel.cluster --remote URL [--address HOST:PORT]`.

Each Ray task makes one cell. It unpacks the project's files into a workspace on its node, pulls the cell's inputs from
the DVC remote, runs `dvc repro --single-item`, and pushes the outputs. The remote holds DVC's run cache too, so a cell
that was made before is restored. Ray repeats a task whose worker was killed. The task then goes on from its checkpoint,
if that lies on the same node or in a folder that all nodes see (--checkpoints).

When all cells are done, their outputs are pulled, and `dvc repro` on this machine makes only the reports. Every machine
needs Python and the packages of requirements.txt and requirements-ray.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spar_core.errors import Interrupted, SparError
from spar_core.training.interrupts import stop_on_signal
from stages.entry import stage_main
from stages.layout import Layout
from stages.parallel import child, workspace
from stages.parallel.child import dvc_environment
from stages.parallel.graph import check_place, read_graph, restrict
from stages.parallel.schedule import Schedule
from stages.parallel.sweep import log_of, plan_first, say_ended, summary
from stages.parallel.warm import ask
from stages.parallel.workspace import Outcome, Task, fetch, merge_lock, packed, remote_section, run_task

# Seconds that one wait for a task takes, at most.
LOOK = 0.5


def cluster(
    layout: Layout,
    targets: Sequence[str],
    address: str | None,
    remote: str | None,
    *,
    cpus: int,
    folder: Path,
    checkpoints: str | None,
    retries: int,
) -> Schedule:
    """Run the cells that the targets need, and merge their entries into dvc.lock.

    Args:
        layout: the project.
        targets: stages or cells; none means all.
        address: of the Ray cluster; None starts one on this machine.
        remote: name or URL of a DVC remote; None takes DVC's default.
        cpus: cores, and worker processes, of a cell.
        folder: folder on every node, for workspaces and the DVC cache.
        checkpoints: a folder that all nodes see, or None.
        retries: how often a cell is repeated whose worker was killed.

    Raises:
        SparError: Ray is not installed or not reachable, or there is no remote.
        Interrupted: this process was asked to stop; finished cells are in the remote.
    """
    ray = _ray(address)
    # Sent by value, since the project lies on this machine alone.
    for module in (workspace, child):
        ray.cloudpickle.register_pickle_by_value(module)
    graph = {name: needs for name, needs in restrict(read_graph(layout.root), targets).items() if "@" in name}
    schedule = Schedule({name: [need for need in needs if need in graph] for name, needs in graph.items()})
    section = remote_section(layout.root, remote)
    tree = ray.put(packed(layout.root))
    task = ray.remote(num_cpus=cpus, max_retries=retries)(run_task)
    entries: dict[str, Any] = {}
    waiting: dict[Any, str] = {}
    begun: dict[str, float] = {}
    stopping: list[bool] = []
    with stop_on_signal(lambda: stopping.append(True)):
        while waiting or not schedule.over():
            while not stopping and (name := schedule.start()):
                needs = {need: entries[need] for need in schedule.graph[name]}
                what = Task(name, needs, section, str(folder), checkpoints, cpus)
                waiting[task.options(name=name).remote(tree, what)] = name
                begun[name] = time.monotonic()
            if stopping:
                for reference in waiting:
                    ray.cancel(reference, force=True)
                break
            ended, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK)
            for reference in ended:
                name = waiting.pop(reference)
                outcome = _outcome(ray, reference, name)
                log = log_of(layout, name)
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(outcome.log, encoding="utf-8")
                schedule.finish(name, outcome.entry is not None)
                if outcome.entry is not None:
                    entries[name] = outcome.entry
                how = "FAILED" if outcome.entry is None else "made" if outcome.ran else "was there"
                say_ended(schedule, name, how, begun[name])
    merge_lock(layout.root, entries)
    if stopping:
        raise Interrupted(f"{len(entries)} of {len(schedule.graph)} cells are done", "finished cells are not run again")
    return schedule


def _ray(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise SparError("Ray is not installed", "pip install -r requirements-ray.txt") from None
    try:
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SparError(f"no Ray cluster at '{address}' ({error})", "`ray start --head` starts one") from None
    return ray


def _outcome(ray: Any, reference: Any, name: str) -> Outcome:
    """The result of a task; a task that Ray gave up counts as failed."""
    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Outcome(None, False, f"error: Ray gave '{name}' up: {first}\n")


def _repro(arguments: list[str]) -> None:
    """Run `dvc repro` with this interpreter.

    Raises:
        SparError: a stage failed.
    """
    status = subprocess.run([sys.executable, "-m", "dvc", "repro", *arguments], env=dvc_environment()).returncode
    if status != 0:
        raise SparError("the pipeline stopped", "the failed stage printed the reason above; mend that and run again")


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.parallel.cluster``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="stages or cells, run with all they need (default: all)")
    parser.add_argument("--address", help="address of a running cluster (default: start one on this machine)")
    parser.add_argument("--remote", help="name of a DVC remote, or a URL that all nodes reach (default: DVC's default)")
    parser.add_argument("--cpus", type=int, default=1, help="cores, and worker processes, of each cell (default: 1)")
    parser.add_argument("--folder", help="folder on every node, for workspaces and the DVC cache (default: temporary)")
    parser.add_argument("--checkpoints", help="a folder that all nodes see (default: below --folder)")
    parser.add_argument("--retries", type=int, default=3, help="repeats of a cell whose worker was killed (default: 3)")
    args = parser.parse_args(argv)
    layout = Layout()
    ask(check_place, layout.root.resolve())
    plan_first(layout)
    folder = Path(args.folder or Path(tempfile.gettempdir()) / "spar-ray")
    schedule = cluster(
        layout,
        args.targets,
        args.address,
        args.remote,
        cpus=args.cpus,
        folder=folder,
        checkpoints=args.checkpoints,
        retries=args.retries,
    )
    summary(layout, schedule)
    print(f"all {len(schedule.graph)} cells are done; pulling what they made")
    fetch(layout.root, remote_section(layout.root, args.remote), sorted(schedule.done))
    _repro(args.targets)


if __name__ == "__main__":
    sys.exit(stage_main(run))
