"""Every registered anchor, critic and rule through its real stages, for a few steps each, as a user would run it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import yaml

from spar_core import load_policy, registry
from stages import download, evaluate, fit_bc, fit_critic, fit_residual, plan, self_imitation
from stages.layout import Layout
from tests.pipeline import DATASET, Clone

SEEDS = "0-1"
# Variants of shipped studies that take other ways through the code than any variant of params.yaml.
BORROWED = (
    ("extraction", "improvements", ("spar_proj_rounds", "value_gradient_action")),
    ("ablations", "improvements", ("spar_mlp_state_only",)),
    ("ablations", "anchors", ("mlp_latent_half",)),
    ("anchor_quality", "anchors", ("mlp_top_10", "mlp_2_percent")),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A scratch checkout as the working directory, with the dataset, the default anchor and critic in it."""
    clone = Clone(tmp_path_factory.mktemp("members") / "clone")
    source = "import numpy as np\n\n\ndef act(s):\n    return np.tanh(s[:, :6])\n"
    (clone.folder / "my_controller.py").write_text(source)
    clone.set({"anchors.mine": {"kind": "external", "callable": "my_controller:act"}})
    for study, section, names in BORROWED:
        clone.borrow(study, section, *names)
    clone.study(anchors=["mlp", "mine"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        patch.syspath_prepend(str(clone.folder))
        patch.setenv("SPAR_WORKERS", "1")
        patch.setenv("SPAR_TRACKING", "off")
        plan.run([])
        download.run(["--dataset", DATASET])
        clone_anchor("mlp")
        fit_critic.run(["--dataset", DATASET, "--critic", "iql", "--seeds", SEEDS])
        yield clone
    # The module lies in a folder that goes away; other tests have policies of their own.
    sys.modules.pop("my_controller", None)


def clone_anchor(name: str) -> None:
    for stage in (fit_bc, fit_residual):
        stage.run(["--dataset", DATASET, "--anchor", name, "--seeds", SEEDS])


def improved(anchor: str, critic: str, rule: str) -> None:
    """Train and evaluate a rule, and check what comes out."""
    axes = ["--dataset", DATASET, "--anchor", anchor, "--critic", critic, "--improvement", rule, "--seeds", SEEDS]
    self_imitation.run(axes)
    evaluate.run(axes)
    layout = Layout()
    cell = (DATASET, anchor, critic, rule, SEEDS)
    policy = load_policy(layout.artifact("policy", *cell), 1)
    action = policy.act(np.zeros(17))
    assert action.shape == (6,) and np.abs(action).max() <= 1.0 and np.array_equal(action, policy.act(np.zeros(17)))
    rows = (layout.artifact("evaluation", *cell) / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2, "two seeds, two episodes each"
    diagnostics = json.loads((layout.artifact("evaluation", *cell) / "context.json").read_text())["diagnostics"]
    wanted = {"anchor/heldout_mse", "anchor/coverage_distance", "anchor/bimodal_share", "critic/uncertainty_heldout"}
    wanted |= {f"{part}/parameters" for part in ("anchor", "residual", "critic", "improvement", "policy")}
    assert wanted <= diagnostics.keys() and all(len(values) == 2 for values in diagnostics.values())


@pytest.mark.parametrize("kind", sorted(registry.ANCHORS))
def test_every_anchor_runs_end_to_end(project, kind):
    name = "mine" if kind == "external" else kind
    clone_anchor(name)
    improved(name, "iql", "spar_proj")


@pytest.mark.parametrize("kind", sorted(registry.CRITICS))
def test_every_critic_runs_end_to_end(project, kind):
    fit_critic.run(["--dataset", DATASET, "--critic", kind, "--seeds", SEEDS])
    improved("mlp", kind, "awr")


@pytest.mark.parametrize("kind", sorted(registry.IMPROVEMENTS))
def test_every_rule_runs_end_to_end(project, kind):
    improved("mlp", "iql", kind)


@pytest.mark.parametrize("name", ["spar_proj_rounds", "value_gradient_action", "spar_mlp_state_only"])
def test_variants_with_a_form_of_their_own_run_end_to_end(project, name):
    improved("mlp", "iql", name)


@pytest.mark.parametrize("name", ["gaussian_sampled", "mlp_latent_half", "mlp_top_10", "mlp_2_percent"])
def test_anchors_with_knobs_or_a_residual_of_their_own_run_end_to_end(project, name):
    clone_anchor(name)
    improved(name, "iql", "spar_mlp")


def test_an_anchors_own_residual_settings_reach_its_residual_model_and_no_anchor(project):
    clone_anchor("mlp_latent_half")
    layout = Layout()
    own = json.loads((layout.artifact("residual", DATASET, "mlp_latent_half", SEEDS) / "meta.json").read_text())
    assert own["params"]["residual"]["latent_per_action"] == 0.5
    anchors = [
        layout.artifact("anchor", DATASET, name, SEEDS) / "weights.safetensors" for name in ("mlp", "mlp_latent_half")
    ]
    assert anchors[0].read_bytes() == anchors[1].read_bytes()
    latent = yaml.safe_load((project.folder / "params.yaml").read_text())["residual"]["latent_per_action"]
    assert latent != 0.5
