"""Policies from outside as anchors: what they are asked, what of them is saved, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import textwrap
import types
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from spar_core import load_policy
from spar_core.anchors import external_program
from spar_core.anchors.external import ExternalAnchor, ExternalAnchorSettings
from spar_core.artifacts import write_meta
from spar_core.data.dataset import Dataset
from spar_core.data.scaler import Scaler
from spar_core.errors import SparError
from spar_core.members import parse_variant
from spar_core.policy import KIND, save_policy
from spar_core.settings import parse
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted, Part
from tests.fakes import ACTION_SIZE, OBSERVATION_SIZE, observations_for, toy_dataset

SEEDS = (0, 3)
SCALER = Scaler(
    np.linspace(-1, 1, OBSERVATION_SIZE).astype(np.float32),
    np.linspace(0.5, 2, OBSERVATION_SIZE).astype(np.float32),
    np.array([-2.0, 0.0, -1.0], np.float32),
    np.array([2.0, 5.0, -0.5], np.float32),
)
WEIGHT = np.random.default_rng(1).normal(size=(OBSERVATION_SIZE, ACTION_SIZE)).astype(np.float32)
DYNAMIC = ({0: torch.export.Dim("batch")},)


def wrapped(observations: np.ndarray) -> np.ndarray:
    """The policy that every way below holds: raw observations in, raw actions out, a few beyond the bounds."""
    return 2.0 * np.tanh(observations @ WEIGHT) + 1.0


class Network(torch.nn.Module):
    """The same in Torch, with what exported programs are made of: buffers, constants, sizes, no_grad, in-place."""

    def __init__(self, actions: int = ACTION_SIZE) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(OBSERVATION_SIZE, actions, bias=False)
        weight = torch.from_numpy(WEIGHT.T.copy())
        self.linear.weight.data = weight.expand(-1, -1) if actions == ACTION_SIZE else torch.ones(actions, 5)
        self.register_buffer("shift", torch.ones(actions))
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, x):
        y = torch.cat([self.linear(x), self.linear(x)], dim=1).view(x.shape[0], 2, -1)
        first, _ = torch.split(y, 1, dim=1)
        with torch.no_grad():
            scaled = torch.tanh(first.reshape(x.shape[0], -1)) * torch.tensor(2.0)
        return scaled.add_(self.shift + self.calls)


def export(path: Path, network: torch.nn.Module | None = None, size: int = OBSERVATION_SIZE, shapes=DYNAMIC) -> Path:
    program = torch.export.export((network or Network()).eval(), (torch.randn(4, size),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def onnx_bytes(
    inputs: int = OBSERVATION_SIZE, outputs: int = ACTION_SIZE, batch: str | int = "batch", extra=(), weight=None
) -> bytes:
    """MatMul, tanh, times 2, plus 1."""
    values = WEIGHT if (inputs, outputs) == WEIGHT.shape else np.ones((inputs, outputs), np.float32)
    constants = {"two": np.float32(2), "one": np.float32(1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["c"]),
        helper.make_node("Add", ["c", "one"], ["d"]),
        *extra,
        helper.make_node("Identity", ["e" if extra else "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [weight or numpy_helper.from_array(values, "w")]
        + [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if weight is None:
        onnx.checker.check_model(model)
    return model.SerializeToString()


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return f"{name}:act"


GOOD = f"""
    import numpy as np

    WEIGHT = np.array({WEIGHT.tolist()}, np.float32)

    def act(observations):
        return 2.0 * np.tanh(observations @ WEIGHT) + 1.0
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("export") / "policy.pt2").read_bytes()


def settings(**values) -> ExternalAnchorSettings:
    return parse(ExternalAnchorSettings, values, "params.yaml, anchor 'mine'")


def make(way: str, folder: Path, exported: bytes) -> ExternalAnchorSettings:
    if way == "callable":
        return settings(callable=module(folder, "mine", GOOD))
    path = folder / {"onnx": "policy.onnx", "torch_export": "policy.pt2"}[way]
    path.write_bytes(onnx_bytes() if way == "onnx" else exported)
    return settings(**{way: path.name})


