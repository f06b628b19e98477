"""Every mistake in params.yaml and in a study gives one line that names the nearest right word."""

from __future__ import annotations

import shutil

import pytest
import yaml

from spar_core.effective import SECTIONS, check
from spar_core.errors import SparError
from spar_core.params import LIKE
from spar_core.registry import load_member, parse_variant, variant_kind
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings, load_yaml, parse
from spar_core.study import Study
from stages.cells import Cell, study_cells
from stages.layout import Layout
from stages.study import put_study
from tests.fakes import ROOT, kinds

GOOD = {
    "name": "small",
    "datasets": ["builtin/toy-v0"],
    "anchors": ["mlp"],
    "critics": ["iql"],
    "improvements": ["anchor", "spar_mlp"],
    "seeds": ["0-3"],
}


@pytest.fixture
def params():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture
def layout(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    return Layout(tmp_path)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- params.yaml ---


def test_the_shipped_params_are_valid(params):
    assert set(params) == {"study", *SECTIONS}
    assert check(params).name == params["study"]["name"]


def test_every_shipped_key_of_a_variant_is_spelt_out(params):
    """A key that is not in params.yaml could not be set by ``dvc exp run -S``."""
    for family, section in {"anchor": "anchors", "critic": "critics", "improvement": "improvements"}.items():
        for name, values in params[section].items():
            if LIKE in values:
                continue
            member = load_member(family, variant_kind(name, values))
            assert set(values) - {"kind", "residual"} == set(member.Settings.model_fields), name


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("study", "anchor", "did you mean 'anchors'"),
        ("residual", "radius_quantil", "did you mean 'radius_quantile'"),
        ("evaluation", "episode", "did you mean 'episodes'"),
        ("report", "base_line", "did you mean 'baseline'"),
    ],
)
def test_an_unknown_key_names_the_nearest(params, section, key, hint):
    params[section][key] = 1
    with pytest.raises(SparError, match=hint) as error:
        check(params)
    assert f"unknown key '{key}'" in one_line(error)


@pytest.mark.parametrize(
    ("section", "variant", "key", "hint"),
    [
        ("anchors", "mlp", "learning_rat", "did you mean 'learning_rate'"),
        ("critics", "iql", "expectil", "did you mean 'expectile'"),
        ("improvements", "spar_mlp", "taus", "did you mean 'tau'"),
        ("improvements", "best_of_n", "candidate", "did you mean 'candidates'"),
    ],
)
def test_an_unknown_key_of_a_variant_names_the_nearest(params, section, variant, key, hint):
    params[section][variant][key] = 1
    with pytest.raises(SparError, match=hint) as error:
        check(params)
    assert f"'{variant}'" in one_line(error)


@pytest.mark.parametrize(
    ("section", "name", "hint"),
    [
        ("anchors", "mlpp", "did you mean 'mlp'"),
        ("critics", "iqll", "did you mean 'iql'"),
        ("improvements", "spar_mpl", "did you mean 'spar_mlp'"),
    ],
)
def test_a_study_that_names_what_is_not_there_names_the_nearest(params, section, name, hint):
    params["study"][section] = [name]
    with pytest.raises(SparError, match=hint) as error:
        check(params)
    assert f"'{name}'" in one_line(error)


@pytest.mark.parametrize("family", ["anchor", "critic", "improvement"])
def test_an_unknown_kind_names_the_nearest(family):
    for kind in kinds(family):
        with pytest.raises(SparError, match=f"no {family} kind '{kind}_x'; did you mean '{kind}'"):
            parse_variant(family, {"mine": {"kind": f"{kind}_x"}}, "mine")


def test_a_bad_value_says_which_key_and_what_it_was(params):
    params["improvements"]["spar_mlp"]["tau"] = -1
    with pytest.raises(SparError, match=r"'spar_mlp': tau = -1 is not valid.*greater than 0") as error:
        check(params)
    one_line(error)


def test_an_unknown_section_names_the_nearest(layout):
    layout.params.write_text(layout.params.read_text() + "\nimprovement: {}\n")
    with pytest.raises(SparError, match="unknown section 'improvement'; did you mean 'improvements'") as error:
        check(load_yaml(layout.params))
    one_line(error)


