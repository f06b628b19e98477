"""The claims: orders as in theory, the shipped rules inside, equal bytes, refusals, and the committed reports."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
import yaml

from scripts.theory_docs import fill
from spar_core import registry
from spar_core.artifacts import digest_file
from spar_core.errors import SparError
from spar_core.improvement.self_imitation import draw_targets
from spar_core.improvement.spar_proj import SparProjSettings
from spar_core.improvement.split import mean_by_state
from spar_core.reporting.figures import figures
from spar_core.reporting.page.provenance import dvc_digest
from spar_core.settings import parse
from spar_core.theory import drawing, drift, modes, order
from spar_core.theory.claim import Finding, above, below, run_claim, within
from spar_core.theory.claims import CLAIMS, load_claim
from spar_core.theory.decoders import exact_parts, learned_parts
from spar_core.theory.manifolds import Cap, manifold
from spar_core.theory.page import page
from spar_core.theory.problem import Problem, states_of
from spar_core.theory.rules import gradient, member, one_step, settings_of, split, trained
from spar_core.theory.settings import TheorySettings
from spar_core.training.context import Context
from stages import theory, theory_page
from tests.fakes import ROOT

SHIPPED = yaml.safe_load((ROOT / "theory.yaml").read_text(encoding="utf-8"))
SETTINGS = parse(TheorySettings, SHIPPED, "theory.yaml")
REPORTS = ROOT / "reports" / "theory"
every_claim = pytest.mark.parametrize("name", CLAIMS)


@cache
def result_of(name: str) -> dict:
    """The committed result of a claim."""
    return json.loads((REPORTS / name / "result.json").read_text(encoding="utf-8"))


def results() -> list[dict]:
    return [result_of(name) for name in CLAIMS]


def changed(**sections) -> TheorySettings:
    """The shipped settings with some keys of some sections changed."""
    values = {**SHIPPED}
    for name, keys in sections.items():
        values[name] = {**values[name], **keys} if isinstance(keys, dict) else keys
    return parse(TheorySettings, values, "test")


TINY = changed(
    seeds="0-1",
    problem={"data_steps": 64},
    training={"steps": 30, "hidden": [8]},
    learned={"steps": 30, "hidden": [8]},
    drift={"manifolds": ["line", "arc"], "horizons": [1, 2]},
    order={"states": 64, "ratio_states": 64, "candidates": 8},
    conflict={"steps": 150, "horizon": 1, "learning_rate": 0.01},
    contraction={"draws": 64, "latents": [1, 2], "data_steps": 64, "action_size": 3},
    modes={"states": 64, "separations": [0.4, 0.8], "taus": [0.5, 1.0]},
)
# Every registered rule that trains a network by a frozen critic, also those that no claim compares.
WHOLE = ("td3_bc", "rebrac")
every_rule = pytest.mark.parametrize(
    "rule",
    [kind for kind in registry.IMPROVEMENTS if "steps" in member(kind).Settings.model_fields and kind not in WHOLE],
)


def problem_of(name: str, horizon: int = 1, shift: float = 0.0, **values) -> Problem:
    """A problem in 32-bit floats."""
    p = SETTINGS.problem.model_copy(update=values)
    return Problem(manifold(name, p.curvature, p.half, p.separation), p, horizon, shift)


# --- what is measured ---


@pytest.fixture(scope="module")
def order_rows():
    points = [piece for piece in order.pieces(SETTINGS) if piece[0] != "ratio"]
    return [row for piece in points for row in order.measure(SETTINGS, piece)]


@pytest.mark.parametrize("surface", order.SURFACES)
@pytest.mark.parametrize(
    ("part", "key", "expected"),
    [("clip", "normal", 2), ("clip", "distance", 2), ("clip", "tangent", 1), ("curvature", "normal", 1)],
)
def test_exponents_of_a_chart_are_those_of_theory(order_rows, surface, part, key, expected):
    for slope in order.exponents(order_rows, f"{part}, {surface}", key):
        assert slope == pytest.approx(expected, abs=0.05)
    assert len(set(order.exponents(order_rows, f"{part}, {surface}", key))) > 1, "seeds differ"


def test_the_size_of_the_normal_part_is_the_formula_and_not_only_its_order(order_rows):
    """n^T target = kappa w^2 E[z^2] / 2, and E[z^2] is nearly c^2."""
    for row in order_rows:
        if row["series"] == "clip, arc" and row["x"] == 0.02:
            wanted = 0.5 * SETTINGS.problem.curvature * SETTINGS.problem.spread**2 * 0.02**2
            assert row["normal"] == pytest.approx([wanted] * 4, rel=0.02)
            assert max(row["distance_proj"]) < 1e-15


def test_a_full_rank_decoder_attenuates_by_the_squared_ratio_to_first_order():
    """With weights linear in the value (tau large), the normal part is (sigma_n / sigma_t)^2 of the tangent's."""
    settings = changed(order={"ratio_states": 16384}, seeds="0-1")
    for ratio in (1.0, 0.5):
        row = order._full_rank(settings, 4.0, ratio)
        assert np.mean(row["attenuation"]) == pytest.approx(ratio**2, rel=0.05)
        assert row["closed_form"] == pytest.approx(ratio**2, rel=0.02)
    at_default = order._full_rank(settings, 1.0, 0.5)
    assert np.mean(at_default["attenuation"]) == pytest.approx(at_default["closed_form"], rel=0.02)
    assert at_default["closed_form"] > 1.1 * 0.25, "at the shipped temperature the first order is not all"


