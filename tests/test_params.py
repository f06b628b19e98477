"""Params over each other: params.yaml, the study's own and a dataset entry's, and where each one comes from."""

from __future__ import annotations

import shutil

import pytest
import yaml

from spar_core.data.entry_files import load_entry
from spar_core.effective import check, check_entry, settings_of
from spar_core.errors import SparError
from spar_core.params import layers_of, merge, over
from spar_core.settings import load_yaml
from spar_core.study import Study
from stages import plan
from stages.layout import Layout
from stages.origins import origins_of
from stages.params import read_layers, read_params
from tests.fakes import ROOT

HERE, THERE = "builtin/halfcheetah-replay-v0", "builtin/pointmaze-umaze-v0"


@pytest.fixture
def params():
    """The shipped params, with a study of two datasets."""
    found = load_yaml(ROOT / "params.yaml")
    found["study"] |= {"datasets": [HERE, THERE], "anchors": ["mlp"], "estimated": [], "diagnosed": []}
    return found


def merged(params, settings=None):
    return merge(layers_of(params, THERE, settings))


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- trees over each other ---


def test_mappings_lie_over_each_other_key_by_key_and_all_else_replaces():
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    above = {"a": {"y": [3]}, "b": {"new": 1}, "d": None}
    assert over(below, above) == {"a": {"x": 1, "y": [3]}, "b": {"new": 1}, "c": {"z": 1}, "d": None}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    assert over(below, {"a": {"like": "q", "y": 4}})["a"] == {"like": "q", "y": 4}, (
        "a variant that says `like` starts anew"
    )


def test_the_study_lies_over_the_file_and_the_entry_over_both(params):
    params["study"]["params"] = {"critics": {"iql": {"steps": 7, "expectile": 0.8}}, "evaluation": {"episodes": 3}}
    found = merged(params, {"critics": {"iql": {"expectile": 0.9}}})
    iql = params["critics"]["iql"]
    assert found["critics"]["iql"] == {**iql, "steps": 7, "expectile": 0.9}
    assert found["evaluation"] == {**params["evaluation"], "episodes": 3}
    assert merged(params)["critics"]["iql"] == {**iql, "steps": 7, "expectile": 0.8}
    assert found["critics"]["iql_ensemble"] == params["critics"]["iql_ensemble"]


def test_like_takes_the_variant_as_it_is_once_all_lie_over_each_other(params):
    params["study"]["params"] = {
        "critics": {"cold": {"like": "iql", "warm_start_steps": 0}, "short": {"like": "cold", "steps": 9}},
        "anchors": {"wide": {"like": "gaussian_sampled", "hidden": [9]}},
    }
    found = merged(params, {"critics": {"iql": {"expectile": 0.9}}})
    iql = {**params["critics"]["iql"], "expectile": 0.9, "kind": "iql", "warm_start_steps": 0}
    assert found["critics"]["cold"] == iql and found["critics"]["short"] == {**iql, "steps": 9}
    gaussian = params["anchors"]["gaussian"]
    assert found["anchors"]["wide"] == {**gaussian, "kind": "gaussian", "residual": {"base": "sample"}, "hidden": [9]}


def test_a_candidate_may_be_like_a_variant_of_its_section(params):
    params["study"]["params"] = {
        "improvements": {
            "near": {"like": "spar_mlp", "latent_clip": 0.5},
            "auto": {"candidates": {"near": {"like": "near"}}},
            "other": {"like": "auto", "states": 3},
        }
    }
    found, spar = merged(params)["improvements"], params["improvements"]
    assert found["auto"]["candidates"] == {
        "spar_proj": spar["spar_proj"],
        "spar_mlp": spar["spar_mlp"],
        "near": {**spar["spar_mlp"], "latent_clip": 0.5},
    }
    assert found["other"] == {**found["auto"], "kind": "auto", "states": 3}


@pytest.mark.parametrize(
    "variants",
    [
        {"mine": {"like": "mine"}},
        {"mine": {"like": "yours"}, "yours": {"like": "mine"}},
        {"spar_mlp": {"like": "mine"}, "mine": {"like": "spar_mlp", "tau": 2}},
        {"auto": {"candidates": {"x": {"like": "auto"}}}},
    ],
)
def test_a_variant_like_itself_is_refused(params, variants):
    params["study"]["params"] = {"improvements": variants}
    with pytest.raises(SparError, match=r"params.yaml, study.params, improvements: '.*' is like itself") as error:
        check(params)
    one_line(error)