@pytest.mark.parametrize("section", ["study", *SECTIONS])
def test_a_missing_section_is_named(layout, params, section):
    del params[section]
    layout.params.write_text(yaml.safe_dump(params))
    with pytest.raises(SparError, match=f"section '{section}' is missing"):
        check(load_yaml(layout.params))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [\n", r"not valid YAML \(line 2\)"), ("- 1\n", "must hold a mapping"), ("", "must hold a mapping")],
)
def test_a_broken_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SparError, match=message) as error:
        load_yaml(path)
    one_line(error)


def test_a_missing_file_and_a_section_of_another_type_are_clear(tmp_path):
    with pytest.raises(SparError, match="does not exist"):
        load_yaml(tmp_path / "x.yaml")
    with pytest.raises(SparError, match="expected a mapping, got list"):
        parse(Study, [1], "here")


def test_keys_of_nested_models_are_suggested_from_the_nested_model():
    class Inner(Settings):
        colour: int = 0

    class Outer(Settings):
        inner: Inner = Inner()

    with pytest.raises(SparError, match=r"unknown key 'inner.color'; did you mean 'colour'"):
        parse(Outer, {"inner": {"color": 1}}, "here")


def test_settings_are_immutable(params):
    study = check(params)
    with pytest.raises(ValueError, match="frozen"):
        study.name = "other"


# --- a study ---


@pytest.mark.parametrize("key", ["datasets", "anchors", "critics", "improvements", "seeds"])
def test_an_empty_list_and_a_double_entry_are_refused(key):
    with pytest.raises(SparError, match=f"{key} = .*the list is empty"):
        parse(Study, {**GOOD, key: []}, "study")
    with pytest.raises(SparError, match=f"{key} = .*listed twice"):
        parse(Study, {**GOOD, key: [GOOD[key][0]] * 2}, "study")
    with pytest.raises(SparError, match=f"key '{key}' is missing"):
        parse(Study, {k: v for k, v in GOOD.items() if k != key}, "study")


@pytest.mark.parametrize("key", ["name", "datasets", "anchors", "critics", "improvements"])
@pytest.mark.parametrize("name", ["a.b", "../up", "Upper", "a b", "", "/a", "a//b"])
def test_names_that_would_break_paths_or_keys_are_refused(key, name):
    value = name if key == "name" else [name]
    with pytest.raises(SparError, match="may hold only"):
        parse(Study, {**GOOD, key: value}, "study")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["0-3", "3"], "seed 3 is listed twice"),
        (["5", "2-6"], "seed 5 is listed twice"),
        (["0,0"], "holds a seed twice"),
        (["0-2,1"], "holds a seed twice"),
        (["3-1"], "is not valid"),
        (["a"], "is not valid"),
        (["-1"], "is not valid"),
        (["1-"], "is not valid"),
        (["0, 1"], 'write "0,1", without spaces'),
        ([" 4 "], 'write "4", without spaces'),
        (["0 - 3"], 'write "0-3", without spaces'),
        (["5-2"], 'write "2-5", the lower seed first'),
        (["1.5"], "is not valid"),
        ([""], "is not valid"),
        ([" "], "is not valid"),
        (["0,,1"], "is not valid"),
        (["007"], "is not valid"),
        (["\u0663"], "is not valid"),
        ([3], "is not valid: Input should be a valid string"),
        ([1.5], "is not valid: Input should be a valid string"),
    ],
)
def test_seed_groups_that_overlap_or_are_no_groups_are_refused(groups, message):
    with pytest.raises(SparError, match=message) as error:
        parse(Study, {**GOOD, "seeds": groups}, "study")
    one_line(error)


@pytest.mark.parametrize(
    ("group", "seeds"),
    [("0-3", (0, 1, 2, 3)), ("5", (5,)), ("0,4-5", (0, 4, 5)), ("7-7", (7,)), ("4,1", (4, 1)), ("0", (0,))],
)
def test_seed_groups(group, seeds):
    assert parse_seeds(group) == seeds


