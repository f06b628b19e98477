"""Film policies side by side: a strip, a moving picture, and the facts of the episodes.

``MUJOCO_GL`` must be set before MuJoCo is imported, and a graphics driver may crash, so a separate process does the
work: ``python -m spar_core.reporting.film.shoot JOB FOLDER``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spar_core.artifacts import digest_folder, digest_value, new_artifact
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block
from spar_core.reporting.film.offscreen import Offscreen, last_line

if TYPE_CHECKING:
    from spar_core.reporting.film.takes import Take

STRIP, MOVING, FACTS = "strip.webp", "moving.webp", "film.yaml"
# Increase this number when films of the same policies should look different.
VERSION = 2
SECONDS, RATE = 6.0, 12.5  # length of the moving picture, and its frames per second
MOVING_BYTES = 1_000_000
_QUALITIES = (60, 40, 20)
_LIMIT_SECONDS = 300
_MORE_FLOOR = 20


@dataclass(frozen=True)
class Job:
    """What to film.

    Attributes:
        policies: name and artifact folder of each row.
        env_id, env_kwargs, observation_keys: arguments of
            :func:`spar_core.data.environments.environment.make_env`.
        seed: the training seed whose networks act; None for the committee of all.
        env_seeds: environment seeds of the evaluation's first block; the first one is filmed.
    """

    policies: tuple[tuple[str, str], ...]
    env_id: str
    env_kwargs: dict[str, Any]
    observation_keys: list[str] | None
    seed: int | None
    env_seeds: tuple[int, ...]

    def digest(self) -> str:
        """The identity of the film: everything that it shows, with the policies' content instead of their folders."""
        content = [[name, digest_folder(Path(folder))] for name, folder in self.policies]
        return digest_value({**asdict(self), "policies": content, "version": VERSION})


def film_apart(job: Job, folder: Path, offscreen: Offscreen) -> None:
    """Make the film in a separate process; ``folder`` appears complete or not at all.

    Raises:
        SparError: the process failed; the message says why.
    """
    if offscreen.backend is None:
        raise SparError(offscreen.reason)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(job), file)
        file.flush()
        command = [sys.executable, "-m", "spar_core.reporting.film.shoot", file.name, str(folder.resolve())]
        environment = offscreen.environment()
        # The process must import this package, whatever its working directory is.
        paths = [str(Path(__file__).resolve().parents[3]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise SparError(f"filming took more than {_LIMIT_SECONDS} s") from None
    if done.returncode != 0:
        raise SparError(last_line(done.stderr, done.returncode))


def film(job: Job, folder: Path) -> None:
    """Make the film in this process.

    Raises:
        SparError: an environment cannot be made or cannot draw, or its episodes do not repeat.
    """
    import yaml

    from spar_core.policy import FarFromData, load_policy
    from spar_core.reporting.film import pictures
    from spar_core.reporting.film.takes import check_same, check_start, take

    warnings.simplefilter("ignore", FarFromData)  # states far from the data are part of what the film shows
    policies = {name: load_policy(path, job.seed) for name, path in job.policies}
    block = Block(job.seed, 0, tuple(job.env_seeds))
    drawing = _Drawing(job)
    # The first run gives the lengths of the episodes, from which the steps to draw follow.
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


def _small_moving(takes: Mapping[str, Take], steps: Sequence[int], step_seconds: float) -> bytes:
    """The best moving picture that is small enough; the smallest one if none is."""
    from spar_core.reporting.film.pictures import moving

    data = b""
    for quality in _QUALITIES:
        data = moving(takes, steps, step_seconds, quality)
        if len(data) <= MOVING_BYTES:
            break
    return data


class _Drawing:
    """Makes the environment with and without drawing; ``step_seconds`` is the duration of one step."""

    def __init__(self, job: Job) -> None:
        from spar_core.data.environments.environment import FAMILIES, make_env
        from spar_core.data.environments.ids import bare
        from spar_core.reporting.film.pictures import HEIGHT, WIDTH

        self._make = partial(make_env, job.env_id, observation_keys=job.observation_keys)
        self._kwargs = job.env_kwargs
        pictured = {**job.env_kwargs, "render_mode": "rgb_array"}
        self._runs_far = bare(job.env_id).split("-v")[0] in FAMILIES
        if self._runs_far:
            # Gymnasium's default camera does not move, and a running body soon leaves its view.
            pictured = {"camera_name": "track", **pictured}
        sized = {**pictured, "width": WIDTH, "height": HEIGHT}
        # Not every environment accepts a size; frames of another size are fitted afterwards.
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
            _extend_floor(cast(Any, env.unwrapped).model)
        return env


def _extend_floor(model: Any) -> None:
    """Draw the floor as far as a body may run. The simulation does not change, since its planes are infinite anyway."""
    import mujoco

    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    model.geom_size[planes, :2] *= _MORE_FLOOR
    materials = {i for i in model.geom_matid[planes] if i >= 0}
    model.mat_texrepeat[list(materials)] *= _MORE_FLOOR


def _step_seconds(env: Any) -> float | None:
    """Duration of one step in simulated seconds; None where the environment does not give it."""
    seconds = getattr(env.unwrapped, "dt", None)
    if seconds is None and env.metadata.get("render_fps"):
        seconds = 1 / env.metadata["render_fps"]
    return float(seconds) if seconds else None


def main(arguments: Sequence[str]) -> int:
    """Film a job file into a folder; an error is printed as the last line of the error output."""
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
