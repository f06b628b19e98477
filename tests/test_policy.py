"""A saved policy: NumPy in and out, in the environment's own units, with nothing but the light install."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from spar_core import load_policy
from spar_core.artifacts import META, read_json, write_json
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.interface import Interface
from spar_core.policy import FAR, POLICY, FarFromData
from spar_core.registry import load_member
from spar_core.training.fitted import WEIGHTS, load_tensors, save_tensors
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, ROOT, kinds, row_of, save_rule, tiny_settings, toy_dataset

SEEDS = (0, 3, 5)
SCALER = Scaler(
    np.linspace(-1, 1, OBSERVATION_SIZE).astype(np.float32),
    np.linspace(0.5, 2, OBSERVATION_SIZE).astype(np.float32),
    np.array([-2.0, 0.0, -1.0], np.float32),
    np.array([2.0, 5.0, -0.5], np.float32),
)


@pytest.fixture(scope="module")
def policies(tmp_path_factory, parts):
    root = tmp_path_factory.mktemp("policies")
    return root, {kind: save_rule(root / kind, kind, parts, toy_dataset(), SCALER) for kind in kinds("improvement")}


every_rule = pytest.mark.parametrize("kind", kinds("improvement"))
RAW = np.random.default_rng(0).normal(0, 3, (7, OBSERVATION_SIZE))


@every_rule
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_loaded_policy_acts_as_the_rule_it_was_saved_from(policies, kind, row):
    root, rules = policies
    actions = load_policy(root / kind, seed=SEEDS[row]).act(RAW)
    standard = (RAW.astype(np.float32) - SCALER.observation_mean) / SCALER.observation_std
    unit = rules[kind].act(torch.from_numpy(standard).expand(3, -1, -1))[row].numpy()
    expected = SCALER.action_low + (unit + 1) / 2 * (SCALER.action_high - SCALER.action_low)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


@every_rule
def test_single_and_batched_observations_give_the_same_actions(policies, kind):
    policy = load_policy(policies[0] / kind)
    batch = policy.act(RAW)
    assert batch.shape == (7, ACTION_SIZE) and batch.dtype == np.float32
    for i, observation in enumerate(RAW):
        single = policy.act(observation)
        assert single.shape == (ACTION_SIZE,) and single.dtype == np.float32
        np.testing.assert_allclose(single, batch[i], rtol=1e-5, atol=1e-5)
    assert np.array_equal(policy.act(RAW.tolist()), batch), "lists do as well"


@every_rule
@pytest.mark.filterwarnings("ignore::spar_core.policy.FarFromData")
def test_actions_stay_within_the_bounds_of_the_environment(policies, kind):
    for seed in (None, *SEEDS):
        actions = load_policy(policies[0] / kind, seed).act(1e4 * RAW)
        assert (actions >= SCALER.action_low).all() and (actions <= SCALER.action_high).all()
        assert seed is None or (actions == SCALER.action_high).any() or (actions == SCALER.action_low).any()


@every_rule
def test_the_committee_is_the_default_and_acts_by_the_mean_of_its_seeds(policies, kind):
    folder = policies[0] / kind
    actions = [load_policy(folder, seed).act(RAW) for seed in SEEDS]
    assert not np.array_equal(actions[0], actions[1]) and not np.array_equal(actions[1], actions[2])
    committee = load_policy(str(folder))
    assert committee.members == 3
    np.testing.assert_allclose(committee.act(RAW), np.mean(actions, axis=0), rtol=1e-5, atol=1e-5)


def test_a_committee_of_one_is_its_seed_to_the_last_bit(policies, tmp_path):
    whole, folder = policies[0] / "spar_mlp", tmp_path / "one"
    folder.mkdir()
    save_tensors(folder / WEIGHTS, row_of(load_tensors(whole / WEIGHTS), 1))
    write_json(folder / POLICY, read_json(whole / POLICY) | {"seeds": [3]})
    write_json(folder / META, read_json(whole / META))
    expected = load_policy(whole, 3).act(RAW)
    assert np.array_equal(load_policy(folder).act(RAW), expected) and np.array_equal(
        load_policy(folder, 3).act(RAW), expected
    )


def test_an_unknown_seed_names_those_there_are(policies):
    with pytest.raises(SparError, match="holds no seed 4; it holds 0, 3, 5"):
        load_policy(policies[0] / "spar_mlp", seed=4)


@pytest.mark.parametrize("shape", [(4,), (6,), (2, 4), (1, 1, 5), ()])
def test_an_observation_of_another_size_is_refused(policies, shape):
    with pytest.raises(SparError, match=r"takes \[5\] or a batch"):
        load_policy(policies[0] / "spar_mlp").act(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(policies, value):
    observations = RAW.copy()
    observations[3, 2] = value
    with pytest.raises(SparError, match="NaN or infinity"):
        load_policy(policies[0] / "spar_mlp").act(observations)


def acts_with_critic(kind):
    member = load_member("improvement", kind)
    return member.acts_with_critic(tiny_settings(member))


def test_a_policy_carries_the_critic_only_where_acting_asks_it(policies):
    for kind in kinds("improvement"):
        parts = read_json(policies[0] / kind / POLICY)["parts"]
        assert ("critic" in parts) == acts_with_critic(kind)
        assert set(parts) >= {"anchor", "residual", "improvement"}


def damaged(policies, tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    for path in (policies[0] / "spar_mlp").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_missing_damaged_or_foreign_folder_is_one_clear_line(policies, tmp_path):
    with pytest.raises(SparError, match="does not exist"):
        load_policy(tmp_path / "nowhere")
    folder = damaged(policies, tmp_path)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(SparError, match="not a complete safetensors file"):
        load_policy(folder)
    (folder / WEIGHTS).write_bytes(weights)
    assert load_policy(folder).act(RAW).shape == (7, ACTION_SIZE)
    (folder / POLICY).write_text("{")
    with pytest.raises(SparError, match="not valid JSON"):
        load_policy(folder)
    meta = read_json(folder / META)
    write_json(folder / META, {**meta, "kind": "anchor"})
    with pytest.raises(SparError, match="holds a 'anchor', not a 'policy'"):
        load_policy(folder)


LIGHT = """
    import sys

    HEAVY = ("dvc", "mlflow", "minari", "gymnasium", "mujoco", "h5py")
    HEAVY += ("pandas", "scipy", "matplotlib", "jinja2", "tqdm")

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in HEAVY + ("stages",):
                raise ImportError(f"{name} is not part of the light install")

    sys.meta_path.insert(0, Refuse())
    import numpy as np
    from spar_core import load_policy

    observations = np.load(sys.argv[1])
    for folder in sys.argv[3:]:
        actions = load_policy(folder, seed=3).act(observations)
        np.save(f"{sys.argv[2]}/{folder.rsplit('/', 1)[1]}.npy", actions)
    assert not [name for name in sys.modules if name.split(".")[0] in HEAVY]