def test_a_decoder_of_rank_one_leaves_nothing_across_a_line():
    problem = Problem(Cap(1, 0.0, 0.8, 2), SETTINGS.problem, dtype=torch.float64)
    targets, _, _ = order.targets_of(problem, (0, 1), SparProjSettings(states=64, candidates=8))
    assert problem.manifold.normal_part(problem.at(targets.observations), targets.correction).abs().max() < 1e-15
    assert targets.correction.norm(dim=-1).mean() > 0.05


@every_rule
@pytest.mark.parametrize("name", ["arc", "sphere"])
def test_without_a_slope_of_the_value_nothing_is_improved(rule, name):
    """Fitting and total loss have the same gradient, and ask for the same action."""
    problem = problem_of(name, 2, 0.1, value_tangent=0.0, value_normal=0.0)
    dataset, frozen, seeds = problem.dataset(), exact_parts(problem, (0, 1)), (0, 1)
    parts = split(rule, dataset, frozen, settings_of(rule, TINY.training, dataset.n_steps), seeds)
    total, fit = (gradient(parts.rule.network, of) for of in (parts.total, parts.fitting))
    assert fit.norm() > 1e-3
    assert torch.allclose(total, fit, atol=1e-7)
    assert torch.allclose(*parts.wanted, atol=1e-6)


@every_rule
def test_a_rule_taken_apart_is_the_rule_as_shipped(rule):
    """Training on the parts' total loss ends where the rule's own fit ends, and that is where the parts ask to go."""
    problem = problem_of("line")
    seeds, training = (0, 1), SETTINGS.training
    dataset, frozen = problem.dataset(), exact_parts(problem, (0, 1))
    own = settings_of(rule, training, dataset.n_steps)
    parts = split(rule, dataset, frozen, own, seeds)
    fitted = trained(rule, dataset, frozen, own, seeds)
    at = states_of(problem, seeds)
    base = frozen.anchor.act(at)
    with torch.no_grad():
        ended = fitted.correction(at, base)
        assert not torch.allclose(ended, parts.rule.correction(at, base), atol=1e-2), "training moves"
    wanted = torch.stack([row.mean(0, keepdim=True) for row in mean_by_state(parts.observations, parts.wanted[1])])
    assert torch.allclose(ended, wanted, atol=5e-3)


