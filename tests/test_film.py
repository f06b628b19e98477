"""Films: real episodes of real policies, pictured as they ran, and a reason where nothing can be drawn."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spar_core.artifacts import write_json
from spar_core.data.environments.environment import make_env
from spar_core.effective import SECTIONS
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block, EvaluationSettings, blocks, roll_out
from spar_core.policy import load_policy
from spar_core.reporting.film import offscreen, pictures, shoot
from spar_core.reporting.film.offscreen import Offscreen, find_offscreen, last_line
from spar_core.reporting.film.takes import Take, amount, check_same, check_start, take
from spar_core.study import Study
from stages import films as films_stage
from stages.films import films, rules_of
from stages.layout import Layout
from tests.fakes import fit_parts, save_rule, toy_dataset

ENV, OBSERVATION, ACTION = "Hopper-v5", 11, 3
KWARGS = {"max_episode_steps": 30}
SEEDS = (4, 5)
DATASET = "a/hopper-v0"
STUDY = Study(
    name="small",
    datasets=(DATASET,),
    anchors=("mlp",),
    critics=("iql",),
    improvements=("anchor", "spar_mlp"),
    seeds=("4-5",),
)


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> Path:
    """Barely trained policies for the hopper, by rule."""
    data, root = toy_dataset(sizes=(OBSERVATION, ACTION)), tmp_path_factory.mktemp("policies")
    parts = fit_parts(data, SEEDS)
    for kind in STUDY.improvements:
        save_rule(root / kind, kind, parts, data, data.scaler)
    return root


@pytest.fixture(scope="module")
def screen() -> Offscreen:
    found = find_offscreen()
    if found.backend is None:
        pytest.skip(found.reason)
    return found


def job(policies: Path, **changes) -> shoot.Job:
    named = tuple((name, str(policies / name)) for name in STUDY.improvements)
    values = {"policies": named, "env_id": ENV, "env_kwargs": KWARGS, "observation_keys": None}
    return shoot.Job(**(values | {"seed": 4, "env_seeds": (70, 71, 72)} | changes))


@pytest.fixture(scope="module")
def film(policies, screen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film") / "hopper"
    shoot.film_apart(job(policies), folder, screen)
    return folder


def facts_of(folder: Path) -> dict:
    return yaml.safe_load((folder / shoot.FACTS).read_text())


def evaluated(policies: Path, rule: str, seed: int | None = 4):
    """The first episode of the evaluation's own block."""
    policy = load_policy(policies / rule, seed)
    return roll_out(policy.act, partial(make_env, ENV, KWARGS), Block(seed, 0, (70, 71, 72)))[0]


def test_a_take_is_the_first_episode_of_its_block_to_the_last_digit(policies):
    starts = []
    for rule in STUDY.improvements:
        watched = take(load_policy(policies / rule, 4).act, partial(make_env, ENV, KWARGS), Block(4, 0, (70, 71, 72)))
        starts.append(watched.start)
        assert watched.result == evaluated(policies, rule)
        assert watched.totals[-1] == watched.result.total and watched.length == watched.result.length
        assert watched.totals[0] == 0.0 and watched.frames == {}
    assert np.array_equal(*starts)


def test_a_film_shows_what_the_evaluation_measured(film, policies):
    facts = facts_of(film)
    assert [row["name"] for row in facts["rows"]] == ["anchor", "spar_mlp"]
    for row in facts["rows"]:
        result = evaluated(policies, row["name"])
        assert (row["return"], row["length"]) == (result.total, result.length)
        assert row["terminated"] == result.terminated
        assert row["returns_so_far"][0] == 0.0 and row["returns_so_far"][-1] == result.total
    assert (facts["seed"], facts["env_seed"]) == (4, 70)
    longest = max(row["length"] for row in facts["rows"])
    assert facts["steps"][0] == 0 and facts["steps"][-1] == longest
    assert set(np.diff(facts["steps"])) <= {longest // 5, longest // 5 + 1}, "not equally spaced"


def test_both_rows_start_from_the_same_state(film):
    strip = np.asarray(Image.open(film / shoot.STRIP).convert("RGB")).astype(int)
    rows = len(strip) // 2
    height, width = pictures.HEIGHT - 8, pictures.WIDTH - 8
    top = pictures._LINE + 4
    first, second = (strip[start + top : start + top + height, 4:width] for start in (0, rows))
    assert first.std() > 10, "the frame is empty"
    late = strip[top : top + height, 4 - pictures.WIDTH : width - pictures.WIDTH]
    # WebP loses a little of each.
    loss, change = np.abs(first - second).mean(), np.abs(first - late).mean()
    assert loss < 5 and change > 2 * loss, (loss, change)


def test_the_pictures_are_small_and_move(film):
    moving = Image.open(film / shoot.MOVING)
    assert moving.is_animated and moving.format == "WEBP"
    assert (film / shoot.MOVING).stat().st_size <= shoot.MOVING_BYTES
    assert (film / shoot.STRIP).stat().st_size <= 500_000
    assert sorted(path.name for path in film.iterdir()) == sorted((shoot.FACTS, shoot.MOVING, shoot.STRIP))


def test_a_film_is_known_by_its_policies_and_not_by_their_place(policies, tmp_path):
    import shutil

    shutil.copytree(policies, tmp_path / "elsewhere")
    assert job(policies).digest() == job(tmp_path / "elsewhere").digest()
    assert job(policies).digest() != job(policies, env_seeds=(71, 72)).digest()
    (tmp_path / "elsewhere/anchor/more").write_text("x")
    assert job(policies).digest() != job(tmp_path / "elsewhere").digest()


# --- where nothing can be drawn ---


def test_a_broken_mujoco_gl_is_a_reason_and_nothing_else_is_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "broken")
    found = find_offscreen()
    assert found.backend is None
    assert found.reason.count("MUJOCO_GL=") == 1 and "MUJOCO_GL=broken" in found.reason and "\n" not in found.reason


