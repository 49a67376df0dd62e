"""Nodes that draw random numbers draw the same ones in every session that is opened here: outputs can be compared, results repeat."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from onnxq.graph.edit import nodes_of

DRAWING = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
SEED = 1.0


def drawing(model: ir.Model) -> list[ir.Node]:
    """The nodes whose numbers differ from session to session."""
    return [
        node
        for node in nodes_of(model)
        if node.op_type in DRAWING and node.domain in ("", "ai.onnx") and "seed" not in node.attributes
    ]


def may_draw(path: Path) -> bool:
    """Whether a model file names such an operator anywhere; cheap, and seldom wrong."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(
            content.find(name.encode()) >= 0
            for name in ("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform")
        )


@contextmanager
def seeded(model: ir.Model) -> Iterator[None]:
    """The model with a seed at each of them, within the block."""
    nodes = drawing(model)
    for node in nodes:
        node.attributes["seed"] = ir.AttrFloat32("seed", SEED)
    try:
        yield
    finally:
        for node in nodes:
            del node.attributes["seed"]
