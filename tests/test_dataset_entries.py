"""Every entry of the public benchmarks against literals: ids, sources, sizes, environments, and the page on them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spar_core.data.entry import D4rlEntry, Entry, MinariEntry
from spar_core.data.entry_files import dataset_ids, load_entry
from spar_core.data.environments.environment import EnvironmentFacts, environment_facts, equivalence, make_env
from spar_core.data.reference import check_time_limit, reference_table
from spar_core.data.reward_shift import REWARD_SHIFTS, shift_rewards
from spar_core.settings import load_yaml, parse
from spar_core.study import Study

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
SERVER = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
BENCHMARKS = ("d4rl/", "minari/", "mujoco/")
LOCAL = {"d4rl/door-human-v0"}  # reads a file on this machine: tests/test_data_download.py
GYM_TYPES = ("random", "medium", "medium-replay", "medium-expert", "expert")
ADROIT_TYPES = ("human", "cloned", "expert")
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
ADROIT = {
    "pen": ("Pen", 45, 24),
    "door": ("Door", 39, 28),
    "hammer": ("Hammer", 46, 26),
    "relocate": ("Relocate", 39, 30),
}
GYM = {"hopper": ("Hopper", 11, 3), "halfcheetah": ("HalfCheetah", 17, 6), "walker2d": ("Walker2d", 17, 6)}


@dataclass(frozen=True)
class Row:
    """What is expected of some entries: ids and where each comes from, sizes, environment, scores."""

    sources: dict[str, str]
    observation: int
    action: int
    env_ids: dict[str, str] = field(default_factory=dict)  # environment by id; none: not evaluated
    agreement: str = "same"
    reference: str | None = None
    reward_shift: str = "none"
    steps: int | None = None  # time limit of the environment, where it is the same for all


def gym_rows() -> list[Row]:
    rows = []
    for robot, (name, observation, action) in {**GYM, "ant": ("Ant", 111, 8)}.items():
        urls = {f"d4rl/{robot}-{t}-v2": f"gym_mujoco_v2/{robot}_{t.replace('-', '_')}-v2" for t in GYM_TYPES}
        env = dict.fromkeys(urls, f"{name}-v4")
        rows.append(Row(urls, observation, action, env, "documented", robot, steps=1000))
    for robot, (name, observation, action) in {**GYM, "ant": ("Ant", 105, 8)}.items():
        ids = {f"mujoco/{robot}-{t}-v0": f"mujoco/{robot}/{t}-v0" for t in ("simple", "medium", "expert")}
        rows.append(Row(ids, observation, action, dict.fromkeys(ids, f"{name}-v5"), reference=robot, steps=1000))
    return rows


def adroit_rows() -> list[Row]:
    rows = []
    for task, (name, observation, action) in ADROIT.items():
        steps = 100 if task == "pen" else 200
        urls = {f"d4rl/{task}-{t}-v1": f"hand_dapg_v1/{task}-{t}-v1" for t in ADROIT_TYPES}
        ids = {f"minari/{task}-{t}-v2": f"D4RL/{task}/{t}-v2" for t in ADROIT_TYPES}
        d4rls, theirs = f"spar/AdroitHand{name}-v0", f"AdroitHand{name}-v1"
        for sources, env_id, agreement in ((urls, d4rls, "replay"), (ids, theirs, "same")):
            env = dict.fromkeys(sources, env_id)
            rows.append(Row(sources, observation, action, env, agreement, task, steps=steps))
    return rows


def maze_rows() -> list[Row]:
    maps = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    flags = {"umaze": "False_multigoal_False", "play": "True_multigoal_False", "diverse": "True_multigoal_True"}
    antmaze = {
        f"d4rl/antmaze-{m}-v2": f"ant_maze_v2/Ant_maze_{maps[m.split('-')[0]]}_noisy_multistart_"
        f"{flags[m.split('-')[-1]]}_sparse_fixed"
        for m in MAZES
    }
    maze2d = {f"d4rl/maze2d-{m}-v1": f"maze2d/maze2d-{m}-sparse-v1" for m in ("umaze", "medium", "large")}
    rows = [Row(antmaze, 29, 8, {}, "none", reward_shift="iql"), Row(maze2d, 4, 2, {}, "none")]
    ports = {f"minari/antmaze-{m}-v1": f"D4RL/antmaze/{m}-v1" for m in MAZES}
    names = {"umaze": "UMaze", "umaze-diverse": "UMaze", "medium-play": "Medium", "large-play": "Large"}
    names |= {"medium-diverse": "Medium_Diverse_GR", "large-diverse": "Large_Diverse_GR"}
    for start, steps in (("u", 700), ("ml", 1000)):
        mine = {i: s for i, s in ports.items() if i.removeprefix("minari/antmaze-")[0] in start}
        env = {i: f"AntMaze_{names[i.removeprefix('minari/antmaze-').removesuffix('-v1')]}-v4" for i in mine}
        rows.append(Row(mine, 31, 8, env, reference="antmaze", reward_shift="iql", steps=steps))
    for dense, shift in (("", "iql"), ("-dense", "none")):
        names = {"open": "Open", "umaze": "UMaze", "medium": "Medium", "large": "Large"}
        ids = {f"minari/pointmaze-{m}{dense}-v2": f"D4RL/pointmaze/{m}{dense}-v2" for m in names}
        end = "Dense-v3" if dense else "-v3"
        env = dict(zip(ids, (f"PointMaze_{name}{end}" for name in names.values()), strict=True))
        rows.append(Row(ids, 6, 2, env, reward_shift=shift))
    return rows


def kitchen_rows() -> list[Row]:
    tasks = {"partial": "microwave_kettle_light_slider", "mixed": "microwave_kettle_bottomburner_light"}
    urls = {f"d4rl/kitchen-{t}-v0": f"kitchen/kitchen_{tasks[t]}-v0" for t in tasks}
    urls["d4rl/kitchen-complete-v0"] = "kitchen/mini_kitchen_microwave_kettle_light_slider-v0"
    ids = {f"minari/kitchen-{t}-v2": f"D4RL/kitchen/{t}-v2" for t in ("complete", "partial", "mixed")}
    env = dict.fromkeys(ids, "FrankaKitchen-v1")
    return [Row(urls, 60, 9, {}, "none"), Row(ids, 59, 9, env, reference="kitchen", steps=280)]


ROWS = gym_rows() + adroit_rows() + maze_rows() + kitchen_rows()
CASES = [pytest.param(row, id_, id=id_) for row in ROWS for id_ in row.sources]
EVALUATED = [pytest.param(row, id_, id=id_) for row in ROWS for id_ in row.sources if row.env_ids]


@cache
def entry(id_: str) -> Entry:
    return load_entry(ROOT / "datasets" / f"{id_}.yaml")


@cache
def _facts(env_id: str, kwargs: str, keys: tuple[str, ...] | None) -> EnvironmentFacts:
    return environment_facts(env_id, yaml.safe_load(kwargs), keys)


def facts(row: Row, id_: str) -> EnvironmentFacts:
    """The evaluation environment of an entry, made once for those that share it."""
    mine = entry(id_)
    keys = tuple(mine.observation_keys) if mine.observation_keys else None
    return _facts(row.env_ids[id_], yaml.safe_dump(mine.env_kwargs), keys)


def test_every_family_is_complete():
    shipped = {i for i in dataset_ids(ROOT / "datasets") if i.startswith(BENCHMARKS)} - LOCAL
    assert shipped == {id_ for row in ROWS for id_ in row.sources}
    assert len(shipped) == 20 + 6 + 3 + 3 + 12 + 12 + 12 + 3 + 6 + 8


@pytest.mark.parametrize(("row", "id_"), CASES)
def test_entry(row, id_):
    mine = entry(id_)
    assert mine.title and mine.description.endswith(".") and mine.license
    if isinstance(mine, D4rlEntry):
        assert mine.url == f"{SERVER}/{row.sources[id_]}.hdf5"
        assert mine.env_id == row.env_ids.get(id_)
        named = mine.data_env_id
        kind = equivalence(named, mine.env_id, mine.allow_environment_mismatch)
        assert {"unverified": "replay"}.get(kind, kind) == row.agreement
        # Scores may stand beside D4RL's only where the environment is documented to be D4RL's.
        assert mine.comparable_to_d4rl == (row.agreement in ("documented", "replay"))
        assert mine.license == "CC BY 4.0"
    else:
        assert isinstance(mine, MinariEntry) and mine.dataset == row.sources[id_]
        assert mine.env_id is None  # the dataset's own
    assert bool(mine.not_evaluated) == (not row.env_ids)
    assert mine.reference == row.reference and mine.reward_shift == row.reward_shift


def test_old_environment_of_each_robot():
    for id_ in (id_ for row in ROWS[:4] for id_ in row.sources):
        mine = entry(id_)
        assert isinstance(mine, D4rlEntry) and mine.data_env_id == f"{str(mine.env_id)[:-1]}2"


@pytest.mark.parametrize(("row", "id_"), EVALUATED)
def test_environment(row, id_):
    made = facts(row, id_)
    assert (made.observation_size, len(made.action_low)) == (row.observation, row.action)
    np.testing.assert_array_equal([made.action_low, made.action_high], [[-1] * row.action, [1] * row.action])
    if row.steps is not None:
        assert made.max_episode_steps == row.steps
    if row.reference:
        check_time_limit(row.reference, made.max_episode_steps)


@pytest.mark.parametrize("id_", [i for row in ROWS for i in row.sources if "maze" in i and row.env_ids])
def test_mazes_keep_their_walls_and_have_one_goal(id_):
    from gymnasium_robotics.envs.maze import maps

    size = re.search(r"-(open|umaze|medium|large)", id_)[1]
    walls = {"open": maps.OPEN, "umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}[size]
    kwargs = entry(id_).env_kwargs
    # An episode of AntMaze ends at the goal, one of PointMaze goes on there, and none gets another goal.
    assert kwargs["continuing_task"] == ("pointmaze" in id_) and kwargs["reset_target"] is False
    mine = kwargs["maze_map"]
    assert [[cell == 1 for cell in row] for row in mine] == [[cell == 1 for cell in row] for row in walls]
    cells = list(itertools.chain(*mine))
    assert cells.count("g") == 1 and cells.count("r") == (1 if "antmaze" in id_ else 0)


def test_ends_at_the_goal_and_counts_success():
    """What the reference row of AntMaze takes for granted."""
    row = next(row for row in ROWS if "minari/antmaze-umaze-v1" in row.sources)
    env = make_env(row.env_ids["minari/antmaze-umaze-v1"], entry("minari/antmaze-umaze-v1").env_kwargs)
    env.reset(seed=0)
    inner = env.unwrapped
    goal = np.array(inner.goal)
    assert not inner.compute_terminated(goal + 1.0, goal, {}) and inner.compute_reward(goal + 1.0, goal, {}) == 0.0
    assert inner.compute_terminated(goal, goal, {}) and inner.compute_reward(goal, goal, {}) == 1.0
    env.close()


def test_kitchen_rewards_each_subtask_once():
    env = make_env("FrankaKitchen-v1", entry("minari/kitchen-complete-v2").env_kwargs, ["observation"])
    env.reset(seed=0)
    inner = env.unwrapped
    assert sorted(inner.goal) == ["kettle", "light switch", "microwave", "slide cabinet"]
    assert inner.compute_reward(inner.goal, inner.goal, {}) == 4.0
    assert inner.remove_task_when_completed and inner.terminate_on_tasks_completed
    env.close()


def test_ant_is_not_charged_for_contacts_that_the_data_does_not_have():
    assert entry("d4rl/ant-medium-v2").env_kwargs == {"use_contact_forces": True, "contact_cost_weight": 0.0}
    env = make_env("Ant-v4", entry("d4rl/ant-medium-v2").env_kwargs)
    env.reset(seed=0)
    assert all(env.step(env.action_space.sample())[4]["reward_ctrl"] == 0.0 for _ in range(20))
    env.close()


# --- studies ---


@pytest.mark.parametrize("study", sorted(path.stem for path in (ROOT / "studies").glob("*.yaml")))
def test_datasets_of_a_study_exist(study):
    path = ROOT / "studies" / f"{study}.yaml"
    named = parse(Study, {"name": study, **load_yaml(path)}, str(path)).datasets
    assert set(named) <= set(dataset_ids(ROOT / "datasets"))


def test_paper_suite():
    study = yaml.safe_load((ROOT / "studies" / "paper.yaml").read_text())
    gym = [f"d4rl/{r}-{t}-v2" for r in ("halfcheetah", "hopper", "walker2d") for t in GYM_TYPES[1:4]]
    adroit = [f"d4rl/{task}-{t}-v1" for task in ADROIT for t in ADROIT_TYPES]
    kitchen = [f"minari/kitchen-{t}-v2" for t in ("complete", "partial", "mixed")]
    assert study["datasets"] == gym + [f"minari/antmaze-{m}-v1" for m in MAZES] + adroit + kitchen
    rules = ["anchor", "uniform", "awr", "awr_scratch", "td3_bc", "rebrac", "spar_mlp", "spar_proj"]
    assert study["improvements"] == rules
    assert (study["anchors"], study["critics"], study["seeds"]) == (["mlp"], ["iql"], ["0-4", "5-9"])
    budgets = study["params"]
    million = [budgets["anchors"]["mlp"], budgets["residual"], budgets["critics"]["iql"]]
    million += [budgets["improvements"][rule] for rule in rules if rule not in ("anchor", "td3_bc", "rebrac")]
    assert all(part["steps"] == 1_000_000 for part in million)
    # Their critics take two steps for each of the policy's.
    assert all(budgets["improvements"][rule]["steps"] == 500_000 for rule in ("td3_bc", "rebrac"))
    assert budgets["evaluation"] == {"episodes": 10, "maze_episodes": 100}


def settings(id_: str) -> dict[str, Any]:
    return entry(id_).settings


def test_settings_of_the_field_by_family():
    for row in ROWS:
        for id_ in row.sources:
            rules, critics = settings(id_).get("improvements", {}), settings(id_).get("critics", {})
            weights = {rules[rule]["inverse_temperature"] for rule in ("awr", "awr_scratch") if rule in rules}
            if "antmaze" in id_:
                assert (critics, weights, entry(id_).reward_shift) == ({"iql": {"expectile": 0.9}}, {10.0}, "iql")
            elif "kitchen" in id_ or re.search("/(pen|door|hammer|relocate)-", id_):
                assert (critics, weights) == ({}, {0.5})
            else:
                assert (critics, weights) == ({}, set())
            sections = {*settings(id_)} - {"improvements", "critics"}
            own = [rule for rule in rules if rule.startswith("spar")]
            assert not sections and not own, "what is SPAR's own is one setting for all"


@pytest.mark.parametrize(
    ("id_", "values"),
    [
        ("d4rl/halfcheetah-medium-v2", (0.001, 0.01)),
        ("d4rl/hopper-medium-replay-v2", (0.05, 0.5)),
        ("d4rl/walker2d-medium-expert-v2", (0.01, 0.01)),
        ("d4rl/pen-cloned-v1", (0.05, 0.5)),
        ("d4rl/hammer-cloned-v1", (0.1, 0.5)),
        ("minari/antmaze-large-play-v1", (0.002, 0.001)),
    ],
)
def test_rebracs_published_coefficients(id_, values):
    found = settings(id_)["improvements"]["rebrac"]
    assert (found["actor_bc"], found["critic_bc"]) == values
    if id_.startswith("d4rl/pen"):
        assert (found["batch_size"], found["learning_rate"]) == (256, 0.0003)
    if "antmaze" in id_:
        assert (found["discount"], found["critic_learning_rate"]) == (0.999, 0.00005)


# --- the page ---


def expand(text: str) -> list[str]:
    """``a-{b,c}-v0`` to ``a-b-v0`` and ``a-c-v0``."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its two header lines."""
    text = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def described(cells: list[str]) -> dict[str, Any]:
    """One line of the page, by id, in the shape of ``expected``."""
    ids = expand(cells[0].strip("`"))
    env = expand(cells[2].strip("`")) if cells[2] else [""]
    env = env * len(ids) if len(env) == 1 else env
    rest = (cells[1], cells[3], cells[4].strip("`"), cells[5].strip("`") or "none")
    return {id_: (env_id, *rest) for id_, env_id in zip(ids, env, strict=True)}


