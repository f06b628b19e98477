"""The code of a SPAR policy that is logged as an MLflow model. MLflow runs this file to load the model.

The file needs the model's own folder alone: ``spar_core`` under ``code/``, and the policies under ``artifacts/``, one
folder for each seed group. Weights are safetensors, and nothing is unpickled. No stage imports this file, so it may
import MLflow at its top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from spar_core.errors import SparError
from spar_core.interface import Interface
from spar_core.policy import POLICY, Policy, load_policy


class ServedPolicy(PythonModel):
    """Maps raw observations to actions [B, A], as the committee of the first seed group acts.

    Observations are arrays [B, D], or, if the policy was trained on dictionaries, dictionaries or tables too; see
    :func:`observations`. The param ``seed`` chooses one of the trained seeds instead; a negative one is the committee.
    """

    def load_context(self, context: PythonModelContext) -> None:
        folders = [Path(path) for path in context.artifacts.values()]
        groups = [(folder, json.loads((folder / POLICY).read_text(encoding="utf-8"))["seeds"]) for folder in folders]
        self._folder = {seed: folder for folder, seeds in groups for seed in seeds}
        self._policies: dict[int, Policy] = {}
        # It is loaded now, so that a damaged model fails before the first request.
        self._committee = load_policy(folders[0])

    # The signature describes no input: MLflow would refuse all numbers but those of one type, and Gymnasium's are often
    # float64. The policy itself checks what it is given. The type is that of arrays, although dictionaries and tables
    # come too, because MLflow warns of types that it cannot make a schema of.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        try:
            policy = self._policy(int((params or {}).get("seed", -1)))
            return policy.act(observations(model_input, policy.interface))
        except (SparError, TypeError, ValueError) as error:
            # The server answers 400 with this line. For any other error it would send a traceback.
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _policy(self, seed: int) -> Policy:
        if seed < 0:
            return self._committee
        if seed not in self._policies:
            if seed not in self._folder:
                raise SparError(f"the model holds no seed {seed}", f"it holds {', '.join(map(str, self._folder))}")
            self._policies[seed] = load_policy(self._folder[seed], seed)
        return self._policies[seed]


def observations(given: Any, interface: Interface) -> Any:
    """What a policy takes, of what MLflow hands over: an array, or a dictionary of arrays.

    Args:
        given: an array or nested lists; a dictionary of parts; a list of dictionaries, one an observation; or a table
            with named columns.
        interface: of the policy, which checks names, shapes and numbers when it acts.

    Raises:
        SparError: the columns of a table are not those of the policy, or the dictionaries of a list differ.
    """
    if isinstance(given, pandas.DataFrame):
        return _of_table(given, interface)
    plain = _plain(given)
    return plain if isinstance(plain, Mapping) else np.asarray(plain)


def _plain(value: Any) -> Any:
    """A value without the object arrays in which MLflow wraps dictionaries, and a list of dictionaries as one."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if not isinstance(value, Sequence) or isinstance(value, str) or not len(value):
        return value
    rows = [_plain(one) if isinstance(one, np.ndarray) else one for one in value]
    if not isinstance(rows[0], Mapping):
        return value
    for row, one in enumerate(rows):
        if not isinstance(one, Mapping) or set(one) != set(rows[0]):
            raise SparError(f"observation {row} has other parts than observation 0", "give each the same parts")
    return {name: _plain([one[name] for one in rows]) for name in rows[0]}


def _of_table(table: pandas.DataFrame, interface: Interface) -> Any:
    """The observations of a table: one a row.

    Without names, or named 0 to D - 1, the columns are the vector's. A part of a dictionary is a column of numbers or
    lists, named as the part, or a column for each of its numbers: ``part[0]``, ``part[1]``.
    """
    columns = {str(name): values for name, values in table.items()}
    whole = [str(number) for number in range(interface.observation_size)]
    if set(columns) == set(whole):
        return np.stack([columns[name].to_numpy() for name in whole], axis=1)
    if interface.layout is None:
        if all(isinstance(name, int) for name in table.columns):
            return table.to_numpy()
        raise SparError(
            f"the table has the column '{next(name for name in columns if name not in whole)}', and this policy takes "
            f"vectors [{interface.observation_size}]",
            f"name the columns 0 to {whole[-1]} in the vector's order, or send an array",
        )
    nested: dict[str, Any] = {}
    for path, shape in interface.parts().items():
        numbers = [f"{path}[{number}]" for number in range(int(np.prod(shape)))]
        if path in columns:
            values = np.asarray(columns.pop(path).tolist())
        elif numbers[0] in columns:
            missing = [name for name in numbers if name not in columns]
            if missing:
                raise SparError(f"the table has no column '{missing[0]}'", f"part '{path}' has the shape {list(shape)}")
            values = np.stack([columns.pop(name).to_numpy() for name in numbers], axis=1).reshape(-1, *shape)
        else:
            continue  # the policy says what is missing
        *parents, name = path.split("/")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = values
    if columns and not interface.chosen:
        raise SparError(
            f"the table has an unknown column '{next(iter(columns))}'",
            f"this policy takes the parts {', '.join(interface.parts())}",
        )
    return nested


mlflow.models.set_model(ServedPolicy())
