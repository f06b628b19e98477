"""OGBench's single tasks: goals, files, rewards, stops, environments, and every flaw of a file in one line."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spar_core.data.entry import OgbenchEntry
from spar_core.data.entry_files import dataset_ids, load_entry, source_digest
from spar_core.data.environments import ogbench
from spar_core.data.environments.environment import make_env
from spar_core.data.loading import load_dataset
from spar_core.data.ogbench import Environment, environments, task_of
from spar_core.data.readers import ogbench_npz
from spar_core.data.readers.ogbench_npz import files_of, read_ogbench
from spar_core.errors import SparError
from spar_core.making.evaluations import context_of
from spar_core.settings import parse
from stages.download import download
from stages.layout import Layout

ROOT = Path(__file__).parents[1]
POINT = task_of("pointmaze-medium-navigate-singletask-task3-v0")
PUZZLE = task_of("puzzle-3x3-play-singletask-task4-v0")
DATASET = "mine/point-v0"
QUICK = {"pointmaze-medium", "antsoccer-arena", "scene"}  # The others take seconds each.
needs_ogbench = pytest.mark.skipif(ogbench.installed() is None, reason="ogbench is not installed")


def point_arrays(episodes: int = 4, rows: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    """A file of pointmaze-medium: a random walk that passes the goal of task 3, at (4, 12), every now and then."""
    rng = np.random.default_rng(seed)
    qpos = (np.array([4.0, 12.0]) + rng.normal(size=(episodes * rows, 2))).astype(np.float32)
    return {
        "observations": qpos.copy(),
        "actions": rng.uniform(-1, 1, (episodes * rows, 2)).astype(np.float32),
        "terminals": np.arange(1, episodes * rows + 1) % rows == 0,
        "qpos": qpos,
        "qvel": np.zeros_like(qpos),
    }


def puzzle_arrays() -> dict[str, np.ndarray]:
    """A file of puzzle-3x3 in which every second state shows the target of task 4, all buttons lit."""
    rng = np.random.default_rng(0)
    facts = PUZZLE.environment
    buttons = np.where(np.arange(10)[:, None] % 2, 1, rng.integers(0, 2, (10, 9)))
    observations = rng.normal(size=(10, facts.observation_size)).astype(np.float32)
    for i in range(9):
        observations[:, 19 + 4 * i : 21 + 4 * i] = np.eye(2)[buttons[:, i]]
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (10, 5)).astype(np.float32),
        "terminals": np.arange(1, 11) % 5 == 0,
        "qpos": rng.normal(size=(10, facts.qpos_size)).astype(np.float32),
        "button_states": buttons,
    }


def write(folder: Path, arrays: dict[str, np.ndarray], name: str = "pointmaze-medium-navigate-v0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def project(root: Path, **values) -> Layout:
    """A scratch project with an entry for task 3 of pointmaze-medium, whose files lie in ``data``."""
    layout = Layout(root)
    layout.dataset_entry(DATASET).parent.mkdir(parents=True, exist_ok=True)
    entry = {"title": "t", "source": "ogbench", "task": POINT.name, "path": "data", "reference": "ogbench", **values}
    layout.dataset_entry(DATASET).write_text(yaml.safe_dump(entry))
    return layout


# --- tasks and entries ---


@cache
def facts_of(name: str) -> dict:
    from scripts.ogbench_tasks import facts_of

    return facts_of(name)


@needs_ogbench
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in environments()],
)
def test_the_table_is_what_the_environments_say(name):
    found, wanted = parse(Environment, facts_of(name), name), environments()[name]
    for of_found, of_wanted in zip(found.tasks, wanted.tasks, strict=True):
        assert of_found.buttons == of_wanted.buttons
        for place, expected in zip(of_found.places, of_wanted.places, strict=True):
            np.testing.assert_allclose(place, expected, atol=1e-9)
    assert found.model_copy(update={"tasks": wanted.tasks}) == wanted
    env = make_env(task_of(f"{name}-{next(iter(wanted.data))}-singletask-task3-v0").env_id)
    seen, _ = env.reset(seed=0)
    assert seen.shape == (wanted.observation_size,) and env.spec.max_episode_steps == wanted.max_episode_steps
    assert env.action_space.shape == (wanted.action_size,) and set(env.action_space.low) == {-1.0}
    for thing in wanted.objects:  # Observations show the columns of qpos that the table says they show.
        at = env.unwrapped.data.qpos[thing.qpos : thing.qpos + len(thing.minus)]
        shown = seen[thing.observed : thing.observed + len(thing.minus)]
        np.testing.assert_allclose((at - thing.minus) * thing.times, shown, atol=ogbench_npz.CLOSE)
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cube-single-play-v0", "not a single task"),
        ("cube-single-play-singletask-task6-v0", "not a single task"),
        ("cube-singel-play-singletask-task2-v0", "did you mean 'cube-single'"),
        ("cube-single-stitch-singletask-task2-v0", "no 'stitch' data of cube-single"),
    ],
)
def test_a_name_that_is_no_task(name, message):
    with pytest.raises(SparError, match=message):
        task_of(name)
    with pytest.raises(SparError, match=f"^here: {'.*' + message}"):
        parse(OgbenchEntry, {"title": "t", "source": "ogbench", "task": name}, "here")


def test_every_task_has_an_entry():
    shipped = [name for name in dataset_ids(ROOT / "datasets") if name.startswith("ogbench/")]
    names = [
        f"ogbench/{name}-{kind}-singletask-task{number}-v0"
        for name, facts in environments().items()
        for kind in facts.data
        for number in range(1, 6)
    ]
    assert shipped == sorted(names) and len(names) == 235
    for name in names:
        entry = load_entry(ROOT / "datasets" / f"{name}.yaml")
        assert f"ogbench/{entry.task}" == name and entry.env_id == task_of(entry.task).env_id
        assert entry.settings["evaluation"] == {"episodes": 50} and entry.reference == "ogbench"
        far = name.split("/")[1].startswith(("antmaze-giant", "pointmaze-giant", "humanoidmaze", "antsoccer"))
        assert {values["discount"] for values in entry.settings.get("critics", {}).values()} == (
            {0.995} if far else set()
        )


def test_a_family_file_names_its_entries(tmp_path):
    layout = project(tmp_path)
    family = layout.root / "datasets/mine/scene.family.yaml"
    body = {"title": "Task {task}", "source": "ogbench", "task": "scene-play-singletask-task{task}-v0"}
    family.write_text(yaml.safe_dump({"axes": {"task": [1, 2]}, "id": "scene-{task}-v0", "entry": body}))
    assert dataset_ids(layout.root / "datasets") == [DATASET, "mine/scene-1-v0", "mine/scene-2-v0"]
    assert load_entry(layout.dataset_entry("mine/scene-2-v0")).title == "Task 2"
    with pytest.raises(SparError, match=r"no dataset 'mine/scene-3-v0'.*did you mean 'mine/scene-[12]-v0'"):
        load_entry(layout.dataset_entry("mine/scene-3-v0"))
    for id_, message in (
        ("scene-v0", "'id' gives several entries one id; name every axis"),
        ("x-{task}-v0", "begins otherwise"),
    ):
        family.write_text(yaml.safe_dump({"axes": {"task": [1, 2]}, "id": id_, "entry": body}))
        with pytest.raises(SparError, match=f"scene.family.yaml: .*{message}"):
            load_entry(layout.dataset_entry("mine/scene-1-v0"))


# --- files ---


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(0, 99))
def test_episodes_are_the_rows_of_the_file(tmp_path_factory, episodes, rows, seed):
    arrays = point_arrays(episodes, rows, seed)
    path = write(tmp_path_factory.mktemp("file"), arrays)
    read = read_ogbench(POINT, path, None)
    assert read.training == len(read.episodes) == episodes and set(read.episodes.lengths) == {rows - 1}
    for number, episode in enumerate(read.episodes):
        mine = slice(number * rows, (number + 1) * rows)
        assert np.array_equal(episode.observations, arrays["observations"][mine])  # the next one is the following row
        assert np.array_equal(episode.actions, arrays["actions"][mine][:-1])
        there = np.linalg.norm(arrays["qpos"][mine][:-1] - [4.0, 12.0], axis=1) <= 1.0
        assert np.array_equal(episode.stops, there) and np.array_equal(episode.rewards, there - 1.0)
        assert episode.terminated == there[-1] and episode.last_known


def test_buttons_are_parts_of_a_task(tmp_path):
    read = read_ogbench(PUZZLE, write(tmp_path, puzzle_arrays(), PUZZLE.file), None)
    lit = puzzle_arrays()["button_states"].sum(axis=1).reshape(2, 5)[:, :-1].ravel()
    assert np.array_equal(read.episodes.rewards, lit - 9) and np.array_equal(read.episodes.stops, lit == 9)


def _without(name):
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


def _with(name, change):
    return lambda arrays: {**arrays, name: change(arrays.get(name))}


def _put(at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return change


FLAWS = [
    (_without("qpos"), "has no array 'qpos'; it holds .* rewards are computed from the simulator's states"),
    (_without("terminals"), "has no array 'terminals'"),
    (_with("next_observations", lambda _: np.zeros((36, 2))), "what OGBench's loader returned"),
    (_with("valids", lambda _: np.zeros(36)), "holds 'valids', so it is what OGBench's loader returned"),
    (_with("goals", lambda _: np.zeros(36)), "holds 'goals', which no file of OGBench has"),
    (_with("observations", lambda o: (255 * np.ones((36, 64, 64, 3))).astype(np.uint8)), "uint8; pixels are not"),
    (_with("actions", lambda a: a.astype(np.int64)), "'actions' holds int64"),
    (_with("qpos", lambda q: q[:-1]), r"'qpos' has shape \(35, 2\), but 36 rows of pointmaze-medium need \(36, 2\)"),
    (_with("observations", lambda o: np.hstack([o, o])), r"'observations' has shape \(36, 4\)"),
    (_with("terminals", lambda t: t.astype(float) * 2), "'terminals' hold a value that is neither 0 nor 1"),
    (_with("terminals", _put(-1, False)), "the last row is not terminal, so the file was cut off"),
    (_with("terminals", _put(2, True)), "episode 1 has 6 rows, and episode 0 has 3"),
    (_with("terminals", lambda t: np.ones(36, bool)), "episode 0 has 1 rows"),
    (_with("qpos", _put((13, 1), np.nan)), "'qpos' holds a NaN or an infinity in episode 1, row 4"),
    (
        _with("qpos", lambda q: np.roll(q, 1, axis=0)),
        "'qpos' is of another state .* first in episode 0, row 0: .* shifted",
    ),
    (_with("observations", lambda o: np.array([None] * 36)), "cannot be read as .npz"),
    (_with("observations", _put((9, 0), np.nan)), "observations hold a NaN in episode 1, step 0"),
    (_with("actions", _put((9, 0), 1.5)), r"action 1.5 in episode 1, step 0, dimension 0 lies outside the bounds"),
]


@pytest.mark.parametrize(("flaw", "message"), FLAWS, ids=[message[:40] for _, message in FLAWS])
@pytest.mark.parametrize("part", ["", "-val"])
def test_a_flaw_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, flaw, message, part):
    monkeypatch.setattr(ogbench, "installed", lambda: None)
    layout = project(tmp_path)
    for suffix in ("", "-val"):
        arrays = point_arrays(seed=len(suffix))
        write(tmp_path / "data", flaw(arrays) if suffix == part else arrays, f"{POINT.file}{suffix}")
    where = message.replace("episode 1, step 0", "episode 5, step 0") if part else message
    with pytest.raises(SparError, match=where) as error:
        download(layout, DATASET, 1)
    assert "\n" not in str(error.value)
    assert not layout.data(DATASET).exists() and not (layout.minari_root / DATASET).exists()


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (_without("button_states"), "has no array 'button_states'"),
        (_with("button_states", lambda b: b.astype(float)), "'button_states' holds float64"),
        (_with("button_states", lambda b: b[:, :8]), r"'button_states' has shape \(10, 8\)"),
        (_with("button_states", lambda b: 3 * b), "'button_states' hold a value that is neither 0 nor 1"),
        (
            _with("button_states", lambda b: 1 - b),
            "'button_states' is of another state than 'observations' in 10 of 10",
        ),
    ],
)
def test_a_flaw_of_buttons_is_one_line(tmp_path, flaw, message):
    with pytest.raises(SparError, match=message):
        read_ogbench(PUZZLE, write(tmp_path, flaw(puzzle_arrays()), PUZZLE.file), None)


def test_a_damaged_file_is_one_line(tmp_path):
    path = write(tmp_path, point_arrays())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SparError, match=r"pointmaze-medium-navigate-v0.npz cannot be read as .npz \(BadZipFile"):
        read_ogbench(POINT, path, None)


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("OGBENCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    home = write(tmp_path / ".ogbench/data", point_arrays())
    assert files_of(POINT, None) == (home, None)
    monkeypatch.setenv("OGBENCH_DATA", str(tmp_path / "other"))
    with pytest.raises(SparError, match=r"other/pointmaze.* does not exist; put it there, or correct the variable OG"):
        files_of(POINT, None)
    named = write(tmp_path / "other", point_arrays())
    held = write(tmp_path / "other", point_arrays(), f"{POINT.file}-val")
    assert files_of(POINT, None) == (named, held)
    with pytest.raises(SparError, match=r"correct 'path' in the dataset's entry"):
        files_of(POINT, tmp_path)


def test_the_mirror_is_asked_where_the_server_is_down(tmp_path, monkeypatch):
    monkeypatch.delenv("OGBENCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    mirror = tmp_path / "mirror"
    servers = [f"file://{tmp_path}/down", f"file://{mirror}"]
    monkeypatch.setattr(ogbench_npz, "SERVERS", servers)
    with pytest.raises(
        SparError, match=rf"down/{POINT.file}.npz cannot .*{mirror}/{POINT.file}.npz cannot .*; put {POINT.file}"
    ):
        files_of(POINT, None)
    entry = load_entry(project(tmp_path, path=None).dataset_entry(DATASET))
    before = source_digest(entry, tmp_path)
    write(mirror, point_arrays())
    write(mirror, point_arrays(seed=1), f"{POINT.file}-val")
    path, held = files_of(POINT, None)
    assert path.read_bytes() == (mirror / f"{POINT.file}.npz").read_bytes() and held.is_file()
    assert source_digest(entry, tmp_path) == before  # the same before and after a download


# --- datasets ---


def test_stops_and_the_validation_file_reach_training(tmp_path, monkeypatch):
    layout = project(tmp_path)
    write(tmp_path / "data", point_arrays())
    write(tmp_path / "data", point_arrays(2, seed=1), f"{POINT.file}-val")
    said = []
    manifest = download(layout, DATASET, 1, said.append)
    dataset = load_dataset(layout.minari_root, layout.data(DATASET), DATASET)
    assert dataset.heldout.tolist() == [False] * 4 + [True] * 2
    arrays = point_arrays()
    there = np.linalg.norm(arrays["qpos"] - [4.0, 12.0], axis=1).reshape(4, 9)[:, :-1] <= 1.0
    assert dataset.stops[:32].tolist() == there.ravel().tolist() == dataset.step_terminated[:32].tolist()
    assert manifest["source"]["stopped_steps"] == int(dataset.stops.sum()) == int((dataset.rewards == 0).sum())
    assert manifest["reference"]["normalised"]["mean"] == pytest.approx(
        100 * np.mean([dataset.stops[dataset.episode == e].any() for e in range(6)])
    )
    assert manifest["environment"]["env_kwargs"] == {"success_timing": "pre"}
    assert any("4 of the 1000 episodes" in line for line in said)
    context = context_of(manifest, "last", {})
    assert "success_timing 'pre'" in context["label"] and "not comparable" in context["label"]
    assert "mean_return" not in context["dataset"]
    if ogbench.installed():
        assert "the rewards of 32 stored states" in manifest["environment"]["replay"]["reading"]


def test_data_without_a_stop_load_again(tmp_path):
    layout = project(tmp_path, task=POINT.name.replace("task3", "task1"))
    write(tmp_path / "data", point_arrays())
    said = []
    assert download(layout, DATASET, 1, said.append)["source"]["stopped_steps"] == 0
    dataset = load_dataset(layout.minari_root, layout.data(DATASET), DATASET)
    assert dataset.stops is None and not dataset.step_terminated.any() and dataset.heldout.sum() == 1
    assert any("no validation file" in line for line in said)


def test_held_out_episodes_are_not_among_the_others(tmp_path):
    layout = project(tmp_path)
    write(tmp_path / "data", point_arrays())
    first = {name: values[:9] for name, values in point_arrays().items()}
    write(tmp_path / "data", first, f"{POINT.file}-val")
    with pytest.raises(SparError, match="episode 0 of the data to train on is also in the validation file"):
        download(layout, DATASET, 1)


def test_an_empty_validation_file_counts_as_none(tmp_path):
    layout = project(tmp_path)
    write(tmp_path / "data", point_arrays())
    write(tmp_path / "data", {name: np.zeros(0) for name in point_arrays()}, f"{POINT.file}-val")
    assert download(layout, DATASET, 1)["heldout_episodes"] == 1


def test_without_the_package_data_are_trained_on_and_nothing_is_rolled_out(tmp_path, monkeypatch):
    monkeypatch.setattr(ogbench, "installed", lambda: None)
    layout = project(tmp_path)
    write(tmp_path / "data", point_arrays())
    said = []
    manifest = download(layout, DATASET, 1, said.append)
    assert "ogbench is not installed: run `pip install" in manifest["environment"]["not_evaluated"]
    assert "note: rewards were not compared with the environment's" in said
    entry = load_entry(layout.dataset_entry(DATASET))
    before = source_digest(entry, tmp_path)
    monkeypatch.setattr(ogbench, "installed", lambda: "1.2.2")
    assert source_digest(entry, tmp_path) != before  # so that installing it repeats the download


@needs_ogbench
def test_rewards_that_are_not_the_environments_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "data", point_arrays())
    wrong = POINT.environment.model_copy(update={"tolerance": 2.0})
    monkeypatch.setattr(OgbenchEntry, "single_task", property(lambda self: replace(POINT, environment=wrong)))
    with pytest.raises(
        SparError, match=r"OGBench .* rewards \d+ of 32 stored states of pointmaze.* \(step \d+: -1, not 0\)"
    ):
        download(project(tmp_path), DATASET, 1)


@pytest.mark.parametrize("name", ["cube-single", "scene"])
def test_real_files(name, tmp_path, monkeypatch):
    """Counts as OGBench's own relabelling gives them, and rewards as the environment's at a thousand states."""
    folder = Path(os.environ.get("SPAR_TEST_DATA", "")) / "ogbench"
    if not (folder / f"{name}-play-v0.npz").is_file():
        pytest.skip("SPAR_TEST_DATA names no folder with ogbench/")
    counts = {"cube-single": [4609, 3424, 3444, 4715, 5030], "scene": [482, 525, 489, 1284, 668]}[name]
    tasks = [task_of(f"{name}-play-singletask-task{number}-v0") for number in range(1, 6)]
    read = read_ogbench(tasks[1], *files_of(tasks[1], folder))
    assert len(read.qpos) == 1000 * read.training and read.training < len(read.episodes)
    assert [int((task.rewards(read.qpos, read.buttons) == 0).sum()) for task in tasks] == counts
    rewards = read.episodes.rewards[: len(read.qpos)]
    assert np.array_equal(rewards, tasks[1].rewards(read.qpos, read.buttons))
    if ogbench.installed():
        assert "1000 stored states, 500 of which" in ogbench.check_rewards(tasks[1], read.qpos, read.buttons, rewards)


# --- environments ---


def _walk(env, seed: int, steps: int = 30) -> list:
    rng = np.random.default_rng(0)
    seen, info = env.reset(seed=seed)
    assert info == {}
    path = [seen]
    for _ in range(steps):
        seen, reward, _, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        assert reward == float(info["success"]) and list(info) == ["success"]
        path.append(seen)
    return path


@needs_ogbench
@pytest.mark.parametrize("name", ["pointmaze-teleport", "antsoccer-arena", "cube-single"])
def test_a_seed_gives_an_episode_and_leaves_the_global_generator_alone(name):
    env, other = (make_env(f"spar/{name}-singletask-task1-v0") for _ in range(2))
    np.random.seed(7)
    first = _walk(env, 3)
    drawn = np.random.random()
    _walk(env, 4)  # a used environment gives the same again
    assert np.array_equal(first, _walk(env, 3)) and np.array_equal(first, _walk(other, 3))
    assert not np.array_equal(first[0], _walk(other, 4, 1)[0])
    np.random.seed(7)
    assert np.random.random() == drawn


@needs_ogbench
def test_a_closed_environment_is_used_again_and_behaves_as_a_new_one():
    name = "spar/antsoccer-arena-singletask-task2-v0"
    first = make_env(name)
    task, path = first.unwrapped, _walk(first, 5)
    other = make_env(name)
    assert other.unwrapped is not task
    first.close()
    first.close()  # twice gives it back once
    again, third = make_env(name), make_env(name)
    assert again.unwrapped is task and third.unwrapped not in (task, other.unwrapped)
    assert np.array_equal(path, _walk(again, 5)) and np.array_equal(path, _walk(third, 5))
    again.close()
    assert make_env(name, {"success_timing": "post"}).unwrapped is not task


@needs_ogbench
def test_teleports_are_drawn_from_the_environments_own_generator():
    """Where it leads is random: the same for the same seed, whatever others draw meanwhile."""

    def teleported(seed: int) -> list:
        env = make_env("spar/pointmaze-teleport-singletask-task1-v0")
        env.reset(seed=seed)
        task, found = env.unwrapped, []
        for _ in range(12):
            np.random.random()
            task.set_xy(np.array(task._teleport_info["teleport_in_xys"][0]))
            env.step(np.zeros(2, np.float32))
            found.append(tuple(np.round(task.get_xy())))
        return found

    assert teleported(0) == teleported(0) != teleported(1) and len(set(teleported(0))) > 1


@needs_ogbench
@pytest.mark.parametrize(("timing", "length"), [("pre", 2), ("post", 1)])
def test_an_episode_ends_with_its_success(timing, length):
    env = make_env(POINT.env_id, {"success_timing": timing})
    env.reset(seed=0)
    env.unwrapped.set_xy(np.array([4.0, 10.9]))  # one step below the goal's circle
    up, total = np.array([0.0, 1.0], np.float32), 0.0
    for step in range(1, 4):
        _, reward, terminated, _, info = env.step(up)
        total += reward
        if terminated:
            break
    assert (step, total, info) == (length, 1.0, {"success": True})


def test_an_environment_without_its_package_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "ogbench":
            raise ImportError("No module named 'ogbench'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SparError, match="cannot be made: No module named 'ogbench'; run `pip install ogbench`"):
        make_env("spar/cube-quadruple-singletask-task5-v0")
