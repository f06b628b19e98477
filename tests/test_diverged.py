"""A fit that diverged is no artifact: the stage names the first quantity that was not finite, and leaves nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spar_core.anchors.mlp import MLPAnchor
from spar_core.artifacts import new_artifact
from spar_core.errors import SparError
from spar_core.residual import ResidualSettings, fit_residual
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from tests.fakes import TINY, dataset_from, tiny_settings

NAN = float("nan")
HINT = "the fit diverged: .* or lower the learning_rate"


def fitted(**changed) -> Fitted:
    values = {
        "tensors": {"w": torch.ones(2, 3), "steps": torch.tensor([3, 4])},
        "metrics": {"anchor/share": [0.5, NAN], "anchor/modes": [None, 1]},
        "curves": [(9, 0, "anchor/loss", 0.5), (1, 1, "anchor/loss", 0.7)],
    }
    return Fitted(**{**values, **changed})


def test_what_was_not_measured_is_written_as_ever(tmp_path):
    fitted().write(tmp_path)
    assert '"anchor/share": [\n    0.5,\n    null\n  ]' in (tmp_path / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"curves": [(9, 0, "a/loss", NAN), (3, 1, "a/kl", math.inf)]}, "^'a/kl' of seed 1 is inf at step 3; "),
        (
            {"tensors": {"v": torch.ones(2), "w": torch.tensor([[1.0], [NAN]])}},
            "^'w' of seed number 1 of the group is ",
        ),
        ({"tensors": {"w": torch.tensor([-math.inf, 1.0])}}, "^'w' of seed number 0 of the group is not finite"),
        ({"metrics": {"a/gap": [NAN, -math.inf]}}, "^'a/gap' of seed number 1 of the group is -inf"),
    ],
)
def test_the_first_quantity_is_named_and_nothing_is_left(tmp_path, changed, message):
    with pytest.raises(SparError, match=f"{message}.*{HINT}"), new_artifact(tmp_path / "anchor") as folder:
        fitted(**changed).write(folder)
    assert not list(tmp_path.iterdir())


def test_real_fits_that_diverge(tmp_path):
    """Actions that no scaler should have let through."""
    rng = np.random.default_rng(0)
    actions = np.full((40, 2), np.nan, np.float32)
    data = dataset_from(rng.normal(size=(42, 3)), actions, np.ones(40), [20, 20], [False, False], [False, True])
    anchor = MLPAnchor.fit(Context.quiet(data, (4,)), tiny_settings(MLPAnchor))
    with pytest.raises(SparError, match="of seed 4 is nan at step 1; the fit diverged"):
        anchor.write(tmp_path)
    settings = ResidualSettings(**{key: value for key, value in TINY.items() if key in ResidualSettings.model_fields})
    restored = MLPAnchor.restore(tiny_settings(MLPAnchor), anchor.tensors)
    with pytest.raises(SparError, match=r"'residual/.*' of seed 4 is nan at step 1"):
        fit_residual(Context.quiet(data, (4,)), restored, settings).write(tmp_path)
    assert not list(tmp_path.iterdir())
