"""ONNX Runtime sessions with one set of options and one-line errors."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.errors import ModelError, NotLoadedError, OnnxqError, OutputError, first_line
from onnxq.graph.files import load
from onnxq.graph.scratch import no_temporary_space
from onnxq.runtime.interruption import stoppable
from onnxq.runtime.random_seeds import may_be_random, seeded
from onnxq.runtime.weights_on_disk import weights_on_disk
from onnxq.types import Array, Feeds

T = TypeVar("T")

NUMPY_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


@dataclass(frozen=True)
class InputSpec:
    """Input of a model: name, NumPy type (None if it is no tensor), shape (None for any size).

    Without `ranked`, the shape is unknown and any array fits.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...]
    ranked: bool = True

    def describe(self) -> str:
        """Return a text such as `float32[?,3,224,224]`."""
        sizes = ",".join("?" if size is None else str(size) for size in self.shape)
        sizes = sizes if self.ranked else "..."
        return f"{self.dtype}[{sizes}]"


@dataclass(frozen=True)
class Tuning:
    """How the runtime uses memory, threads and kernels.

    patterns  plan each run's memory as one block; it is larger if most values are fetched
    arena     keep the memory of a run for the next one, which is faster; otherwise give it back at once
    spin      let threads wait in a loop, which is faster on an idle machine but takes time from all else
    integer_kernels  fuse Q/DQ into integer kernels; otherwise Q/DQ run in float between fused float nodes
    """

    patterns: bool = True
    arena: bool = True
    spin: bool = True
    integer_kernels: bool = True


USUAL = Tuning()


def open_session(
    model: ir.Model | Path,
    *,
    optimize: bool = True,
    threads: int = 0,
    save_optimized: Path | None = None,
    profile: Path | None = None,
    tuning: Tuning = USUAL,
) -> ort.InferenceSession:
    """Open a CPU session; random nodes draw the same numbers in each.

    Args:
        model: a file, or a model in memory; external weights stay in their files.
        optimize: let the runtime fuse nodes into its integer kernels; otherwise every node runs as written,
            Q/DQ in float, which is the reference.
        threads: intra-op threads, 0 for the runtime's choice.
        save_optimized: write the optimized graph to this file.
        profile: prefix of the runtime profiler's file.
        tuning: how the runtime uses memory, threads and kernels.

    Raises:
        NotLoadedError: the runtime cannot load the model.
        OutputError: the temporary folder has too little space for weights.
    """
    name = str(model) if isinstance(model, Path) else None
    options = _options(tuning, threads, optimize=optimize)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if save_optimized is not None:
        _save_optimized(options, save_optimized)
    try:
        if isinstance(model, Path) and may_be_random(model):
            model = load(model)
        if isinstance(model, Path):
            return ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        return _opened(model, options)
    except OnnxqError:
        raise
    except OSError as error:  # the runtime has other errors of its own
        raise ModelError(
            f"{name or 'model'}: its weights cannot be read: {error.strerror}: check the files, "
            "and the limit of open files (ulimit -n)"
        ) from error
    except Exception as error:  # the runtime raises many types, all of them about the model
        if save_optimized is not None:
            open_session(model, optimize=optimize, threads=threads)
            raise OutputError(no_temporary_space()) from error  # without the file the runtime loads it
        where = name or "model"
        raise NotLoadedError(
            f"{where}: onnxruntime {ort.__version__} cannot load it: {first_line(error)}"
        ) from error


def _options(tuning: Tuning, threads: int, *, optimize: bool) -> ort.SessionOptions:
    """Return the options of a session; see `open_session`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = tuning.patterns
    options.enable_cpu_mem_arena = tuning.arena
    if not tuning.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not tuning.integer_kernels:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options


def _save_optimized(options: ort.SessionOptions, path: Path) -> None:
    """Let a session write its optimized graph to a file."""
    options.optimized_model_filepath = str(path)
    # the layout of this CPU's float kernels may be saved: the file is only read, never run elsewhere
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "optimized.data"
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
    )


def _opened(model: ir.Model, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a session of a model in memory; its large weights pass through a file."""
    with weights_on_disk(model) as root, seeded(model):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", root)
        payload = ir.serde.serialize_model(model).SerializeToString()
        return ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def open_fake_quantized(model: ir.Model, *, threads: int = 0) -> ort.InferenceSession:
    """Open a CPU session in which Q/DQ nodes stay: they round values, and all operators compute in float.

    It gives the memory of a run back: a training holds sessions for several shapes.

    Raises:
        NotLoadedError: the runtime cannot load the model.
    """
    tuning = Tuning(patterns=False, arena=False, spin=False, integer_kernels=False)
    options = _options(tuning, threads, optimize=True)
    try:
        return _opened(model, options)
    except OnnxqError:
        raise
    except Exception as error:  # as in `open_session`
        raise NotLoadedError(
            f"training graph: onnxruntime {ort.__version__} cannot load it: {first_line(error)}"
        ) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the runtime's reason, where the block fails on a model that the runtime refuses.

    So the block needs no test for each way in which a model can be wrong, and files that it writes are not
    blamed for the model.

    Raises:
        NotLoadedError: the runtime cannot load the model.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OnnxqError) or isinstance(error, NotLoadedError):
            open_session(path, optimize=False)
        raise  # the model is right, the block is wrong


def open_exposed(model: ir.Model, *, threads: int = 0, tuning: Tuning = USUAL) -> ort.InferenceSession:
    """Open a session that returns inner values, without fusions if the runtime fails on a fused value."""
    try:
        return open_session(model, threads=threads, tuning=tuning)
    except ModelError:
        return open_session(model, threads=threads, tuning=tuning, optimize=False)


def model_inputs(model: ir.Model) -> list[InputSpec]:
    """Return the inputs that a model needs, from its graph."""
    return [
        InputSpec(
            value.name or "",
            value.dtype.numpy()
            if value.dtype is not None and isinstance(value.type, ir.TensorType)
            else None,
            tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape or ()),
            value.shape is not None,
        )
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]


def input_specs(session: ort.InferenceSession) -> list[InputSpec]:
    """Return the inputs that a session needs, without those that have a default.

    A session gives an input of unknown shape the shape of a scalar.
    """
    return [_spec(node) for node in session.get_inputs()]


def described_outputs(session: ort.InferenceSession) -> list[str]:
    """Return the name, type and shape of each output, such as `logits float32[?,1000]`."""
    return [f"{node.name} {_spec(node).describe()}" for node in session.get_outputs()]


def _spec(node: ort.NodeArg) -> InputSpec:
    return InputSpec(
        node.name,
        np.dtype(NUMPY_TYPES[node.type]) if node.type in NUMPY_TYPES else None,
        tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape),
        bool(node.shape),
    )


def detached(values: T) -> T:
    """Copy outputs that are kept longer than their session: one of them keeps all memory of its runs."""
    return copy.deepcopy(values)


def run(
    session: ort.InferenceSession, feeds: Feeds, sample: str, outputs: list[str] | None = None
) -> list[Array]:
    """Run one sample.

    Raises:
        ModelError: the runtime fails on it; the message names the sample.
    """
    options = ort.RunOptions()
    try:
        with stoppable(options):
            return list(session.run(outputs, feeds, options))
    except Exception as error:
        raise ModelError(f"sample {sample}: the model fails on it: {first_line(error)}") from error