def scaled_dataset() -> Dataset:
    toy = toy_dataset()
    return Dataset(toy.observations, toy.actions, toy.rewards, toy.lengths, toy.terminated, toy.heldout, SCALER)


def fit(chosen: ExternalAnchorSettings) -> Fitted:
    return ExternalAnchor.fit(Context.quiet(scaled_dataset(), SEEDS), chosen)


every_way = pytest.mark.parametrize("way", ["onnx", "torch_export", "callable"])


# --- acting ---


@every_way
def test_an_external_anchor_is_the_wrapped_policy_on_raw_observations(way, here, exported):
    chosen = make(way, here, exported)
    fitted = fit(chosen)
    anchor = ExternalAnchor.restore(chosen, fitted.tensors)
    observations = observations_for(2, 20)
    raw = observations.numpy() * SCALER.observation_std + SCALER.observation_mean
    expected = SCALER.actions_to_unit(wrapped(raw))
    assert (np.abs(expected) > 1).any() and (np.abs(expected) < 1).any()
    np.testing.assert_allclose(anchor.act(observations).numpy(), expected.clip(-1, 1), rtol=1e-5, atol=1e-5)
    assert all(len(values) == 2 for values in fitted.metrics.values()) and "anchor/heldout_mse" in fitted.metrics


def test_standardised_observations_and_unit_actions_pass_as_they_are(here):
    call = module(here, "units", "def act(observations):\n    return observations[:, :3] * 0.75\n")
    chosen = settings(callable=call, observations="standardised", actions="unit")
    anchor = ExternalAnchor.restore(chosen, fit(chosen).tensors)
    observations = observations_for(2)
    assert torch.equal(anchor.act(observations), (observations[..., :3] * 0.75).clamp(-1, 1))


@every_way
def test_saved_and_restored_it_acts_the_same_without_the_file(way, here, exported):
    chosen = make(way, here, exported)
    fitted = fit(chosen)
    before = ExternalAnchor.restore(chosen, fitted.tensors).act(observations_for(2))
    fitted.write(here)
    from spar_core.training.fitted import WEIGHTS, load_tensors

    if way != "callable":
        for path in chosen.files():
            path.unlink()
    again = ExternalAnchor.restore(chosen, load_tensors(here / WEIGHTS))
    assert torch.equal(again.act(observations_for(2)), before)


