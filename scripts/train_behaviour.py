"""Train the behaviour policies behind the built-in datasets and save actor snapshots.

Soft actor-critic (Haarnoja et al. 2018) as implemented in stable-baselines3 trains one agent per
environment. Every ``--every`` steps the actor alone is written as safetensors, together with the mean
return of a few stochastic episodes. ``select`` then copies five or six snapshots of rising return into
``datasets/behaviour/<name>/`` and writes ``index.yaml`` beside them. ``mirror`` does so for Walker2d with the
mirror image of each snapshot, which swaps the legs: a policy of equal strength and another gait.

Usage (needs ``pip install -r requirements-dev.txt``)::

    python scripts/train_behaviour.py train --env HalfCheetah-v5 --steps 100000 --out runs/halfcheetah
    python scripts/train_behaviour.py select --runs runs/halfcheetah --steps 5000,20000,... \
        --out datasets/behaviour/halfcheetah
    python scripts/train_behaviour.py mirror --runs datasets/behaviour/walker2d --steps 80000,130000 \
        --out datasets/behaviour/walker2d-gaits

The actor is deliberately narrow (two layers of 128) to keep the committed files small; the critic, which
is thrown away, is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path


def save_actor(model, path: Path) -> None:
    """Write the actor's weights under the names that ``spar_core.data.generators.behaviour`` reads."""
    from safetensors.torch import save_file

    actor = model.policy.actor
    linears = [layer for layer in actor.latent_pi if hasattr(layer, "weight")]
    tensors = {}
    for i, layer in enumerate(linears):
        tensors[f"hidden.{i}.weight"] = layer.weight.detach().clone()
        tensors[f"hidden.{i}.bias"] = layer.bias.detach().clone()
    for name, layer in (("mean", actor.mu), ("log_std", actor.log_std)):
        tensors[f"{name}.weight"] = layer.weight.detach().clone()
        tensors[f"{name}.bias"] = layer.bias.detach().clone()
    save_file(tensors, path)


def evaluate(model, env_id: str, episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of stochastic episodes, as the dataset will contain them."""
    import gymnasium as gym

    env = gym.make(env_id)
    returns = []
    for i in range(episodes):
        observation, _ = env.reset(seed=seed + i)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(observation, deterministic=False)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    return returns


def train(args: argparse.Namespace) -> None:
    """Train one agent; snapshots of its actor and their returns go to ``args.out``."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    class Snapshots(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % args.every == 0:
                path = out / f"{self.num_timesteps:07d}.safetensors"
                save_actor(self.model, path)
                returns = evaluate(self.model, args.env, args.episodes, seed=900_000)
                row = {"steps": self.num_timesteps, "returns": [round(r, 1) for r in returns]}
                with (out / "snapshots.jsonl").open("a") as handle:
                    handle.write(json.dumps(row) + "\n")
                print(args.env, self.num_timesteps, round(sum(returns) / len(returns), 1), flush=True)
            return True

    model = SAC(
        "MlpPolicy",
        args.env,
        learning_rate=args.learning_rate,
        batch_size=256,
        learning_starts=args.learning_starts,
        policy_kwargs={"net_arch": {"pi": [128, 128], "qf": [256, 256]}},
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.steps, callback=Snapshots())


def select(args: argparse.Namespace) -> None:
    """Copy the snapshots of the given steps into ``args.out`` and write their index."""
    import yaml

    runs, out = Path(args.runs), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for line in (runs / "snapshots.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["steps"]] = row
    index = []
    for steps in (int(s) for s in args.steps.split(",")):
        name = f"{steps:07d}.safetensors"
        shutil.copyfile(runs / name, out / name)
        returns = rows[steps]["returns"]
        index.append({"file": name, "steps": steps, "mean_return": round(sum(returns) / len(returns), 1)})
    (out / "index.yaml").write_text(yaml.safe_dump({"snapshots": index}, sort_keys=False))


# Walker2d observes height, pitch and the angles of the right leg (3) and the left leg (3), then two velocities of the
# body and those of the same angles. It acts on the right leg (3) and the left leg (3).
MIRRORED_OBSERVATION = [0, 1, 5, 6, 7, 2, 3, 4, 8, 9, 10, 14, 15, 16, 11, 12, 13]
MIRRORED_ACTION = [3, 4, 5, 0, 1, 2]


def mirror(args: argparse.Namespace) -> None:
    """Copy the snapshots of the given steps, and their mirror images, into ``args.out`` and write their index."""
    import numpy as np
    import yaml
    from safetensors.numpy import load_file, save_file

    source, out = Path(args.runs), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = {row["file"]: row for row in yaml.safe_load((source / "index.yaml").read_text())["snapshots"]}
    index = []
    for steps in (int(s) for s in args.steps.split(",")):
        name, image = f"{steps:07d}.safetensors", f"{steps:07d}-mirrored.safetensors"
        tensors = load_file(source / name)
        shutil.copyfile(source / name, out / name)
        # The first layer reads the legs in the other order, and the last layers write them so.
        tensors["hidden.0.weight"] = np.ascontiguousarray(tensors["hidden.0.weight"][:, MIRRORED_OBSERVATION])
        for layer in ("mean", "log_std"):
            for key in ("weight", "bias"):
                tensors[f"{layer}.{key}"] = np.ascontiguousarray(tensors[f"{layer}.{key}"][MIRRORED_ACTION])
        save_file(tensors, out / image)
        index += [rows[name], {**rows[name], "file": image}]
    (out / "index.yaml").write_text(yaml.safe_dump({"snapshots": index}, sort_keys=False))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train one agent and save snapshots of its actor")
    command.add_argument("--env", required=True)
    command.add_argument("--steps", type=int, required=True)
    command.add_argument("--out", required=True)
    command.add_argument("--every", type=int, default=5_000)
    command.add_argument("--episodes", type=int, default=5)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--learning-rate", type=float, default=7e-4)
    command.add_argument("--learning-starts", type=int, default=2_000)
    command.set_defaults(run=train)
    command = commands.add_parser("select", help="copy chosen snapshots into the repository")
    command.add_argument("--runs", required=True)
    command.add_argument("--steps", required=True, help="comma-separated training steps")
    command.add_argument("--out", required=True)
    command.set_defaults(run=select)
    command = commands.add_parser("mirror", help="copy Walker2d snapshots with their mirror images")
    command.add_argument("--runs", required=True, help="folder of snapshots with its index.yaml")
    command.add_argument("--steps", required=True, help="comma-separated training steps")
    command.add_argument("--out", required=True)
    command.set_defaults(run=mirror)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
