"""What a served policy takes: arrays, dictionaries and tables, as MLflow hands them over."""

from __future__ import annotations

import json
import sys

import mlflow
import numpy as np
import pandas
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from spar_core import load_policy
from spar_core.interface import Interface
from stages.tracking.models import write_model
from tests.fakes import OBSERVATION_SIZE, save_rule, toy_dataset
from tests.test_policy import MANIFEST, SCALER, as_dictionary

RAW = np.random.default_rng(0).normal(0, 2, (4, OBSERVATION_SIZE)).astype(np.float32)
COLUMNS = ["achieved/hand", "achieved/object[0]", "achieved/object[1]", "state[0]", "state[1]"]


def served(tmp_path_factory, parts, interface):
    """The policy of an interface, and the same as MLflow loads it."""
    folder = tmp_path_factory.mktemp("served")
    save_rule(folder / "0-5", "spar_mlp", parts, toy_dataset(), SCALER, interface=interface)
    model = write_model(folder / "work", [folder / "0-5"])
    # MLflow puts the model's copy of spar_core first on the path, where other tests' processes would find it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        return load_policy(folder / "0-5"), mlflow.pyfunc.load_model(str(model))


@pytest.fixture(scope="module")
def hand(tmp_path_factory, parts):
    return served(tmp_path_factory, parts, Interface.of_manifest(MANIFEST))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, parts):
    return served(tmp_path_factory, parts, None)


def requested(**body):
    """What MLflow's server makes of the JSON of a request."""
    return infer_and_parse_data(json.loads(json.dumps(body, default=lambda array: array.tolist())))


def rows() -> list[dict]:
    return [as_dictionary(row) for row in RAW]


TABLE = pandas.DataFrame(RAW, columns=COLUMNS)
LISTS = pandas.DataFrame(
    {"state": RAW[:, 3:].tolist(), "achieved/object": RAW[:, 1:3].tolist(), "achieved/hand": RAW[:, 0].tolist()}
)


@pytest.mark.parametrize(
    "given",
    [
        lambda: RAW,
        lambda: as_dictionary(RAW),
        rows,
        lambda: TABLE,
        lambda: TABLE[COLUMNS[::-1]],
        lambda: LISTS,
        lambda: requested(inputs=RAW),
        lambda: requested(inputs=as_dictionary(RAW)),
        lambda: requested(inputs=rows()),
        lambda: requested(instances=rows()),
        lambda: requested(dataframe_split={"columns": COLUMNS, "data": RAW}),
        lambda: requested(dataframe_records=LISTS.to_dict("records")),
        lambda: requested(dataframe_records=TABLE[COLUMNS[::-1]].to_dict("records")),
    ],
)
def test_a_policy_of_dictionaries_is_served_in_every_form(hand, given):
    policy, model = hand
    np.testing.assert_array_equal(model.predict(given()), policy.act(as_dictionary(RAW)))


def test_one_dictionary_is_one_observation(hand):
    policy, model = hand
    np.testing.assert_array_equal(model.predict(as_dictionary(RAW[0])), policy.act(as_dictionary(RAW[0])))
    assert model.metadata.metadata["input"].endswith(
        "or dictionaries or columns of the parts 'achieved/hand' [], 'achieved/object' [2], 'state' [2]"
    )


def test_a_vectors_columns_are_taken_by_number_and_in_no_other_way(plain):
    policy, model = plain
    table = pandas.DataFrame(RAW)
    for same in (table, table[table.columns[::-1]], table.rename(columns=str)[["4", "1", "0", "3", "2"]]):
        np.testing.assert_array_equal(model.predict(same), policy.act(RAW))
    assert "columns" not in model.metadata.metadata["input"]


NAMED = "the table has the column 'achieved/hand', and this policy takes vectors [5]; name the columns 0 to 4"


@pytest.mark.parametrize(
    ("whose", "given", "message"),
    [
        ("plain", lambda: TABLE, NAMED),
        ("plain", lambda: as_dictionary(RAW), "a dictionary is given, and this policy takes vectors [5]"),
        ("plain", lambda: pandas.DataFrame(RAW[:, :4]), "observation of shape (4, 4) given"),
        ("hand", lambda: TABLE.drop(columns="state[1]"), "the table has no column 'state[1]'; part 'state' has the"),
        ("hand", lambda: TABLE.drop(columns="achieved/hand"), "the observation has no part 'achieved/hand'; this"),
        (
            "hand",
            lambda: TABLE.assign(speed=1.0),
            "the table has an unknown column 'speed'; this policy takes",
        ),
        ("hand", lambda: LISTS.assign(state=1.0), "part 'state' of the observation has the shape [4]"),
        ("hand", lambda: [*rows(), {"state": [1.0, 2.0]}], "observation 4 has other parts than observation 0"),
        ("hand", lambda: requested(inputs={"state": RAW[:, 3:]}), "the observation has no part 'achieved/hand'"),
        ("hand", lambda: {**as_dictionary(RAW), "state": "far"}, "part 'state' of the observation is not an array"),
    ],
)
def test_what_does_not_fit_is_one_line_with_status_400(request, whose, given, message):
    _, model = request.getfixturevalue(whose)
    with pytest.raises(MlflowException) as caught:
        model.predict(given())
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert message in str(caught.value) and "\n" not in str(caught.value)
