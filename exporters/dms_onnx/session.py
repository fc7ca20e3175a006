"""Runs one exported graph in ONNX Runtime, on the device that was asked for.

ONNX Runtime falls back to the CPU and only says so on stderr; here that is an error. Its sessions
can be neither pickled nor used after a fork; here a session is made again from the model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from dms_onnx.files import read_model
from dms_onnx.metadata import PASSES_AXIS, PREFIX, read_parameters, read_passes_axis
from dms_onnx.wheels import conflict, installed, runtime
from dms_spec.errors import (
    BackendUnavailable,
    DMSError,
    DTypeError,
    FileError,
    MissingInput,
    ShapeError,
    UnsupportedCapability,
    unknown,
)
from dms_spec.types import Array


class Session:
    """Runs an exported graph in ONNX Runtime.

    Args:
        model: The bytes of an ``.onnx`` file.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: Threads within an operator; None for ``OMP_NUM_THREADS``, or else as many
            as cores that this process may use.

    Raises:
        BackendUnavailable: ONNX Runtime is not whole, or does not run on the device.
        FileError: ONNX Runtime refuses the model, such as one of an opset newer than it.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from dms_onnxruntime import Session
        >>> from dms_spec import load_artifact
        >>> from dms_spec.plugins import get_exporter
        >>> path = get_exporter("onnx").export(load_artifact("model"), Path("for-session"))
        >>> image, text = np.zeros((5, 3), np.float32), np.zeros((5, 2), np.float32)
        >>> present = np.ones((5, 2), dtype=bool)
        >>> found = Session.load(path).run({"image": image, "text": text, "present": present})
        >>> found["probabilities"].shape
        (5, 2)
    """

    def __init__(self, model: bytes, device: str = "cpu", *, threads: int | None = None) -> None:
        self._model, self._threads = model, threads
        self.device = device
        self._own = self._session()
        _sessions.add(self)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu", *, threads: int | None = None) -> Self:
        """Opens an exported file as a session, and checks it before it runs.

        Raises:
            FileError: The file is missing, damaged, or not one that dms-spec exports.
            VerificationError: Its parameters are not those that were exported.
        """
        model = read_model(Path(path))
        read_parameters(model)
        return cls(model.SerializeToString(), device, threads=threads)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the graph, by name, as arrays of the library that came in.

        ``mc_logits`` is [T, B, M, C] here, as everywhere, also for a graph that was exported with
        the samples first.

        Args:
            arrays: Every input by name: NumPy arrays, or torch tensors on the session's device,
                which are read, and their results written, where they lie.

        Raises:
            MissingInput: An input is missing.
            UnknownName: The graph has no input of a name.
            DTypeError: An input is of another dtype than the graph's, or of another library than
                the others.
            ShapeError: An input has another rank or size than the graph's, or no features,
                classes or passes; no samples are fine.
            DMSError: An input lies elsewhere, or ONNX Runtime fails.
        """
        session = self._live()
        values = session.get_inputs()
        names = [value.name for value in values]
        for name in arrays:
            if name not in names:
                raise unknown("input", name, names)
        if lacking := [name for name in names if name not in arrays]:
            raise MissingInput(
                "the graph needs every input",
                expected=", ".join(names),
                got=f"nothing for {', '.join(lacking)}",
                fix="Where a modality is missing give anything of the right shape, and False in "
                "present.",
            )
        torch = _library(arrays)
        metadata = session.get_modelmeta().custom_metadata_map
        axis = read_passes_axis({PASSES_AXIS: metadata.get(f"{PREFIX}{PASSES_AXIS}", "0")})
        sizes = _check(values, arrays, axis)
        arrays = as_the_graph_reads(arrays, axis)
        if empty := sizes.get("B") == 0:  # no operator broadcasts an axis of size 0: one sample
            arrays = {name: _one_sample(array) for name, array in arrays.items()}
            sizes["B"] = 1
        try:
            found = (
                self._run_in_place(session, arrays, sizes) if torch else self._run(session, arrays)
            )
        except DMSError:
            raise
        except Exception as error:  # of ONNX Runtime's own, one class for each status
            raise DMSError("ONNX Runtime fails", got=f"{type(error).__name__}: {error}") from error
        return {name: array[:0] for name, array in found.items()} if empty else found

    def _run(self, session: Any, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = [value.name for value in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, dict(arrays)), strict=True))

    def placement(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Counts the nodes that each execution provider really ran, in one profiled run."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(profile=Path(folder) / "profile")
            session.run(None, dict(arrays))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = {
            event["name"]: event["args"]["provider"].removesuffix("ExecutionProvider")
            for event in events
            if event.get("cat") == "Node" and "provider" in event.get("args", {})
        }
        return dict(Counter(ran.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model, "_threads": self._threads, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._own = self._session()
        _sessions.add(self)

    def _live(self) -> Any:
        """Gives the session, and a new one after a fork, since the old threads stayed behind."""
        if self._own is None:
            self._own = self._session()
        return self._own

    def _session(self, profile: Path | None = None) -> Any:
        ort = runtime()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, in full
        # Its own choice is a thread for each core, also in a process that is to use few of them.
        options.intra_op_num_threads = self._threads or _cores()
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        wanted = _provider(self.device)
        if wanted[0] not in ort.get_available_providers():  # it would only warn
            raise self._elsewhere(wanted[0], ort.get_available_providers())
        try:
            session = ort.InferenceSession(
                self._model,
                options,
                providers=[wanted],
                disabled_optimizers=_DISABLED,
                enable_fallback=0,  # it would go on elsewhere, also in the middle of a run
            )
        except Exception as error:  # of ONNX Runtime's own, one class for each status
            raise FileError(
                "ONNX Runtime refuses the model",
                expected=f"a model that ONNX Runtime {ort.__version__} reads",
                got=str(error),
                fix="Export it in an older opset (--opset 18), or update ONNX Runtime.",
            ) from error
        if session.get_providers()[0] != wanted[0]:
            raise self._elsewhere(wanted[0], session.get_providers())
        return session

    def _elsewhere(self, wanted: str, found: list[str]) -> BackendUnavailable:
        return BackendUnavailable(
            f"ONNX Runtime does not run on {self.device!r} here",
            expected=wanted,
            got=", ".join(found),
            fix=why_no_cuda(),
        )

    def _run_in_place(
        self, session: Any, arrays: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> dict[str, Any]:
        """Runs with IO binding: ONNX Runtime reads and writes the memory of torch tensors."""
        import torch

        kind, index = _place(self.device)
        if wrong := [n for n, t in arrays.items() if getattr(t, "device", None) != _torch(self)]:
            raise DMSError(
                "the inputs lie on another device than the session",
                expected=str(_torch(self)),
                got=", ".join(f"{name}: {_where(arrays[name])}" for name in wrong),
                fix="Move them first; nothing is copied in silence.",
            )
        if strings := [v.name for v in session.get_outputs() if v.type not in _NUMPY]:
            raise UnsupportedCapability(
                "torch has no tensors of strings",
                capability="output:string",
                expected="outputs that are numbers",
                got=", ".join(strings),
                fix="Give NumPy arrays, on the CPU.",
            )
        tensors = {name: tensor.detach().contiguous() for name, tensor in arrays.items()}
        binding = session.io_binding()
        for value in session.get_inputs():
            tensor = tensors[value.name]
            dtype = _NUMPY[value.type]
            binding.bind_input(
                value.name, kind, index, dtype, tuple(tensor.shape), tensor.data_ptr()
            )
        results = {}
        for value in session.get_outputs():
            dtype = _NUMPY[value.type]
            shape = [sizes.get(axis, axis) for axis in value.shape]
            result = torch.empty(
                shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=_torch(self)
            )
            binding.bind_output(
                value.name, kind, index, dtype, tuple(result.shape), result.data_ptr()
            )
            results[value.name] = result
        if kind == "cuda":  # torch's work on the inputs is on a stream of its own
            torch.cuda.current_stream(index).synchronize()
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return results


# It keeps the factor of a matrix product as float32, also where the product is of float64.
_DISABLED = ["MatMulScaleFusion"]

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64,
}


def _library(arrays: Mapping[str, Any]) -> bool:
    """Says whether the arrays are torch tensors, all of them; otherwise they are NumPy arrays.

    Raises:
        DTypeError: They are neither, or of both.
    """
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    kinds = {
        name: "NumPy"
        if isinstance(array, np.ndarray)
        else "torch"
        if torch is not None and isinstance(array, torch.Tensor)
        else type(array).__name__
        for name, array in arrays.items()
    }
    if (found := set(kinds.values())) not in ({"NumPy"}, {"torch"}):
        raise DTypeError(
            "the inputs are not arrays of one library",
            expected="NumPy arrays, or torch tensors, throughout",
            got=", ".join(f"{name}: {kind}" for name, kind in kinds.items()),
            fix="Convert some of them." if found <= {"NumPy", "torch"} else "",
        )
    return found == {"torch"}


def as_the_graph_reads(arrays: Mapping[str, Any], passes_axis: int) -> dict[str, Any]:
    """Gives the arrays of a batch with the passes of ``mc_logits`` at an axis, 0 or 1."""
    return {
        name: array.swapaxes(0, 1) if name == "mc_logits" and passes_axis == 1 else array
        for name, array in arrays.items()
    }


def _check(values: list[Any], arrays: Mapping[str, Any], passes_axis: int) -> dict[str, int]:
    """Compares inputs with the graph, and gives the sizes of its named axes.

    ONNX Runtime would say some of it in its own words. It says nothing about a tensor's memory,
    which it reads as whatever the graph expects.
    """
    sizes: dict[str, int] = {}
    for value in values:
        array = arrays[value.name]
        dtype = str(array.dtype).rpartition(".")[2]
        if dtype != np.dtype(_NUMPY[value.type]).name:
            raise DTypeError(
                f"{value.name} has the wrong dtype",
                expected=np.dtype(_NUMPY[value.type]).name,
                got=dtype,
                fix="Cast it, or export the graph for that dtype.",
            )
        shape = tuple(array.shape)
        axes = list(value.shape)
        if value.name == "mc_logits" and passes_axis == 1:
            axes[:2] = axes[1::-1]
        fits = len(shape) == len(axes)
        for axis, size in zip(axes, shape, strict=False):
            fits &= size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis)
            fits &= size > 0 or axis == "B"
        if not fits:
            expected = (f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes)
            raise ShapeError(
                f"{value.name} has the wrong shape",
                expected=f"[{', '.join(map(str, expected))}]",
                got=str(list(shape)),
                fix="No axis but B may be empty.",
            )
    return sizes


def _one_sample(array: Any) -> Any:
    shape = tuple(size or 1 for size in array.shape)
    return np.zeros(shape, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(shape)


_sessions: WeakSet[Session] = WeakSet()
_LEFT_BEHIND: list[Any] = []


def _leave_behind() -> None:
    """Gives up the parent's sessions in the child of a fork: to destroy one would wait for ever.

    The destructor joins threads, which stayed with the parent.
    """
    for session in _sessions:
        _LEFT_BEHIND.append(session._own)
        session._own = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


def _cores() -> int:
    """How many threads to take: ``OMP_NUM_THREADS``, or the cores of this process."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def _place(device: str) -> tuple[str, int]:
    found = re.fullmatch(r"(cpu)|(cuda)(?::([0-9]{1,4}))?", device)
    if found is None:
        raise BackendUnavailable(
            f"ONNX Runtime has no device {device!r} here", expected="cpu, cuda or cuda:N"
        )
    return found[1] or found[2], int(found[3] or 0)


def _torch(session: Session) -> Any:
    import torch

    kind, index = _place(session.device)
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)


def _where(array: Any) -> str:
    return str(getattr(array, "device", "")) if type(array).__module__ == "torch" else "NumPy"


def _provider(device: str) -> tuple[str, dict[str, Any]]:
    kind, index = _place(device)
    if kind == "cuda":
        # TF32 keeps ten bits of a product: the specification asks for those of float32.
        return "CUDAExecutionProvider", {"device_id": index, "use_tf32": 0}
    return "CPUExecutionProvider", {}


@cache
def cuda_works() -> bool:
    """Says whether a session really runs on CUDA here. That a provider is listed proves nothing."""
    ort = runtime()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    ort.set_default_logger_severity(4)  # it would print, and this only asks
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CUDAExecutionProvider"]
        )
        return bool(session.get_providers()[0] == "CUDAExecutionProvider")
    except Exception:
        return False
    finally:
        ort.set_default_logger_severity(2)


def _has_gpu() -> bool:
    """Says whether NVIDIA's driver is here, without starting it."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def why_no_cuda() -> str:
    """Says what to do about it, as far as can be told from here."""
    if conflict():
        return conflict()
    if "onnxruntime-gpu" not in installed():
        if not _has_gpu():
            return "no NVIDIA driver was found on this machine."
        return (
            "The CPU wheel is installed. Run `pip uninstall -y onnxruntime`, then "
            "`pip install onnxruntime-gpu`."
        )
    return (
        "onnxruntime-gpu is installed, but CUDA does not start: check the driver, and CUDA and "
        "cuDNN of the versions that its release notes name."
    )
