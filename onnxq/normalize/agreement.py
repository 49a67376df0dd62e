"""Comparison of a normalized model with the original file in one run.

Normalization must not change what a model computes. Each quantization checks that on one sample, or on random
inputs where there is none, and takes a form with fewer rewrites where it does not hold.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.errors import ModelError
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import load
from onnxq.normalize.passes import name_and_infer, normalize
from onnxq.runtime.sessions import InputSpec, detached, open_session, run
from onnxq.types import Array, Feeds

ALIKE = 1e-3
"""Largest difference that counts as rounding: the rms of the error as a share of the output's rms."""
SENSITIVE = 10.0
"""A larger difference counts as rounding up to this multiple of what rounding the inputs makes."""
TINY = 1e-7
"""Rms of an output below which its errors are absolute."""
PRECISION = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}
FULL_PRECISION = 1e-6
"""Relative size of rounding errors, by the narrowest float type of a model; float32's with a margin."""
PIECE = 1 << 20
"""Values that are compared at a time."""
SIZES = ((2, 8), (1, 64), (1, 8), (8, 8), (2, 2), (1, 1))
"""Sizes tried for unknown axes of random inputs: of the first axis, and of the others."""


@dataclass(frozen=True)
class Probe:
    """Inputs of the comparison, and what the original file gives for them."""

    sample: str
    feeds: Feeds
    expected: Sequence[Array]


def make_probe(path: Path, sample: str, feeds: Feeds) -> Probe:
    """Run the original file on a sample.

    Raises:
        ModelError: the runtime cannot load the model, or fails on the sample.
    """
    return Probe(sample, feeds, detached(run(_open(path), feeds, sample)))