def test_cells_are_every_combination_once():
    study = parse(Study, {**GOOD, "critics": ["iql", "other"], "seeds": ["0-1", "2"]}, "study")
    cells = list(study.cells())
    assert len(cells) == len(set(cells)) == 2 * 2 * 2
    assert {(c.critic, c.improvement, c.seeds) for c in cells} == {
        (c, i, s) for c in ("iql", "other") for i in ("anchor", "spar_mlp") for s in ("0-1", "2")
    }


def test_cells_of_also_come_beside_the_product_and_for_their_anchors_only():
    lists = {**GOOD, "anchors": ["mlp", "flow"], "seeds": ["0-1", "2"]}
    also = {"anchors": ["flow"], "improvements": ["awr"]}
    plain, study = parse(Study, lists, "study"), parse(Study, {**lists, "also": also}, "study")
    more = set(study.cells()) - set(plain.cells())
    assert set(plain.cells()) <= set(study.cells()) and len(list(study.cells())) == len(set(study.cells()))
    assert {(c.anchor, c.improvement, c.seeds) for c in more} == {("flow", "awr", "0-1"), ("flow", "awr", "2")}
    assert study.all_rules() == (*plain.improvements, "awr")
    assert set(study_cells(study)) - set(study_cells(plain)) == {
        Cell(stage, c.dataset, c.anchor, c.critic, c.improvement, c.seeds)
        for stage in ("self_imitation", "evaluate")
        for c in more
    }


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"anchors": ["mlp"]}, "both anchors and improvements"),
        ({"anchors": ["flow"], "improvements": ["awr"]}, "'flow' is not among the study's anchors"),
        ({"anchors": ["mlp"], "improvements": ["anchor"]}, "'anchor' is among the study's improvements already"),
        ({"anchors": ["mlp", "mlp"], "improvements": ["awr"]}, "listed twice"),
        ({"anchor": ["mlp"]}, "did you mean 'anchors'"),
    ],
)
def test_an_also_that_adds_nothing_new_is_refused(also, message):
    with pytest.raises(SparError, match=message) as error:
        parse(Study, {**GOOD, "also": also}, "study")
    one_line(error)


# --- python -m stages.study ---


def shipped_studies():
    return sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))


def test_the_shipped_params_hold_the_default_study_as_its_file_has_it(layout):
    before = layout.params.read_bytes()
    put_study(layout, "default")
    assert layout.params.read_bytes() == before


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_goes_into_params_is_valid_and_leaves_no_trace(layout, name):
    before = layout.params.read_bytes()
    put_study(layout, name)
    params = load_yaml(layout.params)
    wanted = load_yaml(layout.root / "studies" / f"{name}.yaml")
    study, held = check(params), params["study"]
    assert study.name == name
    nothing = {
        "also": {"anchors": [], "improvements": []},
        "estimated": [],
        "rounds": [],
        "diagnosed": [],
        "params": {},
    }
    assert held == {"name": name, **nothing, **wanted}
    put_study(layout, "default")
    assert layout.params.read_bytes() == before


def sections(text: str) -> tuple[str, str]:
    """What stands before the body of the section `study`, and what stands after it."""
    before, rest = text.split("\nstudy:", 1)
    header, rest = rest.split("\n", 1)
    return f"{before}\nstudy:{header}", rest[rest.index("\nanchors:") :]


def test_a_study_changes_its_section_only_and_brings_its_comments_along(layout):
    before = layout.params.read_text()
    text = "# Who reads this?\n\nquestion: Why?\n# Of one list.\n" + yaml.safe_dump(
        {k: GOOD[k] for k in GOOD if k != "name"}
    )
    (layout.root / "studies" / "mine.yaml").write_text(text)
    put_study(layout, "mine")
    after = layout.params.read_text()
    new = yaml.safe_load(after)["study"]
    assert new["name"] == "mine" and new["datasets"] == ["builtin/toy-v0"] and new["params"] == {}
    assert sections(after) == sections(before), "all else is the same text"
    assert "\n  # Of one list.\n" in after and "Who reads this?" not in after
    assert [path.name for path in layout.root.iterdir() if path.is_file()] == ["params.yaml"], "no draft is left"


