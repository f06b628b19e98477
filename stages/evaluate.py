"""Roll the final policies of a cell out in their environment, one row an episode: each seed's, and their committee.

A dataset without an environment is not evaluated: its episodes.csv is empty, and context.json says why
(``stages.estimate`` values its policies from the logged data instead).

Reads the manifest, the policy and the curves of its parts, and ``evaluation`` of params.yaml.
Writes artifacts/evaluation/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: episodes.csv, committee.csv,
context.json, curves.csv; and choice.json, where the policy was chosen among several.
"""

from __future__ import annotations

import csv
import itertools
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spar_core.artifacts import META, read_json, read_meta, write_json
from spar_core.choice import CHOICE
from spar_core.curves import condense
from spar_core.data.environments.environment import SET_LIMIT, make_env
from spar_core.data.loading import MANIFEST
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import (
    MOST_STEPS,
    Block,
    EpisodeResult,
    EvaluationSettings,
    blocks,
    over_blocks,
    roll_out,
)
from spar_core.policy import FROZEN, KIND, FarFromData, load_policy
from spar_core.provenance import changed_settings
from spar_core.training.fitted import CURVES, METRICS
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.entry import device, parse_cell, stage_main, workers
from stages.frame import Written, framed
from stages.layout import Layout
from stages.params import section

EPISODES, COMMITTEE = "episodes.csv", "committee.csv"


@dataclass(frozen=True)
class Evaluate:
    """The work of one worker."""

    policy: Path
    env_id: str
    env_kwargs: dict[str, Any]
    device: str
    observation_keys: list[str] | None
    limit: int = MOST_STEPS
    name: str = "the environment"

    def __call__(self, share: Sequence[Block], report: Reporter) -> list[EpisodeResult]:
        results = []
        # States far from the data are part of what an evaluation finds out.
        warnings.simplefilter("ignore", FarFromData)
        for seed, mine in itertools.groupby(share, lambda block: block.seed):
            policy = load_policy(self.policy, seed, self.device)
            for block in mine:
                # New ones for each block: an environment that keeps something across resets would make its
                # episodes depend on who had it before.
                make = partial(make_env, self.env_id, self.env_kwargs, self.observation_keys)
                results += roll_out(policy.act, make, block, report.advance, name=self.name, limit=self.limit)
        return results


MISMATCH = "evaluated in another version of the environment than the data came from"
ESTIMATE = "an estimate from logged data, not a return"
# Why the environment may judge policies, by the manifest's `equivalence`.
AGREEMENT = {
    "same": "the one that the data comes from",
    "documented": "documented to behave as the one that the data comes from, `{0}`",
    "replayed": "replaying states that the data recorded in `{0}` gives its observations, rewards and ends",
    "mismatch": "not the one that the data comes from, `{0}`",
}


def context_of(manifest: dict[str, Any], protocol: str, diagnostics: dict[str, Any]) -> dict[str, Any]:
    """What the report needs to know about the data and the policy, beside the episodes."""
    reference = manifest["reference"]
    clause = manifest["environment"]["not_evaluated"]
    mismatch = MISMATCH if clause is None and manifest["environment"]["environment_mismatch"] else None
    if clause is not None:
        label = ESTIMATE
    elif reference is None:
        label = "no reference scores: raw returns only"
    elif manifest["source"]["kind"] == "ogbench":
        label = _ogbench_label(manifest)
    elif manifest["comparable_to_d4rl"]:
        label = f"D4RL reference scores ({reference['source']})"
    else:
        label = (
            f"scaled by D4RL's reference scores of {reference['family']}, on data that are not D4RL's: "
            "not comparable with D4RL tables"
        )
    if mismatch:
        label += f"; {mismatch}"
    return {
        "env_id": manifest["environment"]["env_id"],
        "agreement": AGREEMENT.get(manifest["environment"]["equivalence"], "").format(
            manifest["source"]["data_env_id"]
        ),
        "not_evaluated": clause,
        "mismatch": mismatch,
        "reference": reference and {key: reference[key] for key in ("min", "max", "source")},
        "label": label,
        "comparable_to_d4rl": manifest["comparable_to_d4rl"],
        "dataset": {
            "steps": manifest["steps"],
            "episodes": manifest["episodes"],
            "heldout_episodes": manifest["heldout_episodes"],
            # OGBench's data hold the rewards of training, and its evaluation returns success.
            **(
                {}
                if manifest["source"]["kind"] == "ogbench"
                else {"mean_return": manifest["returns"]["mean"], "best_return": manifest["returns"]["best"]}
            ),
            **({"misaligned": manifest["misaligned"]["lead"]} if "misaligned" in manifest else {}),
        },
        "protocol": protocol,
        "diagnostics": diagnostics,
        **({"published": _published(manifest)} if manifest["source"]["kind"] == "ogbench" else {}),
    }