@every_rule
def test_one_step_goes_down_the_total_loss(rule):
    problem = problem_of("arc", 2, 0.1)
    dataset, frozen, seeds = problem.dataset(), exact_parts(problem, (0, 1)), (0, 1)
    parts = split(rule, dataset, frozen, settings_of(rule, TINY.training, dataset.n_steps), seeds)
    at = states_of(problem, seeds)
    before = parts.total().item()
    moved = one_step(parts, at, frozen.anchor.act(at), 0.01)
    assert parts.total().item() < before and moved.norm(dim=-1).min() > 0


def test_the_value_gradient_ends_where_its_closed_form_says():
    problem = problem_of("line")
    dataset, frozen = problem.dataset(), exact_parts(problem, (0,))
    own = settings_of("value_gradient", SETTINGS.training, dataset.n_steps)
    rule = trained("value_gradient", dataset, frozen, own, (0,))
    at = states_of(problem, (0,))
    mean = torch.from_numpy(dataset.actions).mean(0)
    wanted = mean + 0.25 * problem.gradient(at)[0, 0]
    assert torch.allclose(rule.act(at)[0, 0], wanted, atol=6e-3)


def test_spar_mlp_ends_at_the_distance_that_a_grid_of_latents_gives():
    settings = changed(seeds="0-1")
    problem = problem_of("arc")
    dataset, frozen = problem.dataset(), exact_parts(problem, (0, 1))
    own = settings_of("spar_mlp", SETTINGS.training, dataset.n_steps)
    gap = problem.manifold.distance(trained("spar_mlp", dataset, frozen, own, (0, 1)).act(states_of(problem, (0, 1))))
    assert gap.mean() == pytest.approx(drift.arc_distance(settings), rel=0.08)


def test_the_mean_of_two_arcs_lies_between_them_as_the_closed_form_says():
    settings = changed(modes={"separations": [1.2], "taus": [1.0, 5.0]}, seeds="0-1")
    for row in modes.measure(settings, ("sharp", 1.2)):
        if row["rule"] == "spar_mlp":
            assert np.mean(row["distance"]) == pytest.approx(row["closed_form"], rel=0.06)
        else:
            assert max(row["distance"]) < 1e-6


def test_the_converged_rules_of_modes_are_what_training_gives():
    """The claim reads targets in place of training; on one problem both are done."""
    settings = changed(modes={"separations": [0.8], "taus": [1.0]}, seeds="0-1")
    rows = {row["rule"]: row for row in modes.measure(settings, ("smooth", 0.8))}
    problem = problem_of("arcs", value_tangent=0.0, data_steps=settings.modes.states)
    dataset, frozen = problem.dataset(), exact_parts(problem, (0, 1), gate=settings.modes.gate)
    for name in modes.RULES:
        own = settings_of(name, SETTINGS.training, dataset.n_steps)
        own = own.model_copy(update={"candidates": settings.modes.candidates})
        action = trained(name, dataset, frozen, own, (0, 1)).act(states_of(problem, (0, 1)))
        assert problem.manifold.distance(action)[:, 0].tolist() == pytest.approx(rows[name]["distance"], abs=0.01)


def test_the_learned_decoder_is_the_shipped_residual_model():
    problem = problem_of("arc")
    frozen = learned_parts(problem, problem.dataset(), TINY.learned, (0, 1))
    assert type(frozen.residual).__module__ == "spar_core.residual" and frozen.residual.latent_size == 2
    data = problem.dataset()
    own = SparProjSettings(states=64, candidates=4)
    targets = draw_targets(Context.quiet(data, (0, 1)), frozen, own, 0)[0]
    assert targets.correction.abs().max() <= frozen.residual.radius.max()


# --- findings ---


