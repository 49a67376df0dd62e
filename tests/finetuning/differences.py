"""Gradients of a graph by its backward pass and by finite differences."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxq.finetuning.backward import append_gradients, measure
from onnxq.finetuning.tape import Tape
from onnxq.graph.edit import sort_nodes
from onnxq.normalize.passes import name_and_infer
from onnxq.runtime.sessions import open_session
from onnxq.types import Array, Feeds


def single(
    op_type: str,
    inputs: Mapping[str, Array],
    *,
    outputs: int = 1,
    opset: int = 17,
    domain: str = "",
    **attributes: object,
) -> onnx.ModelProto:
    """Return a model of one node; inputs whose name starts with `c` are constants."""
    names = list(inputs)
    results = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(
        op_type,
        ["" if each.startswith("none") else each for each in names],
        results,
        domain=domain,
        **attributes,
    )
    given = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
        if not name.startswith(("c", "none"))
    ]
    constants = [
        onnx.numpy_helper.from_array(array, name) for name, array in inputs.items() if name.startswith("c")
    ]
    graph = onnx.helper.make_graph(
        [node],
        "single",
        given,
        [
            onnx.helper.make_value_info(
                name, onnx.helper.make_tensor_type_proto(7 if op_type == "TopK" and name == "y1" else 1, None)
            )
            for name in results
        ],
        constants,
    )
    domains = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=domains, ir_version=8)


def gradients(
    model: onnx.ModelProto, feeds: Feeds, weights: list[Array]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the gradients of sum(output * weights) by the backward pass, and the frozen nodes."""
    form = name_and_infer(ir.serde.deserialize_model(model))
    measured = measure(form, feeds)
    tape = Tape(form, measured.shapes, measured.known)
    nodes = list(form.graph)
    parameters = [value for value in form.graph.inputs if feeds[value.name or ""].dtype == np.float32]
    seeds = {
        value: tape.constant(array)
        for value, array in zip(form.graph.outputs, weights, strict=True)
        if array is not None
    }
    found, frozen = append_gradients(tape, nodes, seeds, parameters)
    if not found:
        return {}, frozen
    form.graph.outputs.extend(found.values())
    sort_nodes(form)
    arrays = open_session(form, optimize=False, threads=1).run(
        [value.name for value in found.values()], feeds
    )
    return {value.name or "": array for value, array in zip(found, arrays, strict=True)}, frozen


def differences(
    model: onnx.ModelProto, feeds: Feeds, weights: list[Array], step: float = 1e-2
) -> dict[str, Array]:
    """Return the gradients of sum(output * weights) by central differences of second and fourth order."""
    session = open_session(ir.serde.deserialize_model(model), optimize=False, threads=1)

    def loss(changed: Feeds) -> float:
        outputs = session.run(None, changed)
        return sum(
            float((np.asarray(each, np.float64) * weight).sum())
            for each, weight in zip(outputs, weights, strict=True)
            if weight is not None
        )

    found = {}
    for name, array in feeds.items():
        if array.dtype != np.float32:
            continue
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            values = {}
            for k in (-2, -1, 1, 2):
                changed = array.copy()
                changed[index] += np.float32(k * step)
                values[k] = loss({**feeds, name: changed}), float(changed[index]) - float(array[index])
            near = (values[1][0] - values[-1][0]) / (values[1][1] - values[-1][1])
            far = (values[2][0] - values[-2][0]) / (values[2][1] - values[-2][1])
            gradient[index] = (4 * near - far) / 3
        found[name] = gradient
    return found


def largest_error(
    model: onnx.ModelProto, feeds: Feeds, *, step: float = 1e-2, used: int | None = None
) -> float:
    """Return the largest difference of both gradients, relative to the largest gradient of each input."""
    rng = np.random.default_rng(1)
    outputs = open_session(ir.serde.deserialize_model(model), optimize=False, threads=1).run(None, feeds)
    weights = [
        rng.normal(size=each.shape).astype(np.float32)
        if each.dtype == np.float32 and (used is None or i == used)
        else None
        for i, each in enumerate(outputs)
    ]
    own, frozen = gradients(model, feeds, weights)
    assert not frozen, frozen
    expected = differences(model, feeds, weights, step)
    worst = 0.0
    for name, array in expected.items():
        scale = max(float(np.abs(array).max()), 1e-3)
        found = own.get(name, np.zeros_like(array))
        assert found.shape == array.shape, name
        worst = max(worst, float(np.abs(found - array).max()) / scale)
    return worst
