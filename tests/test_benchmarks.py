"""Benchmarks on inputs with known answers; their page is that of the committed results."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import growth, one_gpu, thousand_cells, updates
from benchmarks.common import RESULTS, ROOT
from benchmarks.page import NAMES, content, gpu_rows
from benchmarks.scratch import _scale
from benchmarks.workloads import WARM, jobs, made_data, timed
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter

MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text())


def test_a_power_law_has_its_exponent_and_a_fixed_cost_shows_in_the_last_step():
    sizes = (1, 2, 4, 8, 16)
    square = growth.exponent(sizes, [3.0 * n**2 for n in sizes])
    assert square["exponent"] == pytest.approx(2.0) and square["last"] == pytest.approx(2.0)
    fixed = growth.exponent(sizes, [5.0 + n for n in sizes])
    assert fixed["low"] < fixed["exponent"] < fixed["last"] < 1.0


def test_every_sweep_changes_what_it_says():
    assert growth.POINTS.keys() == growth.MEANING.keys()
    widths = [jobs(1, made_data(2000), [0], hidden=(width, width))["fit_bc"](Reporter([0])) for width in (16, 32)]
    assert [fitted.tensors["network.1.weight"].shape for fitted in widths] == [(1, 16, 16), (1, 32, 32)]


def test_operations_of_an_update_are_those_of_its_products():
    # Layers of 32 x 32, 32 x 32 and 32 x 16 with their padding; no gradient of the inputs is needed.
    job = jobs(400, made_data(2000), [0, 1], hidden=(32, 32), batch_size=64)["fit_bc"]
    products = 3 * (32 * 32 + 32 * 32 + 32 * 16) - 32 * 32
    assert updates.operations(job, [0, 1]) == 2 * 2 * 64 * products


def test_a_loop_is_timed_from_update_to_update():
    took = timed(jobs(WARM + 20, made_data(2000), [0], hidden=(16, 16))["fit_bc"], [0])
    assert 0 < took.update < took.whole and 0 < took.first < took.whole


def test_a_schedule_on_one_core_takes_all_the_work_and_on_many_its_longest_chain():
    measured = {"download": 10.0, "fit_bc": 4.0, "fit_residual": 3.0, "fit_critic": 5.0, "self_imitation": 2.0}
    measured["evaluate"] = 1.0
    told = thousand_cells.scaled(measured, scale=1.0, overhead=0.0)
    # 18 datasets; 900 anchors and residual models, 180 critics, 1800 policies.
    assert told["cells"] == 18 + 2 * 900 + 180 + 2 * 1800
    assert told["core_seconds"] == 18 * 10 + 900 * (4 + 3) + 180 * 5 + 1800 * (2 + 1)
    assert told["core_seconds_unshared"] == 18 * 10 + 1800 * (4 + 3 + 5 + 2 + 1)
    assert told["rows"][0]["seconds"] == told["core_seconds"] and told["rows"][0]["busy"] == 1.0
    assert thousand_cells.simulate(thousand_cells.study(), measured, 10_000) == told["longest_chain"] == 20.0
    # A critic that takes longer than anchor and residual model is the chain.
    assert thousand_cells.scaled({**measured, "fit_critic": 9.0}, 1.0, 0.0)["longest_chain"] == 10 + 9 + 2 + 1


def test_budgets_are_scaled_wherever_they_are():
    params = {"mlp": {"steps": 100, "hidden": [2]}, "iql": {"warm_start_steps": 0, "fqe": {"steps": 3}}}
    _scale(params, 0.1)
    assert params == {"mlp": {"steps": 10, "hidden": [2]}, "iql": {"warm_start_steps": 0, "fqe": {"steps": 1}}}


def test_a_pipeline_on_a_device_is_reckoned_where_every_stage_was_timed():
    def row(way, stage, update):
        return {"way": way, "stage": stage, "update": update, "first": 2.0}

    rows = [row("a", "x", 0.001), row("a", "y", 0.003), row("b", "x", 0.002)]
    found = gpu_rows({"rates": rows, "budget": 1000, "pipeline": ["x", "y"]})
    assert found[0] == {"way": "a", "stages": {"x": 0.001, "y": 0.003}, "whole": pytest.approx(2 + 1 + 2 + 3)}
    assert found[1] == {"way": "b", "stages": {"x": 0.002}, "whole": None}


def test_distances_of_fits_are_the_largest_of_weights_and_of_the_last_losses():
    def fitted(weight, losses):
        curves = [(step, 0, "critic/q_loss", loss) for step, loss in enumerate(losses)]
        return Fitted({"w": torch.tensor([3.0, 4.0]), "v": torch.tensor([weight])}, {}, curves)

    found = one_gpu.distance(fitted(1.1, [9.0, 2.5]), fitted(1.0, [1.0, 2.0]))
    assert found == {"weights": pytest.approx(0.1), "losses": pytest.approx(0.25)}


def test_the_product_rate_is_that_of_a_real_product():
    threads = torch.get_num_threads()
    assert threads == 1 and 1e8 < updates.product_rate(1, rows=64, width=64, repeats=20) < 1e13


def test_the_page_is_that_of_the_committed_results():
    found = {path.stem for path in RESULTS.glob("*.json")} - {"interval_coverage"}
    assert found == set(NAMES)
    for path, data in content().items():
        assert path.read_bytes() == data, f"{path.name} is not of benchmarks/results: run `python -m benchmarks.page`"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "peer_d3rlpy"])
def test_every_benchmark_says_what_it_does(name):
    target = "benchmarks" if name == "__main__" else f"benchmarks.{name}"
    done = subprocess.run([sys.executable, "-m", target, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["peers", "quality"])
def test_a_comparison_without_its_peer_is_one_line(name):
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: --peer is missing") and "\n" not in done.stderr[:-1]
