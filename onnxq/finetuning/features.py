"""Inner values of the float model that the quantized model is trained to follow, besides the outputs.

Outputs alone say little: a few hundred samples of a few values each are learned by heart. Values at the ends
of blocks say much more (A. Romero et al., "FitNets", ICLR 2015; Y. Li et al., "BRECQ", ICLR 2021).
"""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxq.finetuning.backward import data_dependent
from onnxq.graph.macs import ShapeByName, node_macs

MOST_FEATURES = 8
"""Inner values that are compared: one in each part of the graph with the same number of MACs."""


def find_features(model: ir.Model, known: Collection[str], shapes: ShapeByName) -> list[str]:
    """Return the names of inner values to compare: in each part of the graph the narrowest place.

    Args:
        model: the float model, of one sample.
        known: names of values that may be compared.
        shapes: static shapes of its values.
    """
    nodes = list(model.graph)
    macs = [node_macs(node, shapes) for node in nodes]
    total, widths, done = max(1, sum(macs)), _widths(model, nodes), 0
    best: dict[int, tuple[int, int, str]] = {}
    for number, node in enumerate(nodes):
        done += macs[number]
        for value in node.outputs:
            shape = shapes.get(value.name or "")
            if (
                value.name not in known
                or value.is_graph_output()
                or not shape
                or len(shape) < 2
                or shape[0] != 1
            ):
                continue
            part = min(MOST_FEATURES - 1, MOST_FEATURES * done // total)
            # the last one of the narrowest
            found = widths[number], -number, value.name or ""
            best[part] = min(best.get(part, found), found)
    return [name for _, _, name in (best[part] for part in sorted(best))]


def _widths(model: ir.Model, nodes: Sequence[ir.Node]) -> list[int]:
    """Return how many computed values are still needed behind each node."""
    computed, places = data_dependent(model), {node: number for number, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 1)
    for node in nodes:
        for value in node.outputs:
            uses = [places.get(use.node, len(nodes)) for use in value.uses()]
            last = len(nodes) if value.is_graph_output() else max(uses, default=0)
            if value in computed and last > places[node]:
                changes[places[node]] += 1
                changes[last] -= 1
    widths, width = [], 0
    for change in changes[:-1]:
        width += change
        widths.append(width)
    return widths
