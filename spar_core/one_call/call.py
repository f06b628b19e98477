"""Improve a policy, or a clone of the data, in one call: the work of the pipeline's stages, one after the other."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spar_core.artifacts import check_room, new_artifact, read_json, write_json
from spar_core.data.loading import MANIFEST
from spar_core.errors import SparError
from spar_core.evaluation.estimation import EstimationSettings
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.making.datasets import write_dataset
from spar_core.making.estimates import make_estimate
from spar_core.making.evaluations import make_evaluation
from spar_core.making.frame import Frame, digests_of
from spar_core.making.members import make_member
from spar_core.making.policies import make_policy
from spar_core.making.residuals import make_residual
from spar_core.one_call.data import Data, Source, read, source_of
from spar_core.one_call.places import Places
from spar_core.one_call.result import Result, load_result, named_study
from spar_core.one_call.settings import OWN, WHERE, settings_for_call
from spar_core.params import Params
from spar_core.policy import FROZEN
from spar_core.registry import parse_variant, variant_kind
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.page.render import build_report
from spar_core.reporting.page.writing import write_report
from spar_core.residual import settings_for
from spar_core.seeds import parse_seeds
from spar_core.settings import parse
from spar_core.study import EvaluationCell, Study

log = logging.getLogger("spar_core")

OwnPolicy = str | os.PathLike[str] | Callable[..., Any]


def improve(
    dataset: Data,
    policy: OwnPolicy | None = None,
    anchor: str = "committee",
    critic: str = "iql",
    rule: str = "auto",
    seeds: int | str = 4,
    budget: str = "default",
    *,
    out: str | os.PathLike[str] | None = None,
    env_id: str | None = None,
    entry: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    workers: int = 1,
    device: str = "cpu",
) -> Result:
    """Improve a policy from logged data, and say whether the result should replace it.

    Trains anchor, residual model, critic and rule as the pipeline does, with the same bytes on the same inputs. Without
    an environment nothing is rolled out: the verdict then rests on estimates from the logged data, and says so.

    Args:
        dataset: a dictionary of arrays over all N steps (``observations`` [N, D], ``actions`` [N, A], ``rewards`` [N],
            ``terminals`` and ``timeouts`` [N]); a list of episodes in Minari's form, dictionaries or objects with such
            arrays, where ``observations`` may be [T + 1, D]; the path of an ``.npz`` file, of a folder of them, of an
            HDF5 file in D4RL's layout or of a Minari dataset; or a Minari id.
        policy: your own policy, which then is the anchor: an ONNX file, or a function as ``"module:function"``. None
            clones the data.
        anchor: kind of the clone, by default the mean of what each seed clones; not used with ``policy``.
        critic: kind of the critic.
        rule: the rule that improves the anchor; ``auto`` chooses one, or none, from the logged data.
        seeds: how many seeds, or a group such as ``"0-3"``. They act together as a committee.
        budget: ``quick``, ``default`` or ``paper``.
        out: folder for the result, which must not exist; None makes a temporary one, which goes with the result.
        env_id: Gymnasium id of an environment to roll the policies out in; a Minari dataset names its own.
        entry: further keys of a dataset's entry, such as ``action_low``, ``action_high`` (default -1 and 1) or
            ``env_kwargs``.
        params: settings that lie over the budget's, such as ``{"critics": {"iql": {"expectile": 0.9}}}``.
        name: id of the dataset; None makes one from its path.
        workers: processes. With more than one, a script needs ``if __name__ == "__main__":`` around its calls. Their
            number changes no result.
        device: Torch device.

    Raises:
        SparError: one line that says what is wrong with the input; nothing half-written is left.
    """
    members = {"anchor": anchor if policy is None else OWN, "critic": critic, "improvement": rule}
    own = None if policy is None else external(policy)
    of_entry = dataset.entry.settings if isinstance(dataset, Source) else None
    settings = settings_for_call(budget, params or {}, members, own, of_entry)
    group = group_of(seeds)
    if workers < 1:
        raise SparError(f"workers={workers} is not a number of processes", "give 1 or more")
    keys = {**({} if env_id is None else {"env_id": env_id}), **(entry or {})}
    kept = None
    if out is None:
        kept = tempfile.TemporaryDirectory(prefix="spar-")
        out = Path(kept.name) / "result"
    target = Path(out)
    check_out(target)
    with new_artifact(target) as folder:
        call = _Call(Places(folder), settings, group, workers, device)
        call.run(dataset, name, keys, members)
    return load_result(target, kept)


def group_of(seeds: int | str) -> str:
    """The group of that many seeds, or the group that a text names.

    Raises:
        SparError: the number is below 1, or the text names no group.
    """
    if isinstance(seeds, int):
        if seeds < 1:
            raise SparError(f"seeds={seeds} is not a number of seeds", 'give 1 or more, or a group such as "0-3"')
        return f"0-{seeds - 1}" if seeds > 1 else "0"
    parse_seeds(seeds)
    return seeds


def check_out(target: Path) -> None:
    """Make sure that a result can be written to a folder.

    Raises:
        SparError: something is there already.
        OSError: the folder cannot be made, or the disk is full.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SparError(f"{target} exists", "remove it, or name another folder")
    check_room(target)


