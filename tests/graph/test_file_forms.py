"""Forms of the format that onnx_ir does not read become equivalent ones when a file is loaded."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import ModelError
from onnxq.graph.files import load, save
from onnxq.graph.interface import Interface
from tests.conftest import normal, parse, run, runtime_outputs

MLP = "g (float[M,8] x) => (float[M,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"


def sparse(dense, name="", *, by_axis=False):
    at = np.flatnonzero(dense)
    indices = np.stack(np.unravel_index(at, dense.shape), axis=1) if by_axis else at
    found = onnx.SparseTensorProto(dims=dense.shape)
    found.values.CopyFrom(numpy_helper.from_array(dense.ravel()[at], name))
    found.indices.CopyFrom(numpy_helper.from_array(indices, f"{name}_indices"))
    return found


def pruned(rng):
    dense = normal(rng, 8, 8)
    dense[rng.random(dense.shape) < 0.7] = 0
    return dense


def same_as_the_runtime(path, model, feeds):
    onnx.save(model, path)
    for a, b in zip(runtime_outputs(path, feeds), run(load(path), feeds), strict=True):
        assert np.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("by_axis", [False, True])
def test_a_sparse_initializer_becomes_dense(rng, tmp_path, by_axis):
    model, dense = parse(MLP, {"v": normal(rng, 8, 8)}), pruned(rng)
    model.graph.sparse_initializer.append(sparse(dense, "w", by_axis=by_axis))
    same_as_the_runtime(tmp_path / "m.onnx", model, {"x": normal(rng, 3, 8)})
    assert np.array_equal(load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy(), dense)


def test_a_sparse_constant_in_a_body_becomes_dense(rng, tmp_path):
    text = """g (float[M,8] x, bool c) => (float[M,8] y) {
        y = If (c) <then_branch = t () => (float[M,8] p) { p = MatMul(x, k) },
                    else_branch = e () => (float[M,8] q) { q = Neg(x) }> }"""
    model = parse(text)
    body = model.graph.node[0].attribute[0].g
    body.node.insert(0, helper.make_node("Constant", [], ["k"], sparse_value=sparse(pruned(rng))))
    same_as_the_runtime(tmp_path / "m.onnx", model, {"x": normal(rng, 3, 8), "c": np.array(True)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: s.dims.__setitem__(0, 2),
            r"sparse weight 'w' has indices that do not fit its shape \[2, 8\]",
        ),
        (lambda s: s.dims.__setitem__(0, 1 << 40), "has 8796093022208 values when dense"),
        (lambda s: s.values.ClearField("raw_data"), "sparse weight 'w' cannot be read"),
    ],
)
def test_a_wrong_sparse_tensor_is_refused(rng, tmp_path, change, says):
    model = parse(MLP, {"v": normal(rng, 8, 8)})
    model.graph.sparse_initializer.append(sparse(pruned(rng), "w"))
    change(model.graph.sparse_initializer[0])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=says):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("both", [False, True])
def test_the_long_name_of_the_standard_domain_becomes_the_short_one(rng, tmp_path, both):
    model = parse(MLP, {"w": normal(rng, 8, 8), "v": normal(rng, 8, 8)})
    model.graph.node[1].domain = "ai.onnx"
    if both:
        model.opset_import.add(domain="ai.onnx", version=17)
    else:
        model.opset_import[0].domain = "ai.onnx"
    same_as_the_runtime(tmp_path / "m.onnx", model, {"x": normal(rng, 3, 8)})
    loaded = load(tmp_path / "m.onnx")
    assert dict(loaded.graph.opset_imports) == {"": 17}
    assert {node.domain for node in loaded.graph} == {""}


def with_map(rng):
    text = "g (float[M,8] x) => (float[M,8] h, float y) { h = MatMul(x, w) p = Softmax(h) y = ai.onnx.ml.ZipMap<classlabels_int64s = [0,1,2,3,4,5,6,7]>(p) }"
    model = parse(text, {"w": normal(rng, 8, 8)})
    model.opset_import.add(domain="ai.onnx.ml", version=2)
    kind = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    model.graph.output[1].CopyFrom(helper.make_value_info("y", helper.make_sequence_type_proto(kind)))
    return model


def test_a_written_file_has_the_map_type_of_an_output_again(rng, tmp_path):
    model = with_map(rng)
    onnx.save(model, tmp_path / "m.onnx")
    loaded = load(tmp_path / "m.onnx")
    assert loaded.graph.outputs[1].type is None
    save(loaded, tmp_path / "again.onnx", Interface.of(loaded))
    assert onnx.load(tmp_path / "again.onnx").graph.output[1].type == model.graph.output[1].type


def test_a_map_as_input_is_refused(rng, tmp_path):
    model = with_map(rng)
    model.graph.input.add(name="z").type.CopyFrom(model.graph.output[1].type.sequence_type.elem_type)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="input 'z' is a map"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("inside", ["graph", "body", "function"])
def test_external_data_of_constants_is_read(rng, tmp_path, inside):
    weight = numpy_helper.from_array(normal(rng, 8, 8))
    constant = helper.make_node("Constant", [], ["k"], value=weight)
    if inside == "function":
        header = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> '
        graph = "g (float[M,8] x) => (float[M,8] y) { y = my.f(x) } "
        function = '<domain: "my", opset_import: ["" : 17]> f (a) => (c) { c = MatMul(a, k) }'
        model = onnx.parser.parse_model(header + graph + function)
        model.functions[0].node.insert(0, constant)
    elif inside == "body":
        branches = "then_branch = t () => (float[M,8] p) { p = MatMul(x, k) }, else_branch = e () => (float[M,8] q) { q = Neg(x) }"
        model = parse(
            f"g (float[M,8] x) => (float[M,8] y) {{ y = If (c) <{branches}> }}", {"c": np.array(True)}
        )
        model.graph.node[0].attribute[0].g.node.insert(0, constant)
    else:
        model = parse("g (float[M,8] x) => (float[M,8] y) { y = MatMul(x, k) }")
        model.graph.node.insert(0, constant)
    feeds = {"x": normal(rng, 3, 8)}
    (wanted,) = run(model, feeds)
    place = constant if inside == "graph" else None
    for node in all_nodes(model):
        if node.op_type == "Constant":
            place = node
    tensor = place.attribute[0].t
    (tmp_path / "m.data").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "m.data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (found,) = run(load(tmp_path / "m.onnx"), feeds)
    assert np.array_equal(wanted, found)


def all_nodes(model):
    groups = [model.graph, *model.functions]
    groups += [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [node for group in groups for node in group.node]
