"""Workers: however the seeds are shared out, the result is the same, and a failure is one clear line."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from spar_core.errors import SparError
from spar_core.training.fitted import CURVES, METRICS, WEIGHTS, Fitted, load_tensors
from spar_core.training.workers import over_seeds
from tests.fakes import FitToyAnchor, die_with_seed_zero, refuse_seed_one

SEEDS, STEPS = (0, 3, 1), 60


class Messages:
    """Collects what workers send, and the threads it came from."""

    def __init__(self):
        self.steps, self.rows, self.count = 0, [], 0

    def __call__(self, steps, rows):
        self.steps += steps
        self.rows += rows
        self.count += 1


def run(workers):
    messages = Messages()
    parts = over_seeds(FitToyAnchor(STEPS), SEEDS, workers, messages)
    return parts, messages


@pytest.fixture(scope="module")
def one_and_two():
    return run(1), run(2)


def test_one_process_and_two_write_the_same_bytes(one_and_two, tmp_path):
    written = []
    for number, (parts, _) in enumerate(one_and_two, start=1):
        assert len(parts) == number, "one part a process"
        folder = tmp_path / str(number)
        folder.mkdir()
        Fitted.join(parts).write(folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0].keys() == {WEIGHTS, METRICS, CURVES}
    assert written[0] == written[1]
    tensors = load_tensors(tmp_path / "1" / WEIGHTS)
    assert all(value.shape[0] == len(SEEDS) for value in tensors.values())
    assert not torch.equal(tensors["network.0.weight"][0], tensors["network.0.weight"][1])


def test_messages_add_up_to_all_steps_and_all_curve_rows(one_and_two):
    for parts, messages in one_and_two:
        assert messages.steps == STEPS * len(SEEDS)
        assert sorted(messages.rows) == sorted(row for part in parts for row in part.curves)
        assert messages.count > len(parts), "progress comes while the work runs, not only at its end"


def test_a_mendable_error_in_a_worker_stays_one_line():
    with pytest.raises(SparError, match=r"^the rewards hold a NaN; mend the file$"):
        over_seeds(refuse_seed_one, (0, 1), 2)


def test_a_killed_worker_is_one_clear_line_and_leaves_no_thread():
    threads = threading.active_count()
    with pytest.raises(SparError, match=r"a worker process was killed.*SPAR_WORKERS") as error:
        over_seeds(die_with_seed_zero, (0, 1), 2)
    assert "\n" not in str(error.value)
    for _ in range(50):
        if threading.active_count() <= threads:
            break
        time.sleep(0.1)
    assert threading.active_count() <= threads


def test_one_process_restores_the_number_of_threads_even_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(SparError):
            over_seeds(refuse_seed_one, (1,), 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 9])
def test_shares_are_contiguous_in_order_and_nearly_equal(workers):
    from spar_core.training.workers import _share

    shares = _share([5, 0, 7, 2, 9], workers)
    assert [seed for share in shares for seed in share] == [5, 0, 7, 2, 9]
    assert len(shares) == min(workers, 5)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
