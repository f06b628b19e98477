"""Stacked networks: each row trains as if it were alone, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spar_core.training.networks import VECTOR, MLPShape, Stack, per_seed_mean
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Minibatches, normal, stream, streams

SEEDS = (0, 3, 7, 1)
# One, two and three layers' worth of sizes that are no multiples of a vector register, and a critic's shape.
SHAPES = [
    MLPShape(5, (7,), 3),
    MLPShape(5, (7, 5), 3, layer_norm=True),
    MLPShape(7, (16, 8), 4),
    MLPShape(17, (33,), 6, layer_norm=True),
    MLPShape(8, (13, 11), 1, layer_norm=True),
]


def train(shape: MLPShape, seeds: tuple[int, ...], members: int = 1, steps: int = 60, batch: int = 9) -> Stack:
    """Regress on a wavy function of random inputs, each seed on draws of its own."""
    stack = Stack(shape, members * len(seeds)).initialise(streams(seeds, "test/initialise"))
    adam, data = Adam(3e-3, stack), streams(seeds, "test/data")
    for _ in range(steps):
        x = normal(data, batch, shape.inputs)
        predicted = stack(x.repeat_interleave(members, dim=0)).view(len(seeds), members, batch, shape.outputs)
        error = predicted - torch.sin(3 * x[..., : shape.outputs].mean(-1)).view(len(seeds), 1, batch, 1)
        adam.minimise(per_seed_mean(error.square()).sum())
    return stack


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("members", [1, 2], ids=["single", "twins"])
def test_a_seed_trains_to_the_same_bits_alone_in_a_pair_and_in_a_group(shape, members):
    whole = train(shape, SEEDS, members).state("n", len(SEEDS))
    start = Stack(shape, members * len(SEEDS)).initialise(streams(SEEDS, "test/initialise"))
    assert not torch.equal(start.state("n", len(SEEDS))["n.0.weight"], whole["n.0.weight"])
    for group in [(3,), (1,), (0, 3), (7, 1), (1, 3, 0)]:
        part = train(shape, group, members).state("n", len(group))
        for row, seed in enumerate(group):
            for name, value in part.items():
                assert torch.equal(value[row], whole[name][SEEDS.index(seed)]), (group, seed, name)


@pytest.mark.parametrize("outputs", [1, 3, 6])
def test_a_seed_trains_to_the_same_bits_at_the_sizes_that_ship(outputs):
    # Shapes of one column, and rows that do not fill vector registers, take other paths in a matrix product.
    shape = MLPShape(17, (256, 256), outputs, layer_norm=outputs == 1)
    whole, alone = (train(shape, seeds, steps=4, batch=250) for seeds in (SEEDS, (3,)))
    assert torch.equal(whole.flat[1], alone.flat[0])
    for rows in (1, 2, 17, 255, 256):
        x = normal([stream(0, "x")], rows, 17)
        assert torch.equal(whole(x.expand(4, -1, -1))[1], alone(x)[0]), rows


def test_gradients_and_not_only_padding_move_every_parameter():
    shape = SHAPES[1]
    before = Stack(shape, 2).initialise(streams((0, 1), "test/initialise"))
    after = train(shape, (0, 1), steps=3)
    for name in after.parameters:
        assert not torch.equal(before.parameters[name], after.parameters[name]), name
    assert after.flat.shape[1] % VECTOR == 0
    assert after.flat.count_nonzero() <= sum(value.numel() for value in after.parameters.values())


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_row_computes_what_a_plain_network_computes(layer_norm):
    stack = Stack(MLPShape(5, (7, 6), 3, layer_norm), 2).initialise(streams((0, 1), "x"))
    x = normal(streams((0, 1), "y"), 4, 5)
    for row in range(2):
        p, h = {name: value[row] for name, value in stack.parameters.items()}, x[row]
        for i in range(2):
            h = h @ p[f"{i}.weight"] + p[f"{i}.bias"]
            h = F.relu(F.layer_norm(h, h.shape[-1:]) if layer_norm else h)
        torch.testing.assert_close(stack(x)[row], h @ p["2.weight"] + p["2.bias"])


def test_adam_over_stacks_is_adam():
    first, second = (Stack(MLPShape(3, (5,), 2), 2).initialise(streams((0, 1), name)) for name in "ab")
    leaves = [s.parameters[name].clone().requires_grad_() for s in (first, second) for name in s.parameters]
    plain, adam = torch.optim.Adam(leaves, lr=1e-2), Adam(1e-2, first, second)
    x = normal(streams((0, 1), "x"), 6, 3)

    def forward(weight0, bias0, weight1, bias1):
        return F.relu(x @ weight0 + bias0) @ weight1 + bias1

    def loss(one, two):
        return (one - 1).square().sum() + (one * two).sum()

    for _ in range(20):
        plain.zero_grad()
        loss(forward(*leaves[:4]), forward(*leaves[4:])).backward()
        plain.step()
        adam.minimise(loss(first(x), second(x)))
    for ours, theirs in zip([*first.parameters.values(), *second.parameters.values()], leaves, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_initial_weights_lie_within_one_over_root_fan_in_and_differ_between_seeds_and_twins():
    shape = MLPShape(9, (400,), 3)
    stack = Stack(shape, 4).initialise(streams((0, 3), "x"))
    for name in ("0.weight", "0.bias"):
        values = stack.parameters[name]
        assert values.abs().max() <= 1 / 3 and values.abs().max() > 0.32
        assert len({row.numpy().tobytes() for row in values}) == 4
    assert stack.parameters["1.weight"].abs().max() <= 1 / 20


def test_twins_of_a_seed_are_the_first_draws_of_that_seed():
    shape = SHAPES[0]
    pair = Stack(shape, 4).initialise(streams((0, 3), "x")).state("t", 2)
    alone = Stack(shape, 2).initialise(streams((3,), "x")).state("t", 1)
    assert pair["t.0.weight"].shape == (2, 2, 5, 7)
    assert torch.equal(pair["t.0.weight"][1], alone["t.0.weight"][0])


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_restore_is_the_inverse_of_state_and_is_frozen(seeds, members):
    stack = train(SHAPES[1], SEEDS[:seeds], members, steps=3)
    state = stack.state("net", seeds)
    assert all(value.shape[0] == seeds and not value.requires_grad for value in state.values())
    twin = Stack.restore(SHAPES[1], state, "net")
    assert twin.n == seeds * members and torch.equal(twin.flat, stack.flat)
    x = normal(streams(range(twin.n), "x"), 4, 5)
    assert torch.equal(twin(x), stack(x))
    assert not twin(x).requires_grad and stack(x).requires_grad
    again = twin.state("net", seeds)
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_a_copy_keeps_its_values_while_the_original_trains():
    stack = Stack(SHAPES[0], 2).initialise(streams((0, 1), "x"))
    twin, before = stack.copy(), stack.flat.clone()
    adam = Adam(1e-2, stack)
    adam.minimise(stack(normal(streams((0, 1), "y"), 4, 5)).square().sum())
    assert torch.equal(twin.flat, before) and not torch.equal(stack.flat, before)
    assert not any(value.requires_grad for value in twin.parameters.values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zero_last_gives_exactly_zero_whatever_the_input(shape):
    stack = Stack(shape, 2).initialise(streams((0, 1), "x"), zero_last=True)
    x = 1e3 * normal(streams((0, 1), "y"), 50, shape.inputs)
    assert not stack(x).any()
    assert stack.parameters["0.weight"].all(), "the layers before the last are drawn"
    loss_gradient = train(shape, (0,), steps=1)
    assert loss_gradient.parameters["1.weight"].any()


def test_per_seed_mean_of_a_row_does_not_depend_on_its_neighbours():
    values = normal(streams(SEEDS, "x"), 1237, 3)
    together = per_seed_mean(values)
    for row in range(len(SEEDS)):
        assert torch.equal(per_seed_mean(values[row : row + 1].clone())[0], together[row])
        torch.testing.assert_close(together[row], values[row].mean())


# --- random streams ---


def test_streams_depend_on_seed_and_purpose_alone():
    torch.manual_seed(5)
    first = torch.rand(4, generator=stream(3, "a"))
    torch.manual_seed(6)
    torch.rand(10, generator=stream(3, "b"))
    assert torch.equal(first, torch.rand(4, generator=stream(3, "a")))
    others = [stream(3, "b"), stream(4, "a"), stream(33, "a"), stream(3, "aa")]
    assert not any(torch.equal(first, torch.rand(4, generator=g)) for g in others)


def test_normal_draws_of_a_seed_do_not_depend_on_its_neighbours():
    for shape in [(3,), (5, 7), (16, 4), (33, 5)]:
        together = normal(streams(SEEDS, "x"), *shape)
        assert torch.equal(normal(streams((3,), "x"), *shape)[0], together[1])
        assert not torch.equal(together[0], together[1])


def drawn(batches: Minibatches, steps: int = 10) -> torch.Tensor:
    return torch.stack([batches.next() for _ in range(steps)], dim=1)


def test_minibatches_of_a_seed_do_not_depend_on_neighbours_nor_on_block_nor_on_the_global_stream():
    choices = np.arange(100, 160)
    whole = drawn(Minibatches(choices, SEEDS, 9, "x"))
    assert whole.shape == (4, 10, 9)
    torch.manual_seed(123)
    for group in [(3,), (7, 3), (3, 0, 1)]:
        part = drawn(Minibatches(choices, group, 9, "x"))
        assert torch.equal(part[group.index(3)], whole[1])
    assert torch.equal(drawn(Minibatches(torch.as_tensor(choices), (3,), 9, "x", block=4))[0], whole[1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(drawn(Minibatches(choices, (3,), 9, "y"))[0], whole[1])


def test_minibatches_draw_every_choice_and_nothing_else():
    choices = np.array([2, 5, 11, 40])
    values = drawn(Minibatches(choices, (0, 1), 8, "x"), steps=70)
    for row in values:
        found, counts = row.unique(return_counts=True)
        assert found.tolist() == choices.tolist()
        assert counts.min() > 0.7 * 70 * 8 / 4, "uniform"


def test_adam_is_torch_adam_and_its_decay_is_half_a_cosine():
    def train(decay_steps):
        torch.manual_seed(0)
        network = Stack(MLPShape(5, (16,), 3), 2).initialise(streams([0, 1], "net"))
        reference = [value.detach().clone().requires_grad_() for value in network.parameters.values()]
        adam, torch_adam = Adam(0.01, network, decay_steps=decay_steps), torch.optim.Adam(reference, lr=0.01)
        x, y = torch.randn(2, 8, 5), torch.randn(2, 8, 3)
        for step in range(10):
            if decay_steps:
                torch_adam.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / decay_steps))
            adam.minimise((network(x) - y).square().mean())
            w0, b0, w1, b1 = reference
            hidden = torch.baddbmm(b0, x, w0).relu()
            torch_adam.zero_grad()
            (torch.baddbmm(b1, hidden, w1) - y).square().mean().backward()
            torch_adam.step()
        return list(network.parameters.values()), reference

    for decay_steps in (None, 10):
        ours, theirs = train(decay_steps)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-6)
    assert not torch.equal(train(None)[0][0], train(10)[0][0])
