"""Film policies of one seed side by side: a strip, a moving picture, and what the episodes gave.

``MUJOCO_GL`` must be set before MuJoCo is imported, and a graphics driver may crash, so the work is done by a process
of its own, ``python -m spar_core.reporting.film.shoot JOB FOLDER``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_folder, digest_value, new_artifact
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block
from spar_core.reporting.film.offscreen import Offscreen, last_line

STRIP, MOVING, FACTS = "strip.webp", "moving.webp", "film.yaml"
# Bump it where a film of the same policies is to look otherwise.
VERSION = 1
SECONDS, RATE = 6.0, 12.5  # of the moving picture: its length, and pictures a second
MOVING_BYTES = 1_000_000
_QUALITIES = (60, 40, 20)
_LIMIT_SECONDS = 300
_MORE_FLOOR = 20


@dataclass(frozen=True)
class Job:
    """What to film.

    Attributes:
        policies: name and artifact folder, in the order of the rows.
        env_id, env_kwargs, observation_keys: as :func:`spar_core.data.environments.environment.make_env` takes them.
        seed: whose networks act.
        env_seeds: of the evaluation's first block; the first is filmed.
    """

    policies: tuple[tuple[str, str], ...]
    env_id: str
    env_kwargs: dict[str, Any]
    observation_keys: list[str] | None
    seed: int
    env_seeds: tuple[int, ...]

    def digest(self) -> str:
        """The identity of the film: the policies' content and all else, but not where the policies lie."""
        content = [[name, digest_folder(Path(folder))] for name, folder in self.policies]
        return digest_value({**asdict(self), "policies": content, "version": VERSION})


def film_apart(job: Job, folder: Path, offscreen: Offscreen) -> None:
    """Make the film in a process of its own; ``folder`` appears whole or not at all.

    Raises:
        SparError: it failed; the message says why.
    """
    if offscreen.backend is None:
        raise SparError(offscreen.reason)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(job), file)
        file.flush()
        command = [sys.executable, "-m", "spar_core.reporting.film.shoot", file.name, str(folder.resolve())]
        environment = offscreen.environment()
        # This package, wherever the project is that it works on.
        paths = [str(Path(__file__).resolve().parents[3]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise SparError(f"filming took more than {_LIMIT_SECONDS} s") from None
    if done.returncode != 0:
        raise SparError(last_line(done.stderr, done.returncode))


def film(job: Job, folder: Path) -> None:
    """Make the film here.

    Raises:
        SparError: an environment cannot be made or cannot draw, or its episodes do not repeat.
    """
    import yaml

    from spar_core.policy import load_policy
    from spar_core.reporting.film import pictures
    from spar_core.reporting.film.takes import check_same, check_start, take

    policies = {name: load_policy(path, job.seed) for name, path in job.policies}
    block = Block(job.seed, 0, tuple(job.env_seeds))
    drawing = _Drawing(job)
    # Once to learn how long the episodes are, and once to draw what is wanted of them.
    plain = {name: take(policy.act, drawing.plain, block) for name, policy in policies.items()}
    steps = pictures.strip_steps([*plain.values()])
    moving = pictures.moving_steps([*plain.values()], drawing.step_seconds or 1 / RATE, SECONDS, RATE)
    drawn = {}
    for name, policy in policies.items():
        wanted = {plain[name].last(step) for step in (*steps, *moving)}
        drawn[name] = take(policy.act, drawing.drawn, block, wanted)
        check_same(plain[name], drawn[name], name)
    check_start([*drawn.values()])
    facts = {
        "env_id": job.env_id,
        "seed": job.seed,
        "env_seed": job.env_seeds[0],
        "step_seconds": drawing.step_seconds,
        "steps": steps,
        "moving_steps": [moving[0], moving[-1]],
        "rows": [
            {
                "name": name,
                "return": one.totals[-1],
                "length": one.length,
                "terminated": one.result.terminated,
                "success": one.result.success,
                "returns_so_far": [one.totals[one.last(step)] for step in steps],
            }
            for name, one in drawn.items()
        ],
    }
    with new_artifact(folder) as draft:
        (draft / STRIP).write_bytes(pictures.strip(drawn, steps, drawing.step_seconds))
        (draft / MOVING).write_bytes(_small_moving(drawn, moving, drawing.step_seconds or 1 / RATE))
        (draft / FACTS).write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")


def _small_moving(takes: Any, steps: Sequence[int], step_seconds: float) -> bytes:
    """The best moving picture that is small enough; the smallest, where none is."""
    from spar_core.reporting.film.pictures import moving

    data = b""
    for quality in _QUALITIES:
        data = moving(takes, steps, step_seconds, quality)
        if len(data) <= MOVING_BYTES:
            break
    return data


class _Drawing:
    """Makes the environment with and without pictures, and knows how long one step of it lasts."""

    def __init__(self, job: Job) -> None:
        from spar_core.data.environments.environment import FAMILIES, make_env
        from spar_core.reporting.film.pictures import HEIGHT, WIDTH

        self._make = partial(make_env, job.env_id, observation_keys=job.observation_keys)
        self._kwargs = job.env_kwargs
        pictured = {**job.env_kwargs, "render_mode": "rgb_array"}
        self._runs_far = job.env_id.split("-v")[0] in FAMILIES
        if self._runs_far:
            # Gymnasium's default camera stays where it is, and what runs is soon out of sight.
            pictured = {"camera_name": "track", **pictured}
        sized = {**pictured, "width": WIDTH, "height": HEIGHT}
        # Not every environment takes a size; frames of another are fitted afterwards.
        try:
            env, self._drawn_kwargs = self._make(sized), sized
        except SparError:
            env, self._drawn_kwargs = self._make(pictured), pictured
        try:
            self.step_seconds = _step_seconds(env)
        finally:
            env.close()

    def plain(self) -> Any:
        return self._make(self._kwargs)

    def drawn(self) -> Any:
        env = self._make(self._drawn_kwargs)
        if self._runs_far:
            _extend_floor(env.unwrapped.model)
        return env


def _extend_floor(model: Any) -> None:
    """Draw the floor as far as a body may run; what it does on it stays the same, since a plane has no end there."""
    import mujoco

    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    model.geom_size[planes, :2] *= _MORE_FLOOR
    materials = {i for i in model.geom_matid[planes] if i >= 0}
    model.mat_texrepeat[list(materials)] *= _MORE_FLOOR


def _step_seconds(env: Any) -> float | None:
    """Seconds of the simulated world that one step takes, where the environment says so."""
    seconds = getattr(env.unwrapped, "dt", None)
    if seconds is None and env.metadata.get("render_fps"):
        seconds = 1 / env.metadata["render_fps"]
    return float(seconds) if seconds else None


def main(arguments: Sequence[str]) -> int:
    """Film a job file into a folder; what went wrong ends as the last line of the error output."""
    job_file, folder = map(Path, arguments)
    values = json.loads(job_file.read_text())
    values["policies"] = tuple((name, path) for name, path in values["policies"])
    try:
        film(Job(**values), folder)
    except SparError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