def test_a_program_of_many_kinds_of_operator_gives_what_torch_gives(tmp_path):
    class Rich(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.norm, self.batch = torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(20)
            self.out = torch.nn.Linear(20, 3)

        def forward(self, x):
            wide = x.view(x.shape[0], 5, 1) * torch.arange(4.0)
            seen, _ = self.attend(wide, wide, wide)
            most, which = torch.max(self.norm(seen), dim=1)
            mixed = torch.einsum("bij,bj->bi", seen, most)
            y = self.out(self.batch(seen.flatten(1))) + mixed[:, :3]
            y = torch.nn.functional.gelu(y, approximate="tanh").masked_fill(y < -1, float("-inf")).softmax(-1)
            return torch.where(which[:, :1] > 1, y, y.clamp(0.1, 0.3))

    network = Rich().eval()
    program = external_program.Program(export(tmp_path / "rich.pt2", network).read_bytes(), "rich")
    observations = torch.randn(33, OBSERVATION_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(program(observations.numpy()), network(observations), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(program(observations[:1].numpy()), network(observations[:1]), rtol=1e-5, atol=1e-6)


def test_the_tables_of_exported_programs_are_torchs():
    from torch._export.serde import schema, serialize

    assert schema.SCHEMA_VERSION[0] == external_program.SCHEMA
    assert int(schema.Layout.Strided) == external_program.STRIDED
    for ours, theirs in (
        (external_program.DTYPES, serialize._SERIALIZE_TO_TORCH_DTYPE),
        (external_program.MEMORY_FORMATS, serialize._SERIALIZE_TO_TORCH_MEMORY_FORMAT),
    ):
        assert all(theirs[key] == value for key, value in ours.items())


# --- a whole policy ---


@every_way
def test_a_policy_artifact_is_whole(way, here, exported):
    from spar_core.improvement.anchor import AnchorAlone
    from spar_core.residual import ResidualSettings, fit_residual

    chosen, dataset = make(way, here, exported), scaled_dataset()
    fitted = fit(chosen)
    anchor = ExternalAnchor.restore(chosen, fitted.tensors)
    tiny = ResidualSettings(steps=2, hidden=(4,))
    parts = {
        "anchor": Part("external", chosen, fitted.tensors),
        "residual": Part("residual", tiny, fit_residual(Context.quiet(dataset, SEEDS), anchor, tiny).tensors),
        "improvement": Part("anchor", AnchorAlone.Settings(), {}),
    }
    folder = here / "policy"
    folder.mkdir()
    whole = save_policy(
        folder, parts=parts, fitted=Fitted(), seeds=SEEDS, scaler=SCALER, observation_size=OBSERVATION_SIZE
    )
    write_meta(folder, KIND, params={}, inputs={}, shapes=whole.shapes(), seeds=list(SEEDS))
    if way != "callable":
        for path in chosen.files():
            path.unlink()
    raw = np.random.default_rng(0).normal(size=(7, OBSERVATION_SIZE))
    expected = np.clip(wrapped(raw), SCALER.action_low, SCALER.action_high)
    for seed in SEEDS:
        np.testing.assert_allclose(load_policy(folder, seed).act(raw), expected, rtol=1e-5, atol=1e-5)


# --- what it depends on ---


def test_files_are_named_without_importing_anything(here):
    assert settings(onnx="a/b.onnx").files() == (Path("a/b.onnx"),)
    assert settings(torch_export="b.pt2").files() == (Path("b.pt2"),)
    package = here / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert settings(callable="package:act").files() == (Path("package/__init__.py"),)
    chosen = settings(callable="package.inner:act", sources=["package/other.py"])
    assert chosen.files() == (Path("package/inner.py"), Path("package/other.py"))


def test_a_callable_whose_source_has_changed_is_refused(here):
    (here / "other.py").write_text("GAIN = 1")
    chosen = settings(callable=module(here, "drifting", GOOD), sources=["other.py"])
    tensors = fit(chosen).tensors
    (here / "other.py").write_text("GAIN = 2")
    with pytest.raises(SparError, match=r"other\.py is not the source that this anchor was made of"):
        ExternalAnchor.restore(chosen, tensors)
    (here / "other.py").unlink()
    ExternalAnchor.restore(chosen, tensors)
    module(here, "drifting", GOOD + "    # edited\n")
    with pytest.raises(SparError, match=r"drifting\.py is not the source"):
        ExternalAnchor.restore(chosen, tensors)


# --- settings ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give exactly one of onnx, torch_export, callable .given: none."),
        ({"onnx": "a.onnx", "callable": "a:b"}, "given: onnx, callable"),
        ({"onnx": "a.onnx", "sources": ["a.py"]}, "sources belong to a callable"),
        ({"onnx": "a.onnx", "data_share": 0.5}, "data_share means nothing to an external policy"),
        ({"onnx": "a.onnx", "top_share": 0.5}, "top_share means nothing to an external policy"),
        ({"onnx": "a.onnx", "label_noise": 0.1}, "label_noise means nothing to an external policy"),
        ({"callable": "a.b"}, "expected 'module:function'"),
        ({"callable": "a/b.py:act"}, "expected 'module:function'"),
        ({"onnx": "a.onnx", "actions": "scaled"}, "actions = 'scaled' is not valid"),
    ],
)
def test_wrong_settings_are_one_clear_line(values, message):
    with pytest.raises(SparError, match=message) as caught:
        parse_variant("anchor", {"mine": {"kind": "external", **values}}, "mine")
    assert "\n" not in str(caught.value)


def test_settings_survive_a_saved_policy():
    for chosen in (settings(onnx="a.onnx"), settings(callable="a:b", sources=["c.py"])):
        assert settings(**chosen.model_dump(mode="json")) == chosen


# --- bad policies ---


def refused(chosen: ExternalAnchorSettings, message: str) -> None:
    with pytest.raises(SparError, match=message) as caught:
        fit(chosen)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("way", ["onnx", "torch_export"])
def test_a_missing_or_damaged_file_is_refused(way, here, exported):
    refused(settings(**{way: "nowhere.bin"}), r"nowhere\.bin does not exist")
    refused(settings(**{way: "."}), "cannot be read")
    whole = onnx_bytes() if way == "onnx" else exported
    for content in (b"", b"nothing of the kind", whole[: len(whole) // 2], whole[1:]):
        (here / "bad.bin").write_bytes(content)
        refused(settings(**{way: "bad.bin"}), r"bad\.bin is damaged or not a")


def test_one_format_given_as_the_other_is_refused(here, exported):
    (here / "a.onnx").write_bytes(exported)
    refused(settings(onnx="a.onnx"), "not an ONNX file")
    (here / "a.pt2").write_bytes(onnx_bytes())
    refused(settings(torch_export="a.pt2"), "not a file of torch.export.save")


def test_wrong_sizes_name_both_numbers(here):
    (here / "a.onnx").write_bytes(onnx_bytes(inputs=6))
    refused(settings(onnx="a.onnx"), "takes observations of size 6, and the dataset's have size 5")
    (here / "b.onnx").write_bytes(onnx_bytes(outputs=4))
    refused(settings(onnx="b.onnx"), "gives actions of size 4, and the dataset's have size 3")
    export(here / "a.pt2", torch.nn.Linear(6, 3), 6)
    refused(settings(torch_export="a.pt2"), "takes observations of size 6, and the dataset's have size 5")
    export(here / "b.pt2", Network(4))
    refused(settings(torch_export="b.pt2"), "gives actions of size 4, and the dataset's have size 3")
    call = module(here, "narrow", "def act(observations):\n    return observations[:, :2]\n")
    refused(settings(callable=call), "gives actions of size 2, and the dataset's have size 3")
    call = module(here, "flat", "def act(observations):\n    return observations[0, :3]\n")
    refused(settings(callable=call), r"an answer of shape \[3\] to observations \[64, 5\]; it must be \[64, 3\]")


def test_a_fixed_batch_and_several_inputs_or_outputs_are_refused(here):
    (here / "a.onnx").write_bytes(onnx_bytes(batch=4))
    refused(settings(onnx="a.onnx"), "exported for batches of exactly 4")
    export(here / "a.pt2", shapes=None)
    refused(settings(torch_export="a.pt2"), "exported for batches of exactly 4")

    class Two(torch.nn.Module):
        def forward(self, x):
            return x[:, :3], x

    export(here / "b.pt2", Two())
    refused(settings(torch_export="b.pt2"), "gives 2 outputs")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_and_infinity_are_refused_at_any_time(here, value):
    call = module(
        here,
        f"holes_{value}",
        f"""
        def act(observations):
            actions = observations[:, :3].copy()
            actions[observations[:, 0] > 0] = float("{value}")
            return actions
        """,
    )
    refused(settings(callable=call), r"answers NaN or infinity to \d+ of 64 observations")
    (here / "a.onnx").write_bytes(onnx_bytes(extra=[helper.make_node("Sqrt", ["a"], ["e"])]))
    refused(settings(onnx="a.onnx"), "answers NaN or infinity")


def test_a_policy_that_draws_or_remembers_is_refused(here):
    noise = [
        helper.make_node("RandomNormalLike", ["d"], ["n"], scale=0.01),
        helper.make_node("Add", ["d", "n"], ["e"]),
    ]
    (here / "a.onnx").write_bytes(onnx_bytes(extra=noise))
    refused(settings(onnx="a.onnx"), r"a\.onnx is not deterministic: asked twice for the same 64 observations")

    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x[:, :3] + torch.randn_like(x[:, :3])

    export(here / "a.pt2", Noisy())
    refused(settings(torch_export="a.pt2"), r"a\.pt2 is not deterministic")
    call = module(
        here,
        "counting",
        """
        calls = []

        def act(observations):
            calls.append(1)
            return observations[:, :3] + 1e-3 * len(calls)
        """,
    )
    refused(settings(callable=call), r"'counting:act' is not deterministic.* up to 0\.001")


def test_a_program_that_changes_its_own_state_is_refused(here):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return x[:, :3]

    export(here / "a.pt2", Counting())
    refused(settings(torch_export="a.pt2"), "changes its own (state|weights) as it acts")


def test_a_policy_that_mixes_rows_is_refused(here):
    call = module(here, "mixing", "def act(observations):\n    return (observations - observations.mean(0))[:, :3]\n")
    refused(settings(callable=call), "answers an observation alone otherwise than among others")


def test_a_missing_broken_or_raising_callable_is_refused(here):
    refused(settings(callable="nowhere:act"), r"nowhere\.py does not exist, a source of the callable 'nowhere:act'")
    module(here, "empty", "act = 3\n")
    refused(settings(callable="empty:act"), "act is not callable in .*empty.py")
    refused(settings(callable="empty:other"), "other does not exist in .*empty.py")
    refused(settings(callable="empty:act", sources=["gone.py"]), r"gone\.py does not exist")
    call = module(here, "broken", "import nothing_of_the_kind\n")
    refused(settings(callable=call), "'broken:act' cannot be imported .*nothing_of_the_kind.*broken.py, line 1")
    call = module(here, "raising", "def act(observations):\n    raise KeyError('weights\\nof 3')\n")
    refused(
        settings(callable=call), r"'raising:act' raises KeyError: .*observations \[64, 5\]; see .*raising.py, line 2"
    )
    call = module(here, "wordy", "def act(observations):\n    return [['a'] * 3] * len(observations)\n")
    refused(settings(callable=call), "fails on observations .*an answer of type")


def test_without_onnxruntime_the_line_says_how_to_get_it(here, monkeypatch):
    (here / "a.onnx").write_bytes(onnx_bytes())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(settings(onnx="a.onnx"), "needs onnxruntime, which is not installed; pip install onnxruntime")


# --- hostile files ---


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def pickles(folder: Path, mark: Path) -> dict[str, bytes]:
    def torch_bytes(value, **options) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer, **options)
        return buffer.getvalue()

    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(5, 3)), script)
    return {
        **{f"protocol {n}": pickle.dumps(Payload(mark), protocol=n) for n in range(6)},
        "torch.save": torch_bytes(Payload(mark)),
        "old torch.save": torch_bytes(Payload(mark), _use_new_zipfile_serialization=False),
        "state dict": torch_bytes(torch.nn.Linear(5, 3).state_dict()),
        "torch.jit.save": script.getvalue(),
    }


