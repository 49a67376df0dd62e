"""Faults of a model file that other libraries fail on with a traceback, a hang or a crash: one line each."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxq
from onnxq.errors import ModelError
from onnxq.graph.files import external_files, load
from onnxq.normalize.passes import normalize
from tests.conftest import normal, parse, runtime_outputs

TEXT = "g (float[M,8] x) => (float[M,8] y) { h=MatMul(x,w) r=Relu(h) y=MatMul(r,v) }"


def mlp(rng, text=TEXT, width=8):
    weights = {name: normal(rng, width, width) / np.float32(width**0.5) for name in "wv"}
    return parse(text.replace("8]", f"{width}]"), weights)


def with_functions(rng, functions, call="f.a0(h)"):
    header = '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'
    model = onnx.parser.parse_model(header + TEXT.replace("Relu(h)", call) + functions)
    model.graph.initializer.extend(mlp(rng).graph.initializer)
    return model


def function(name, body, inputs="x"):
    return f'<domain: "f", opset_import: ["" : 17, "f" : 1]> {name} ({inputs}) => (y) {{ {body} }} '


def chain(calls, levels):
    """Functions that each call the next one several times."""
    text = ""
    for level in range(levels):
        steps = [f"t{i + 1} = f.a{level + 1}({f't{i}' if i else 'x'})" for i in range(calls)]
        text += function(f"a{level}", f"{' '.join(steps)} y = Identity(t{calls})")
    return text + function(f"a{levels}", "y = Relu(x)")


def node(index, *, inputs=None, outputs=None):
    def damage(model):
        changed = model.graph.node[index]
        for field, values in ((changed.input, inputs), (changed.output, outputs)):
            if values is not None:
                field[:] = values

    return damage


def weight(**changes):
    def damage(model):
        for key, value in changes.items():
            if key == "dims":
                model.graph.initializer[0].dims[:] = value
            else:
                setattr(model.graph.initializer[0], key, value)

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (node(0, inputs=["r", "w"]), "its nodes form a cycle"),
        (node(1, inputs=["r"]), "its nodes form a cycle"),
        (node(0, inputs=["nothing", "w"]), "MatMul '' takes 'nothing', which nothing gives"),
        (node(1, outputs=["h"]), "not an ONNX model, or truncated"),
        (weight(dims=[8, 9]), "weight 'w' has the shape [8, 9], but 256 bytes"),
        (weight(dims=[-8, 8]), "weight 'w' has the shape [-8, 8]"),
        (weight(dims=[1 << 60, 8]), "weight 'w' has the shape"),
        (weight(data_type=99), "weight 'w' has the unknown type 99"),
        (weight(data_type=0), "weight 'w' has the unknown type 0"),
        (weight(data_type=TensorProto.STRING), "weight 'w' has the shape [8, 8], but 0"),
        (weight(raw_data=b""), "weight 'w' has the shape [8, 8], but 0"),
    ],
)
def test_damage_is_named(rng, tmp_path, damage, says):
    model = mlp(rng)
    damage(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=re.escape(says)):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        (function("a0", "y = f.a0(x)"), "function 'a0' of domain 'f' calls itself"),
        (function("a0", "y = f.b(x)") + function("b", "y = f.a0(x)"), "calls itself"),
        (function("a0", "p = Add(x, q) q = Relu(p) y = Relu(q)"), "its nodes form a cycle"),
        (chain(10, 8), "its functions expand to 111111113 nodes"),
        (chain(2, 40), "its functions expand to"),
        (chain(1, 300), "301 calls deep"),
    ],
)
def test_functions_without_bounds_are_refused(rng, tmp_path, functions, says):
    onnx.save(with_functions(rng, functions), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=says):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize(("calls", "levels", "relus"), [(10, 2, 100), (1, 60, 1)])
def test_functions_within_bounds_are_inlined(rng, tmp_path, calls, levels, relus):
    onnx.save(with_functions(rng, chain(calls, levels)), tmp_path / "m.onnx")
    model = normalize(load(tmp_path / "m.onnx"))
    assert sum(node.op_type == "Relu" for node in model.graph) == relus


def test_a_function_that_cannot_be_inlined_is_refused(rng, tmp_path):
    model = with_functions(rng, function("a0", "y = Relu(x)"), "f.a0(h, h)")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="functions cannot be inlined"):
        normalize(load(tmp_path / "m.onnx"))


def test_nodes_in_any_order_are_sorted(rng, tmp_path):
    model = mlp(rng, width=64)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    onnx.save(model, tmp_path / "m.onnx")
    assert [node.op_type for node in load(tmp_path / "m.onnx").graph] == ["MatMul", "Relu", "MatMul"]
    onnxq.quantize(tmp_path / "m.onnx", None, tmp_path / "o.onnx", mode=onnxq.Mode.WEIGHTS)
    feeds = {"x": normal(rng, 3, 64)}
    float_y, y = (runtime_outputs(tmp_path / name, feeds)[0] for name in ("m.onnx", "o.onnx"))
    assert np.abs(y - float_y).max() < 0.2 * np.abs(float_y).max()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"offset": "-5"}, "the offset '-5'"),
        ({"offset": "abc"}, "the offset 'abc'"),
        ({"offset": "9" * 20}, "it is truncated"),
        ({"offset": "4"}, "it is truncated"),
        ({"length": "-1"}, "the length '-1'"),
        ({"length": "5"}, "needs 256 bytes, and its external data has 5"),
        ({"location": ""}, "names no file"),
        ({"location": None}, "names no file"),
        ({"location": "."}, "is missing"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "other.bin"}, "is missing"),
    ],
)
def test_bad_external_data_is_named(rng, tmp_path, entries, says):
    model = mlp(rng)
    tensor = model.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": "0", "length": "256"} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=re.escape(says)):
        load(tmp_path / "m.onnx")
    external_files(tmp_path / "m.onnx")  # called before a model is loaded


def test_a_model_that_the_runtime_refuses_is_blamed_itself(rng, tmp_path):
    model = mlp(rng, TEXT.replace("Relu(h)", "Concat(h)"), width=64)  # without its axis
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime .* cannot load it"):
        onnxq.quantize(tmp_path / "m.onnx", None, tmp_path / "o.onnx", mode=onnxq.Mode.WEIGHTS)
    assert not (tmp_path / "o.onnx").exists()


def test_folding_computes_no_value_far_larger_than_the_weights(rng, tmp_path):
    text = """g (float[M,8] x) => (float[M,8] y) {
        h=MatMul(x,w) s=ConstantOfShape(size) t=ReduceSum(s) u=Add(h,t) y=MatMul(u,v) }"""
    model = mlp(rng, text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([50_000, 20_000]), "size"))
    onnx.save(model, tmp_path / "m.onnx")
    assert "ConstantOfShape" in {node.op_type for node in normalize(load(tmp_path / "m.onnx")).graph}


def test_names_that_are_no_text_and_attributes_without_a_type_are_refused(rng, tmp_path):
    content = mlp(rng, TEXT.replace("Relu(h)", "LeakyRelu<alpha=0.5>(h)")).SerializeToString()
    for found, instead, says in (
        (b"LeakyRelu", b"Leaky\xff\xfelu", "no text"),
        (
            b"alpha\x15\x00\x00\x00\x3f\xa0\x01\x01",
            b"alpha\x15\x00\x00\x00\x3f\xa0\x01\x00",
            "'alpha' of LeakyRelu has no type",
        ),
    ):
        assert found in content
        (tmp_path / "m.onnx").write_bytes(content.replace(found, instead))
        with pytest.raises(ModelError, match=says):
            load(tmp_path / "m.onnx")


def test_a_message_is_one_line_whatever_a_name_holds(rng, tmp_path):
    model = mlp(rng)
    node(0, inputs=["two\nlines\x1b[31m", "w"])(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError) as raised:
        load(tmp_path / "m.onnx")
    assert str(raised.value).endswith(r"takes 'two\nlines\x1b[31m', which nothing gives")
