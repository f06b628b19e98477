"""The report, from synthetic evaluation folders: what it says, what it refuses, and that its bytes hold."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from spar_core.errors import SparError
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.page.render import Report, build_report
from spar_core.seeds import parse_seeds
from spar_core.settings import parse
from spar_core.study import Study
from stages.layout import Layout
from stages.report import folders_of

LEVELS = {"anchor": 1000.0, "uniform": 1040.0, "awr": 990.0, "best_of_n": 400.0, "spar_mlp": 3000.0}
REFERENCE = {"min": -280.178953, "max": 12135.0, "source": "D4RL"}


def study_of(**changes) -> Study:
    values = {
        "name": "demo",
        "question": "Does SPAR beat its anchor?",
        "datasets": ["builtin/halfcheetah-replay-v0"],
        "anchors": ["bc"],
        "critics": ["iql"],
        "improvements": list(LEVELS),
        "seeds": ["0-3"],
    }
    return Study(**(values | changes))


MISMATCH = "evaluated in another version of the environment than the data came from"


def write_cells(
    layout: Layout, study: Study, *, success=False, reference=REFERENCE, mismatch=None, committees=False
) -> None:
    """Evaluation folders as the evaluate stage writes them: 5 episodes a seed, returns around LEVELS."""
    for cell in study.cells():
        folder = layout.artifact("evaluation", cell.dataset, cell.anchor, cell.critic, cell.improvement, cell.seeds)
        folder.mkdir(parents=True)
        rows = []
        for seed in parse_seeds(cell.seeds):
            stream = np.random.default_rng([seed, *cell.improvement.encode()])
            shared = np.random.default_rng(seed).normal(0, 20)
            for episode in range(5):
                rows.append(
                    {
                        "dataset": cell.dataset,
                        "anchor": cell.anchor,
                        "critic": cell.critic,
                        "improvement": cell.improvement,
                        "seed": seed,
                        "episode": episode,
                        "env_seed": 1000 + episode,
                        "return": LEVELS[cell.improvement] + shared + stream.normal(0, 30),
                        "length": 1000,
                        "terminated": False,
                        "success": bool(episode % 2) if success else "",
                    }
                )
        pd.DataFrame(rows).to_csv(folder / "episodes.csv", index=False)
        if committees:
            # The committee of a group returns the number of its first seed more than the rule's level.
            first = parse_seeds(cell.seeds)[0]
            both = [row | {"seeds": cell.seeds, "return": LEVELS[cell.improvement] + first} for row in rows[:5]]
            pd.DataFrame(both).drop(columns="seed").to_csv(folder / "committee.csv", index=False)
        context = {
            "env_id": "HalfCheetah-v5",
            "reference": reference,
            "not_evaluated": None,
            "mismatch": mismatch,
            "label": f"built-in data; not comparable with D4RL tables{f'; {mismatch}' if mismatch else ''}",
            "dataset": {"steps": 200000, "episodes": 200, "mean_return": 1200.0, "best_return": 2900.0},
            "protocol": "last",
            "diagnostics": {
                "anchor/heldout_mse": [0.25 + 0.01 * seed for seed in parse_seeds(cell.seeds)],
                "improvement/step0_gap": 0.0 if cell.improvement == "spar_mlp" else None,
                "made/up": 3,
            },
        }
        (folder / "context.json").write_text(json.dumps(context))


def report_of(layout: Layout, study: Study, **settings) -> Report:
    return build_report(study, folders_of(layout), parse(ReportSettings, settings, "report"))


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path)


def cell_folder(layout: Layout, rule: str, seeds: str = "0-3") -> Path:
    return layout.artifact("evaluation", "builtin/halfcheetah-replay-v0", "bc", "iql", rule, seeds)


def edit(path: Path, change) -> None:
    frame = pd.read_csv(path, keep_default_na=False)
    change(frame).to_csv(path, index=False)


def test_numbers_against_scipy_and_their_keys(layout):
    write_cells(layout, study_of())
    metrics = json.loads(report_of(layout, study_of()).files["metrics.json"])
    means = {
        rule: pd.read_csv(cell_folder(layout, rule) / "episodes.csv").groupby("seed")["return"].mean()
        for rule in LEVELS
    }
    prefix = "builtin/halfcheetah-replay-v0/bc/iql"
    paired = stats.ttest_rel(means["spar_mlp"], means["anchor"]).confidence_interval(0.95)
    assert metrics[f"{prefix}/spar_mlp/return_mean"] == pytest.approx(means["spar_mlp"].mean())
    assert metrics[f"{prefix}/spar_mlp/gain_low"] == pytest.approx(paired.low)
    assert metrics[f"{prefix}/spar_mlp/gain_high"] == pytest.approx(paired.high)
    gain, part = (metrics[f"{prefix}/spar_mlp/{name}"] for name in ("gain_over_anchor", "improvement_part"))
    repair = metrics[f"{prefix}/uniform/gain_over_anchor"]
    assert repair == pytest.approx((means["uniform"] - means["anchor"]).mean())
    assert gain == pytest.approx(repair + part)
    assert metrics[f"{prefix}/anchor/normalised_score"] == pytest.approx(
        100 * (means["anchor"].mean() + 280.178953) / (12135.0 + 280.178953)
    )
    assert f"{prefix}/anchor/gain_over_anchor" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_committees_are_compared_with_committees(layout):
    study = study_of(seeds=["0-3", "4-6", "8-11"])
    write_cells(layout, study, committees=True)
    report = report_of(layout, study)
    metrics = json.loads(report.files["metrics.json"])
    key = "builtin/halfcheetah-replay-v0/bc/iql/spar_mlp/committee"
    assert metrics[f"{key}/return_mean"] == pytest.approx(3004.0) and metrics[f"{key}/gain"] == pytest.approx(2000.0)
    table = pd.read_csv(io.BytesIO(report.files["committees.csv"])).query("improvement == 'best_of_n'")
    assert table["seeds"].tolist() == ["0-3", "4-6", "8-11"] and table["members"].tolist() == [4, 3, 4]
    assert table["return_mean"].tolist() == [400.0, 404.0, 408.0] and table["gain"].tolist() == [-600.0] * 3
    means = pd.read_csv(cell_folder(layout, "best_of_n", "4-6") / "episodes.csv").groupby("seed")["return"].mean()
    assert table["lowest_member"].tolist()[1] == pytest.approx(means.min())
    page = report.files["report.md"].decode()
    assert "| lost |\n|---|" in page, "a table is one block"
    # The interval of three committees of returns 400, 404 and 408; all three end far below the anchor's.
    half = stats.t.ppf(0.975, 2) * 4 / np.sqrt(3)
    assert f"| `best_of_n` | 3 | 404 | [{404 - half:.0f}, {404 + half:.0f}] |" in page
    row = next(line for line in page.splitlines() if line.startswith("| `best_of_n` | 3 |"))
    assert row.endswith("| 3 |") and "**-600 [-600, -600]**" in row
    assert "3 committees of 3 to 4 seeds" in report.console


def test_one_committee_has_an_interval_over_its_episodes(layout):
    write_cells(layout, study_of(), committees=True)
    report = report_of(layout, study_of())
    assert "intervals are over the episodes of one committee" in report.files["report.md"].decode()
    assert "1 committee of 4 seeds\nacts by the mean action of its seeds; intervals over episodes" in report.console


@pytest.mark.parametrize("reference", [REFERENCE, None])
def test_the_table_of_episodes_repeats_the_evaluations_to_the_digit(layout, reference):
    write_cells(layout, study_of(), success=True, reference=reference)
    table = pd.read_csv(io.BytesIO(report_of(layout, study_of()).files["episodes.csv"]), dtype=str)
    scores = table.pop("normalised_score")
    cells = [pd.read_csv(cell_folder(layout, rule) / "episodes.csv", dtype=str) for rule in LEVELS]
    pd.testing.assert_frame_equal(table, pd.concat(cells, ignore_index=True))
    if reference is None:
        assert scores.isna().all()
    else:
        returns = table["return"].astype(float)
        expected = 100 * (returns - reference["min"]) / (reference["max"] - reference["min"])
        assert scores.astype(float).tolist() == pytest.approx(expected.tolist())


def test_tables_have_a_row_for_each_seed_and_each_rule(layout):
    write_cells(layout, study_of())
    files = report_of(layout, study_of()).files
    rows = files["returns.csv"].decode().splitlines()
    assert rows[0].split(",")[4:6] == ["rule", "seed"] and len(rows) == 1 + len(LEVELS) * 4
    table = files["table.csv"].decode().splitlines()
    assert len(table) == 1 + len(LEVELS)
    # The spread of scores is that of returns, scaled and not shifted.
    row = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    expected = 100 * float(row["return_std"]) / (12135.0 + 280.178953)
    assert float(row["normalised_std"]) == pytest.approx(expected)


def test_the_page_says_who_wins_and_who_loses(layout):
    write_cells(layout, study_of())
    page = report_of(layout, study_of()).files["report.md"].decode()
    assert "Does SPAR beat its anchor?" in page
    assert "checkpoint rule `last`" in page and "(n = 4)" in page and "episodes per seed: 5" in page
    assert "not comparable with D4RL tables" in page
    loses = next(line for line in page.splitlines() if line.startswith("- **Lose to `anchor`**"))
    beats = next(line for line in page.splitlines() if line.startswith("- **Beat `anchor`**"))
    assert "`best_of_n` (-" in loses and "spar_mlp" not in loses
    assert "`spar_mlp` (+" in beats and "best_of_n" not in beats
    row = next(line for line in page.splitlines() if line.startswith("| `spar_mlp` | **+"))
    assert row.count("**") == 2
    open_rules = next(line for line in page.splitlines() if line.startswith("- Not decided"))
    for rule in ("uniform", "awr", "best_of_n", "spar_mlp"):
        shown = next(line for line in page.splitlines() if line.startswith(f"| `{rule}` | ") and "[" in line)
        bold = any(line.startswith(f"| `{rule}` | **") for line in page.splitlines())
        assert bold == (f"`{rule}`" not in open_rules), shown
    assert "`made/up`" in page and "| all | 3 | 3 | 3 |" in page
    assert "| `improvement/step0_gap` | spar_mlp | 0 | 0 | 0 |" in page


@pytest.mark.parametrize("reference", [REFERENCE, None])
def test_another_environment_than_the_datas_is_said_in_every_table(layout, reference):
    study = study_of(anchors=["bc", "knn", "mlp"])
    write_cells(layout, study, reference=reference, mismatch=MISMATCH)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    parts = page.split("\n\n")
    # Diagnostics are not measured in the environment.
    tables = [i for i, part in enumerate(parts) if part.startswith("|") and not part.startswith(("| diagn", "| part "))]
    tables = [i for i in tables if not parts[i].startswith("| rule | anchor, critic | seeds | evaluation")]
    together = 1 if reference else 0
    assert len(tables) == 1 + 3 + 3 * 3 + 1 + together, "overview, anchor quality; of three anchors; harm"
    for i in tables:
        told = parts[i] if i == tables[0] else parts[i + 1]
        assert MISMATCH[1:] in told, parts[i]
    verdicts, *blocks = report.console.split("\n\n")
    assert page.split("| part ")[0].count(MISMATCH[1:]) == len(study.anchors) == len(blocks)
    assert " ".join(verdicts.splitlines()).count(MISMATCH[1:]) == len(study.anchors)
    for block in blocks:
        told = " ".join(block.split("---")[0].splitlines()[1:])
        score = "built-in data; not comparable with D4RL tables; " if reference else ""
        assert told == f"protocol last, 4 seeds of 5 episodes; {score}{MISMATCH}"
    for name in ("table.csv", "returns.csv", "anchors.csv"):
        rows = pd.read_csv(io.BytesIO(report.files[name]))
        assert set(rows["label"]) == {MISMATCH}, name
    kinds = {name.split(".")[0] for name in report.figures}
    assert kinds == {"anchors", "returns", "gains", "profiles", "against"}
    assert all(MISMATCH.encode() in data for data in report.figures.values())

    plain = study_of()
    write_cells(Layout(layout.root / "plain"), plain, reference=reference)
    files = report_of(Layout(layout.root / "plain"), plain).files
    for name in ("table.csv", "returns.csv", "anchors.csv"):
        assert b"label" not in files[name].splitlines()[0].split(b","), name


def test_links_lead_to_figures_and_tables_are_whole(layout):
    write_cells(layout, study_of())
    report = report_of(layout, study_of())
    page = report.files["report.md"].decode()
    linked = {part.split(")")[0] for part in page.split("](figures/")[1:]}
    assert linked == set(report.figures)
    blocks = [block for block in page.split("\n\n") if block.strip().startswith("|")]
    assert len(blocks) == 7, "health, returns, gains, pairs, diagnostics, all datasets, sources"
    for block in blocks:
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1
    assert "\n\n\n" not in page
    assert not page.count("None") and not page.count("nan")


def test_console_table(layout):
    write_cells(layout, study_of())
    text = report_of(layout, study_of()).console
    assert text.startswith("builtin/halfcheetah-replay-v0, anchor bc, critic iql: Deploy spar_mlp.")
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["spar_mlp"].endswith("better") and lines["best_of_n"].endswith("worse")
    assert "4 seeds" in text and text.isascii()
    assert max(map(len, text.splitlines())) <= 100


def test_same_folders_give_the_same_bytes_wherever_they_lie(layout, tmp_path):
    write_cells(layout, study_of())
    first = report_of(layout, study_of())
    shutil.copytree(tmp_path / "artifacts", tmp_path / "elsewhere" / "artifacts")
    second = report_of(Layout(tmp_path / "elsewhere"), study_of())
    assert first == second
    everything = b"".join([*first.files.values(), *first.figures.values()])
    assert str(tmp_path).encode() not in everything and b"<dc:date>" not in everything


def test_stale_cells_on_disk_are_ignored(layout):
    write_cells(layout, study_of(improvements=[*LEVELS], seeds=["0-3", "4-5"]))
    small = study_of(improvements=["anchor", "spar_mlp"])
    report = report_of(layout, small)
    assert b"best_of_n" not in b"".join(report.files.values())
    assert "(n = 4)" in report.files["report.md"].decode()


def test_seed_groups_are_joined(layout):
    together = study_of()
    apart = study_of(seeds=["2-3", "0", "1"])
    write_cells(layout, together)
    write_cells(layout, apart)
    one, three = report_of(layout, together), report_of(layout, apart)
    pages = [report.files.pop("report.md").decode() for report in (one, three)]
    assert one.files == three.files and one.figures == three.figures
    tables = [report.console.split("\n\n", 1)[1] for report in (one, three)]
    assert tables[0] == tables[1]
    # Only the folder of the policy to deploy, and where the numbers come from, differ.
    before, after = (page.split("## Where the numbers come from") for page in pages)
    assert before[0].split("**Question.**")[1] == after[0].split("**Question.**")[1]
    assert "iql/spar_mlp/0-3`" in before[0] and "iql/spar_mlp/0-3`" not in after[0]
    assert before[1].count("| 0-3 |") == after[1].count("| 2-3 |") == len(LEVELS)


def test_missing_cell_is_one_clear_line(layout):
    write_cells(layout, study_of())
    shutil.rmtree(cell_folder(layout, "awr"))
    with pytest.raises(SparError, match=r"the study names the cell .*bc/iql/awr/0-3.*dvc repro") as caught:
        report_of(layout, study_of())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="length"), "lacks the column 'length'"),
        (lambda f: f.assign(anchor="flow"), "holds rows of anchor 'flow'"),
        (lambda f: pd.concat([f, f.tail(1)]), "an episode of a seed twice"),
        (lambda f: f[f["seed"] != 2], r"holds seeds \[0, 1, 3\]"),
        (lambda f: f.assign(**{"return": "nan"}), "not finite"),
        (lambda f: f.assign(**{"return": ""}), "is broken"),
        (lambda f: f.assign(success="perhaps"), "'perhaps' is neither true nor false"),
        (lambda f: f.head(0), "has no episode"),
    ],
)
def test_broken_tables_are_refused(layout, change, message):
    write_cells(layout, study_of())
    edit(cell_folder(layout, "awr") / "episodes.csv", change)
    with pytest.raises(SparError, match=message):
        report_of(layout, study_of())


def test_rules_of_unlike_protocol_do_not_share_a_table(layout):
    write_cells(layout, study_of())
    path = cell_folder(layout, "awr") / "context.json"
    path.write_text(path.read_text().replace('"last"', '"best"'))
    with pytest.raises(SparError, match="differ in 'protocol'"):
        report_of(layout, study_of())


def test_one_seed_makes_no_claim(layout):
    study = study_of(seeds=["7"])
    write_cells(layout, study)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert "(one seed)" in page and "No rule is shown to beat `anchor`." in page
    assert "| **" not in page and "better" not in report.console
    assert not any(key.endswith("gain_low") for key in json.loads(report.files["metrics.json"]))


def test_without_baseline_repair_reference_or_with_success(layout):
    study = study_of(improvements=["awr", "spar_mlp"])
    write_cells(layout, study, success=True, reference=None)
    report = report_of(layout, study)
    page = report.files["report.md"].decode()
    assert "The rule `anchor` is not part of this study, so gains are left out." in page
    assert "no normalised score" in page and "| success |" in page and "| 0.40 |" in page
    assert not any("gains" in name for name in report.figures) and "gain" not in report.console

    study = study_of(improvements=["anchor", "spar_mlp"], seeds=["0-2"])
    write_cells(layout, study)
    page = report_of(layout, study).files["report.md"].decode()
    assert "not split into repair and improvement" in page and "| rule | gain | gain in pooled stds |" in page


def test_several_datasets_anchors_and_critics(layout):
    study = study_of(datasets=["a/x", "b"], anchors=["bc", "knn"], critics=["iql", "cql"])
    write_cells(layout, study)
    report = report_of(layout, study)
    settings = [f"{anchor}.{critic}" for anchor in ("bc", "knn") for critic in ("iql", "cql")]
    names = [f"{kind}.{dataset}" for dataset in ("a.x", "b") for kind in ("returns", "gains", "profiles")]
    names += [f"against.{dataset}.{setting}" for dataset in ("a.x", "b") for setting in settings[:3]] + ["harm"]
    assert set(report.figures) == {f"{name}.svg" for name in names}
    page = report.files["report.md"].decode()
    assert page.count("### Anchor `knn`, critic `cql`") == 2
    short = [line for line in page.splitlines() if line.startswith(("| a/x, ", "| b, "))]
    assert [line.count("|") for line in short] == 8 * [5] + 8 * [6], "verdicts, then gains"
    assert b"spar_mlp [b] [knn] [cql]" in report.files["returns.csv"]


def test_rules_of_opposite_effect_do_not_hide_each_other(layout):
    """Repair up and improvement down: the parts keep their signs, and add up to the gain."""
    write_cells(layout, study_of())
    metrics = json.loads(report_of(layout, study_of()).files["metrics.json"])
    prefix = "builtin/halfcheetah-replay-v0/bc/iql"
    repair, part = (
        metrics[f"{prefix}/uniform/gain_over_anchor"],
        metrics[f"{prefix}/best_of_n/improvement_part"],
    )
    assert repair > 0 > part
    assert metrics[f"{prefix}/best_of_n/gain_over_anchor"] == pytest.approx(repair + part)


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(SparError, match="did you mean 'baseline'"):
        parse(ReportSettings, {"base_line": "anchor"}, "params.yaml: report")
    with pytest.raises(SparError, match="confidence"):
        parse(ReportSettings, {"confidence": 95}, "params.yaml: report")


def test_stage_writes_all_or_nothing(layout, monkeypatch, capsys):
    from spar_core.effective import SECTIONS
    from stages.entry import stage_main
    from stages.report import print_table, run

    study = study_of()
    write_cells(layout, study)
    params = {**{name: {} for name in SECTIONS}, "study": json.loads(study.model_dump_json())}
    layout.params.write_text(yaml.safe_dump(params))
    monkeypatch.chdir(layout.root)
    monkeypatch.setattr("sys.argv", ["report"])
    assert not stage_main(run)
    folder = layout.report("demo")
    written = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    names = {"report.md", "metrics.json", "episodes.csv", "returns.csv", "table.csv", "measures.csv", "anchors.csv"}
    names |= {"pairs.csv", "overall.csv", "harm.csv", "regret.csv", "committees.csv"}
    assert {name for name in written if "/" not in name} == names
    assert "report.md" in capsys.readouterr().out
    print_table(layout)
    assert "spar_mlp" in capsys.readouterr().out

    run([])
    again = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert again == written

    shutil.rmtree(folder)
    shutil.rmtree(cell_folder(layout, "awr"))
    assert stage_main(run) == 1
    assert "error: " in "".join(capsys.readouterr())
    assert not folder.exists()