def test_findings_hold_or_not_by_their_interval():
    def holds(values, rule):
        return Finding.of("n", "s", values, 0.95, None, rule).holds

    assert holds([1.0, 1.1, 0.9], above(0.0)) and not holds([1.0, 3.0, -1.0], above(0.0))
    assert holds([-1.0, -1.1, -0.9], below(0.0)) and not holds([-1.0, -3.0, 1.0], below(0.0))
    assert holds([1.0, 1.2], within(1.0, 0.11)) and not holds([1.0, 1.3], within(1.0, 0.11))


@pytest.mark.parametrize("name", ["drift", "modes"])
def test_the_same_bytes_for_one_worker_and_two_in_other_processes(name):
    claim = load_claim(name)
    first, two = (run_claim(claim, TINY, workers).files for workers in (1, 2))
    assert first == two
    assert set(first) == {"result.json", "table.csv", "figure.svg"}


@every_claim
def test_a_piece_of_a_claim_knows_nothing_of_the_others_and_its_files_nothing_of_the_machine(name):
    """So that sharing pieces out over processes cannot show."""
    claim = load_claim(name)
    pieces = claim.pieces(TINY)
    forwards = [claim.measure(TINY, piece) for piece in pieces]
    backwards = [claim.measure(TINY, piece) for piece in reversed(pieces)]
    assert forwards == backwards[::-1] and len(pieces) > 1
    files = run_claim(claim, TINY, 1).files
    for data in files.values():
        assert str(ROOT).encode() not in data and b"/tmp" not in data
    assert b"<svg" in files["figure.svg"] and b"<dc:date>" not in files["figure.svg"]


# --- settings ---


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("claims", ["drift", "ordr"], "'ordr' is no claim; choose from drift, order"),
        ("claims", ["drift", "drift"], "listed twice"),
        ("seeds", "0", "two seeds or more"),
        ("seeds", "3-1", "is not valid"),
        ("drift", {"manifolds": ["line", "torus"]}, "'torus' is no manifold"),
        ("drift", {"manifolds": []}, "is no manifold"),
        ("order", {"clips": [0.1, 0.2]}, "at least 3"),
        ("order", {"ratios": [0.0, 0.5, 1.0]}, "greater than 0"),
        ("modes", {"taus": [-1.0]}, "greater than 0"),
        ("problem", {"curvatur": 1.0}, "did you mean 'curvature'"),
        ("problem", {"data_steps": 100}, "multiple of 64"),
        ("learned", {"betta": 1.0}, "did you mean 'beta'"),
    ],
)
def test_bad_settings_are_one_clear_line(section, values, message):
    params = {**SHIPPED, section: {**SHIPPED[section], **values} if isinstance(values, dict) else values}
    with pytest.raises(SparError, match=re.escape(message)) as error:
        parse(TheorySettings, params, "theory.yaml")
    assert "theory.yaml: " in str(error.value) and "\n" not in str(error.value)


def test_every_key_is_spelt_out_in_its_file_with_a_comment():
    def keys(model, values, path):
        assert set(values) == set(model.model_fields), path
        for name in model.model_fields:
            value = getattr(model, name)
            if hasattr(value, "model_fields"):
                keys(value, values[name], f"{path}.{name}")

    keys(SETTINGS, SHIPPED, "theory")
    lines = [line for line in (ROOT / "theory.yaml").read_text(encoding="utf-8").splitlines() if line.strip()]
    bare = [line for line in lines if "#" not in line and line.strip().rstrip(":") not in CLAIMS]
    assert not bare


def test_an_unknown_claim_names_the_nearest(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SparError, match="there is no claim 'oder'; did you mean 'order'"):
        theory.run(["--claim", "oder"])
    assert list(tmp_path.iterdir()) == []


def test_a_training_too_short_to_measure_is_refused():
    with pytest.raises(SparError, match=r"raise conflict\.steps in theory\.yaml"):
        run_claim(load_claim("conflict"), changed(conflict={"steps": 10, "horizon": 1}, seeds="0-1"), 1)


