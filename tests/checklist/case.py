"""Lines of the checklist, and the parts that its models are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from onnxq.types import Array, Feeds
from tests.conftest import normal, parse

SAMPLES = 32
PAD = "<pads=[1,1,1,1]>"


@dataclass
class Case:
    """A model with its samples, and the expected result.

    kernels  integer kernels that must run, with their least counts
    error    bound of the int8 file's RMS error relative to the RMS of the float outputs
    step     bound of the difference that the runtime's optimizations make, relative to the largest value
    says     part of the one-line error, if the model must be refused
    options  options of `onnxq.quantize`
    after    a further check, called with the folder and the model
    """

    model: onnx.ModelProto
    feeds: list[Feeds]
    kernels: dict[str, int] = field(default_factory=dict)
    error: float = 0.1
    step: float = 0.02
    says: str | None = None
    options: dict[str, object] = field(default_factory=dict)
    after: Callable[[Path, onnx.ModelProto], None] | None = None


Maker = Callable[[np.random.Generator], Case]
LINES: list[tuple[str, Maker]] = []


def line(number: int, subject: str) -> Callable[[Maker], Maker]:
    """Register a maker of a case as a line of the checklist."""

    def add(maker: Maker) -> Maker:
        LINES.append((f"{number:02} {subject}", maker))
        return maker

    return add


def images(rng: np.random.Generator, *shape: int, name: str = "x") -> list[Feeds]:
    """Draw SAMPLES samples of one input."""
    return [{name: normal(rng, *shape)} for _ in range(SAMPLES)]


def conv_weights(rng: np.random.Generator, *names: str) -> dict[str, Array]:
    """Draw a Conv weight [4, 4, 3, 3] for each name."""
    return {name: 0.3 * normal(rng, 4, 4, 3, 3) for name in names}


def cnn(
    rng: np.random.Generator,
    body: str,
    kernels: int,
    *,
    extra: dict[str, Array] | None = None,
    **more: object,
) -> Case:
    """Make a case over x [N,4,8,8] from a text that may use the weights w1, w2, w3 and the bias b.

    `body` is the nodes alone, or a graph with its inputs and outputs; `more` are fields of Case, and `opset`.
    """
    constants = conv_weights(rng, "w1", "w2", "w3") | {"b": normal(rng, 4)} | (extra or {})
    used = {name: array for name, array in constants.items() if name in (extra or {}) or f" {name}" in body}
    head = "g (float[N,4,8,8] x) => (float[N,4,8,8] y) {" if "=>" not in body else "g "
    tail = " }" if "=>" not in body else ""
    model = parse(head + body + tail, used, opset=int(more.pop("opset", 17)))  # type: ignore[call-overload]
    return Case(model, images(rng, 1, 4, 8, 8), {"QLinearConv": kernels}, **more)  # type: ignore[arg-type]


def gemm(
    rng: np.random.Generator,
    text: str,
    shapes: dict[str, tuple[int, ...]],
    kernels: dict[str, int],
    **more: object,
) -> Case:
    """Make a case over x [5,8] with the output y [5,4] from the text of its nodes."""
    model = parse(
        "g (float[5,8] x) => (float[5,4] y) { " + text + " }",
        {name: normal(rng, *shape) for name, shape in shapes.items()},
    )
    return Case(model, images(rng, 5, 8), kernels, **more)  # type: ignore[arg-type]
