"""A graph that runs from node to node over many samples: what lies behind is computed once and kept."""

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import onnxruntime as ort

from onnxq.graph.edit import tidy, values_read
from onnxq.runtime.sessions import open_fake_quantized, open_session, run
from onnxq.types import Array, Feeds


class Frontier:
    """The values of a graph in front of one of its nodes, for each of some samples.

    model      the model
    feeds      its inputs, by sample
    quantized  whether it has Q/DQ nodes, which round in float
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds], *, quantized: bool) -> None:
        self.model, self.feeds, self.quantized = model, feeds, quantized
        self._nodes = list(model.graph)
        self._places = {node.name: number for number, node in enumerate(self._nodes)}
        self._computed: dict[str, int] = {}
        reached = set(model.graph.inputs)
        for number, node in enumerate(self._nodes):
            if not reached.isdisjoint(values_read(node)):
                reached.update(node.outputs)
                self._computed |= {value.name or "": number for value in node.outputs}
        self._kept: list[dict[str, Array]] = [{} for _ in feeds]

    def live(self, node: str | None) -> list[str]:
        """Return the names of the computed values in front of a node that it or later nodes read."""
        place = self._places[node]
        read = (value.name or "" for later in self._nodes[place:] for value in values_read(later) if value)
        return [name for name in dict.fromkeys(read) if self._computed.get(name, place) < place]

    def moved(
        self, node: str | None, names: Sequence[str], fed: Mapping[str, Array] | None = None
    ) -> Iterator[dict[str, Array]]:
        """Move on to a node, and yield the named values of each sample; they may lie behind the node.

        Args:
            node: name of the node.
            names: the values wanted.
            fed: inputs that are the same for all samples.
        """
        live = self.live(node)
        wanted = [name for name in dict.fromkeys([*live, *names]) if name not in self._kept[0]]
        session = self._session(wanted) if wanted else None
        given = [value.name for value in session.get_inputs()] if session is not None else []
        for number, sample in enumerate(self.feeds):
            found = self._kept[number]
            if session is not None:
                feeds = {**sample, **(fed or {}), **found}
                arrays = run(session, {name: feeds[name] for name in given}, "a sample", wanted)
                found = found | dict(zip(wanted, arrays, strict=True))
            yield {name: found[name] for name in names}
            self._kept[number] = {name: found[name] for name in live}

    def _session(self, wanted: Sequence[str]) -> ort.InferenceSession:
        """Open the part of the graph that computes values from those kept."""
        copy = self.model.clone()
        values = {value.name: value for node in copy.graph for value in node.outputs}
        outputs = [values[name] for name in wanted]
        for name, array in self._kept[0].items():
            value = values[name]
            value.name = f"{name}_before"
            given = ir.Value(
                name=name,
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                shape=ir.Shape(self._common_shape(name)),
            )
            ir.convenience.replace_all_uses_with(value, given)
            copy.graph.inputs.append(given)
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(outputs)
        tidy(copy)
        for value in [each for each in copy.graph.inputs if not each.uses()]:
            copy.graph.inputs.remove(value)
        for node in copy.graph:
            for value in node.outputs:
                value.shape = None
        return open_fake_quantized(copy) if self.quantized else open_session(copy)

    def _common_shape(self, name: str) -> list[int | None]:
        """Return the sizes of a kept value, None where they differ between samples.

        The runtime refuses the sizes of a Resize, for one, if it does not know how many they are.
        """
        shapes = zip(*(kept[name].shape for kept in self._kept), strict=True)
        return [sizes[0] if len(set(sizes)) == 1 else None for sizes in shapes]
