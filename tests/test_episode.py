"""What environments return in a rollout: what is plainly meant counts, and anything else is a line that says where."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spar_core.artifacts import write_json
from spar_core.data.environments.environment import make_env
from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block, EvaluationSettings, roll_out
from spar_core.making.evaluations import rollouts
from spar_core.making.frame import Frame
from spar_core.reporting.film.takes import take
from stages import evaluate
from stages.cells import Cell
from stages.download import download
from stages.layout import Layout
from tests.test_action_bounds import flat
from tests.test_data_download import refused
from tests.toy_envs import ACTIONS, AT, STEPS

NAME = "'Toy-v0' of dataset 'mine/toy-v0'"


def act(observations: np.ndarray) -> np.ndarray:
    assert np.isfinite(observations).all() and observations.dtype == np.float32
    return np.zeros((len(observations), ACTIONS), np.float32)


def roll(fault: str, env_id: str = "tests.toy_envs:Toy-v0", block: Block = Block(3, 40, (8, 9)), **limits):
    kwargs = {"fault": fault, "disable_env_checker": True}
    return roll_out(act, lambda: make_env(env_id, kwargs), block, name=NAME, **limits)


@pytest.mark.parametrize(
    ("fault", "total", "length", "success"),
    [
        ("", STEPS, STEPS, None),
        ("float64", STEPS, STEPS, None),
        ("float64 observation", STEPS, STEPS, None),
        ("list", STEPS, STEPS, None),
        ("reward of shape (1,)", STEPS, STEPS, None),
        ("integer reward", STEPS, STEPS, None),
        ("boolean reward", STEPS, STEPS, None),
        ("flag of numpy", AT, AT, None),
        ("flag of shape (1,)", AT, AT, None),
        ("flag as a number", AT, AT, None),
        ("success", STEPS, STEPS, True),
        ("success of numpy", STEPS, STEPS, True),
    ],
)
def test_what_is_plainly_meant_is_counted(fault, total, length, success):
    rows = roll(fault)
    assert [(r.total, r.length, r.success) for r in rows] == [(float(total), length, success)] * 2
    assert all(type(r.total) is float and type(r.terminated) is bool for r in rows)
    assert [r.terminated for r in rows] == [fault.startswith("flag of")] * 2


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("raises", "the environment raised RuntimeError: simulation became unstable"),
        ("exits", "the environment raised SystemExit: 0"),
        ("nan", "the observation is nan in dimension 1"),
        ("too large", r"the observation is 1e\+300 in dimension 2"),
        ("scalar", r"the observation is .*0.1.* \(float32\), not a vector of numbers of shape \(3,\)"),
        ("row", r"the observation is an array of shape \(1, 3\) and type float32, not"),
        ("longer", r"the observation is an array of shape \(4,\)"),
        ("text", r"the observation is array\(.* \(ndarray\), not a vector of numbers"),
        ("complex", r"the observation is array\(.* \(ndarray\), not a vector of numbers"),
        ("no observation", r"the observation is None \(NoneType\), not"),
        ("two rewards", r"the reward is an array of shape \(2,\) and type float64, not a number"),
        ("nan reward", "the reward is nan"),
        ("infinite reward", "the reward is inf"),
        ("text reward", r"the reward is '1.0' \(str\), not a number"),
        ("no reward", r"the reward is None \(NoneType\), not a number"),
        ("two flags", r"'terminated' is an array of shape \(2,\) and type bool, neither true nor false"),
        ("flag as text", r"'terminated' is 'False' \(str\), neither"),
        ("no flag", r"'truncated' is None \(NoneType\), neither"),
        ("two successes", r"'success' in its info is an array of shape \(2,\)"),
        ("half a success", r"'success' in its info is 0.5 \(float\), neither"),
        ("no info", r"'info' is None \(NoneType\), not a dictionary"),
    ],
)
def test_anything_else_is_one_line_that_says_where(fault, what):
    where = rf"^{NAME}, episode 40 of training seed 3 \(environment seed 8\), step {AT}: {what}.*; nothing of this"
    with pytest.raises(SparError, match=where) as error:
        roll(fault)
    assert "\n" not in str(error.value)


def test_at_the_reset_and_by_the_committee():
    where = rf"^{NAME}, episode 0 of the committee \(environment seed 5\), its reset: "
    with pytest.raises(SparError, match=f"{where}the environment raised RuntimeError: no licence; nothing"):
        roll("raises at reset", block=Block(None, 0, (5,)))
    with pytest.raises(SparError, match=f"{where}the observation is nan in dimension 0"):
        roll("nan at reset", block=Block(None, 0, (5,)))


class Bare:
    """No environment of Gymnasium: what it returns reaches the rollout as it is."""

    def __init__(self, reset=(np.zeros(2), {}), step=(np.zeros(2), 1.0, False, False, {})):
        self.returned = reset, step
        self.closed = 0

    def reset(self, *, seed):
        return self.returned[0]

    def step(self, action):
        return self.returned[1]

    def close(self):
        self.closed += 1
        raise RuntimeError("closed already")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            {"reset": np.zeros(2)},
            r"its reset: the environment returned .*, not a tuple of an observation and a dictionary",
        ),
        ({"reset": (np.zeros((2, 1)), {})}, "its reset: the observation is an array of shape"),
        (
            {"step": (np.zeros(2), 1.0, True, {})},
            r"step 1: the environment returned \(.*, not a tuple of observation, rew",
        ),
        ({"step": None}, r"step 1: the environment returned None \(NoneType\)"),
        ({"step": (np.zeros(3), 1.0, False, False, {})}, r"shape \(3,\) .*, not a vector of numbers of shape \(2,\)"),
        ({"step": (np.zeros(2), 1e308, False, False, {})}, "has not ended after 4 steps"),
        ({"step": (np.zeros(2), 1e308, np.nan, False, {})}, r"'terminated' is nan \(float\)"),
        (
            {},
            r"episode 0 of training seed 0 \(environment seed 1\) has not ended after 4 steps; set 'env_kwargs: {max_",
        ),
    ],
)
def test_environments_that_are_not_gymnasiums(returned, message):
    env = Bare(**returned)
    with pytest.raises(SparError, match=message):
        roll_out(act, lambda: env, Block(0, 0, (1,)), limit=4)
    assert env.closed == 1, "an environment is closed after an error, and its own error then is ignored"


def test_a_sum_that_overflows():
    class Rich(Bare):
        def step(self, action):
            self.steps = getattr(self, "steps", 0) + 1
            return np.zeros(2), 1e308, self.steps == 3, False, {}

    with pytest.raises(SparError, match="step 3: the sum of its rewards is not finite"):
        roll_out(act, Rich, Block(0, 0, (1,)))


def test_environments_that_differ_in_shape():
    made = iter([Bare(), Bare(reset=(np.zeros(3), {}))])
    with pytest.raises(SparError, match=r"gives observations of the shapes \[\(2,\), \(3,\)\]"):
        roll_out(act, lambda: next(made), Block(0, 0, (1, 2)))


def test_environments_are_closed_if_a_later_one_cannot_be_made():
    made = []

    def make():
        if made:
            raise SparError("one licence only")
        made.append(Bare())
        return made[0]

    with pytest.raises(SparError, match="one licence only"):
        roll_out(act, make, Block(0, 0, (1, 2)))
    assert made[0].closed == 1


def test_films_count_the_same_rewards():
    block = Block(0, 0, (1, 2))

    def make():
        return make_env("tests.toy_envs:Toy-v0", {"fault": "reward of shape (1,)", "disable_env_checker": True})

    filmed = take(act, make, block)
    assert filmed.totals == [float(i) for i in range(STEPS + 1)] and filmed.result.total == STEPS
    with pytest.raises(SparError, match=f"step {AT}: the reward is nan"):
        take(act, lambda: make_env("tests.toy_envs:Toy-v0", {"fault": "nan reward"}), block)


# --- an environment without an end ---


@pytest.mark.parametrize("kwargs", [{}, {"max_episode_steps": -1}])
def test_no_time_limit_is_refused_at_download(tmp_path, kwargs):
    layout = flat(tmp_path, env_id="tests.toy_envs:ToyEndless-v0", env_kwargs=kwargs)
    hint = r"set 'env_kwargs: {max_episode_steps: N}' .* \(the longest episode of the data has 6 steps\)"
    refused(layout, f"'tests.toy_envs:ToyEndless-v0' has no time limit, .*; {hint}")


def test_a_time_limit_of_the_entry_is_in_the_manifest(tmp_path):
    layout = flat(tmp_path, env_id="tests.toy_envs:ToyEndless-v0", env_kwargs={"max_episode_steps": 9})
    assert download(layout, "x-v0", 1)["environment"]["max_episode_steps"] == 9
    # Nothing is rolled out where the environments are not known to be the same, so nothing can go on for ever.
    layout = flat(tmp_path, env_id="tests.toy_envs:ToyEndless-v0", env_kwargs={}, data_env_id="Other-v0")
    assert download(layout, "x-v0", 1)["environment"]["not_evaluated"]


def test_a_manifest_without_a_time_limit_is_refused_at_evaluation(tmp_path):
    environment = {"env_id": "X-v0", "env_kwargs": {}, "observation_keys": None, "max_episode_steps": None}
    frame = Frame(tmp_path / "evaluation", (0,), {}, {}, workers=1, device="cpu")
    with pytest.raises(
        SparError, match=r"'X-v0' of dataset 'mine/toy-v0' has no time limit; set 'env_kwargs: {max_epi"
    ):
        rollouts(tmp_path, "mine/toy-v0", environment, EvaluationSettings(), frame)


# --- through the stage ---


@pytest.mark.parametrize("fault", ["raises", "nan", "nan reward", "reward of shape (1,)"])
def test_the_stage_writes_all_rows_or_none(tmp_path, monkeypatch, capsys, fault):
    monkeypatch.setenv("SPAR_TRACKING", "off")
    monkeypatch.setenv("SPAR_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    layout, arguments = stage_ready(tmp_path, fault)
    folder = Cell("evaluate", "x-v0", "mlp", "iql", "anchor", "0").folder(layout)
    if fault.startswith("reward"):
        evaluate.run(arguments)
        rows = (folder / "episodes.csv").read_text().splitlines()
        assert rows[1:] == [f"x-v0,mlp,iql,anchor,0,{i},{1_000_000 + i},20.0,20,False," for i in range(2)]
        return
    where = rf"^'tests.toy_envs:Toy-v0' of dataset 'x-v0', episode 0 of training seed 0 .*1000000\), step {AT}: "
    with pytest.raises(SparError, match=where):
        evaluate.run(arguments)
    assert not [path for path in (tmp_path / "artifacts/evaluation").rglob("*") if path.is_file()]


def stage_ready(root, fault: str) -> tuple[Layout, list[str]]:
    """All that the evaluation of an untrained policy needs."""
    from spar_core.artifacts import write_meta
    from spar_core.data.loading import load_dataset
    from tests.fakes import fit_parts, save_rule
    from tests.pipeline import REPOSITORY, cell_arguments

    params = (REPOSITORY / "params.yaml").read_text().replace("episodes: 20 ", "episodes: 2 ")
    (root / "params.yaml").write_text(params)
    layout = flat(root, fault)
    download(layout, "x-v0", 1)
    data = load_dataset(layout.minari_root, layout.data("x-v0"), "x-v0")
    cell = Cell("self_imitation", "x-v0", "mlp", "iql", "anchor", "0")
    save_rule(cell.folder(layout), "anchor", fit_parts(data, (0,)), data, data.scaler)
    for part, kind in {"anchor": "mlp", "residual": "residual", "critic": "iql"}.items():
        folder = cell.folder(layout, part)
        folder.mkdir(parents=True)
        write_meta(folder, part, params={part: {"kind": kind}}, inputs={})
        write_json(folder / "metrics.json", {})
        (folder / "curves.csv").write_text("step,seed,metric,value\n")
    meta = cell.folder(layout) / "meta.json"
    write_json(meta, {**json.loads(meta.read_text()), "params": {"improvement": {"kind": "anchor"}}})
    return layout, cell_arguments("x-v0", "anchor", "0")
