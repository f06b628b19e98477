"""Export a policy as one file that acts without this package: ONNX, which needs no PyTorch, or TorchScript.

The file holds scaler, anchor, rule, clipping and committee, takes batches of any size, and describes itself. It is
written only after its answers have been compared with those of :meth:`spar_core.policy.Policy.act`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spar_core.anchors.committee import CommitteeAnchor
from spar_core.anchors.external import ExternalAnchor
from spar_core.artifacts import read_json
from spar_core.errors import SparError
from spar_core.export_formats import FORMATS, Run
from spar_core.export_graph import ACTIONS, CORRECTION, DISTANCE, PolicyGraph, observations_near_data, split_parts
from spar_core.guard import Guard
from spar_core.policy import POLICY, Policy, load_policy
from spar_core.registry import variant_kinds
from spar_core.training.fitted import WEIGHTS, load_tensors

# Observations at which the file is compared with `act`, and sizes of the batches in which it gets the first of them.
COMPARED, SMALL_BATCHES = 1000, (1, 2, 7, 1, 30)
# Largest deviation from `act` that is accepted, as a share of half the action range.
TOLERANCE = 1e-4
# ... which a policy that chooses among actions may exceed at this many observations, because the last bits of a value
# decide near ties.
TIES = 2
# Calls that latency is measured over, after some that are not counted.
CALLS, WARM_UP = 2000, 200
# Anchors that are no function of tensors, and why.
REFUSED = {
    "knn": "it looks its nearest neighbours up in thousands of stored steps",
}


@dataclass(frozen=True)
class Exported:
    """What :func:`export_policy` has written, and measured.

    Attributes:
        path: the file.
        description: what the file says about itself.
        deviation: largest deviation from ``act``, as a share of half the action range, but for ``ties``.
        ties: number of the compared observations at which a near tie between choices is decided otherwise.
        latency: 50% and 99% quantile of the seconds that one observation takes on one thread.
        latency_of_act: the same of ``act``.
    """

    path: Path
    description: dict[str, Any]
    deviation: float
    ties: int
    latency: tuple[float, float]
    latency_of_act: tuple[float, float]


def export_policy(
    policy: str | Path,
    output: str | Path,
    format: str = "onnx",
    seed: int | None = None,
    guard: Guard | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Exported:
    """Export a policy artifact.

    Args:
        policy: folder of the artifact.
        output: the file to write; one that exists is replaced.
        format: a key of ``FORMATS``.
        seed: which of the group's seeds acts alone; None for the committee of all.
        guard: adds how far an observation lies from the training data, and may let the anchor act there.
        origin: ids of dataset and environment and the data's digest, for the description, where the folder does not
            hold them.

    Raises:
        SparError: the policy cannot be exported, a package is missing, or the file's answers are not those of ``act``.
    """
    if format not in FORMATS:
        raise SparError(f"there is no format '{format}'", f"choose from: {', '.join(FORMATS)}")
    folder, target = Path(policy), Path(output)
    parts = _exportable(read_json(folder / POLICY)["parts"], format)
    loaded, graph = graph_of(folder, seed, guard)
    description = describe(graph, loaded, parts, seed, origin or {})
    with tempfile.TemporaryDirectory() as scratch, _one_thread():
        draft = Path(scratch) / f"policy{FORMATS[format].suffix}"
        try:
            FORMATS[format].write(graph, draft, json.dumps(description, sort_keys=True))
            run = FORMATS[format].load(draft, graph)
            deviation, ties = compare(run, graph, loaded)
        except SparError:
            raise
        except Exception as error:  # an exporter may raise anything
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise SparError(f"{_called(parts)} cannot be exported to {format}: {reason[0][:200]}") from error
        if ties > (TIES if _chooses(parts) else 0):
            raise SparError(
                f"{_called(parts)} cannot be exported to {format}: at {ties} of {COMPARED} observations the file "
                f"deviates from the policy by more than {TOLERANCE:g} of half the action range",
                "use `spar_core.load_policy`, or another format",
            )
        latency, latency_of_act = latencies(run, loaded)
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_name(f".{target.name}.draft")
        try:
            whole.write_bytes(draft.read_bytes())
            whole.replace(target)
        finally:
            whole.unlink(missing_ok=True)
    return Exported(target, description, deviation, ties, latency, latency_of_act)


def graph_of(folder: Path, seed: int | None = None, guard: Guard | None = None) -> tuple[Policy, PolicyGraph]:
    """A policy, and the same as one function of tensors."""
    policy, file = load_policy(folder, seed), None
    anchor = policy.rule.frozen.anchor
    if isinstance(anchor, CommitteeAnchor):
        anchor = load_policy(folder, read_json(folder / POLICY)["seeds"][0]).rule.frozen.anchor
    if isinstance(anchor, ExternalAnchor):
        # All seeds hold the same file.
        file = load_tensors(folder / WEIGHTS)["anchor.file"][0].numpy().tobytes()
    return policy, PolicyGraph(policy, anchor, guard, file).eval()


def describe(
    graph: PolicyGraph, policy: Policy, parts: Mapping[str, Any], seed: int | None, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """What the file says about itself, as plain values."""
    interface, scaler, guard = policy.interface, policy.scaler, graph.guard
    known = {name: getattr(interface, name) or origin.get(name) for name in ("dataset", "digest", "env_id")}
    return {
        **known,
        "anchor": parts["anchor"]["kind"],
        "improvement": parts["improvement"]["kind"],
        "members": policy.members,
        "seed": seed,
        "inputs": [
            {"name": name, "shape": list(shape)}
            for name, shape in zip(graph.inputs, interface.parts().values(), strict=True)
        ],
        "outputs": graph.outputs,
        "observation_mean": scaler.observation_mean.tolist(),
        "observation_std": scaler.observation_std.tolist(),
        "action_low": scaler.action_low.tolist(),
        "action_high": scaler.action_high.tolist(),
        "guard": None if guard is None else {"centres": len(guard.centres), "limit": guard.limit},
    }


def _exportable(parts: Mapping[str, Any], format: str) -> Mapping[str, Any]:
    """The parts, if the anchor and the members that it is made of can be exported."""
    anchor = parts["anchor"]
    if anchor["kind"] == "external":
        if anchor["settings"]["onnx"] is None:
            raise SparError(
                "the anchor 'external' cannot be exported: it calls a Python function",
                "use `spar_core.load_policy`, or give that policy as an ONNX file (docs/external.md)",
            )
        if format != "onnx":
            raise SparError(
                f"the anchor 'external' cannot be exported to {format}: it is an ONNX file", "export to onnx"
            )
    for kind in variant_kinds(anchor["kind"], anchor["settings"]):
        if kind in REFUSED:
            raise SparError(
                f"the anchor '{kind}' cannot be exported: {REFUSED[kind]}",
                "use `spar_core.load_policy`, or an anchor that is a network",
            )
    return parts


def _chooses(parts: Mapping[str, Any]) -> bool:
    """Whether the policy takes the best of several actions, so that it jumps where two are equally good.

    What an external file does is not known, so that it counts as one that does.
    """
    anchor, rule = parts["anchor"], parts["improvement"]
    kinds = variant_kinds(anchor["kind"], anchor["settings"]), variant_kinds(rule["kind"], rule["settings"])
    gated = '"gate": true' in json.dumps(rule["settings"])  # of the rule, or of a candidate of `auto`
    jumps = {"mixture", "external"} & set(kinds[0]) or "best_of_n" in kinds[1]
    return bool(jumps) or gated or anchor["settings"].get("act") == "medoid"


def _called(parts: Mapping[str, Any]) -> str:
    return f"the anchor '{parts['anchor']['kind']}' with the rule '{parts['improvement']['kind']}'"


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- checks and measurements ---


def compare(run: Run, graph: PolicyGraph, policy: Policy) -> tuple[float, int]:
    """Compare the file's actions with the policy's.

    All observations are given in one batch, and then the first of them in small batches. Where a guard lets the anchor
    act, the file is compared with the graph that it was made from.

    Returns:
        Largest deviation as a share of half the action range, over the observations at which it is within
        ``TOLERANCE``; and the number of the others.
    """
    vectors = observations_near_data(policy, COMPARED)
    inputs, expected = split_parts(policy, vectors), policy.act(vectors)
    if graph.guard is not None and graph.guard.limit is not None:
        with torch.no_grad():
            answers = dict(zip(graph.outputs, graph(*map(torch.from_numpy, inputs.values())), strict=True))
        far = torch.stack([answers[name] for name in (DISTANCE, CORRECTION) if name in answers]) > graph.guard.limit
        expected = np.where(far.any(dim=0).unsqueeze(1).numpy(), answers[ACTIONS].numpy(), expected)
    half = 0.5 * (policy.scaler.action_high - policy.scaler.action_low)
    bounds = np.cumsum([0, *SMALL_BATCHES])
    small = [run({name: values[a:b] for name, values in inputs.items()})[ACTIONS] for a, b in pairwise(bounds)]
    deviations = np.zeros(COMPARED)
    for rows, answer in ((slice(None), run(inputs)[ACTIONS]), (slice(0, bounds[-1]), np.concatenate(small))):
        if answer.shape != expected[rows].shape:
            return float("inf"), COMPARED
        deviations[rows] = np.maximum(deviations[rows], (np.abs(answer - expected[rows]) / half).max(axis=1))
    within = deviations <= TOLERANCE  # false for NaN
    return float(deviations[within].max(initial=0.0)), int((~within).sum())


def latencies(run: Run, policy: Policy) -> tuple[tuple[float, float], tuple[float, float]]:
    """50% and 99% quantile of the seconds that one observation takes: of the file, and of ``act``."""
    vectors = observations_near_data(policy, 1)
    inputs = split_parts(policy, vectors)
    return _timed(lambda: run(inputs)), _timed(lambda: policy.act(vectors[0]))


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.quantile(seconds, 0.5)), float(np.quantile(seconds, 0.99))