"""


def test_every_rule_acts_with_the_light_install_alone(policies, tmp_path):
    np.save(tmp_path / "observations.npy", RAW)
    folders = [(policies[0] / kind).as_posix() for kind in kinds("improvement")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIGHT), str(tmp_path / "observations.npy"), str(tmp_path), *folders],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for kind in kinds("improvement"):
        here = load_policy(policies[0] / kind, seed=3).act(RAW)
        assert np.array_equal(np.load(tmp_path / f"{kind}.npy"), here), "another process acts the same"


# --- dictionaries ---

PARTS = (("achieved/hand", 0, 1, ()), ("achieved/object", 1, 3, (2,)), ("state", 3, 5, (2,)))
MANIFEST = {
    "dataset": "mine/hand-v0",
    "digest": "0123",
    "observation_size": OBSERVATION_SIZE,
    "environment": {
        "env_id": "Hand-v0",
        "observation_keys": None,
        "observation_layout": [dict(zip(("path", "start", "stop", "shape"), part, strict=True)) for part in PARTS],
    },
}


def as_dictionary(vectors):
    """The dictionary of these vectors [..., 5], in another order than the layout's."""
    hand, thing, state = vectors[..., 0], vectors[..., 1:3], vectors[..., 3:]
    return {"state": state, "achieved": {"object": thing, "hand": hand}}