def test_page_lists_every_entry_as_it_is():
    expected = {
        id_: (
            row.env_ids.get(id_, ""),
            f"{row.observation}, {row.action}",
            row.agreement,
            row.reference or "",
            row.reward_shift,
        )
        for row in ROWS
        for id_ in row.sources
    }
    found: dict[str, Any] = {}
    for cells in table("What there is"):
        mine = described(cells)
        assert not set(mine) & set(found)
        found |= mine
    assert found == expected


def test_every_reference_score_names_its_source_and_is_linked_from_the_page():
    assert "(../spar_core/data/reference_scores.yaml)" in PAGE
    sources = {name: row.source for name, row in reference_table().items()}
    assert sources.pop("ogbench").startswith("OGBench (arXiv 2410.20092)")
    assert all(source.startswith("D4RL, ") for source in sources.values())
    assert all(row.min < row.max for row in reference_table().values())


def test_page_holds_the_reward_shifts():
    found = {cells[0].strip("`"): (float(cells[1]), float(cells[2])) for cells in table("Reward shifts")}
    assert found == REWARD_SHIFTS
    for cells in table("Reward shifts"):
        scale, shift = REWARD_SHIFTS[cells[0].strip("`")]
        assert cells[3] == f"{shift:g} and {scale + shift:g}"
        shifted = shift_rewards(np.array([0.0, 1.0], np.float32), cells[0].strip("`"))
        assert shifted.dtype == np.float32 and cells[3] == f"{shifted[0]:g} and {shifted[1]:g}"
