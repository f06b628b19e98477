"""Distil the improved policy of an anchor into the next anchor, if the policy keeps to the support of the data.

Reads the dataset, the anchor --of and its policy, the critic, and of params.yaml ``anchors.<anchor>`` (the student) and
``reanchoring`` (the rule that accepts or refuses a policy on held-out steps).
Writes artifacts/anchor/<dataset>/<anchor>/<seeds>/: an anchor like any other, with decision.json. A seed whose policy
is refused keeps the anchor --of, unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.training import TrainedAnchorSettings
from spar_core.artifacts import read_json, read_meta, write_json
from spar_core.data.dataset import Dataset
from spar_core.evolving.distillation import check_student, distil, passed_on
from spar_core.evolving.reanchoring import Act, Evidence, ReanchoringSettings, View, decide, gather, stopped
from spar_core.evolving.rounds import Round
from spar_core.improvement.base import Improvement
from spar_core.parts import load_part, restore_critic
from spar_core.policy import Policy, load_policy
from spar_core.registry import parse_variant, variant_kind
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import CHUNK
from spar_core.training.reporter import Nested, Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import cell_parser, device, stage_main
from stages.frame import Written, framed
from stages.layout import Layout
from stages.params import read_params, section

DECISION = "decision.json"
NOT_MEASURED = float("nan")


@dataclass(frozen=True)
class Reanchor:
    """The work of one worker: the next anchor and the decision of each seed.

    Attributes:
        layout: the project.
        dataset: the dataset.
        teacher: artifacts of the previous anchor, its policy, and the critic, by kind.
        number: of this round, from 1.
        stopped_at: for each seed that an earlier round refused, the number of that round.
        member: class of the next anchor.
        settings: of the next anchor.
        rule: when a seed's policy is accepted.
        device: where the networks run.
    """

    layout: Layout
    dataset: str
    teacher: Mapping[str, Path]
    number: int
    stopped_at: Mapping[int, int]
    member: type[Anchor]
    settings: TrainedAnchorSettings
    rule: ReanchoringSettings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[tuple[Fitted, dict[str, Any]]]:
        dataset = dataset_of(self.layout, self.dataset)
        view = View.of(dataset, self.rule)
        return [self._seed(seed, dataset, view, report) for seed in seeds]

    def _seed(self, seed: int, dataset: Dataset, view: View, report: Reporter) -> tuple[Fitted, dict[str, Any]]:
        if seed in self.stopped_at:
            evidence, decision = None, stopped(self.stopped_at[seed])
        else:
            whose = seed if self.rule.teacher == "seed" else None
            policy = load_policy(self.teacher["policy"], whose, self.device)
            evidence = self._evidence(seed, view, policy)
            decision = decide(evidence, self.rule)
        if decision.accepted:
            observations = torch.as_tensor(dataset.observations[dataset.observation_index])
            actions = self._act(policy.rule, policy.members)(observations).cpu().numpy()
            reporter = Nested(report, f"seed-{seed}", seeds=[seed])
            fitted = distil(Context(dataset, [seed], reporter, self.device), self.member, self.settings, actions)
            deviation = self._deviation(fitted, dataset, actions)
        else:
            fitted, deviation = passed_on(self.teacher["anchor"], seed), (NOT_MEASURED, NOT_MEASURED)
            report.advance(self.settings.steps)
        fitted.metrics |= {
            "anchor/parameters": [fitted.parameters()],
            "round/number": [self.number],
            "round/accepted": [float(decision.accepted)],
            "round/off_support_share": [evidence.off_support_share if evidence else NOT_MEASURED],
            "round/critic_gain": [evidence.gain.value if evidence else NOT_MEASURED],
            "round/deviation_mean": [deviation[0]],
            "round/deviation_largest": [deviation[1]],
        }
        row = {
            "seed": seed,
            "accepted": decision.accepted,
            "stopped_at": None if decision.accepted else self.stopped_at.get(seed, self.number),
            "reasons": list(decision.reasons),
            "evidence": evidence.to_dict() if evidence else None,
        }
        return fitted, row

    def _act(self, actor: Improvement | Anchor, members: int) -> Act:
        """The mean of the actions of some members, [B, A] at observations [B, D], a few thousand at a time."""

        def act(observations: Tensor) -> Tensor:
            parts = observations.to(self.device).expand(members, -1, -1).split(CHUNK, dim=1)
            return torch.cat([actor.act(part).mean(dim=0) for part in parts])

        return act

    def _deviation(self, fitted: Fitted, dataset: Dataset, actions: np.ndarray) -> tuple[float, float]:
        """Mean and largest distance of the student's held-out actions from the teacher's, in units of the box."""
        student = self.member.restore(self.settings, fitted.tensors, self.device)
        steps = dataset.heldout_steps
        observations = torch.as_tensor(dataset.observations[dataset.observation_index[steps]])
        apart = np.linalg.norm(student.act_on_all(observations, 1)[0].cpu().numpy() - actions[steps], axis=-1)
        return float(apart.mean()), float(apart.max())

    def _evidence(self, seed: int, view: View, policy: Policy) -> Evidence:
        critic = restore_critic(load_part(self.teacher["critic"], "critic", [seed]), self.device)

        def value(observations: Tensor, actions: Tensor) -> Tensor:
            return critic.q(observations.to(self.device).unsqueeze(0), actions.unsqueeze(0))[0]

        return gather(
            view,
            self._act(policy.rule, policy.members),
            self._act(policy.rule.frozen.anchor, policy.members),
            value,
            self.rule,
        )


def decided_before(folder: Path) -> tuple[int, dict[int, int]]:
    """Number of the round that made an anchor (0 where none did), and at which round each refused seed stopped."""
    if not (folder / DECISION).is_file():
        return 0, {}
    found = read_json(folder / DECISION)
    return found["round"], {row["seed"]: row["stopped_at"] for row in found["seeds"] if not row["accepted"]}


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.reanchor``."""
    parser = cell_parser("reanchor", __doc__)
    parser.add_argument("--of", required=True, help="the anchor whose policy is distilled")
    args = parser.parse_args(argv)
    layout = Layout()
    variants = read_params(layout, args.dataset)["anchors"]
    rule = section(layout, "reanchoring", ReanchoringSettings, args.dataset)
    check_student(args.anchor, args.of, variants)
    member, settings = parse_variant("anchor", variants, args.anchor)
    assert isinstance(settings, TrainedAnchorSettings)
    made = Round(anchor=args.anchor, of=args.of, critic=args.critic, improvement=args.improvement)
    cell = Cell("reanchor", args.dataset, anchor=args.anchor, seeds=args.seeds, round=made)
    teacher = Cell("self_imitation", args.dataset, args.of, args.critic, args.improvement, args.seeds)
    folders = teacher.folders(layout, "anchor", "critic", "policy")
    for kind, folder in folders.items():
        read_meta(folder, kind)
    rounds, stopped_at = decided_before(folders["anchor"])
    job = Reanchor(layout, args.dataset, folders, rounds + 1, stopped_at, member, settings, rule, device())
    with framed(
        layout,
        cell,
        params={
            "anchor": {"kind": variant_kind(args.anchor, variants[args.anchor]), **settings.model_dump(mode="json")},
            "round": made.model_dump(),
            "reanchoring": rule.model_dump(mode="json"),
        },
        inputs={**dataset_folders(layout, args.dataset), **folders},
        steps=settings.steps,
        curves=True,
    ) as frame:
        pairs = [pair for share in frame.over_seeds(job) for pair in share]
        fitted = Fitted.join([anchor for anchor, _ in pairs])
        rows = [row for _, row in pairs]

        def write(folder: Path) -> Written:
            fitted.write(folder)
            decision = {
                "round": rounds + 1,
                **made.model_dump(),
                "settings": rule.model_dump(mode="json"),
                "seeds": rows,
            }
            write_json(folder / DECISION, decision)
            return Written.of(fitted)

        frame.save("anchor", write)
    for row in rows:
        print(f"seed {row['seed']}: {'accepted' if row['accepted'] else 'refused'}. {' '.join(row['reasons'])}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
