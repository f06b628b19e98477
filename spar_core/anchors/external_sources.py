"""The two kinds of policy that the external anchor wraps, each a function of NumPy observations [B, D].

Nothing here unpickles: a Python checkpoint is recognised by its content and refused. An ONNX file is run by
onnxruntime from its bytes. onnxruntime is given an empty folder, and reads external data from no other place.
A callable is the user's own code and may do anything.
"""

from __future__ import annotations

import importlib
import io
import pickletools
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from spar_core.artifacts import digest_bytes
from spar_core.errors import SparError

ONNX_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class External(Protocol):
    """An existing policy: observations [B, D] to actions [B, A].

    Attributes:
        name: of the policy in error lines.
        observation_size: D, where the policy declares one.
    """

    name: str
    observation_size: int | None

    def __call__(self, observations: np.ndarray) -> Any: ...


# --- files ---


def read_model(path: Path) -> bytes:
    """The bytes of a policy's file.

    Raises:
        SparError: the file cannot be read, or is a Python pickle.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "correct the path in the anchor's entry") from None
    except OSError as error:
        raise SparError(f"{path} cannot be read ({error.strerror})") from None
    if is_pickle(data):
        raise SparError(
            f"{path} is a Python pickle (a checkpoint of torch.save, TorchScript or the like), and unpickling runs "
            "whatever code is in it",
            "export the policy as ONNX, or load it in a function of yours ('callable')",
        )
    return data


def is_pickle(data: bytes) -> bool:
    """Whether bytes are a pickle stream, or a zip of torch.save or torch.jit.save. Nothing of them is run."""
    if data[:1] == b"\x80" and data[1:2] <= b"\x05":
        return True
    if zipfile.is_zipfile(io.BytesIO(data)):
        try:
            names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        except (zipfile.BadZipFile, ValueError):
            return False
        return any(PurePosixPath(name).suffix in (".pkl", ".pickle") for name in names)
    try:
        # Pickles of protocols 0 and 1 have no header, so the bytes are parsed up to the STOP opcode.
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except Exception:
        return False


# --- ONNX ---


class OnnxPolicy:
    """An ONNX model of one input [B, D] and one output [B, A], on one thread of the CPU."""

    def __init__(self, data: bytes, name: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise SparError(f"{name} needs onnxruntime, which is not installed", "pip install onnxruntime") from None
        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        try:
            with tempfile.TemporaryDirectory() as empty:
                # Without this, a model given as bytes reads its external data from the working directory.
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
                self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            if "xternal data" in str(error):
                raise SparError(
                    f"{name} keeps its weights in other files (external data), which are not read",
                    "save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
                ) from None
            raise SparError(
                f"{name} is damaged or not an ONNX file ({_first_line(error)})", "export it again"
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise SparError(
                f"{name} has the inputs {_names(inputs)} and the outputs {_names(outputs)}",
                "it must take one, observations [B, D], and give one, actions [B, A]",
            )
        self._input, self._type, shape = inputs[0].name, ONNX_TYPES.get(inputs[0].type), inputs[0].shape
        if self._type is None or len(shape) != 2:
            raise SparError(f"{name} takes a {inputs[0].type} of shape {shape}", "it must take floats [B, D]")
        if isinstance(shape[0], int):
            raise SparError(
                f"{name} was exported for batches of exactly {shape[0]}", "export it with a dynamic first dimension"
            )
        self.observation_size = shape[1] if isinstance(shape[1], int) else None

    def __call__(self, observations: np.ndarray) -> Any:
        return self._session.run(None, {self._input: observations.astype(self._type)})[0]


def _names(values: Any) -> str:
    return f"[{', '.join(value.name for value in values)}]"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


# --- code ---


def module_file(module: str) -> Path:
    """Path of a module's source, relative to the working directory. Nothing is imported."""
    path = Path(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")


def source_digests(call: str, sources: tuple[Path, ...]) -> list[bytes]:
    """MD5 of a callable's module file, and of each further source.

    Raises:
        SparError: one of the files does not exist.
    """
    found = []
    for path in (module_file(call.partition(":")[0]), *sources):
        if not path.is_file():
            raise SparError(
                f"{path} does not exist, a source of the callable '{call}'",
                "name it relative to the working directory",
            )
        found.append(bytes.fromhex(digest_bytes(path.read_bytes())))
    return found


class CallablePolicy:
    """A function of the user's, imported by name.

    Raises:
        SparError: the function cannot be imported, or its sources have changed since the anchor was made. A declared
            source that does not exist is not compared, because an installed module may come without it.
    """

    observation_size: int | None = None

    def __init__(self, call: str, sources: tuple[Path, ...], digests: list[bytes]) -> None:
        self.name = f"the callable '{call}'"
        module_name, _, function = call.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
            hint = "it is looked for in the working directory and on Python's path" if missing else _place(error)
            raise SparError(f"{self.name} cannot be imported ({type(error).__name__}: {error})", hint) from error
        found = getattr(module, function, None)
        if not callable(found):
            what = "is not callable" if hasattr(module, function) else "does not exist"
            raise SparError(f"{self.name}: {function} {what} in {module.__file__}")
        self._function: Callable[[np.ndarray], Any] = found
        files = [Path(str(module.__file__)), *sources]
        for i, (file, digest) in enumerate(zip(files, digests, strict=True)):
            if (i == 0 or file.is_file()) and bytes.fromhex(digest_bytes(file.read_bytes())) != digest:
                raise SparError(
                    f"{file} is not the source that this anchor was made from",
                    "rerun `dvc repro`, or check out the source that it was made from",
                )

    def __call__(self, observations: np.ndarray) -> Any:
        try:
            return self._function(observations)
        except Exception as error:
            raise SparError(
                f"{self.name} raises {type(error).__name__}: {error}, given observations {list(observations.shape)}",
                _place(error),
            ) from error


def _place(error: Exception) -> str:
    """The file and line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"see {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


# --- asking ---


def ask(policy: External, observations: np.ndarray, action_size: int) -> np.ndarray:
    """Actions [B, A] float32 for observations [B, D].

    Raises:
        SparError: the policy fails, or its answer is not an array of finite numbers of that shape.
    """
    try:
        answer = np.asarray(policy(np.array(observations)))
        if answer.dtype.kind not in "fiub":
            raise TypeError(f"an answer of type {answer.dtype}")
        actions = answer.astype(np.float32)
    except SparError:
        raise
    except Exception as error:
        raise SparError(
            f"{policy.name} fails on observations {list(observations.shape)} ({type(error).__name__}: "
            f"{_first_line(error)})"
        ) from error
    wanted = (len(observations), action_size)
    if actions.ndim == 2 and len(actions) == wanted[0] and actions.shape[1] != action_size:
        raise SparError(
            f"{policy.name} gives actions of size {actions.shape[1]}, and the dataset's have size {action_size}"
        )
    if actions.shape != wanted:
        raise SparError(
            f"{policy.name} gives an answer of shape {list(actions.shape)} to observations {list(observations.shape)}",
            f"it must be {list(wanted)}",
        )
    if not np.isfinite(actions).all():
        bad = int((~np.isfinite(actions)).any(1).sum())
        raise SparError(f"{policy.name} answers NaN or infinity to {bad} of {len(actions)} observations")
    return actions


def check(policy: External, observations: np.ndarray, action_size: int) -> None:
    """Check that a policy fits the dataset, is deterministic, and treats each row by itself.

    Args:
        policy: the policy to check.
        observations: some of the dataset's observations [B, D], in the policy's units.
        action_size: A.

    Raises:
        SparError: the policy fails one of the checks.
    """
    size = observations.shape[1]
    if policy.observation_size not in (None, size):
        raise SparError(
            f"{policy.name} takes observations of size {policy.observation_size}, and the dataset's have size {size}"
        )
    first, second = (ask(policy, observations, action_size) for _ in range(2))
    if first.tobytes() != second.tobytes():
        gap = np.abs(first.astype(np.float64) - second).max(0)
        raise SparError(
            f"{policy.name} is not deterministic: asked twice for the same {len(first)} observations, its actions "
            f"differ by up to {gap.max():.3g} (dimension {int(gap.argmax())})",
            "give its mean or mode, with dropout off (eval mode) and no state kept between calls",
        )
    alone = np.concatenate([ask(policy, observations[i : i + 1], action_size) for i in range(min(3, len(first)))])
    gap = np.abs(alone - first[: len(alone)]).max()
    if gap > 1e-3 * max(1.0, np.abs(first).max()):
        raise SparError(
            f"{policy.name} gives an observation another action alone than in a batch (they differ by {gap:.3g})",
            "treat each row by itself: batch norm in eval mode, no statistics of the batch",
        )