def _ogbench_label(manifest: dict[str, Any]) -> str:
    """What the scores of a task of OGBench are, and whether published scores may stand beside them."""
    source, timing = manifest["source"], manifest["environment"]["env_kwargs"].get("success_timing")
    label = f"percentage of episodes that solve the task, with OGBench's success_timing '{timing}'"
    if source["training_episodes"] != source["released_episodes"]:
        label += (
            f"; trained on {source['training_episodes']} of the {source['released_episodes']} published episodes: not "
            "comparable with published scores"
        )
    return label


def _published(manifest: dict[str, Any]) -> dict[str, str]:
    """Which published scores the report shows, and why they do not compare with ours, if they do not."""
    source, timing = manifest["source"], manifest["environment"]["env_kwargs"].get("success_timing")
    differs = ""
    if source["training_episodes"] != source["released_episodes"]:
        differs = f"they are of all {source['released_episodes']} published episodes"
    note = f"Rows `fql:` were measured with OGBench 1.1.0, whose success_timing is 'post'; ours is '{timing}'."
    return {"suite": "ogbench-singletask", "task": source["task"], "differs": differs, "note": note}


def made_with(parts: Mapping[str, Path]) -> dict[str, Any]:
    """Kind of each part of a policy, and those of its settings that are not the defaults."""
    found = {}
    for family, folder in parts.items():
        params = read_json(folder / META)["params"][family]
        found[family] = {"kind": params.get("kind", family), "changed": changed_settings(family, params)}
    return found


def write_episodes(folder: Path, cell: Cell, results: Sequence[EpisodeResult]) -> None:
    """One row an episode, in order; floats as their shortest exact text.

    ``episodes.csv`` holds those of each seed; ``committee.csv`` those of the committee, with its group for a seed.
    """
    axes = {axis: getattr(cell, axis) for axis in ("dataset", "anchor", "critic", "improvement")}
    rows = [(result.seed, result.row()) for result in results]
    tables = {
        EPISODES: ("seed", [row for seed, row in rows if seed is not None]),
        COMMITTEE: ("seeds", [{**row, "seeds": cell.seeds} for seed, row in rows if seed is None]),
    }
    for name, (policy, kept) in tables.items():
        columns = [*axes, policy, "episode", "env_seed", "return", "length", "terminated", "success"]
        with (folder / name).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**axes, **row} for row in kept)


def rollouts(
    cell: Cell, policy: Path, environment: dict[str, Any], settings: EvaluationSettings, on_steps: Callable[[int], None]
) -> list[EpisodeResult]:
    """All episodes of a cell, in the order of its blocks; ``on_steps`` hears of environment steps as they are done."""
    env_id, keys, limit = (environment[key] for key in ("env_id", "observation_keys", "max_episode_steps"))
    if limit is None:
        raise SparError(f"'{env_id}' of dataset '{cell.dataset}' has no time limit", SET_LIMIT)
    work = blocks(settings, env_id, cell.seed_numbers)
    name = f"'{env_id}' of dataset '{cell.dataset}'"
    job = Evaluate(policy, env_id, environment["env_kwargs"], device(), keys, limit, name)
    return over_blocks(job, work, workers(), on_steps)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.evaluate``."""
    layout, cell = Layout(), parse_cell("evaluate", __doc__, argv)
    settings = section(layout, "evaluation", EvaluationSettings, cell.dataset)
    data, policy = layout.data(cell.dataset), cell.folder(layout, "policy")
    read_meta(policy, KIND)
    manifest = read_json(data / MANIFEST)
    environment = manifest["environment"]
    clause = environment["not_evaluated"]
    frozen = cell.folders(layout, *FROZEN)
    parts = {**frozen, "improvement": policy}
    context = context_of(manifest, settings.protocol, read_json(policy / METRICS))
    context["made_with"] = made_with(parts)
    steps = None
    if clause is None:
        steps = (environment["max_episode_steps"] or 0) * settings.episodes_in(environment["env_id"])
    with framed(
        layout,
        cell,
        params={"evaluation": settings.model_dump(mode="json")},
        inputs={"dataset": data, "policy": policy, **frozen},
        steps=steps,
        unit="env-steps",
        keeps_checkpoints=False,
    ) as frame:
        results = rollouts(cell, policy, environment, settings, frame.advance) if clause is None else []

        def write(folder: Path) -> Written:
            write_episodes(folder, cell, results)
            write_json(folder / "context.json", context)
            condense(parts, folder / CURVES)
            if (policy / CHOICE).is_file():
                shutil.copyfile(policy / CHOICE, folder / CHOICE)
            return Written()

        frame.save("evaluation", write)
    if clause is not None:
        print(
            f"{cell.dataset} is not evaluated: {clause}; with it in study.estimated, its policies' values are estimated"
        )


if __name__ == "__main__":
    sys.exit(stage_main(run))
