"""Segments of a model: models that run one after the other and compute the values of the whole one.

A session holds every output from its computation to the end of the run. Where many inner values are outputs,
segments bound this memory: what one has given can be used and dropped before the next one runs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import onnx_ir as ir

from onnxq.graph.edit import values_read


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive nodes of a model, as a model of their own.

    inputs   values that it takes: inputs of the whole model, and outputs of earlier segments
    outputs  wanted values, and those that later segments take
    """

    model: ir.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def split(model: ir.Model, wanted: Mapping[str, int], most: int) -> list[Segment]:
    """Split a model between nodes of its main graph; the given model is not modified.

    Args:
        model: a model whose nodes are sorted.
        wanted: values of the main graph, with their bytes.
        most: bytes of the wanted values of a segment; a single node may give more.
    """
    flow = _Flow.of(model)
    given = [sum(wanted.get(name, 0) for name in names) for names in flow.made]
    starts = [0, *_cuts(given, _crossing(flow, wanted), most)]
    stops = [*starts[1:], len(given)]
    return [
        _segment(model, flow, range(start, stop), wanted) for start, stop in zip(starts, stops, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Flow:
    """Names of the values that pass between the nodes of a main graph.

    read   by node, the values that it reads, constants among them
    made   by node, its results
    maker  number of the node that makes a value
    last   number of the last node that reads a value
    solid  results that are tensors of a known type
    """

    read: list[list[str]]
    made: list[list[str]]
    maker: dict[str, int]
    last: dict[str, int]
    solid: set[str]

    @staticmethod
    def of(model: ir.Model) -> "_Flow":
        nodes = list(model.graph)
        read = [[value.name or "" for value in values_read(node) if value is not None] for node in nodes]
        made = [[value.name for value in node.outputs if value.name] for node in nodes]
        return _Flow(
            read,
            made,
            {name: number for number, names in enumerate(made) for name in names},
            {name: number for number, names in enumerate(read) for name in names},
            {
                value.name or ""
                for node in nodes
                for value in node.outputs
                if isinstance(value.type, ir.TensorType) and value.dtype != ir.DataType.UNDEFINED
            },
        )


def _crossing(flow: _Flow, wanted: Collection[str]) -> list[int]:
    """Count the values that no one wants and that pass a cut in front of each node; -1 where none can be."""
    unwanted, barred = ([0] * (len(flow.made) + 1) for _ in range(2))
    for name, start in flow.maker.items():
        stop = flow.last.get(name, start)
        for steps, applies in ((unwanted, name not in wanted), (barred, name not in flow.solid)):
            steps[start + 1] += applies
            steps[stop + 1] -= applies
    return [-1 if bar else count for count, bar in zip(accumulate(unwanted), accumulate(barred), strict=True)]


def _cuts(given: Sequence[int], crossing: Sequence[int], most: int) -> list[int]:
    """Return the numbers of the nodes in front of which the model is cut.

    Each cut is where the fewest further values cross it, in the second half of a segment of `most` bytes.
    """
    cuts, start, filled = list[int](), 0, 0
    for number, size in enumerate(given):
        if filled and filled + size > most:
            best = _best_cut(given[start:number], crossing[start : number + 1])
            if best:
                start += best
                cuts.append(start)
                filled = sum(given[start:number])
        filled += size
    return cuts


def _best_cut(given: Sequence[int], crossing: Sequence[int]) -> int:
    """Return where to cut nodes that give these bytes: 1 to their number, or 0 if nowhere."""
    before, half = 0, sum(given) / 2
    found = list[int]()
    for number, size in enumerate(given, start=1):
        before += size
        if before >= half and crossing[number] >= 0:
            found.append(number)
    return min(found, key=lambda number: (crossing[number], -number), default=0)


def _segment(model: ir.Model, flow: _Flow, numbers: range, wanted: Collection[str]) -> Segment:
    """Copy nodes of a model to a model of their own."""
    copy = model.clone()
    graph, nodes = copy.graph, list(copy.graph)
    read = dict.fromkeys(name for number in numbers for name in flow.read[number])
    outputs = [
        value
        for number in numbers
        for value in nodes[number].outputs
        if value.name in wanted or flow.last.get(value.name or "", -1) >= numbers.stop
    ]
    graph.outputs.clear()
    # values from outside become inputs
    values = {value.name: value for node in nodes[: numbers.start] for value in node.outputs}
    inputs = [value for value in graph.inputs if value.name in read or value.name in graph.initializers]
    for name in [name for name in read if name in values]:
        old = values[name]
        inputs.append(ir.Value(name=name, type=old.type, shape=old.shape))
        ir.convenience.replace_all_uses_with(old, inputs[-1])
    # the rest goes
    graph.remove([*nodes[: numbers.start], *nodes[numbers.stop :]])
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.outputs.extend(outputs)
    for name in [name for name in graph.initializers if name not in read]:
        del graph.initializers[name]
    taken = tuple(value.name or "" for value in inputs if value.name not in graph.initializers)
    return Segment(copy, taken, tuple(value.name or "" for value in outputs))
