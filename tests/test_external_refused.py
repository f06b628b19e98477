"""External policies that are refused: damaged or of another dataset, random, mixing rows, or hostile."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from tests.external_anchors import WEIGHT, module, onnx_bytes, refused, settings


def test_a_missing_or_damaged_file_is_refused(here):
    refused(settings(onnx="nowhere.bin"), r"nowhere\.bin does not exist")
    refused(settings(onnx="."), "cannot be read")
    whole = onnx_bytes()
    for content in (b"", b"nothing of the kind", whole[: len(whole) // 2], whole[1:], archive()):
        (here / "bad.bin").write_bytes(content)
        refused(settings(onnx="bad.bin"), r"bad\.bin is damaged or not an ONNX file")


def archive() -> bytes:
    """A zip file without a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("model.json", "{}")
    return out.getvalue()


def test_wrong_sizes_name_both_numbers(here):
    (here / "a.onnx").write_bytes(onnx_bytes(inputs=6))
    refused(settings(onnx="a.onnx"), "takes observations of size 6, and the dataset's have size 5")
    (here / "b.onnx").write_bytes(onnx_bytes(outputs=4))
    refused(settings(onnx="b.onnx"), "gives actions of size 4, and the dataset's have size 3")
    call = module(here, "narrow", "def act(observations):\n    return observations[:, :2]\n")
    refused(settings(callable=call), "gives actions of size 2, and the dataset's have size 3")
    call = module(here, "flat", "def act(observations):\n    return observations[0, :3]\n")
    refused(settings(callable=call), r"an answer of shape \[3\] to observations \[64, 5\]; it must be \[64, 3\]")


def test_a_fixed_batch_and_several_inputs_or_outputs_are_refused(here):
    (here / "a.onnx").write_bytes(onnx_bytes(batch=4))
    refused(settings(onnx="a.onnx"), "exported for batches of exactly 4")
    (here / "b.onnx").write_bytes(onnx_bytes(answers=("y", "d")))
    refused(settings(onnx="b.onnx"), r"has the inputs \[x\] and the outputs \[y, d\]; it must take one")


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


def test_a_policy_that_mixes_rows_is_refused(here):
    call = module(here, "mixing", "def act(observations):\n    return (observations - observations.mean(0))[:, :3]\n")
    refused(settings(callable=call), "gives an observation another action alone than in a batch")


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


@pytest.mark.filterwarnings("ignore")
def test_a_pickle_is_refused_by_its_content_and_never_unpickled(here):
    mark = here / "mark"
    for data in pickles(here, mark).values():
        (here / "policy.any").write_bytes(data)
        refused(settings(onnx="policy.any"), "is a Python pickle .*unpickling runs whatever code is in it")
        assert not mark.exists()
    pickle.loads(pickles(here, mark)["protocol 2"]).close()
    assert mark.exists(), "the payload works"


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
