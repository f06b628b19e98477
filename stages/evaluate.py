"""Roll the final policies of a cell out in their environment, one row an episode: each seed's, and their committee.

A dataset without an environment is not evaluated: its episodes.csv is empty, and context.json says why
(``stages.estimate`` values its policies from the logged data instead).

Reads the manifest, the policy and the curves of its parts, and ``evaluation`` of params.yaml.
Writes artifacts/evaluation/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: episodes.csv, committee.csv,
context.json, curves.csv; and choice.json, where the policy was chosen among several.
"""

from __future__ import annotations

import sys

from spar_core.artifacts import read_json, read_meta
from spar_core.data.loading import MANIFEST
from spar_core.evaluation.rollouts import EvaluationSettings
from spar_core.making.evaluations import make_evaluation, steps_of
from spar_core.policy import FROZEN, KIND
from stages.entry import parse_cell, stage_main
from stages.frame import framed
from stages.layout import Layout
from stages.params import section


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.evaluate``."""
    layout, cell = Layout(), parse_cell("evaluate", __doc__, argv)
    settings = section(layout, "evaluation", EvaluationSettings, cell.dataset)
    data, policy = layout.data(cell.dataset), cell.folder(layout, "policy")
    read_meta(policy, KIND)
    manifest = read_json(data / MANIFEST)
    frozen = cell.folders(layout, *FROZEN)
    with framed(
        layout,
        cell,
        params={"evaluation": settings.model_dump(mode="json")},
        inputs={"dataset": data, "policy": policy, **frozen},
        steps=steps_of(manifest["environment"], settings),
        unit="env-steps",
        keeps_checkpoints=False,
    ) as frame:
        make_evaluation(frame, cell, manifest, policy, frozen, settings)
    if clause := manifest["environment"]["not_evaluated"]:
        print(
            f"{cell.dataset} is not evaluated: {clause}; with it in study.estimated, its policies' values are estimated"
        )


if __name__ == "__main__":
    sys.exit(stage_main(run))
