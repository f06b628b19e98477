"""The anchor that a group shares: what it makes of its members, and what it is made of."""

from __future__ import annotations

import pytest
import torch

from spar_core.anchors.committee import CommitteeAnchor, CommitteeSettings, together
from spar_core.errors import SparError
from spar_core.registry import load_member, parse_variant, variant_kinds
from spar_core.training.context import Context
from spar_core.training.randomness import streams
from tests.fakes import TINY, observations_for, tiny_settings, toy_dataset

SEEDS = (0, 3, 5)
# Three members at one state, two action dimensions.
ACTIONS = torch.tensor([[0.0, 0.0], [0.2, 0.6], [1.0, 0.3]]).view(1, 3, 1, 2)


def committee(kind="mlp", **values):
    member = tiny_settings(load_member("anchor", kind)).model_dump()
    settings = CommitteeSettings(member={"kind": kind, **member}, **values)
    context = Context.quiet(toy_dataset(), SEEDS)
    fitted = CommitteeAnchor.of_group(CommitteeAnchor.fit(context, settings), context, settings)
    return CommitteeAnchor.restore(settings, fitted.tensors), fitted


def members(kind="mlp"):
    """The same members, each cloned as an anchor of its own."""
    member = load_member("anchor", kind)
    settings = tiny_settings(member)
    return member.restore(settings, member.fit(Context.quiet(toy_dataset(), SEEDS), settings).tensors)


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [0.4, 0.3]), ("median", [0.2, 0.3]), ("medoid", [0.2, 0.6])], ids=str
)
def test_what_is_made_of_three_actions(how, expected):
    # Sums of distances: 1.68 from the first, 1.49 from the second, 1.90 from the third.
    torch.testing.assert_close(together(ACTIONS, how), torch.tensor(expected).view(1, 1, 2))


@pytest.mark.parametrize("how", ["mean", "median", "medoid"])
def test_members_that_agree_are_followed_and_their_order_does_not_matter(how):
    same = torch.full((2, 4, 5, 3), 0.25)
    torch.testing.assert_close(together(same, how), same[:, 0])
    actions = torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together(actions, how), together(actions.flip(1), how))


def test_the_members_are_the_anchors_that_the_seeds_would_clone_alone():
    shared, fitted = committee()
    observations = observations_for(3)
    alone = torch.stack([members().act(one.expand(3, -1, -1)) for one in observations])
    torch.testing.assert_close(shared.act(observations), alone.mean(dim=1))
    # Every seed holds all members, so that a policy of one seed is complete.
    assert all(value.shape[:2] == (3, 3) for value in fitted.tensors.values())
    assert len(set(fitted.metrics["anchor/heldout_mse"])) == 1 and shared.size == 3


def test_a_sample_is_that_of_a_member_and_the_density_is_the_mixture():
    shared, own = committee("gaussian")[0], members("gaussian")
    observations = observations_for(1).expand(3, -1, -1)
    assert shared.stochastic and shared.has_density
    samples = shared.sample(observations, streams(SEEDS, "test"))
    each = torch.stack([own.log_density(observations, samples[row].expand(3, -1, -1)) for row in range(3)])
    expected = each.exp().mean(dim=1).log()
    torch.testing.assert_close(shared.log_density(observations, samples), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"member": {"kind": "committee"}}, "say which anchor the seeds clone"),
        ({"member": {"kind": "external", "onnx": "a.onnx"}}, "say which anchor the seeds clone"),
        ({"member": {"kind": "mpl"}}, "there is no anchor kind 'mpl'; did you mean 'mlp'"),
        ({"member": {"kind": "mlp", "stepps": 3}}, "unknown key 'stepps'; did you mean 'steps'"),
        ({"act": "mode"}, "'mean', 'median' or 'medoid'"),
        ({"data_share": 0.5}, "unknown key 'data_share'"),
    ],
    ids=str,
)
def test_a_wrong_committee_is_one_line(values, said):
    variant = {"kind": "committee", "member": {"kind": "mlp"}, **values}
    with pytest.raises(SparError) as error:
        parse_variant("anchor", {"mine": variant}, "mine")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_variant_runs_the_code_of_its_member():
    assert variant_kinds("mine", {"kind": "committee", "member": {"kind": "flow"}}) == ("committee", "flow")
    assert CommitteeSettings(member={"kind": "mlp", "steps": TINY["steps"]}).steps == TINY["steps"]
