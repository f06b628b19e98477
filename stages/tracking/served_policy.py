"""The code of a SPAR policy that is logged as an MLflow model. MLflow runs this file to load the model.

The file needs the model's own folder alone: ``spar_core`` under ``code/``, and the policies under ``artifacts/``, one
folder for each seed group. Weights are safetensors, and nothing is unpickled. No stage imports this file, so it may
import MLflow at its top.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from spar_core.errors import SparError
from spar_core.policy import POLICY, Policy, load_policy


class ServedPolicy(PythonModel):
    """Maps raw observations [B, D] to actions [B, A], as the committee of the first seed group acts.

    The param ``seed`` chooses one of the trained seeds instead; a negative one is the committee.
    """

    def load_context(self, context: PythonModelContext) -> None:
        folders = [Path(path) for path in context.artifacts.values()]
        groups = [(folder, json.loads((folder / POLICY).read_text(encoding="utf-8"))["seeds"]) for folder in folders]
        self._folder = {seed: folder for folder, seeds in groups for seed in seeds}
        self._policies: dict[int, Policy] = {}
        # It is loaded now, so that a damaged model fails before the first request.
        self._committee = load_policy(folders[0])

    # The signature describes no input: MLflow would refuse all numbers but those of one type, and Gymnasium's are often
    # float64. The policy itself checks what it is given.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        try:
            return self._policy(int((params or {}).get("seed", -1))).act(np.asarray(model_input))
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


mlflow.models.set_model(ServedPolicy())