def test_a_study_leaves_again_whatever_was_edited_in_its_section(layout):
    before = layout.params.read_text()
    edited = before.replace("  critics: [iql]", "  # mine\n\n# and mine\n  critics: [iql, sarsa]").replace(
        "  params: {}", "  params:\n    critics:\n      iql: {steps: 5}"
    )
    assert yaml.safe_load(edited)["study"]["params"] == {"critics": {"iql": {"steps": 5}}}
    layout.params.write_text(edited)
    put_study(layout, "builtin")
    put_study(layout, "default")
    assert layout.params.read_text() == before


def test_a_study_goes_into_params_as_dvc_exp_run_rewrites_them(layout):
    layout.params.write_text(yaml.safe_dump(yaml.safe_load(layout.params.read_text()), sort_keys=False))
    put_study(layout, "harm")
    assert check(load_yaml(layout.params)).name == "harm"
    assert "    auto_two: {like: auto}\n" in layout.params.read_text()


def test_a_study_in_a_form_that_cannot_be_copied_is_refused(layout):
    before = layout.params.read_bytes()
    values = {key: value for key, value in GOOD.items() if key != "name"}
    (layout.root / "studies" / "flow.yaml").write_text(yaml.safe_dump(values, default_flow_style=True))
    with pytest.raises(SparError, match=r"studies/flow.yaml does not fit into params.yaml; write one") as error:
        put_study(layout, "flow")
    one_line(error)
    assert layout.params.read_bytes() == before


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"critics": {"iql": {"expectil": 0.9}}}, "critic 'iql': unknown key 'expectil'; did you mean 'expectile'"),
        ({"critic": {}}, "unknown section 'critic'; did you mean 'critics'"),
        ({"improvements": {"spar_mpl": {"tau": 0.5}}}, "no improvement kind 'spar_mpl'; did you mean 'spar_mlp'"),
        (
            {"anchors": {"mine": {"like": "mpl"}}},
            "anchors: 'mine' is like 'mpl', which is not there; did you mean 'mlp'",
        ),
        ({"evaluation": {"episode": 3}}, "evaluation: unknown key 'episode'; did you mean 'episodes'"),
        ({"residual": {"beta": -1}}, "residual: beta = -1 is not valid"),
        ({"anchors": {"mlp": {"residual": {"basis": 1}}}}, "residual of anchor 'mlp': unknown key 'basis'"),
        ({"critics": 3}, "section 'critics' is missing or empty"),
        ({"critics": {"iql": 3}}, "critic 'iql': expected a mapping"),
    ],
)
def test_a_wrong_param_of_a_study_is_one_line_that_names_its_file(layout, params, said):
    before = layout.params.read_bytes()
    values = {**{key: value for key, value in GOOD.items() if key != "name"}, "params": params}
    (layout.root / "studies" / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SparError) as error:
        put_study(layout, "bad")
    assert one_line(error).startswith("studies/bad.yaml, params") and said in str(error.value)
    assert layout.params.read_bytes() == before
    whole = load_yaml(layout.params)
    with pytest.raises(SparError) as error:
        check({**whole, "study": {**GOOD, "params": params}})
    assert one_line(error).startswith("params.yaml, study.params") and said in str(error.value)


def test_putting_the_same_study_twice_changes_nothing(layout):
    put_study(layout, "builtin")
    first = layout.params.read_bytes()
    put_study(layout, "builtin")
    assert layout.params.read_bytes() == first


def test_an_unknown_study_names_the_nearest_and_leaves_params_alone(layout):
    before = layout.params.read_bytes()
    with pytest.raises(SparError, match="there is no study 'bultin'; did you mean 'builtin'"):
        put_study(layout, "bultin")
    assert layout.params.read_bytes() == before


def test_an_invalid_study_leaves_params_alone(layout):
    before = layout.params.read_bytes()
    (layout.root / "studies" / "bad.yaml").write_text(yaml.safe_dump({**GOOD, "name": "bad", "seeds": ["0", "0-1"]}))
    with pytest.raises(SparError, match=r"bad.yaml: seeds = .*seed 0 is listed twice"):
        put_study(layout, "bad")
    assert layout.params.read_bytes() == before


def test_a_crash_while_writing_leaves_params_whole(layout, monkeypatch):
    before = layout.params.read_bytes()

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        put_study(layout, "builtin")
    assert layout.params.read_bytes() == before