def random_probe(path: Path, specs: Sequence[InputSpec]) -> Probe | None:
    """Run the original file on random inputs; None where it runs on none of those tried.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    session, found = _open(path), None
    for feeds in _random_feeds(specs):
        try:
            probe = Probe("of random values", feeds, detached(run(session, feeds, "of random values")))
        except ModelError:
            continue
        if all(np.isfinite(array).all() for array in _arrays(probe.expected) if array.dtype.kind == "f"):
            return probe
        found = found or probe
    return found


def faithful_form(path: Path, model: ir.Model, probe: Probe) -> ir.Model:
    """Return the model if it computes what the file does, else a form with fewer rewrites that does.

    Raises:
        ModelError: no form does.
    """
    forms: list[Callable[[], ir.Model]] = [
        lambda: model,
        lambda: normalize(load(path), lift=False),
        lambda: name_and_infer(load(path)),
    ]
    found = []
    for make in forms:
        form = make()
        found.append(difference(path, form, probe))
        if not found[-1]:
            return form
    raise ModelError(
        f"{path}: onnxq's form of the model computes something else: {found[0]}: "
        "it cannot be quantized; please report the model"
    )


def difference(original: Path | ir.Model, form: ir.Model, probe: Probe) -> str:
    """Return how the outputs of a form differ beyond rounding; an empty text if they do not."""
    try:
        outputs = run(_open(form), probe.feeds, probe.sample)
    except ModelError as error:
        return str(error)
    off = [_distance(a, b) for a, b in zip(probe.expected, outputs, strict=True)]
    precision = _precision(form) if isinstance(original, ir.Model) else _precision(load(original))
    least = max(ALIKE, 16 * precision)
    if max(off, default=0.0) <= least:
        return ""
    spread = _spread(original, probe, precision)
    for value, far, noise in zip(form.graph.outputs, off, spread, strict=True):
        if far > max(least, SENSITIVE * noise):
            how = "has another shape" if far == np.inf else f"differs by {far:.1%} of its size"
            return f"output '{value.name}' {how}"
    return ""


def _open(model: Path | ir.Model) -> ort.InferenceSession:
    """Open a session without fusions, which round differently and take time; with them if it must be."""
    try:
        return open_session(model, optimize=False)
    except ModelError:
        return open_session(model)


def _spread(original: Path | ir.Model, probe: Probe, precision: float) -> list[float]:
    """Return how far rounding errors move each output: those of fusions, and rounded inputs."""
    random = np.random.default_rng(0)
    found = [0.0] * len(probe.expected)
    inputs = [probe.feeds] + [_rounded(probe.feeds, precision, random) for _ in range(3)]
    try:
        session = open_session(original)
        for feeds in inputs:
            outputs = run(session, feeds, probe.sample)
            found = [
                max(old, _distance(a, b)) for old, a, b in zip(found, probe.expected, outputs, strict=True)
            ]
    except ModelError:
        pass  # the original runs without fusions only
    return found


def _rounded(feeds: Feeds, precision: float, random: np.random.Generator) -> Feeds:
    return {
        name: (array * (1 + precision * random.standard_normal(array.shape))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }


def _precision(model: ir.Model) -> float:
    kinds = {value.dtype for node in nodes_of(model) for value in node.outputs}
    kinds |= {value.dtype for value in model.graph.initializers.values()}
    return max((PRECISION[kind] for kind in kinds if kind in PRECISION), default=FULL_PRECISION)


def _distance(one: Any, other: Any) -> float:
    """Return the relative rms error of floats, the share of unequal values of others; infinite if unlike."""
    a, b = _arrays([one]), _arrays([other])
    if len(a) != len(b) or any(x.shape != y.shape or x.dtype != y.dtype for x, y in zip(a, b, strict=True)):
        return np.inf
    return max((_array_distance(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def _array_distance(a: Array, b: Array) -> float:
    if a.size == 0:
        return 0.0
    if a.dtype.kind != "f":
        return float(np.mean(a != b))
    x, y = a.reshape(-1), b.reshape(-1)
    # double precision takes memory: a piece of a large value at a time
    pieces = [_sums(x[i : i + PIECE], y[i : i + PIECE]) for i in range(0, x.size, PIECE)]
    unlike, count, error, signal = (sum(each) for each in zip(*pieces, strict=True))
    if unlike:
        return float(max(unlike / a.size, 1.0))
    return float(np.sqrt(error / count) / max(np.sqrt(signal / count), TINY)) if count else 0.0


def _sums(a: Array, b: Array) -> tuple[int, int, float, float]:
    """Return the number of values unlike and of finite ones, and the sums of squares of error and signal."""
    finite = np.isfinite(a) & np.isfinite(b)
    unlike = int(np.count_nonzero(~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))))
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    return unlike, x.size, float(np.square(x - y).sum()), float(np.square(x).sum())


def _arrays(values: Sequence[Any]) -> list[Array]:
    """Return all arrays in outputs, which may be sequences and maps."""
    found: list[Array] = []
    for value in values:
        if isinstance(value, dict):
            found += [np.asarray(list(value)), *_arrays([np.asarray(list(value.values()))])]
        elif isinstance(value, list):
            found += _arrays(value)
        elif value is not None:
            found.append(np.asarray(value))
    return found


def _random_feeds(specs: Sequence[InputSpec]) -> Iterator[Feeds]:
    """Yield inputs that differ in the sizes of unknown axes and in their values."""
    if any(spec.dtype is None for spec in specs):
        return
    random = np.random.default_rng(0)
    for values in (random.standard_normal, random.random, np.zeros):
        for first, others in SIZES:
            shapes = [
                [
                    size if size is not None else others if axis else first
                    for axis, size in enumerate(spec.shape)
                ]
                for spec in specs
            ]
            yield {
                spec.name: _random(spec, shape, values, random)
                for spec, shape in zip(specs, shapes, strict=True)
            }


def _random(
    spec: InputSpec, shape: list[int], values: Callable[..., Any], random: np.random.Generator
) -> Array:
    """Draw floats, or integers 0 and 1, which are valid in any embedding table."""
    assert spec.dtype is not None
    if spec.dtype.kind == "f":
        return np.asarray(values(shape), spec.dtype)
    if spec.dtype.kind == "O":
        return np.full(shape, "a", object)
    drawn = random.integers(2, size=shape) if values is not np.zeros else np.zeros(shape)
    return np.asarray(drawn, spec.dtype)
