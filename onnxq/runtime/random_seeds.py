"""Fixed seeds for random operators: all sessions draw the same numbers and give comparable outputs."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from onnxq.graph.edit import nodes_of

RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
SEED = 1.0


def unseeded_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the random nodes without a seed, whose numbers differ from session to session."""
    return [
        node
        for node in nodes_of(model)
        if node.op_type in RANDOM_OPERATORS
        and node.domain in ("", "ai.onnx")
        and "seed" not in node.attributes
    ]


def may_be_random(path: Path) -> bool:
    """Whether a model file contains the name of a random operator: a cheap test with rare false alarms."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(
            content.find(name.encode()) >= 0
            for name in ("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform")
        )


@contextmanager
def seeded(model: ir.Model) -> Iterator[None]:
    """Give each unseeded random node a seed within the block."""
    nodes = unseeded_nodes(model)
    for node in nodes:
        node.attributes["seed"] = ir.AttrFloat32("seed", SEED)
    try:
        yield
    finally:
        for node in nodes:
            del node.attributes["seed"]
