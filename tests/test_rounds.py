"""Anchors that evolve: what is distilled, what stops a round, and what the report says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from spar_core.anchors.mlp import MLPAnchor
from spar_core.artifacts import read_json, write_meta
from spar_core.effective import check
from spar_core.errors import SparError
from spar_core.evaluation.statistics import Estimate
from spar_core.evolving.distillation import check_student, distil, passed_on, relabelled
from spar_core.evolving.reanchoring import Evidence, ReanchoringSettings, View, decide, gather
from spar_core.evolving.rounds import Round, chains
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.interface import Interface
from spar_core.policy import KIND, load_policy, save_policy
from spar_core.registry import parse_variant
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.page.render import build_report
from spar_core.settings import parse
from spar_core.study import Study
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, Fitted, Part, load_tensors
from spar_core.training.reporter import Reporter
from stages import reanchor
from stages.cells import Cell, study_cells
from stages.layout import Layout
from stages.report import folders_of
from tests.fakes import ACTION_SIZE, ROOT, dataset_from, row_of, tiny_settings

GOOD = {
    "name": "small",
    "datasets": ["a/toy-v0"],
    "anchors": ["mlp"],
    "critics": ["iql"],
    "improvements": ["anchor", "spar_mlp"],
    "seeds": ["0-1"],
}
FIRST = {"anchor": "mlp_round_1", "of": "mlp", "critic": "iql", "improvement": "spar_mlp"}
SECOND = {**FIRST, "anchor": "mlp_round_2", "of": "mlp_round_1"}
RULE = ReanchoringSettings()


# --- the rule that stops ---


def evidence(share: float = 0.01, gain: float = 1.0, low: float | None = 0.5) -> Evidence:
    high = None if low is None else 2 * gain - low
    return Evidence(share, 0.3, 0.1, 0.1, Estimate(gain, low, high, 1 if low is None else 9), 200)


@pytest.mark.parametrize(
    ("found", "accepted"),
    [
        (evidence(), True),
        (evidence(share=0.05), True),
        (evidence(share=0.0501), False),
        (evidence(share=float("nan")), False),
        (evidence(gain=0.0, low=0.0), True),
        (evidence(gain=1.0, low=-0.1), False),
        (evidence(gain=-1.0, low=-2.0), False),
        (evidence(gain=float("nan"), low=float("nan")), False),
        # A single episode has no interval.
        (evidence(gain=0.1, low=None), True),
        (evidence(gain=-0.1, low=None), False),
    ],
)
def test_both_criteria_have_to_be_met(found, accepted):
    assert decide(found, RULE).accepted is accepted


def test_the_reasons_name_what_was_found_and_what_was_allowed():
    support, gain = decide(evidence(share=0.123, gain=-3.0, low=-4.5), RULE).reasons
    assert "12.3%" in support and "beyond the limit of 5%" in support and "200 held-out steps" in support
    assert "-3" in gain and "-4.5" in gain and "9 held-out episodes" in gain and "not ruled out" in gain
    support, gain = decide(evidence(), RULE).reasons
    assert "within the limit" in support and "expects no loss" in gain
    assert decide(evidence(share=0.123), replace_settings(largest_share=0.2)).accepted


def replace_settings(**values) -> ReanchoringSettings:
    return RULE.model_copy(update=values)


def on_a_line():
    """States on a line; all training actions are (0.5, 0), held-out ones lie at distances 0.01, 0.02, ... from that."""
    lengths = [50, 10, 30]
    observations = np.linspace(0, 1, sum(lengths) + 3)[:, None]
    actions = np.tile([0.5, 0.0], (sum(lengths), 1))
    actions[50:, 1] = 0.01 * np.arange(1, 41)
    return dataset_from(observations, actions, np.zeros(90), lengths, [False] * 3, [False, True, True])


def test_the_view_holds_what_logged_data_do_near_held_out_steps():
    view = View.of(on_a_line(), RULE)
    assert view.similar.shape == (40, 25, 2) and view.episodes.tolist() == [1] * 10 + [2] * 30
    assert view.logged == pytest.approx(0.01 * np.arange(1, 41), abs=1e-6)
    some = View.of(on_a_line(), replace_settings(states=7))
    assert len(some.logged) == 7 and some.logged[[0, -1]] == pytest.approx([0.01, 0.4], abs=1e-6)


def test_evidence_on_known_policies():
    view = View.of(on_a_line(), RULE)

    def constant(*action):
        return lambda observations: torch.tensor(action).expand(len(observations), -1)

    def value(observations, actions):
        # An episode of 10 states gains 2 a state, one of 30 states gains 4.
        late = torch.arange(len(observations)) >= 10
        return actions[:, 1] * torch.where(late, 4.0, 2.0) * 10

    near = gather(view, constant(0.5, 0.1), constant(0.5, 0.0), value, RULE)
    assert near.off_support_share == 0 and near.policy_distance == pytest.approx(0.1)
    assert near.yardstick == pytest.approx(np.quantile(0.01 * np.arange(1, 41), 0.95), abs=1e-6)
    # Episodes count once: (2 + 4) / 2, and not (10 * 2 + 30 * 4) / 40.
    assert near.gain.value == pytest.approx(3.0) and near.gain.n == 2
    far = gather(view, constant(0.5, 0.9), constant(0.5, 0.0), value, RULE)
    assert far.off_support_share == 1 and not decide(far, RULE).accepted
    assert far.gain.value == pytest.approx(27.0), "however much the critic likes it"


def test_the_logged_actions_themselves_are_within_the_default_limit():
    view = View.of(on_a_line(), RULE)
    logged = torch.as_tensor(on_a_line().actions[50:])
    found = gather(view, lambda _: logged, lambda _: logged, lambda _, actions: actions[:, 0], RULE)
    assert 0 < found.off_support_share <= RULE.largest_share and found.gain.value == 0
    assert decide(found, RULE).accepted


# --- distillation ---


def test_only_training_steps_are_relabelled(toy):
    taught = relabelled(toy, np.full_like(toy.actions, 0.25))
    assert (taught.actions[toy.train_steps] == 0.25).all()
    assert (taught.actions[toy.heldout_steps] == toy.actions[toy.heldout_steps]).all()
    assert not (toy.actions[toy.train_steps] == 0.25).any()


def test_the_student_acts_as_its_teacher(toy, parts):
    """Known answer: the teacher is the anchor plus a constant."""
    anchor = MLPAnchor.restore(parts.settings("anchor"), row_of(parts.anchor.tensors, 1))
    observations = torch.as_tensor(toy.observations[toy.observation_index])[None]
    before = anchor.act(observations)[0]
    teacher = (before + torch.tensor([0.3, -0.2, 0.1])).clamp(-1, 1)
    settings = tiny_settings(MLPAnchor, steps=1500, batch_size=64, hidden=(32, 32), learning_rate=3e-3)
    fitted = distil(Context.quiet(toy, [3]), MLPAnchor, settings, teacher.numpy())
    student = MLPAnchor.restore(settings, fitted.tensors).act(observations)[0]
    error = (student - teacher)[toy.train_steps].abs()
    assert error.mean() < 0.01 and error.max() < 0.06
    assert (student - before)[toy.train_steps].mean(0).tolist() == pytest.approx([0.3, -0.2, 0.1], abs=0.01)
    # The teacher is what it was cloned from; what it is judged by are the logged actions.
    assert fitted.metrics["anchor/train_mse"][0] < 1e-3 < fitted.metrics["anchor/heldout_mse"][0]


VARIANTS = {
    "mlp": {"hidden": [8]},
    "same": {"kind": "mlp", "hidden": [8], "steps": 5, "label_noise": 0.1},
    "wide": {"kind": "mlp", "hidden": [9]},
    "shared": {"kind": "committee", "member": {"kind": "mlp", "hidden": [8]}},
    "gaussian": {"hidden": [8]},
    "knn": {},
    "linear": {},
    "mine": {"kind": "external", "callable": "tests.external_policy:act"},
    "flow": {},
    "slow": {"kind": "flow", "flow_steps": 3},
}


@pytest.mark.parametrize(
    ("student", "of", "said"),
    [
        ("wide", "mlp", r"anchor 'wide': hidden = \[9\], and 'mlp', which it follows, has \[8\]"),
        ("gaussian", "mlp", "of kind 'gaussian', and 'mlp', which it follows, of kind 'mlp'"),
        ("slow", "flow", "flow_steps = 3, and 'flow', which it follows, has 10"),
        ("knn", "mlp", "no policy can be distilled into the kind 'knn'"),
        ("linear", "linear", "no policy can be distilled into the kind 'linear'"),
        ("mine", "mine", "no policy can be distilled into the kind 'external'"),
        ("sane", "mlp", "no anchor 'sane'; did you mean 'same'"),
        ("wide", "shared", r"hidden = \[9\], and 'shared', which it follows, has \[8\]"),
        ("gaussian", "shared", "of kind 'gaussian', and 'shared', which it follows, of kind 'mlp'"),
        ("shared", "shared", "no policy can be distilled into the kind 'committee'"),
    ],
)
def test_a_student_that_cannot_follow_is_refused_with_one_line(student, of, said):
    with pytest.raises(SparError, match=said) as error:
        check_student(student, of, VARIANTS)
    assert "\n" not in str(error.value)


def test_a_student_may_be_fitted_otherwise():
    check_student("same", "mlp", VARIANTS)
    check_student("same", "shared", VARIANTS)


def test_a_refused_seed_of_a_committee_keeps_its_own_member(tmp_path, parts):
    members = parts.anchor
    shared = Fitted({name: value.expand(3, *value.shape).contiguous() for name, value in members.tensors.items()})
    shared.write(tmp_path)
    write_meta(tmp_path, "anchor", params={"anchor": {"kind": "committee"}}, inputs={}, seeds=[0, 3, 5])
    for row, seed in enumerate((0, 3, 5)):
        kept = passed_on(tmp_path, seed).tensors
        assert all(torch.equal(kept[name], value[row : row + 1]) for name, value in members.tensors.items())


# --- the stage ---


LIMIT = 0.2
FAR = 50.0  # a bias of the last layer at which tanh is 1


class Project:
    """Artifacts of the seeds 0, 3 and 5 on the toy data: anchor, critic, and policies on and off support."""

    def __init__(self, folder: Path, toy, parts) -> None:
        self.layout, self.parts, self.toy = Layout(folder), parts, toy
        student = {"kind": "mlp", **parts.settings("anchor").model_dump(mode="json")}
        rule = {**RULE.model_dump(), "largest_share": LIMIT}
        names = ("mlp", "mlp_round_1", "mlp_round_2")
        params = {"anchors": dict.fromkeys(names, student), "reanchoring": rule}
        self.layout.params.write_text(yaml.safe_dump(params))
        self.settings = parse_variant("anchor", params["anchors"], "mlp")[1]
        self.rule = ReanchoringSettings(**rule)
        data = self.layout.data("toy")
        data.mkdir(parents=True)
        write_meta(data, "dataset", params={}, inputs={})
        for part, place in (
            ("anchor", self.anchor("mlp")),
            ("critic", self.layout.artifact("critic", "toy", "iql", "0,3,5")),
        ):
            place.mkdir(parents=True)
            fitted = getattr(parts, part)
            fitted.write(place)
            kind = {"anchor": "mlp", "critic": "iql"}[part]
            settings = {part: {"kind": kind, **parts.settings(part).model_dump(mode="json")}}
            write_meta(place, part, params=settings, inputs={}, seeds=[0, 3, 5])

    def anchor(self, name: str) -> Path:
        return self.layout.artifact("anchor", "toy", name, "0,3,5")

    def policy(self, of: str, far: tuple[int, ...]) -> None:
        """A policy that is its anchor, and for the seeds ``far`` acts in the corner of the action box."""
        settings = tiny_settings(SparMLP)
        fitted = SparMLP.fit(Context.quiet(self.toy, (0, 3, 5)), self.parts.frozen((0, 3, 5)), settings)
        last = len(settings.hidden)
        weights = {name: value.clone() for name, value in fitted.tensors.items()}
        for name in weights:
            if f".{last}." in name:
                weights[name].zero_()
        bias = next(name for name in weights if name.endswith(f"{last}.bias"))
        for seed in far:
            weights[bias][(0, 3, 5).index(seed)] = FAR
        folder = self.layout.artifact("policy", "toy", of, "iql", "spar_mlp", "0,3,5")
        folder.mkdir(parents=True)
        saved = {
            "anchor": Part("mlp", self.parts.settings("anchor"), load_tensors(self.anchor(of) / WEIGHTS)),
            "residual": Part("residual", self.parts.settings("residual"), self.parts.residual.tensors),
            "improvement": Part("spar_mlp", settings, weights),
        }
        whole = Fitted(weights)
        interface = Interface(self.toy.observation_size)
        save_policy(folder, parts=saved, fitted=whole, seeds=(0, 3, 5), scaler=self.toy.scaler, interface=interface)
        write_meta(folder, KIND, params={}, inputs={}, seeds=[0, 3, 5])

    def run(self, anchor: str, of: str) -> dict[int, dict]:
        axes = {"dataset": "toy", "anchor": anchor, "of": of, "critic": "iql", "improvement": "spar_mlp"}
        words = [word for axis, value in axes.items() for word in (f"--{axis}", value)]
        reanchor.run([*words, "--seeds", "0,3,5"])
        return {row["seed"]: row for row in read_json(self.anchor(anchor) / "decision.json")["seeds"]}

    def row(self, anchor: str, seed: int) -> dict[str, torch.Tensor]:
        return passed_on(self.anchor(anchor), seed).tensors


@pytest.fixture
def project(tmp_path, monkeypatch, toy, parts) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAR_WORKERS", "1")
    monkeypatch.setenv("SPAR_TRACKING", "off")
    monkeypatch.setattr(reanchor, "dataset_of", lambda layout, dataset: toy)
    return Project(Path(), toy, parts)


def test_a_policy_far_off_support_is_refused_and_the_anchor_is_passed_on_byte_for_byte(project, capsys):
    project.policy("mlp", far=(0, 3, 5))
    found = project.run("mlp_round_1", "mlp")
    assert [row["accepted"] for row in found.values()] == [False] * 3
    assert all(row["stopped_at"] == 1 and "beyond the limit of 20%" in row["reasons"][0] for row in found.values())
    assert all(row["evidence"]["off_support_share"] > LIMIT for row in found.values())
    for file in (WEIGHTS, "curves.csv"):
        assert (project.anchor("mlp_round_1") / file).read_bytes() == (project.anchor("mlp") / file).read_bytes()
    old, new = (read_json(project.anchor(name) / "metrics.json") for name in ("mlp", "mlp_round_1"))
    assert {k: v for k, v in new.items() if k in old} == old and new["round/accepted"] == [0.0] * 3
    assert capsys.readouterr().out.count("refused. At ") == 3


def test_seeds_are_judged_one_by_one_and_a_stopped_one_stays_stopped(project):
    project.policy("mlp", far=(3,))
    found = project.run("mlp_round_1", "mlp")
    assert {seed: row["accepted"] for seed, row in found.items()} == {0: True, 3: False, 5: True}
    same = {
        seed: all(
            torch.equal(a, b)
            for a, b in zip(*(project.row(name, seed).values() for name in ("mlp", "mlp_round_1")), strict=True)
        )
        for seed in found
    }
    assert same == {0: False, 3: True, 5: False}
    meta = read_json(project.anchor("mlp_round_1") / "meta.json")
    assert (
        meta["kind"] == "anchor"
        and meta["params"]["round"] == FIRST
        and set(meta["inputs"])
        == {
            "dataset",
            "anchor",
            "critic",
            "policy",
        }
    )
    # The next round's policy is on support for every seed; that of seed 3 is not looked at.
    project.policy("mlp_round_1", far=(5,))
    found = project.run("mlp_round_2", "mlp_round_1")
    assert {seed: (row["accepted"], row["stopped_at"]) for seed, row in found.items()} == {
        0: (True, None),
        3: (False, 1),
        5: (False, 2),
    }
    assert found[3]["reasons"][0].startswith("Stopped at round 1") and found[3]["evidence"] is None
    assert read_json(project.anchor("mlp_round_2") / "decision.json")["round"] == 2
    for seed, name in ((3, "mlp"), (5, "mlp_round_1")):
        ours, theirs = project.row("mlp_round_2", seed), project.row(name, seed)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_seed_is_the_same_alone_and_beside_others(project):
    project.policy("mlp", far=(0,))
    project.run("mlp_round_1", "mlp")
    layout = project.layout
    critic = layout.artifact("critic", "toy", "iql", "0,3,5")
    policy = layout.artifact("policy", "toy", "mlp", "iql", "spar_mlp", "0,3,5")
    teacher = {"anchor": project.anchor("mlp"), "policy": policy, "critic": critic}
    job = reanchor.Reanchor(layout, "toy", teacher, 1, {}, MLPAnchor, project.settings, project.rule, "cpu")
    ((alone, row),) = job([3], Reporter([3]))
    beside = passed_on(project.anchor("mlp_round_1"), 3)
    assert all(torch.equal(alone.tensors[name], beside.tensors[name]) for name in beside.tensors)
    assert sorted(alone.curves) == sorted(beside.curves) and len(alone.curves) > 0
    assert json.loads(json.dumps(row)) == read_json(project.anchor("mlp_round_1") / "decision.json")["seeds"][1]
    before = (project.anchor("mlp_round_1") / WEIGHTS).read_bytes()
    project.run("mlp_round_1", "mlp")
    assert (project.anchor("mlp_round_1") / WEIGHTS).read_bytes() == before


def test_every_seed_may_distil_the_committee(project):
    # The policies are their anchors, so that the critic expects neither gain nor loss of their mean.
    project.policy("mlp", far=())
    params = yaml.safe_load(project.layout.params.read_text())
    params["reanchoring"]["teacher"] = "committee"
    project.layout.params.write_text(yaml.safe_dump(params))
    found = project.run("mlp_round_1", "mlp")
    shares = {row["evidence"]["off_support_share"] for row in found.values()}
    assert len(shares) == 1 and len({row["evidence"]["policy_distance"] for row in found.values()}) == 1
    told = read_json(project.anchor("mlp_round_1") / "metrics.json")
    assert all(row["accepted"] for row in found.values())
    pairs = zip(told["round/deviation_mean"], told["round/deviation_largest"], strict=True)
    assert all(0 < mean < largest < 2 * ACTION_SIZE for mean, largest in pairs)
    folder = project.layout.artifact("policy", "toy", "mlp", "iql", "spar_mlp", "0,3,5")
    observations = torch.as_tensor(project.toy.observations[project.toy.observation_index])
    policy = load_policy(folder)
    actions = policy.rule.act(observations.expand(3, -1, -1)).mean(dim=0).numpy()
    student = distil(Context.quiet(project.toy, [3]), MLPAnchor, project.settings, actions)
    ours = project.row("mlp_round_1", 3)
    assert all(torch.equal(ours[name], value) for name, value in student.tensors.items())


def test_a_missing_policy_is_one_line_and_leaves_nothing(project):
    with pytest.raises(SparError, match="should hold the policy"):
        project.run("mlp_round_1", "mlp")
    assert not project.anchor("mlp_round_1").exists()


# --- the study ---


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([{**FIRST, "of": "mpl"}], "round 1: of 'mpl', which is no anchor of the study or of an earlier round"),
        ([SECOND, FIRST], "round 1: of 'mlp_round_1', which is no anchor of the study or of an earlier round"),
        ([{**FIRST, "of": "mlp_round_1"}], "round 1: of 'mlp_round_1', which is no anchor"),
        ([{**FIRST, "anchor": "mlp"}], "'mlp' is among the study's anchors; a round makes one of its own"),
        ([FIRST, FIRST], "round 2: 'mlp_round_1' is made by an earlier round already"),
        ([{**FIRST, "critic": "sarsa"}], "critic 'sarsa' is not among the study's critics"),
        ([{**FIRST, "improvement": "awr"}], "improvement 'awr' is not among the study's improvements"),
        ([FIRST, {**SECOND, "critic": "cql"}], "'mlp_round_1' has policies of critic 'iql' only"),
        ([{**FIRST, "anchor": "A.b"}], "'A.b' may hold only"),
        ([{**FIRST, "off": 1}], "unknown key 'rounds.0.off'"),
        ([{"anchor": "mlp_round_1"}], "key 'rounds.0.of' is missing"),
    ],
)
def test_rounds_that_do_not_follow_are_refused_with_one_line(rounds, said):
    with pytest.raises(SparError) as error:
        parse(Study, {**GOOD, "critics": ["iql", "cql"], "rounds": rounds}, "study")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"anchor": "mlp_rond_1"}, "params.yaml has no anchor 'mlp_rond_1'; did you mean 'mlp_round_1'?"),
        ({"anchor": "knn"}, "no policy can be distilled into the kind 'knn'"),
        ({"anchor": "flow"}, "of kind 'flow', and 'mlp', which it follows, of kind 'mlp'"),
    ],
)
def test_a_plan_refuses_a_student_that_cannot_follow(change, said):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    students = {"anchors": {"mlp_round_1": {"like": "mlp"}}}
    params["study"] |= {"anchors": ["mlp"], "rounds": [{**FIRST, **change}], "params": students}
    with pytest.raises(SparError) as error:
        check(params)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_cells_of_rounds_come_beside_those_of_the_study():
    lists = {**GOOD, "datasets": ["a/toy-v0", "b/toy-v0"], "critics": ["iql", "cql"], "seeds": ["0", "1"]}
    plain = parse(Study, lists, "study")
    study = parse(Study, {**lists, "rounds": [FIRST, SECOND], "estimated": ["b/toy-v0"]}, "study")
    more = set(study.cells()) - set(plain.cells())
    assert set(plain.cells()) < set(study.cells()) and len(list(study.cells())) == len(set(study.cells()))
    assert {(c.anchor, c.critic) for c in more} == {("mlp_round_1", "iql"), ("mlp_round_2", "iql")}
    assert len(more) == 2 * 2 * 2 * 2  # datasets, rounds, rules, seed groups
    cells = study_cells(study)
    assert len(cells) == len(set(cells))
    made = [cell for cell in cells if cell.stage == "reanchor"]
    assert len(made) == 2 * 2 * 2 and {cell.round for cell in made} == set(study.rounds)
    mine = [cell for cell in cells if cell.dataset == "b/toy-v0" and cell.anchor == "mlp_round_2"]
    assert [cell.stage for cell in mine] == ["reanchor"] * 2 + ["fit_residual"] * 2 + [
        stage for stage in ("self_imitation", "evaluate", "estimate") for _ in range(4)
    ]
    # No other stage makes the anchor of a round, and each of its parts comes before what needs it.
    assert not [cell for cell in cells if cell.stage == "fit_bc" and cell.anchor != "mlp"]


def test_a_cell_of_a_round_is_keyed_by_the_code_of_its_teacher():
    cell = Cell("reanchor", "d", anchor="mlp_round_1", seeds="0", round=Round(**FIRST))
    code = {"stage": {"reanchor": "s"}, "anchor": {"mlp_round_1": "a"}, "critic": {"iql": "c"}}
    digests = [cell.code_digest({"code": {**code, "improvement": {"spar_mlp": i}}}) for i in ("x", "y")]
    assert digests[0] != digests[1]
    assert cell.tags()["spar.round.of"] == "mlp" and cell.tags()["anchor"] == "mlp_round_1"
    assert "critic" not in cell.tags(), "the anchor serves every critic and rule"


def test_chains_lead_to_every_last_anchor():
    third = Round(**{**FIRST, "anchor": "other"})
    first, second = Round(**FIRST), Round(**SECOND)
    assert chains([]) == []
    assert chains([first, second, third]) == [(first, second), (third,)]


# --- the report ---

RETURNS = {"mlp": (100.0, 150.0), "mlp_round_1": (150.0, 180.0), "mlp_round_2": (160.0, 190.0)}
# By round: accepted, off-support share, critic's gain of the seeds 0 and 1.
DECIDED = {
    "mlp_round_1": ([1.0, 1.0], [0.01, 0.02], [5.0, 7.0]),
    "mlp_round_2": ([1.0, 0.0], [0.03, 0.3], [1.0, 2.0]),
}


@pytest.fixture
def evolved(tmp_path) -> tuple[Layout, Study]:
    """Evaluations whose seed 1 returns 10 more than seed 0, everywhere."""
    layout, study = Layout(tmp_path), parse(Study, {**GOOD, "rounds": [FIRST, SECOND]}, "study")
    for cell in study.cells():
        folder = layout.artifact("evaluation", cell.dataset, cell.anchor, cell.critic, cell.improvement, cell.seeds)
        folder.mkdir(parents=True)
        value = RETURNS[cell.anchor][cell.improvement == "spar_mlp"]
        axes = {axis: getattr(cell, axis) for axis in ("dataset", "anchor", "critic", "improvement")}
        rows = [
            {**axes, "seed": s, "episode": e, "env_seed": e, "return": value + 10 * s, "length": 9, "terminated": False}
            for s in (0, 1)
            for e in (0, 1)
        ]
        pd.DataFrame(rows).assign(success="").to_csv(folder / "episodes.csv", index=False)
        diagnostics = {}
        if cell.anchor in DECIDED:
            names = ("round/accepted", "round/off_support_share", "round/critic_gain")
            diagnostics = dict(zip(names, DECIDED[cell.anchor], strict=True))
        context = {
            "env_id": "Toy-v0",
            "reference": None,
            "not_evaluated": None,
            "mismatch": None,
            "label": "toy data",
            "dataset": {"steps": 9, "episodes": 2, "mean_return": 90.0, "best_return": 200.0},
            "protocol": "last",
            "diagnostics": diagnostics,
        }
        (folder / "context.json").write_text(json.dumps(context))
    return layout, study


def rounds_section(page: str) -> str:
    return page.split("### Rounds from anchor `mlp`, critic `iql`")[1].split("\n## ")[0]


def test_the_report_has_a_line_a_round(evolved):
    layout, study = evolved
    report = build_report(study, folders_of(layout), ReportSettings())
    section = rounds_section(report.files["report.md"].decode())
    lines = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:2] == "| "]
    assert lines[1:] == [
        ["0", "`mlp`", "105", "-", "`spar_mlp`", "155", "+50 [+50, +50]", "-", "-", "-", "-"],
        ["1", "`mlp_round_1`", "155", "+50 [+50, +50]", "`spar_mlp`", "185", "+80 [+80, +80]", "0, 1", "-"]
        + ["1.0 to 2.0%", "6"],
        ["2", "`mlp_round_2`", "165", "+60 [+60, +60]", "`spar_mlp`", "195", "+90 [+90, +90]", "0", "1"]
        + ["3.0 to 30.0%", "1.5"],
    ]
    assert "Stopped: seed 1 (round 2)." in section
    name = "rounds.a.toy-v0.mlp_round_2.svg"
    assert f"(figures/{name})" in section and report.figures[name].startswith(b"<?xml")
    again = build_report(study, folders_of(layout), ReportSettings())
    assert again.figures == report.figures and again.files == report.files
    # Anchors made from one another are no sample of anchors.
    assert "Anchor quality" not in report.files["report.md"].decode()


def test_a_study_without_rounds_has_no_such_section(evolved):
    layout, _ = evolved
    report = build_report(parse(Study, GOOD, "study"), folders_of(layout), ReportSettings())
    assert "Rounds from" not in report.files["report.md"].decode()
    assert not [name for name in report.figures if name.startswith("rounds.")]


def test_what_is_looked_into_are_the_first_anchors_and_not_those_of_rounds():
    study = parse(Study, {**GOOD, "diagnosed": GOOD["datasets"], "rounds": [FIRST]}, "study")
    folders = folders_of(Layout())
    looked_into = {cell.anchor for cell in study.cells() if "diagnosis" in folders(cell, study)}
    assert looked_into == {"mlp"} and {cell.anchor for cell in study.cells()} == {"mlp", "mlp_round_1"}
    asked = {cell.anchor for cell in study_cells(study) if cell.stage in ("geometry", "diagnose")}
    assert asked == {"mlp"}