def test_egl_comes_before_osmesa_and_both_reasons_are_told(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(offscreen, "_failure", lambda backend: None if backend == "osmesa" else "no device")
    assert find_offscreen() == Offscreen("osmesa")
    assert find_offscreen().environment()["MUJOCO_GL"] == "osmesa"
    monkeypatch.setattr(offscreen, "_failure", lambda backend: f"{backend} is not there")
    reason = find_offscreen().reason
    assert "egl is not there" in reason and "osmesa is not there" in reason and "libosmesa6" in reason


def test_the_error_of_a_process_is_its_first_traceback_and_not_the_noise_after_it():
    noise = "Traceback (most recent call last):\n  File x\nOSError: late\n"
    text = f"libEGL warning\nTraceback (most recent call last):\n  File y, line 3\n    go()\nValueError: why\n{noise}"
    assert last_line(text, 1) == "ValueError: why"
    assert last_line("one\nlast\n\n", 1) == "last" and last_line("", -11) == "exit status -11"


def test_an_environment_that_cannot_be_made_ends_in_one_line(policies, screen, tmp_path):
    with pytest.raises(SparError, match=r"'Hoper-v5' is not registered.*did you mean") as caught:
        shoot.film_apart(job(policies, env_id="Hoper-v5"), tmp_path / "film", screen)
    assert "\n" not in str(caught.value) and not (tmp_path / "film").exists()


def test_episodes_that_change_when_drawn_or_start_apart_are_refused():
    one, other = Take(np.zeros(2), [0.0, 1.0]), Take(np.ones(2), [0.0, 2.0])
    with pytest.raises(SparError, match="'spar_mlp' differs when it is drawn"):
        check_same(one, other, "spar_mlp")
    with pytest.raises(SparError, match="different states"):
        check_start([one, other])
    check_same(one, Take(np.zeros(2), [0.0, 1.0]), "anchor")
    check_start([one, Take(np.zeros(2))])


# --- pictures ---


@pytest.mark.parametrize(
    ("total", "text"),
    [(1424.8, "1425"), (-99.97, "-100"), (99.94, "99.9"), (-4.347, "-4.35"), (0.00312, "0.00312"), (-0.0, "0")],
)
def test_returns_of_every_size_can_be_told_apart(total, text):
    assert amount(total) == text and pictures._end(Take(np.zeros(1), [0.0, total])) == f"return {text} in 1 steps"


def test_an_episode_that_is_over_keeps_its_last_frame_paled():
    black = np.zeros((pictures.HEIGHT, pictures.WIDTH, 3), np.uint8)
    short = Take(np.zeros(1), [0.0, 1.0], {0: black, 1: black})
    long = Take(np.zeros(1), [0.0] * 11, dict.fromkeys(range(11), black))
    steps = pictures.strip_steps([short, long])
    assert steps == [0, 2, 4, 6, 8, 10] and short.last(4) == 1
    assert pictures._under(short, 4, 0.5) == ("over at 0.50 s", "return 1")
    assert pictures._under(long, 4, None) == ("step 4", "return 0")
    strip = Image.open(io.BytesIO(pictures.strip({"short": short, "long": long}, steps, 0.5))).convert("L")
    at = (pictures.WIDTH // 2, pictures._LINE + pictures.HEIGHT // 2)
    assert strip.getpixel(at) < 10 and 130 < strip.getpixel((at[0] + 2 * (pictures.WIDTH + 8), at[1])) < 180


def test_the_moving_picture_runs_at_the_speed_of_the_world():
    long = Take(np.zeros(1), [0.0] * 1001)
    steps = pictures.moving_steps([long], 0.05, 6.0, 12.5)
    assert steps[0] == 0 and steps[-1] == 120 and set(np.diff(steps)) == {2}
    steps = pictures.moving_steps([Take(np.zeros(1), [0.0] * 28)], 0.008, 6.0, 12.5)
    assert steps == [0, 10, 20]


# --- films of a study ---


@pytest.fixture
def project(tmp_path, policies) -> Layout:
    import shutil

    layout = Layout(tmp_path)
    params = {section: {"x": {}} for section in SECTIONS}
    params |= {"evaluation": {"episodes": 3, "first_env_seed": 58}, "report": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    layout.data(DATASET).mkdir(parents=True)
    environment = {"env_id": ENV, "env_kwargs": KWARGS, "observation_keys": None, "not_evaluated": None}
    write_json(layout.data(DATASET) / "manifest.json", {"environment": environment})
    for rule in STUDY.improvements:
        shutil.copytree(policies / rule, layout.artifact("policy", DATASET, "mlp", "iql", rule, "4-5"))
        folder = layout.artifact("evaluation", DATASET, "mlp", "iql", rule, "4-5")
        folder.mkdir(parents=True)
        last = blocks(EvaluationSettings(episodes=3, first_env_seed=58), ENV, [4, 5])[-1]
        assert last == Block(None, 0, (70, 71, 72))
        result = evaluated(policies, rule, None)
        (folder / "committee.csv").write_text(f"seeds,env_seed,return\n4-5,70,{result.total!r}\n")
    return layout


def test_a_film_is_made_once_and_agrees_with_the_evaluation(project, screen, monkeypatch):
    (first,) = films(STUDY, project)
    assert first.reason == "" and first.strip and first.moving
    text = " ".join(first.sentences)
    assert "The committee of seeds 4-5 acts" in text and "environment seed 70 is the first" in text
    assert "those of the evaluation to the last digit" in text
    root = project.report("small") / films_stage.FOLDER
    (folder,) = root.iterdir()
    (root / f"a.hopper-v0.{'0' * 12}").mkdir()
    (root / "mine").mkdir()

    monkeypatch.setattr(films_stage, "film_apart", lambda *_: pytest.fail("filmed again"))
    assert films(STUDY, project) == [first]
    assert sorted(path.name for path in root.iterdir()) == sorted([folder.name, "mine"])
    path = project.artifact("evaluation", DATASET, "mlp", "iql", "anchor", "4-5") / "committee.csv"
    path.write_text("seeds,env_seed,return\n4-5,70,3.25\n")
    assert "The evaluation gave 3.25," in films(STUDY, project)[0].sentences[1]


def test_a_study_that_cannot_be_filmed_says_why(project, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "broken")
    (film,) = films(STUDY, project)
    assert "MUJOCO_GL=broken" in film.reason and film.strip == b""
    wide = STUDY.model_copy(update={"datasets": ("b/x-v0", DATASET)})
    assert [film.dataset for film in films(wide, project)] == ["b/x-v0", DATASET]
    assert "artifacts of the study are not here" in films(wide, project)[0].reason
    environment = {"env_id": None, "not_evaluated": "no environment is known"}
    write_json(project.data(DATASET) / "manifest.json", {"environment": environment})
    assert "not rolled out on this dataset" in films(STUDY, project)[0].reason


def test_spar_is_filmed_by_name_by_kind_or_else_the_last_rule():
    variants = {
        "uniform": {"kind": "spar_mlp", "weighting": "equal"},
        "spar_mlp_tau_5": {"kind": "spar_mlp", "weighting": "critic"},
        "awr": {},
    }

    def chosen(*rules: str) -> list[str]:
        return rules_of(STUDY.model_copy(update={"improvements": rules}), variants, "anchor")

    assert chosen("anchor", "uniform", "spar_proj", "spar_mlp", "awr") == ["anchor", "spar_proj", "spar_mlp"]
    assert chosen("anchor", "uniform", "spar_mlp_tau_5", "awr") == ["anchor", "spar_mlp_tau_5"]
    assert chosen("anchor", "uniform", "awr") == ["anchor", "awr"]
    assert chosen("uniform", "awr") == ["awr"]