# --- stages ---


def test_the_stages_write_whole_folders_and_the_page(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAR_WORKERS", "1")
    values = json.loads(TINY.model_dump_json())
    (tmp_path / "theory.yaml").write_text(yaml.safe_dump(values))
    theory.run(["--claim", "order"])
    assert {path.name for path in (tmp_path / "reports/theory/order").iterdir()} == {
        "result.json",
        "table.csv",
        "figure.svg",
    }
    with pytest.raises(SparError, match=r"drift/result\.json does not exist"):
        theory_page.run([])
    assert not (tmp_path / "reports/theory/README.md").exists()
    for name in CLAIMS:
        (tmp_path / "reports/theory" / name).mkdir(exist_ok=True)
        (tmp_path / "reports/theory" / name / "result.json").write_text(json.dumps(result_of(name)))
    theory_page.run([])
    assert (tmp_path / "reports/theory/README.md").read_text() == page(results())


# --- what is committed ---


def close(ours, theirs, where=""):
    """Equal structures, with numbers that may differ in what another processor rounds otherwise."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            close(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            close(a, b, f"{where}[{i}]")
    elif isinstance(ours, float) and isinstance(theirs, (int, float)):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-9), where
    else:
        assert ours == theirs, where


def test_the_committed_result_of_the_cheapest_claim_is_what_the_code_gives():
    files = run_claim(load_claim("order"), SETTINGS, 1).files
    close(json.loads(files["result.json"]), result_of("order"))


@every_claim
def test_a_committed_table_holds_the_rows_of_its_result(name):
    with (REPORTS / name / "table.csv").open(newline="", encoding="utf-8") as handle:
        table = list(csv.DictReader(io.StringIO(handle.read())))
    rows = result_of(name)["rows"]
    assert len(table) == len(rows)
    for line, row in zip(table, rows, strict=True):
        assert {k: v for k, v in line.items() if v} == {k: str(v) for k, v in row.items() if v is not None}


def test_committed_reports_are_those_of_dvc_lock_and_the_page_is_made_of_them():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    for name in CLAIMS:
        (out,) = stages[f"theory@{name}"]["outs"]
        assert out["path"] == f"reports/theory/{name}" and out["md5"] == dvc_digest(REPORTS / name)
    (out,) = stages["theory_page"]["outs"]
    assert out["md5"] == digest_file(REPORTS / "README.md")
    assert (REPORTS / "README.md").read_text(encoding="utf-8") == page(results())


def test_the_docs_link_to_each_claims_table_and_figure():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    for name in CLAIMS:
        anchor = result_of(name)["title"].lower().replace(" ", "-")
        assert f"(../reports/theory/README.md#{anchor})" in text and f"../reports/theory/{name}/figure.svg" in text


def test_the_script_leaves_docs_that_show_the_committed_numbers_as_they_are():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    found = {name: result_of(name) for name in CLAIMS}
    assert fill(text, found) == text, "run `python -m scripts.theory_docs`"
    assert fill(text.replace("drift.mlp_arc = ", "drift.mlp_arc = 9"), found) == text


def test_every_number_in_the_prose_of_the_docs_is_a_finding():
    """Numbers in the text are written `claim.finding = value`."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    told = re.findall(r"`(\w+)\.(\w+) = ([-\d.e]+)`", text)
    assert len(told) > 10
    for claim, name, value in told:
        (finding,) = [f for f in result_of(claim)["findings"] if f["name"] == name]
        assert value == f"{finding['value']:.3g}", (claim, name)


def test_the_look_of_the_figures_is_that_of_the_report():
    assert drawing.STYLE == figures.STYLE and drawing.LINES == figures.LINES and drawing.WIDTH == figures.WIDTH
    assert (drawing.INK, drawing.GREY, drawing.PALE) == (figures.INK, figures.GREY, figures.PALE)
