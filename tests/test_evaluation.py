"""Rolling a policy out: each episode is itself, however the seeds are shared out."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
import yaml

from spar_core.errors import SparError
from spar_core.evaluation import rollouts as evaluation
from spar_core.evaluation.rollouts import BLOCK, Block, EvaluationSettings, blocks, env_seeds, over_blocks, roll_out
from spar_core.making.evaluations import Evaluate
from spar_core.settings import parse
from tests.fakes import ROOT, fit_parts, save_rule, toy_dataset

STEPS = 20


class CountingEnv:
    """Ends after as many steps as its reset seed says: odd seeds terminate, even ones are cut."""

    made: list = []  # noqa: RUF012

    def __init__(self, says_success: bool = True):
        self.says_success, self.closed, self.steps = says_success, False, 0
        CountingEnv.made.append(self)

    def reset(self, seed):
        self.length, self.steps = seed, 0
        return np.array([seed, 0.0]), {}

    def step(self, action):
        assert self.steps < self.length, "stepped after its end"
        self.steps += 1
        ended, odd = self.steps == self.length, self.length % 2 == 1
        # Success comes once, in the middle, and is gone at the end.
        info = {"success": self.steps == 2} if self.says_success else {}
        return np.array([self.length, self.steps]), float(action[0]), ended and odd, ended and not odd, info

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def _forget():
    CountingEnv.made.clear()


def test_rows_say_how_each_episode_went():
    rows = roll_out(lambda o: np.full((len(o), 1), 0.5), CountingEnv, Block(7, 0, (3, 1, 4)))
    assert [(r.seed, r.episode, r.env_seed) for r in rows] == [(7, 0, 3), (7, 1, 1), (7, 2, 4)]
    assert [r.length for r in rows] == [3, 1, 4]
    assert [r.total for r in rows] == [1.5, 0.5, 2.0]
    assert [r.terminated for r in rows] == [True, True, False]
    assert [r.success for r in rows] == [True, False, True], "success at any step counts"
    assert rows[0].row()["return"] == 1.5 and rows[0].row()["success"] is True and "total" not in rows[0].row()


def test_success_is_empty_where_the_environment_does_not_say():
    rows = roll_out(lambda o: np.zeros((len(o), 1)), partial(CountingEnv, says_success=False), Block(0, 0, (2,)))
    assert rows[0].success is None and rows[0].row()["success"] == ""


def test_the_policy_always_sees_a_batch_of_the_same_shape_and_finished_rows_stand_still():
    seen = []

    def act(observations):
        seen.append(observations.copy())
        return np.zeros((len(observations), 1))

    roll_out(act, CountingEnv, Block(0, 0, (1, 5, 3)))
    assert [o.shape for o in seen] == [(3, 2)] * 5
    assert all(o.dtype == np.float32 for o in seen)
    assert [o[0].tolist() for o in seen] == [[1, 0]] * 5
    assert [o[2].tolist() for o in seen] == [[3, 0], [3, 1], [3, 2], [3, 2], [3, 2]]


def test_an_episode_that_ends_in_a_state_that_is_no_number_disturbs_no_other():
    class Exploding(CountingEnv):
        def step(self, action):
            observation, *rest = super().step(action)
            return observation * (np.inf if rest[1] else 1.0), *rest

    def act(observations):
        assert np.isfinite(observations).all()
        return np.zeros((len(observations), 1))

    rows = roll_out(act, Exploding, Block(0, 0, (1, 4)))
    assert [(r.length, r.terminated) for r in rows] == [(1, True), (4, False)]


def test_reported_steps_add_up_to_the_steps_taken():
    reported = []
    rows = roll_out(lambda o: np.zeros((len(o), 1)), CountingEnv, Block(0, 0, (1, 5, 3)), reported.append)
    assert reported == [3, 2, 2, 1, 1]
    assert sum(reported) == sum(r.length for r in rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_policy_that_returns_nan_is_one_clear_line_and_environments_are_closed(bad):
    def act(observations):
        actions = np.zeros((len(observations), 1))
        actions[1] = bad if observations[0, 1] == 2 else 0.0
        return actions

    with pytest.raises(SparError, match="the policy of seed 4 returned NaN"):
        roll_out(act, CountingEnv, Block(4, 0, (5, 5)))
    assert len(CountingEnv.made) == 2 and all(env.closed for env in CountingEnv.made)


def test_environments_are_closed_at_the_end():
    roll_out(lambda o: np.zeros((len(o), 1)), CountingEnv, Block(0, 0, (1, 2)))
    assert all(env.closed for env in CountingEnv.made)


def test_environment_seeds_are_disjoint_across_training_seeds_and_far_from_them():
    settings = EvaluationSettings()
    seeds = [env_seeds(settings, seed, 7) for seed in range(50)]
    assert all(len(group) == 7 for group in seeds)
    everything = [s for group in seeds for s in group]
    assert len(set(everything)) == len(everything)
    assert min(everything) >= 1_000_000
    assert env_seeds(settings, 3, 7) == seeds[3]


@pytest.mark.parametrize(
    ("env_id", "episodes"),
    [("PointMaze_UMaze-v3", 100), ("AntMaze_Medium_Diverse_GR-v4", 100), ("HalfCheetah-v5", 20), ("Ant-v5", 20)],
)
def test_mazes_get_more_episodes(env_id, episodes):
    assert EvaluationSettings().episodes_in(env_id) == episodes
    assert sum(len(block.env_seeds) for block in blocks(EvaluationSettings(), env_id, [0])) == episodes


@pytest.mark.parametrize("episodes", [1, 19, 20, 21, 50, 100])
def test_blocks_hold_every_episode_once_and_follow_from_the_settings_alone(episodes):
    settings = EvaluationSettings(episodes=episodes)
    every = blocks(settings, "Hopper-v5", [3, 1])
    both, committee = ([block for block in every if (block.seed is None) == last] for last in (False, True))
    assert every == both + committee
    assert both == blocks(settings, "Hopper-v5", [3]) + blocks(settings, "Hopper-v5", [1])
    # A single seed is no committee; the committee of several starts where the first seed does.
    assert [s for block in committee for s in block.env_seeds] == env_seeds(settings, 3, episodes)
    assert [s for block in both for s in block.env_seeds] == env_seeds(settings, 3, episodes) + env_seeds(
        settings, 1, episodes
    )
    sizes = [len(block.env_seeds) for block in both]
    assert max(sizes) <= BLOCK and max(sizes) - min(sizes) <= 1
    for block in both:
        assert block.env_seeds[0] == env_seeds(settings, block.seed, episodes)[block.first_episode]


def test_rows_of_a_later_block_go_on_counting():
    rows = roll_out(lambda o: np.zeros((len(o), 1)), CountingEnv, Block(2, 40, (3, 1)))
    assert [(r.seed, r.episode, r.env_seed) for r in rows] == [(2, 40, 3), (2, 41, 1)]


# --- real environments ---


def linear_policy(seed: int, size: int, actions: int):
    weights = np.random.default_rng(seed).normal(0, 0.5, (size, actions))
    return lambda observations: np.tanh(observations @ weights).astype(np.float32)


@pytest.mark.parametrize(("env_id", "size", "actions"), [("HalfCheetah-v5", 17, 6), ("Hopper-v5", 11, 3)])
def test_real_episodes_repeat_bit_by_bit_and_do_not_depend_on_their_neighbours(env_id, size, actions):
    def roll(resets):
        weights = np.random.default_rng(1).normal(0, 0.5, (size, actions))

        def act(observations):
            # Row by row, so that a batch of another size does not round differently.
            return np.stack([np.tanh(row.astype(np.float64) @ weights) for row in observations]).astype(np.float32)

        return roll_out(act, partial(gymnasium.make, env_id, max_episode_steps=STEPS), Block(1, 0, tuple(resets)))

    resets = [1_000_020, 1_000_021, 1_000_022]
    rows = roll(resets)
    assert rows == roll(resets)
    assert len({row.total for row in rows}) == 3
    alone = roll(resets[1:2])[0]
    assert (alone.total, alone.length, alone.terminated) == (rows[1].total, rows[1].length, rows[1].terminated)
    if env_id.startswith("HalfCheetah"):
        assert [row.length for row in rows] == [STEPS] * 3 and not any(row.terminated for row in rows)
    assert all(row.success is None for row in rows)


class LinearPolicy:
    def __init__(self, path, seed, device):
        self.act = linear_policy(7 if seed is None else seed, 11, 3)


def test_an_evaluated_block_is_the_same_alone_and_beside_others(tmp_path, monkeypatch):
    from spar_core.making import evaluations
    from spar_core.training.reporter import Reporter

    monkeypatch.setattr(evaluations, "load_policy", LinearPolicy)
    work = blocks(EvaluationSettings(episodes=23), "Hopper-v5", (0, 3))
    job = evaluations.Evaluate(tmp_path, "Hopper-v5", {"max_episode_steps": STEPS}, "cpu", None)
    together = job(work, Reporter(work))
    for cut in range(1, len(work)):
        shares = [row for share in (work[:cut], work[cut:]) for row in job(share, Reporter(share))]
        assert together == shares
    assert [(r.seed, r.episode) for r in together] == [(s, e) for s in (0, 3, None) for e in range(23)]
    assert len({row.total for row in together}) == 69


@pytest.fixture(scope="module")
def hopper_sized():
    """Parts of two seeds whose networks fit Hopper, and the data that they were fitted to."""
    data = toy_dataset(sizes=(11, 3))
    return data, fit_parts(data, (0, 3))


@pytest.mark.parametrize("rule", ["spar_mlp", "best_of_n"])
def test_a_saved_policy_gives_the_same_bits_with_any_number_of_workers(tmp_path, hopper_sized, rule, monkeypatch):
    data, parts = hopper_sized
    save_rule(tmp_path / "policy", rule, parts, data, data.scaler)
    job = Evaluate(tmp_path / "policy", "Hopper-v5", {"max_episode_steps": STEPS}, "cpu", None)
    work = blocks(EvaluationSettings(episodes=50), "Hopper-v5", (0, 3))
    assert [len(block.env_seeds) for block in work] == [17, 16, 17] * 3
    # Whether processes are worth their start is a matter of time, so that both ways are asked for.
    monkeypatch.setattr(evaluation, "START_UP_SECONDS", 1e9)
    alone = over_blocks(job, work, 1)
    assert over_blocks(job, work, 2) == alone
    monkeypatch.setattr(evaluation, "START_UP_SECONDS", 0.0)
    assert over_blocks(job, work, 2) == over_blocks(job, work, 3) == alone
    assert [(r.seed, r.episode) for r in alone] == [(s, e) for s in (0, 3, None) for e in range(50)]
    assert len({row.total for row in alone}) > 135, "episodes differ by start and by policy"


def test_processes_are_started_only_where_they_save_more_than_their_start(monkeypatch):
    asked = []

    def over_seeds(job, share, processes, on_message):
        asked.append((len(share), processes))
        clock[0] += job(share, None)
        return [list(share)]

    clock = [0.0]
    monkeypatch.setattr(evaluation, "over_seeds", over_seeds)
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    for seconds, processes in ((0.5, 1), (5.0, 2)):
        assert over_blocks(lambda share, report, s=seconds: s * len(share), [1, 2, 3, 4], 2) == [1, 2, 3, 4]
        assert asked[-2:] == [(1, 1), (3, processes)]
    assert over_blocks(lambda share, report: 9.0, [7], 2) == [7] and asked[-1] == (1, 1)


# --- settings ---


def test_params_spell_out_every_setting_with_its_default():
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["evaluation"]
    assert shipped == EvaluationSettings().model_dump(mode="json")


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(SparError, match=r"unknown key 'maze_episode'.*did you mean 'maze_episodes'"):
        parse(EvaluationSettings, {"maze_episode": 3}, "params.yaml, evaluation")


# --- which datasets are rolled out ---


@pytest.mark.parametrize("reference", [None, {"min": 0, "max": 1, "source": "D4RL", "family": "hopper"}])
def test_the_context_says_whose_environment_it_is(reference):
    from spar_core.making.evaluations import MISMATCH, context_of

    manifest = {
        "environment": {
            "env_id": "Hopper-v5",
            "environment_mismatch": True,
            "equivalence": "mismatch",
            "not_evaluated": None,
        },
        "source": {"data_env_id": "Hopper-v4"},
        "reference": reference,
        "comparable_to_d4rl": False,
        **dict.fromkeys(("steps", "episodes", "heldout_episodes"), 3),
        "returns": {"mean": 1.0, "best": 2.0},
    }
    context = context_of(manifest, "last", {})
    assert context["mismatch"] == MISMATCH and context["label"].endswith(f"; {MISMATCH}")
    assert context["agreement"] == "not the one that the data comes from, `Hopper-v4`"
    manifest["environment"] |= {"environment_mismatch": False, "equivalence": "same"}
    context = context_of(manifest, "last", {})
    assert context["mismatch"] is None and MISMATCH not in context["label"]
    assert context["agreement"] == "the one that the data comes from"


def test_observation_keys_reach_the_environment(tmp_path, monkeypatch):
    from spar_core.making import evaluations
    from spar_core.training.reporter import Reporter

    asked = []

    def make(*arguments):
        asked.append(arguments)
        return CountingEnv()

    class FakePolicy:
        def act(self, observations):
            return np.zeros((len(observations), 1))

    monkeypatch.setattr(evaluations, "load_policy", lambda path, seed, device: FakePolicy())
    monkeypatch.setattr(evaluations, "make_env", make)
    for keys in (None, ["a", "b/c"]):
        evaluations.Evaluate(tmp_path, "X-v0", {}, "cpu", keys)([Block(0, 0, (3,))], Reporter((0,)))
    assert asked == [("X-v0", {}, None), ("X-v0", {}, ["a", "b/c"])]
