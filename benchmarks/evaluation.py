"""How fast final policies are evaluated: the stage, its rollouts alone, and a plain loop over `gymnasium.make`.

    python -m benchmarks.evaluation                    # every rule of the study, 4 seeds of 10 episodes, two workers
    python -m benchmarks.evaluation --workers 1 --repeats 5

Needs the policies of the study in params.yaml (`dvc repro self_imitation`). Three ways, in turn, several times:

- **stage**: `python -m stages.evaluate` for every rule in turn, processes started anew, as `dvc repro` does;
- **rollouts**: the same episodes within one process and its workers, without start-up and artifacts;
- **plain loop**: `gymnasium.make`, one environment, one observation at a time, one episode after the other (of the
  first seeds only, `--plain-episodes` of each rule, since it takes long).

The script prints medians over the repeats, and writes them to benchmarks/results/evaluation.json. A ratio compares
medians of one run of this script. Machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from stages.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/evaluation.json"


def project(folder: Path, episodes: int) -> None:
    """A project folder of its own that borrows the artifacts, so that nothing of the study is overwritten."""
    (folder / "artifacts").mkdir()
    for kind in ("data", "anchor", "residual", "critic", "policy"):
        (folder / "artifacts" / kind).symlink_to(ROOT / "artifacts" / kind)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluation"] |= {"episodes": episodes, "maze_episodes": episodes}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def cells() -> list[Any]:
    """The evaluation cells of the study."""
    from spar_core.study import Study
    from stages.layout import Layout
    from stages.params import section

    return list(section(Layout(ROOT), "study", Study).cells())


def run_stage(folder: Path, cell: Any, workers: int) -> int:
    """One evaluation as a command; returns the environment steps taken."""
    axes = {name: getattr(cell, name) for name in ("dataset", "anchor", "critic", "improvement", "seeds")}
    command = [sys.executable, "-m", "stages.evaluate", *(text for k, v in axes.items() for text in (f"--{k}", v))]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SPAR_WORKERS": str(workers),
        "SPAR_TRACKING": "off",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    rows = folder.joinpath("artifacts/evaluation", *axes.values(), "episodes.csv").read_text().splitlines()
    column = rows[0].split(",").index("length")
    return sum(int(row.split(",")[column]) for row in rows[1:])


def job_of(folder: Path, cell: Any) -> tuple[Any, dict[str, Any]]:
    """The work of one cell, and the environment as its dataset's manifest has it."""
    from spar_core.artifacts import read_json
    from spar_core.making.evaluations import Evaluate
    from stages.layout import Layout

    layout = Layout(folder)
    env = read_json(layout.data(cell.dataset) / "manifest.json")["environment"]
    policy = layout.artifact("policy", cell.dataset, cell.anchor, cell.critic, cell.improvement, cell.seeds)
    return Evaluate(policy, env["env_id"], env["env_kwargs"], "cpu", env["observation_keys"]), env


def run_rollouts(folder: Path, cell: Any, workers: int, episodes: int) -> int:
    """The rollouts of one evaluation in this process and its workers; returns the steps."""
    from spar_core.evaluation.rollouts import EvaluationSettings, blocks, over_blocks
    from spar_core.seeds import parse_seeds

    job, env = job_of(folder, cell)
    settings = EvaluationSettings(episodes=episodes, maze_episodes=episodes)
    work = blocks(settings, env["env_id"], parse_seeds(cell.seeds))
    return sum(row.length for row in over_blocks(job, work, workers))


def run_plain(folder: Path, cell: Any, episodes: int) -> int:
    """What one writes first: one environment, one observation at a time."""
    import gymnasium

    from spar_core.evaluation.rollouts import EvaluationSettings
    from spar_core.policy import load_policy

    job, _ = job_of(folder, cell)
    policy = load_policy(job.policy)
    env = gymnasium.make(job.env_id, **job.env_kwargs)
    steps = 0
    for episode in range(episodes):
        observation, _ = env.reset(seed=EvaluationSettings().first_env_seed + episode)
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(policy.act(observation))
            ended = terminated or truncated
            steps += 1
    env.close()
    return steps


def timed(run: Any) -> tuple[int, float]:
    """Steps taken and seconds."""
    start = time.perf_counter()
    steps = run()
    return steps, time.perf_counter() - start


def main() -> None:
    """Run every way in turn, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10, help="a seed")
    parser.add_argument("--plain-episodes", type=int, default=3, help="a rule, of the plain loop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    work = cells()
    # Steps and seconds of each repeat, by way and rule.
    runs: dict[str, dict[str, list[tuple[int, float]]]] = {way: {} for way in ("stage", "rollouts", "plain loop")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, args.episodes)
        for _ in range(args.repeats):
            for cell in work:
                ways = {
                    "stage": lambda c=cell: run_stage(folder, c, args.workers),
                    "rollouts": lambda c=cell: run_rollouts(folder, c, args.workers, args.episodes),
                    "plain loop": lambda c=cell: run_plain(folder, c, args.plain_episodes),
                }
                for way, run in ways.items():
                    runs[way].setdefault(cell.improvement, []).append(timed(run))
    result = {
        "study": yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["study"]["name"],
        "rules": len(work),
        "episodes_a_seed": args.episodes,
        "workers": args.workers,
        "repeats": args.repeats,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "ways": {way: rates(repeats(found), repeats(runs["plain loop"])) for way, found in runs.items()},
        "rollouts_by_rule": {rule: rates(found, runs["plain loop"][rule]) for rule, found in runs["rollouts"].items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


def repeats(by_rule: dict[str, list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Steps and seconds of all rules together, one entry a repeat."""
    return [(sum(s for s, _ in runs), sum(t for _, t in runs)) for runs in zip(*by_rule.values(), strict=True)]


def rates(found: list[tuple[int, float]], plain: list[tuple[int, float]]) -> dict[str, float]:
    """Medians over the repeats, and the ratio to the plain loop."""
    rate, beside = (statistics.median(steps / seconds for steps, seconds in runs) for runs in (found, plain))
    return {
        "environment_steps": found[0][0],
        "median_seconds": round(statistics.median(seconds for _, seconds in found), 2),
        "steps_a_second": round(rate),
        "ratio_to_plain_loop": round(rate / beside, 2),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a table in Markdown."""
    lines = [
        f"{result['processor']}, {result['cores']} cores, {result['date']}: {result['rules']} rules, "
        f"{result['episodes_a_seed']} episodes a seed, {result['workers']} workers; medians, {result['repeats']} runs.",
        "",
        "| way | environment steps | seconds | steps a second | ratio to the plain loop |",
        "|---|--:|--:|--:|--:|",
    ]
    rows = {**result["ways"], **{f"rollouts, `{rule}`": row for rule, row in result["rollouts_by_rule"].items()}}
    lines += [f"| {way} | {' | '.join(str(value) for value in row.values())} |" for way, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
