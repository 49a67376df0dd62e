"""What a line of the checklist is, and what its models are made of."""

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
    """A model with its samples, and what must come out.

    kernels  integer kernels that must run, least numbers
    error    root mean square error of the int8 file / that of the float values
    step     largest difference between optimized and as written / largest float value
    says     part of the one line, where the model is refused
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


def line(number: int, what: str) -> Callable[[Maker], Maker]:
    def add(maker: Maker) -> Maker:
        LINES.append((f"{number:02} {what}", maker))
        return maker

    return add


def images(rng: np.random.Generator, *shape: int, name: str = "x") -> list[Feeds]:
    return [{name: normal(rng, *shape)} for _ in range(SAMPLES)]


def conv_weights(rng: np.random.Generator, *names: str) -> dict[str, Array]:
    return {name: 0.3 * normal(rng, 4, 4, 3, 3) for name in names}


def cnn(
    rng: np.random.Generator,
    body: str,
    kernels: int,
    *,
    extra: dict[str, Array] | None = None,
    **more: object,
) -> Case:
    """A model over x [N,4,8,8] whose text uses the weights w1, w2, w3 and the bias b."""
    constants = conv_weights(rng, "w1", "w2", "w3") | {"b": normal(rng, 4)} | (extra or {})
    used = {name: array for name, array in constants.items() if name in (extra or {}) or f" {name}" in body}
    head = "g (float[N,4,8,8] x) => (float[N,4,8,8] y) {" if "=>" not in body else "g "
    model = parse(head + body + (" }" if "=>" not in body else ""), used, opset=int(more.pop("opset", 17)))  # type: ignore[call-overload]
    return Case(model, images(rng, 1, 4, 8, 8), {"QLinearConv": kernels}, **more)  # type: ignore[arg-type]


def gemm(
    rng: np.random.Generator,
    text: str,
    shapes: dict[str, tuple[int, ...]],
    kernels: dict[str, int],
    **more: object,
) -> Case:
    model = parse(
        "g (float[5,8] x) => (float[5,4] y) { " + text + " }",
        {name: normal(rng, *shape) for name, shape in shapes.items()},
    )
    return Case(model, images(rng, 5, 8), kernels, **more)  # type: ignore[arg-type]
