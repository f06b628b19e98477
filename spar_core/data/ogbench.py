"""The single tasks of OGBench: where their goals are, and the rewards that stored states earn there.

A file of OGBench holds no rewards. A task consists of parts, each done or not at a state of the simulator: an object
lies within a tolerance of its place, or a button shows its state. The reward of a step is the number of parts that are
done at its state, before its action, minus the number of parts. Where all are done, no later reward counts for a value,
and the recording goes on all the same.

``ogbench_tasks.yaml`` holds the tasks. ``scripts/ogbench_tasks.py`` reads them out of OGBench's environments and writes
the file, so that data are relabelled without a simulator. Source: OGBench (Park et al. 2025, arXiv 2410.20092).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, nearest, parse

TABLE = Path(__file__).with_name("ogbench_tasks.yaml")
NAME = re.compile(r"(?P<environment>[a-z0-9]+-[a-z0-9]+|scene)-(?P<type>[a-z]+)-singletask-task(?P<task>[1-5])-v0")
STATES = 2  # of a button


class Object(Settings):
    """Where a state, and the observation of it, hold the position of an object that a task moves."""

    qpos: int = Field(ge=0, description="first of its columns in qpos")
    observed: int = Field(ge=0, description="first of its columns in an observation")
    minus: list[float] = Field(description="subtracted from each column of qpos before it is observed")
    times: float = Field(1.0, description="factor of an observed column")


class Goal(Settings):
    """The goal of one task."""

    places: list[list[float]] = Field(default_factory=list, description="of each object, in metres")
    buttons: list[int] = Field(default_factory=list, description="state of each button")


class Release(Settings):
    """The size of a released file."""

    episodes: int = Field(gt=0, description="episodes of the file to train on")
    rows: int = Field(gt=1, description="stored rows of an episode, one more than its steps")


class Environment(Settings):
    """One environment of OGBench, as its data show it."""

    observation_size: int = Field(gt=0, description="numbers of an observation")
    action_size: int = Field(gt=0, description="numbers of an action, each in [-1, 1]")
    qpos_size: int = Field(gt=0, description="columns of qpos")
    max_episode_steps: int = Field(gt=0, description="time limit of an evaluation, in steps")
    tolerance: float = Field(gt=0, description="distance from its place at which an object is there, in metres")
    objects: list[Object] = Field(default_factory=list, description="what the tasks move")
    buttons_observed: int | None = Field(
        None, description="first column of the observed buttons, two for the state of each, then position and velocity"
    )
    default_task: int = Field(ge=1, le=5, description="the task on which published methods are tuned")
    data: dict[str, Release] = Field(description="released files by type")
    tasks: list[Goal] = Field(min_length=5, max_length=5, description="goals of the tasks 1 to 5")

    @property
    def buttons(self) -> int:
        """Number of buttons."""
        return len(self.tasks[0].buttons)


@dataclass(frozen=True)
class Task:
    """One task on one kind of data.

    Attributes:
        name: as OGBench's loader calls it, such as ``cube-single-play-singletask-task2-v0``.
        environment_name: such as ``cube-single``.
        kind: kind of data, such as ``play``.
        number: 1 to 5.
        environment: facts about the environment.
    """

    name: str
    environment_name: str
    kind: str
    number: int
    environment: Environment

    @property
    def file(self) -> str:
        """Name of OGBench's file without its ending, which all five tasks share."""
        return f"{self.environment_name}-{self.kind}-v0"

    @property
    def env_id(self) -> str:
        """The evaluation environment, see :mod:`spar_core.data.environments.ogbench`."""
        return f"spar/{self.environment_name}-singletask-task{self.number}-v0"

    @property
    def goal(self) -> Goal:
        """The goal of the task."""
        return self.environment.tasks[self.number - 1]

    @property
    def release(self) -> Release:
        """The size of the released file."""
        return self.environment.data[self.kind]

    def rewards(self, qpos: NDArray[np.floating], buttons: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """Rewards [N] of states; 0 where the task is done, which stops values.

        Args:
            qpos: positions in the simulator, [N, Q].
            buttons: states of the buttons, [N, B]; None for a task without buttons.
        """
        done = np.zeros(len(qpos), np.int64)
        for thing, place in zip(self.environment.objects, self.goal.places, strict=True):
            at = qpos[:, thing.qpos : thing.qpos + len(place)].astype(np.float64)
            done += np.linalg.norm(at - np.array(place), axis=-1) <= self.environment.tolerance
        if buttons is not None:
            done += (buttons == np.array(self.goal.buttons)).sum(axis=-1)
        return (done - len(self.goal.places) - len(self.goal.buttons)).astype(np.float32)


@cache
def environments() -> dict[str, Environment]:
    """All environments of the table, by name."""
    return {name: parse(Environment, row, f"{TABLE.name}: {name}") for name, row in load_yaml(TABLE).items()}


def task_of(name: str) -> Task:
    """The task that OGBench's loader names like this.

    Raises:
        SparError: there is none; the line names the nearest part that there is.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise SparError(
            f"'{name}' is not a single task of OGBench",
            "write ENVIRONMENT-TYPE-singletask-taskN-v0, such as cube-single-play-singletask-task2-v0, with N from 1 "
            "to 5",
        )
    table, environment = environments(), found["environment"]
    if environment not in table:
        raise SparError(f"'{name}': OGBench's environment '{environment}' is not known", nearest(environment, [*table]))
    if found["type"] not in table[environment].data:
        raise SparError(
            f"'{name}': OGBench has no '{found['type']}' data of {environment}",
            nearest(found["type"], [*table[environment].data]),
        )
    return Task(name, environment, found["type"], int(found["task"]), table[environment])