@pytest.fixture(scope="module")
def hand(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("hand") / "policy"
    save_rule(folder, "spar_mlp", parts, toy_dataset(), SCALER, interface=Interface.of_manifest(MANIFEST))
    return folder


def test_a_policy_of_dictionaries_takes_them_in_any_order_of_keys_alone_and_in_batches(hand):
    policy = load_policy(hand)
    assert np.array_equal(policy.act(as_dictionary(RAW)), policy.act(RAW))
    assert np.array_equal(policy.act(as_dictionary(RAW[2])), policy.act(RAW[2]))
    assert policy.act(as_dictionary(RAW[2])).shape == (ACTION_SIZE,)
    assert policy.interface == Interface.of_manifest(MANIFEST) and policy.interface.env_id == "Hand-v0"


TAKES = r"this policy takes 'achieved/hand' \[\], 'achieved/object' \[2\], 'state' \[2\]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("state"), f"no part 'state'; {TAKES}"),
        (lambda o: o["achieved"].pop("hand"), f"no part 'achieved/hand'; {TAKES}"),
        (lambda o: o.update(goal=np.zeros(2)), f"an unknown part 'goal'; {TAKES}"),
        (lambda o: o.update(state=np.zeros(3)), rf"part 'state' of the observation has the shape \[3\]; {TAKES}"),
        (
            lambda o: o.update(state=np.zeros((4, 2))),
            r"the batch shape \[\], and part 'state' \[4\]",
        ),
        (
            lambda o: o.update(state="left"),
            "part 'state' of the observation is not an array of numbers",
        ),
        (lambda o: o.update(state=[0.0, np.nan]), r"NaN or infinity \('state'\[1\]\)"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused_in_one_line(hand, change, message):
    observation = as_dictionary(RAW[0])
    change(observation)
    with pytest.raises(SparError, match=message) as caught:
        load_policy(hand).act(observation)
    assert "\n" not in str(caught.value)


def test_parts_that_the_datasets_entry_did_not_choose_may_be_in_the_dictionary(tmp_path, parts):
    chosen = MANIFEST | {"environment": MANIFEST["environment"] | {"observation_keys": ["achieved", "state"]}}
    save_rule(tmp_path / "p", "anchor", parts, toy_dataset(), SCALER, interface=Interface.of_manifest(chosen))
    more = {**as_dictionary(RAW), "camera": np.zeros((7, 64))}
    assert np.array_equal(load_policy(tmp_path / "p").act(more), load_policy(tmp_path / "p").act(RAW))


def test_a_policy_of_vectors_refuses_dictionaries_and_text_in_one_line(policies):
    policy = load_policy(policies[0] / "spar_mlp")
    with pytest.raises(SparError, match=r"a dictionary is given, and this policy takes vectors \[5\]"):
        policy.act({"state": RAW[0]})
    with pytest.raises(SparError, match="the observation is not an array of numbers"):
        policy.act("left")
    assert "interface" not in read_json(policies[0] / "spar_mlp" / POLICY), "the size says all of a vector"


def test_an_observation_far_outside_the_training_data_gives_one_warning(hand):
    policy, far = load_policy(hand), RAW.copy()
    far[3, 4] = SCALER.observation_mean[4] + 1.5 * FAR * SCALER.observation_std[4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(RAW)
        with pytest.raises(FarFromData, match=r"'state'\[1\] of the observation lies 30 standard deviations"):
            policy.act(far)
        policy.act(far)


# --- the scaler ---


def test_actions_survive_the_way_to_the_unit_box_and_back():
    raw = np.random.default_rng(1).uniform(SCALER.action_low, SCALER.action_high, (50, 3)).astype(np.float32)
    unit = SCALER.actions_to_unit(raw)
    assert np.abs(unit).max() <= 1 + 1e-6
    np.testing.assert_allclose(SCALER.actions_from_unit(unit), raw, atol=1e-6)
    assert np.array_equal(SCALER.actions_from_unit(np.array([[9.0, 9.0, 9.0]])), SCALER.action_high[None])


def test_a_scaler_standardises_what_it_was_fitted_to_and_leaves_constants_at_zero():
    data = np.random.default_rng(1).normal(5, 3, (200, 3))
    data[:, 1] = 7.0
    scaler = Scaler.fit(data, np.full(2, -1), np.full(2, 1))
    standard = scaler.standardise(data)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), [1, 0, 1], atol=1e-5)
    # Where the environment does change what never changed in the data, a network must not see it.
    assert abs(scaler.standardise(np.array([[5.0, -1e6, 5.0]]))[0, 1]) < 1e-20
    some = np.arange(200) % 3 > 0
    few = Scaler.fit(data, np.full(2, -1), np.full(2, 1), some)
    assert np.array_equal(few.observation_mean, Scaler.fit(data[some], np.full(2, -1), np.full(2, 1)).observation_mean)
    raw = data.astype(np.float32)
    assert np.array_equal(scaler.standardise(raw.copy(), in_place=True), scaler.standardise(raw))
    again = Scaler.from_dict(scaler.to_dict())
    for name in Scaler.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(scaler, name)), name