@pytest.mark.parametrize("way", ["onnx", "torch_export"])
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_is_refused_by_its_content_and_never_unpickled(way, here):
    mark = here / "mark"
    for data in pickles(here, mark).values():
        (here / "policy.any").write_bytes(data)
        refused(settings(**{way: "policy.any"}), "is a Python pickle .*unpickling runs whatever code is in it")
        assert not mark.exists()
    pickle.loads(pickles(here, mark)["protocol 2"]).close()
    assert mark.exists(), "the payload works"


def repacked(data: bytes, change) -> bytes:
    """The archive with ``change`` applied to its records (paths without the root folder)."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"policy/{name}", content)
    return out.getvalue()


def edited(path: str, change):
    def apply(records):
        content = json.loads(records[path])
        change(content)
        records[path] = json.dumps(content).encode()

    return apply


WEIGHTS_CONFIG, CONSTANTS_CONFIG = (f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants"))


def loads_as_torch_would(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch._export.serde.serialize.log",
            types.SimpleNamespace(**dict.fromkeys(("warning", "debug"), lambda *a, **k: None)),
        )
        with contextlib.suppress(Exception):
            torch.export.load(io.BytesIO(data))


def test_hostile_sample_inputs_are_never_read(here, exported):
    mark = here / "mark"
    payload = pickles(here, mark)["torch.save"]
    data = repacked(exported, lambda records: records.update({"data/sample_inputs/model.pt": payload}))
    (here / "policy.pt2").write_bytes(data)
    fit(settings(torch_export="policy.pt2"))
    assert not mark.exists()
    loads_as_torch_would(data)
    assert mark.exists(), "torch.export.load would have run it"


@pytest.mark.parametrize("where", ["weight", "constant", "opaque", "old", "legacy", "pkl"])
def test_a_pickle_inside_an_archive_is_refused_before_anything_is_read(where, here, exported):
    mark = here / "mark"
    saved, raw = pickles(here, mark)["torch.save"], pickles(here, mark)["protocol 2"]

    def weight(records):
        edited(WEIGHTS_CONFIG, lambda c: c["config"]["linear.weight"].update(use_pickle=True))(records)
        records["data/weights/weight_0"] = saved

    def constant(records):
        meta = {"path_name": "tensor_7", "is_param": False, "use_pickle": True, "tensor_meta": None}
        edited(CONSTANTS_CONFIG, lambda c: c["config"].update(k=meta))(records)
        records["data/constants/tensor_7"] = saved

    def opaque(records):
        meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        edited(CONSTANTS_CONFIG, lambda c: c["config"].update(k=meta))(records)
        records["data/constants/opaque_obj_0"] = raw

    def old(records):
        program = records["models/model.json"]
        records.clear()
        records.update({"version": b"8.8", "serialized_exported_program.json": program})
        records.update({f"serialized_{n}.pt": saved for n in ("state_dict", "constants", "example_inputs")})

    def legacy(records):
        records["data/weights/model.pt"] = saved

    def pkl(records):
        records["data.pkl"] = raw

    data = repacked(exported, locals()[where])
    (here / "policy.pt2").write_bytes(data)
    message = {
        "weight": "pickled weights .linear.weight",
        "constant": r"pickled constants \(k\)",
        "pkl": "Python pickle",
    }
    refused(
        settings(torch_export="policy.pt2"), message.get(where, "records other than a plain program|without a folder")
    )
    assert not mark.exists()
    if where != "pkl":
        loads_as_torch_would(data if where != "old" else data.replace(b"policy/", b""))
    assert mark.exists() == (where in ("weight", "constant", "opaque", "legacy")), (
        "what torch.export.load would have done"
    )


def node_of(program) -> dict:
    return program["graph_module"]["graph"]["nodes"][0]


def text(name: str, value: str) -> dict:
    return {"name": name, "arg": {"as_string": value}, "kind": 1}


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.hub.load", "_operator.attrgetter", "math.exp", "#x:y", "eval"]
)
def test_operators_outside_aten_are_refused(target, here, exported):
    change = edited("models/model.json", lambda p: node_of(p).update(target=target, inputs=[text("", "touch mark")]))
    (here / "policy.pt2").write_bytes(repacked(exported, change))
    refused(settings(torch_export="policy.pt2"), f"calls '{target}', and only ATen operators are run")
    assert not (here / "mark").exists()


@pytest.mark.parametrize("operator", ["from_file.default", "save.default", "__class__.mro", "linear.__class__"])
def test_operators_that_touch_files_are_refused(operator, here, exported):
    inputs = [text("filename", "mark"), {"name": "shared", "arg": {"as_bool": True}, "kind": 1}]
    target = f"torch.ops.aten.{operator}"
    change = edited("models/model.json", lambda p: node_of(p).update(target=target, inputs=inputs))
    (here / "policy.pt2").write_bytes(repacked(exported, change))
    refused(settings(torch_export="policy.pt2"), "not allowed here|only ATen operators")
    assert not (here / "mark").exists()


def test_a_program_that_fits_no_schema_is_refused(here, exported):
    for change in (
        edited("models/model.json", lambda p: p["schema_version"].update(major=9)),
        edited("models/model.json", lambda p: p.pop("graph_module")),
        edited(WEIGHTS_CONFIG, lambda c: c["config"].pop("linear.weight")),
        edited(WEIGHTS_CONFIG, lambda c: c["config"]["linear.weight"].update(path_name="../../../etc/passwd")),
        lambda records: records.update({"data/weights/weight_0": b"\0" * 8}),
        lambda records: records.update({"models/model.json": b"{"}),
    ):
        (here / "policy.pt2").write_bytes(repacked(exported, change))
        refused(settings(torch_export="policy.pt2"), "is damaged")


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "absolute"])
def test_an_onnx_file_reads_no_other_file(here, location):
    work = here / "work"
    work.mkdir()
    place = str(here / "weights.bin") if location == "absolute" else location
    (work / place).write_bytes(WEIGHT.tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("length", str(WEIGHT.nbytes))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    (here / "a.onnx").write_bytes(onnx_bytes(weight=weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        refused(settings(onnx="../a.onnx"), "keeps its weights in other files .external data., which are not read")