def external(policy: OwnPolicy) -> dict[str, Any]:
    """Settings of an external anchor: an ONNX file, or a function by name or as such.

    Raises:
        SparError: the function cannot be imported by its name.
    """
    if callable(policy):
        module, function = getattr(policy, "__module__", None), getattr(policy, "__qualname__", "")
        if module in (None, "__main__") or not function.isidentifier():
            raise SparError(
                "the policy is not a function at the top of a module, so that other processes cannot import it",
                "put it into a file, such as my_policy.py, and give 'my_policy:act' or the imported function",
            )
        return {"kind": "external", "callable": f"{module}:{function}"}
    text = os.fspath(policy)
    if Path(text).suffix != ".onnx" and ":" in text:
        return {"kind": "external", "callable": text}
    if not Path(text).is_file():
        raise SparError(f"{text} does not exist", "give an ONNX file, or a function as 'module:function'")
    return {"kind": "external", "onnx": text}


class _Call:
    """The artifacts of one call, in the order in which they depend on each other."""

    def __init__(self, places: Places, params: Params, seeds: str, workers: int, device: str) -> None:
        self.places, self.params, self.seeds = places, params, seeds
        self.workers, self.device = workers, device

    def run(self, data: Data, name: str | None, keys: Mapping[str, Any], members: Mapping[str, str]) -> None:
        """Make everything."""
        source = source_of(data, self.places.root, name, keys)
        study = named_study(source.dataset, members, self.seeds)
        with _timed("data"):
            found = read(source)
            for line in found.lines():
                log.log(logging.WARNING if line.startswith("note:") else logging.INFO, line)
            write_dataset(self.places.data(source.dataset), source.entry, found.collected, found.prepared)
        cells = list(study.cells())
        self._parts(cells[0])
        for cell in cells:
            self._policy(cell)
            self._evaluation(cell)
            self._estimate(cell)
        write_json(self.places.study, study.model_dump(mode="json"))
        self._report(study)

    def _parts(self, cell: EvaluationCell) -> None:
        """Anchor, residual model and critic, which all rules share."""
        data, inputs = self.places.data(cell.dataset), self._inputs(cell)
        for family, variant in (("anchor", cell.anchor), ("critic", cell.critic)):
            variants = self.params[f"{family}s"]
            member, settings = parse_variant(family, variants, variant, WHERE)
            described = {"kind": variant_kind(variant, variants[variant]), **settings.model_dump(mode="json")}
            with self._frame(family, cell, {family: described}, inputs) as frame:
                make_member(frame, data, family, member, settings)
        model = settings_for(cell.anchor, self.params["residual"], self.params["anchors"], WHERE)
        anchor = self.places.folders(cell, "anchor")
        with self._frame("residual", cell, {"residual": model.model_dump(mode="json")}, {**inputs, **anchor}) as frame:
            make_residual(frame, data, anchor["anchor"], model)

    def _policy(self, cell: EvaluationCell) -> None:
        name, variants = cell.improvement, self.params["improvements"]
        member, settings = parse_variant("improvement", variants, name, WHERE)
        kind = variant_kind(name, variants[name])
        frozen = self.places.folders(cell, *FROZEN)
        described = {"improvement": {"kind": kind, **settings.model_dump(mode="json")}}
        with self._frame("policy", cell, described, {**self._inputs(cell), **frozen}) as frame:
            make_policy(frame, self.places.data(cell.dataset), frozen, kind, member, settings)

    def _evaluation(self, cell: EvaluationCell) -> None:
        settings = parse(EvaluationSettings, self.params["evaluation"], f"{WHERE}, evaluation")
        policy, frozen = self.places.folder("policy", cell), self.places.folders(cell, *FROZEN)
        inputs = {**self._inputs(cell), "policy": policy, **frozen}
        manifest = read_json(self.places.data(cell.dataset).folder / MANIFEST)
        with self._frame("evaluation", cell, {"evaluation": settings.model_dump(mode="json")}, inputs) as frame:
            make_evaluation(frame, cell, manifest, policy, frozen, settings)

    def _estimate(self, cell: EvaluationCell) -> None:
        settings = parse(EstimationSettings, self.params["estimation"], f"{WHERE}, estimation")
        folders = self.places.folders(cell, "policy", "critic")
        inputs = {**self._inputs(cell), **folders}
        with self._frame("estimate", cell, {"estimation": settings.model_dump(mode="json")}, inputs) as frame:
            make_estimate(frame, self.places.data(cell.dataset), folders["policy"], folders["critic"], settings)

    def _report(self, study: Study) -> None:
        write_report(build_report(study, self.places.reported, ReportSettings()), self.places.report)

    def _inputs(self, cell: EvaluationCell) -> dict[str, Path]:
        return {"dataset": self.places.data(cell.dataset).folder}

    @contextmanager
    def _frame(
        self, kind: str, cell: EvaluationCell, params: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> Iterator[Frame]:
        """The frame of one artifact; the log says how long it took."""
        names = {"anchor": cell.anchor, "residual": cell.anchor, "critic": cell.critic}
        folder = self.places.folder(kind, cell)
        with _timed(f"{kind} {names.get(kind, cell.improvement)}"):
            yield Frame(folder, parse_seeds(self.seeds), params, digests_of(inputs), self.workers, self.device)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    log.info("%s ...", what)
    begun = time.monotonic()
    yield
    log.info("%s: %.1f s", what, time.monotonic() - begun)
