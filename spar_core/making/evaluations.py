"""Roll a policy out in its environment, one row an episode: each seed's, and their committee.

A dataset without an environment is not evaluated: its episodes.csv is empty, and context.json says why.
"""

from __future__ import annotations

import csv
import itertools
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from spar_core.artifacts import META, read_json, write_json
from spar_core.choice import CHOICE
from spar_core.curves import condense
from spar_core.data.environments.environment import SET_LIMIT, make_env
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
from spar_core.making.frame import Frame, Written
from spar_core.making.ogbench_scores import is_ogbench, label_of, published_of
from spar_core.policy import FarFromData, load_policy
from spar_core.provenance import changed_settings
from spar_core.training.fitted import CURVES, METRICS
from spar_core.training.reporter import Reporter

EPISODES, COMMITTEE = "episodes.csv", "committee.csv"


class Axes(Protocol):
    """The names that a row of episodes bears."""

    @property
    def dataset(self) -> str: ...
    @property
    def anchor(self) -> str | None: ...
    @property
    def critic(self) -> str | None: ...
    @property
    def improvement(self) -> str | None: ...
    @property
    def seeds(self) -> str | None: ...


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


def context_of(manifest: Mapping[str, Any], protocol: str, diagnostics: dict[str, Any]) -> dict[str, Any]:
    """What the report needs to know about the data and the policy, beside the episodes."""
    reference = manifest["reference"]
    clause = manifest["environment"]["not_evaluated"]
    mismatch = MISMATCH if clause is None and manifest["environment"]["environment_mismatch"] else None
    if clause is not None:
        label = ESTIMATE
    elif reference is None:
        label = "no reference scores: raw returns only"
    elif is_ogbench(manifest):
        label = label_of(manifest)
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
            **(
                {}
                if is_ogbench(manifest)
                else {f"{name}_return": manifest["returns"][name] for name in ("mean", "best")}
            ),
            **({"misaligned": manifest["misaligned"]["lead"]} if "misaligned" in manifest else {}),
        },
        "protocol": protocol,
        "diagnostics": diagnostics,
        **({"published": published_of(manifest)} if is_ogbench(manifest) else {}),
    }


def made_with(parts: Mapping[str, Path]) -> dict[str, Any]:
    """Kind of each part of a policy, and those of its settings that are not the defaults."""
    found = {}
    for family, folder in parts.items():
        params = read_json(folder / META)["params"][family]
        found[family] = {"kind": params.get("kind", family), "changed": changed_settings(family, params)}
    return found


def write_episodes(folder: Path, axes: Axes, results: Sequence[EpisodeResult]) -> None:
    """One row an episode, in order; floats as their shortest exact text.

    ``episodes.csv`` holds those of each seed; ``committee.csv`` those of the committee, with its group for a seed.
    """
    named = {axis: getattr(axes, axis) for axis in ("dataset", "anchor", "critic", "improvement")}
    rows = [(result.seed, result.row()) for result in results]
    tables = {
        EPISODES: ("seed", [row for seed, row in rows if seed is not None]),
        COMMITTEE: ("seeds", [{**row, "seeds": axes.seeds} for seed, row in rows if seed is None]),
    }
    for name, (policy, kept) in tables.items():
        columns = [*named, policy, "episode", "env_seed", "return", "length", "terminated", "success"]
        with (folder / name).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**named, **row} for row in kept)


def rollouts(
    policy: Path,
    dataset: str,
    environment: Mapping[str, Any],
    settings: EvaluationSettings,
    frame: Frame,
) -> list[EpisodeResult]:
    """All episodes of a policy, in the order of its blocks.

    Args:
        policy: folder of the artifact.
        dataset: id, for error lines.
        environment: from the dataset's manifest.
        settings: of the evaluation.
        frame: hears of environment steps as they are done.

    Raises:
        SparError: the environment has no time limit, or fails.
    """
    env_id, keys, limit = (environment[key] for key in ("env_id", "observation_keys", "max_episode_steps"))
    if limit is None:
        raise SparError(f"'{env_id}' of dataset '{dataset}' has no time limit", SET_LIMIT)
    work = blocks(settings, env_id, frame.seeds)
    name = f"'{env_id}' of dataset '{dataset}'"
    job = Evaluate(policy, env_id, environment["env_kwargs"], frame.device, keys, limit, name)
    return over_blocks(job, work, frame.workers, frame.advance)


def steps_of(environment: Mapping[str, Any], settings: EvaluationSettings) -> int | None:
    """Most environment steps of one seed; None where nothing is rolled out."""
    if environment["not_evaluated"] is not None:
        return None
    return int(environment["max_episode_steps"] or 0) * settings.episodes_in(environment["env_id"])


def make_evaluation(
    frame: Frame,
    axes: Axes,
    manifest: Mapping[str, Any],
    policy: Path,
    frozen: Mapping[str, Path],
    settings: EvaluationSettings,
) -> None:
    """Write episodes.csv, committee.csv, context.json and curves.csv of a policy, and choice.json where it was chosen.

    Args:
        frame: of the evaluation.
        axes: the names that its rows bear.
        manifest: of the dataset.
        policy: folder of the policy's artifact.
        frozen: folders of its parts by kind.
        settings: of the evaluation.

    Raises:
        SparError: an artifact is missing, or the environment has no time limit or fails.
    """
    parts = {**frozen, "improvement": policy}
    context = context_of(manifest, settings.protocol, read_json(policy / METRICS))
    context["made_with"] = made_with(parts)
    environment = manifest["environment"]
    evaluated = environment["not_evaluated"] is None
    results = rollouts(policy, axes.dataset, environment, settings, frame) if evaluated else []

    def write(folder: Path) -> Written:
        write_episodes(folder, axes, results)
        write_json(folder / "context.json", context)
        condense(parts, folder / CURVES)
        if (policy / CHOICE).is_file():
            shutil.copyfile(policy / CHOICE, folder / CHOICE)
        return Written()

    frame.save("evaluation", write)