# --- a dataset's entry ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"critics": {"iql": {"expectil": 0.9}}}, "critic 'iql': unknown key 'expectil'; did you mean 'expectile'?"),
        ({"critics": {"iqll": {"expectile": 0.9}}}, "critics: there is no 'iqll'; did you mean 'iql'?"),
        ({"critic": {}}, "unknown section 'critic'; did you mean 'critics'?"),
        ({"report": {"confidence": 0.9}}, "unknown section 'report'"),
        ({"study": {"seeds": ["0"]}}, "unknown section 'study'"),
        ({"critics": {"iql": {"expectile": 2}}}, "critic 'iql': expectile = 2 is not valid"),
        ({"critics": {"iql": {"kind": "sarsa", "expectile": 0.9}}}, "critic 'iql': unknown key 'expectile'"),
        ({"critics": {"sarsa": {"kind": "returns", "like": "returns"}}}, "'sarsa' would be of another kind"),
        ({"improvements": {"auto": {"candidates": {"awr": {}}}}}, "'auto' would be of another kind"),
        ({"estimation": {"fqe": {"step": 3}}}, "estimation: unknown key 'fqe.step'; did you mean 'steps'?"),
        (
            {"anchors": {"mlp": {"residual": {"bta": 1}}}},
            "residual of anchor 'mlp': unknown key 'bta'; did you mean 'beta'?",
        ),
        ({"anchors": []}, "section 'anchors' is missing or empty"),
    ],
)
def test_a_wrong_setting_of_an_entry_is_one_line_that_names_its_file(params, settings, said):
    study = check(params)
    with pytest.raises(SparError) as error:
        check_entry(params, study, THERE, settings)
    assert one_line(error).startswith(f"datasets/{THERE}.yaml, settings") and said in str(error.value)


def test_an_entry_may_not_part_a_student_from_its_teacher(params):
    params["study"]["params"] = {"anchors": {"next": {"like": "mlp"}}}
    params["study"]["rounds"] = [{"anchor": "next", "of": "mlp", "critic": "iql", "improvement": "spar_mlp"}]
    study = check(params)
    check_entry(params, study, THERE, {"anchors": {"mlp": {"hidden": [9]}}})
    with pytest.raises(SparError, match=rf"datasets/{THERE}.yaml, settings, anchor 'next': hidden = \[9\]") as error:
        check_entry(params, study, THERE, {"anchors": {"next": {"hidden": [9]}}})
    one_line(error)


# --- what plan writes, and what stages read ---


@pytest.fixture
def project(tmp_path, params, monkeypatch) -> Layout:
    """The code and the entries, with settings in one entry and in the study."""
    for folder in ("spar_core", "stages", "datasets"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "d4rl", "minari")
        )
    shutil.copy(ROOT / "theory.yaml", tmp_path / "theory.yaml")
    params["study"]["params"] = {
        "anchors": {"small": {"like": "mlp", "hidden": [8], "residual": {"beta": 0.3}}},
        "improvements": {"spar_mlp": {"tau": 0.5}},
        "diagnosis": {"draws": 3},
    }
    params["study"]["anchors"] = ["mlp", "small"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with (tmp_path / f"datasets/{THERE}.yaml").open("a") as entry:
        entry.write(
            "settings: {critics: {iql: {expectile: 0.9}}, residual: {beta: 0.2}, estimation: {fqe: {steps: 4}}}\n"
        )
    monkeypatch.chdir(tmp_path)
    return Layout()


def test_plan_writes_the_settings_that_stages_read_dataset_by_dataset(project):
    plan.run([])
    written = load_yaml(project.plan)
    study = Study(**load_yaml(project.params)["study"])
    assert set(written["settings"]) == {HERE, THERE}
    for dataset, settings in written["settings"].items():
        assert settings == settings_of(read_params(project, dataset), study)
        assert settings["improvements"]["spar_mlp"]["tau"] == 0.5 and settings["improvements"]["uniform"]["tau"] == 0.3
        assert set(settings["anchors"]) == {"mlp", "small"} and settings["anchors"]["small"]["hidden"] == [8]
        assert settings["residual"]["small"]["beta"] == 0.3, "what an anchor says of its own residuals is the last word"
    here, there = written["settings"][HERE], written["settings"][THERE]
    assert (here["critics"]["iql"]["expectile"], there["critics"]["iql"]["expectile"]) == (0.7, 0.9)
    assert (here["residual"]["mlp"]["beta"], there["residual"]["mlp"]["beta"]) == (0.05, 0.2)
    assert there["estimation"]["fqe"]["steps"] == 4 and there["diagnosis"]["draws"] == 3
    different = {name for name in here if here[name] != there[name]}
    assert different == {"critics", "residual", "estimation"}


def test_every_setting_that_params_do_not_give_has_its_origin(project):
    study = Study(**load_yaml(project.params)["study"])
    entry, own = f"datasets/{THERE}.yaml", "the study"
    of_study = {"spar_mlp": {"tau": own}}
    small = {"hidden": own, "residual": {"beta": own}}
    assert origins_of(read_layers(project, HERE), study) == {
        "anchors": {"small": small},
        "residual": {"small": {"beta": own}},
        "improvements": of_study,
        "diagnosis": {"draws": own},
    }
    assert origins_of(read_layers(project, THERE), study) == {
        "anchors": {"small": small},
        "residual": {"mlp": {"beta": entry}, "small": {"beta": own}},
        "critics": {"iql": {"expectile": entry}},
        "improvements": of_study,
        "estimation": {"fqe": {"steps": entry}},
        "diagnosis": {"draws": own},
    }


def test_the_data_of_an_entry_have_one_digest_whatever_its_words_and_settings(project):
    path = project.dataset_entry(THERE)
    first = plan.data_digest(load_entry(path), project.root)
    text = path.read_text()
    path.write_text(text.replace("title: Point maze", "title: Some maze").replace("expectile: 0.9", "expectile: 0.8"))
    assert plan.data_digest(load_entry(path), project.root) == first
    path.write_text(text.replace("reward_shift: iql", "reward_shift: none"))
    assert plan.data_digest(load_entry(path), project.root) != first
