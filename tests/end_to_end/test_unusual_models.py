"""Valid models of unusual form, through every mode: the same interface, and outputs close to float."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.graph.files import load
from onnxq.graph.interface import Interface
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse

MODES = {
    "static": {},
    "qoperator": {"format": onnxq.Format.QOPERATOR, "skip_slow_nodes": False},
    "dynamic": {"mode": onnxq.Mode.DYNAMIC},
    "weights": {"mode": onnxq.Mode.WEIGHTS, "weight_type": onnxq.WeightType.INT8},
    "fp16": {"mode": onnxq.Mode.FP16},
}
TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
CHAIN = "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)"


def matrices(*names):
    random = np.random.default_rng(3)
    return {name: random.normal(size=(64, 64)).astype(np.float32) / 8 for name in names}


def rows(rng, **more):
    return [{"x": normal(rng, 5, 64), **{name: make() for name, make in more.items()}} for _ in range(32)]


def without_shape(model, *names):
    for value in (*model.graph.input, *model.graph.output):
        if value.name in names:
            value.type.tensor_type.ClearField("shape")
    return model


def zip_map(rng):
    text = "g (float[M,64] x) => (int64[M] label, float y) { h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) p = Softmax(z) label = ArgMax<axis=1, keepdims=0>(p) y = ai.onnx.ml.ZipMap<classlabels_int64s=[0,1,2]>(p) }"
    model = parse(text, matrices("w") | {"v": matrices("v")["v"][:, :3].copy()}, opset=11, ir_version=6)
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    kind = helper.make_map_type_proto(TensorProto.INT64, TENSOR)
    model.graph.output[1].CopyFrom(helper.make_value_info("y", helper.make_sequence_type_proto(kind)))
    return model, rows(rng), []


def named_classes(rng):
    model, feeds, _ = zip_map(rng)
    model.graph.node[-1].CopyFrom(
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"])
    )
    model.graph.output[1].type.sequence_type.elem_type.map_type.key_type = TensorProto.STRING
    model.graph.node.append(
        helper.make_node(
            "LabelEncoder",
            ["label"],
            ["name"],
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=["a", "b", "c"],
        )
    )
    model.opset_import[1].version = 2
    model.graph.output.append(helper.make_tensor_value_info("name", TensorProto.STRING, ["M"]))
    return model, feeds, []


def sequence(rng):
    model = parse(
        "g (float[M,64] x) => (float s) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) s = SplitToSequence<axis=1>(y, k) }",
        matrices("w", "v") | {"k": np.int64(16)},
    )
    model.graph.output[0].CopyFrom(helper.make_value_info("s", helper.make_sequence_type_proto(TENSOR)))
    return model, rows(rng), []


def no_shape(rng):
    return (
        without_shape(
            parse(f"g (float[M,64] x) => (float[M,64] y) {{ {CHAIN} }}", matrices("w", "v")), "x", "y"
        ),
        rows(rng),
        [],
    )


def no_shape_in_an_old_model(rng):
    model = parse(
        f"g (float[M,64] x) => (float[M,64] y) {{ {CHAIN} }}", matrices("w", "v"), opset=9, ir_version=4
    )
    return without_shape(model, "x", "y"), rows(rng), []


def input_as_output(rng):
    text = "g (float[M,64] x, float[M,64] k) => (float[M,64] y, float[M,64] k) { h = MatMul(x, w) m = Add(h, k) r = Relu(m) y = MatMul(r, v) }"
    return parse(text, matrices("w", "v")), rows(rng, k=lambda: normal(rng, 5, 64)), []


def default_of_an_input(rng):
    text = "g (float[M,64] x, float hi) => (float[M,64] y) { h = MatMul(x, w) r = Clip(h, lo, hi) y = MatMul(r, v) }"
    model = parse(text, matrices("w", "v") | {"lo": np.float32(0), "hi": np.float32(6)})
    return model, rows(rng), [{"x": normal(rng, 5, 64), "hi": np.array(0.5, np.float32)}]


def default_of_a_bias_in_an_old_model(rng):
    text = "g (float[M,64] x, float[64] b) => (float[M,64] y) { h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v) }"
    model = parse(text, matrices("w", "v") | {"b": np.zeros(64, np.float32)}, opset=11, ir_version=6)
    return model, rows(rng), [{"x": normal(rng, 5, 64), "b": 3 * normal(rng, 64)}]


def sparse_weight(rng):
    model, dense = (
        parse(f"g (float[M,64] x) => (float[M,64] y) {{ {CHAIN} }}", matrices("v")),
        matrices("w")["w"],
    )
    dense[rng.random(dense.shape) < 0.7] = 0
    found = model.graph.sparse_initializer.add(dims=dense.shape)
    found.values.CopyFrom(numpy_helper.from_array(dense[dense != 0], "w"))
    found.indices.CopyFrom(numpy_helper.from_array(np.flatnonzero(dense), "w_indices"))
    return model, rows(rng), []


def long_domain(rng):
    model = parse(f"g (float[M,64] x) => (float[M,64] y) {{ {CHAIN} }}", matrices("w", "v"))
    for part in (*model.opset_import, *model.graph.node):
        part.domain = "ai.onnx"
    return model, rows(rng), []


def leading_axis_of_a_weight(rng):
    weights = {name: array[None] for name, array in matrices("w", "v").items()}
    model = parse(f"g (float[B,5,64] x) => (float[B,5,64] y) {{ {CHAIN} }}", weights)
    return model, [{"x": normal(rng, 2, 5, 64)} for _ in range(32)], []


def linear_upsample(rng):
    text = 'g (float[1,64,9,9] x) => (float[1,64,18,18] y) { h = Conv<pads=[1,1,1,1]>(x, w) u = Upsample<mode="linear">(h, k) t = Transpose<perm=[0,2,3,1]>(u) z = MatMul(t, v) y = Transpose<perm=[0,3,1,2]>(z) }'
    constants = {"w": normal(rng, 64, 64, 3, 3) / 24, "k": np.float32([1, 1, 2, 2])} | matrices("v")
    model = parse(text, constants, opset=9, ir_version=4)
    return model, [{"x": normal(rng, 1, 64, 9, 9)} for _ in range(32)], []


CASES = [zip_map, named_classes, sequence, no_shape, no_shape_in_an_old_model, input_as_output, default_of_an_input, default_of_a_bias_in_an_old_model, sparse_weight, long_domain, leading_axis_of_a_weight, linear_upsample]  # fmt: skip


def arrays(values):
    for value in values:
        if isinstance(value, list):
            yield from arrays(value)
        elif isinstance(value, dict):
            yield np.array(list(value.values()))
        else:
            yield np.asarray(value)


def compare(source: Path, written: Path, feeds, error=0.05):
    sessions = [open_session(source), open_session(written), open_session(written, optimize=False)]
    for names in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        described = [[(p.name, p.type, p.shape) for p in getattr(session, names)()] for session in sessions]
        assert described[0] == described[1] == described[2]
    for feed in feeds:
        wanted, *found = [list(arrays(session.run(None, feed))) for session in sessions]
        for other in found:
            for a, b in zip(wanted, other, strict=True):
                assert a.shape == b.shape
                if a.dtype.kind == "f":
                    assert np.square(a - b).mean() <= error**2 * np.square(a).mean()


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_valid_model_of_unusual_form(make, mode, rng, tmp_path):
    model, feeds, further = make(rng)
    source, written = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    (tmp_path / "calib").mkdir()
    for i, feed in enumerate(feeds):
        np.savez(tmp_path / "calib" / f"{i:03}.npz", **feed)
    report = onnxq.quantize(source, tmp_path / "calib", written, **MODES[mode])
    assert report.planned or mode == "fp16"
    assert Interface.of(load(source)).inputs == Interface.of(load(written)).inputs
    assert [value.type.WhichOneof("value") for value in onnx.load(written).graph.output] == [
        value.type.WhichOneof("value") for value in model.graph.output
    ]
    compare(source, written, feeds[:4])
    compare(source, written, further, error=0.08)  # a bound of 0.5 instead of 6 makes the signal smaller


@pytest.mark.parametrize("weight_type", ["int8", "int4"])
def test_standard_weights_in_bodies(weight_type, rng, tmp_path):
    """Both bodies have one name, and read one weight."""
    branch = "{name} = t () => (float[5,64] {out}) {{ p{out} = MatMul(s, w) {out} = Tanh(p{out}) }}"
    branches = ", ".join(
        branch.format(name=name, out=out) for name, out in (("then_branch", "a"), ("else_branch", "b"))
    )
    text = f"""g (float[5,64] x, int64 n, bool c) => (float[5,64] y) {{ go = Constant<value = bool {{1}}>() s = MatMul(x, w)
        i = If (c) <{branches}>
        y = Loop (n, go, i) <body = t (int64 k, bool ci, float[5,64] z) => (bool co, float[5,64] u)
            {{ co = Identity(ci) pu = MatMul(z, w) u = Tanh(pu) }}> }}"""
    source, written = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(parse(text, matrices("w")), source)
    options = {"mode": onnxq.Mode.WEIGHTS, "weight_type": onnxq.WeightType(weight_type), "standard": True}
    report = onnxq.quantize(source, None, written, **options)
    assert report.planned == 4
    assert "com.microsoft" not in {node.domain for node in load(written).graph.all_nodes()}
    sessions = [open_session(source), open_session(written)]
    for c in (True, False):
        feed = {"x": normal(rng, 5, 64), "n": np.array(2), "c": np.array(c)}
        (a,), (b,) = (session.run(None, feed) for session in sessions)
        assert np.square(a - b).mean() <= (0.05 if weight_type == "int8" else 0.25) ** 2 * np.square(a).mean()


def test_weights_that_a_caller_may_replace_are_refused_in_one_line(rng, tmp_path):
    model = parse(
        f"g (float[M,64] x, float[64,64] w, float[64,64] v) => (float[M,64] y) {{ {CHAIN} }}",
        matrices("w", "v"),
    )
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "calib").mkdir()
    for i, feed in enumerate(rows(rng)):
        np.savez(tmp_path / "calib" / f"{i}.npz", **feed)
    with pytest.raises(
        onnxq.OnnxqError, match=r"nothing to quantize: .* depends on 'w', an input with a default"
    ):
        onnxq.quantize(tmp_path / "m.onnx", tmp_path / "calib", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_what_the_runtime_refuses_is_said_in_its_own_words(rng, tmp_path):
    """Resizing chosen axes by a policy has no form over all axes, and the runtime cannot move a Transpose past it."""
    text = 'g (float[1,16,8,9] x) => (float y) { h = Conv(x, w) p = Resize<mode="nearest", keep_aspect_ratio_policy="not_smaller", axes=[2,3]>(h, , , z) y = Conv(p, v) }'
    weights = {"w": normal(rng, 16, 16, 1, 1), "v": normal(rng, 16, 16, 1, 1), "z": np.int64([16, 15])}
    onnx.save(without_shape(parse(text, weights, opset=18), "y"), tmp_path / "m.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(32):
        np.savez(tmp_path / "calib" / f"{i:02}.npz", x=normal(rng, 1, 16, 8, 9))
    with pytest.raises(
        onnxq.OnnxqError, match=r"its int8 form cannot be used: .*onnxruntime .* cannot load it: .*Resize"
    ) as raised:
        onnxq.quantize(tmp_path / "m.onnx", tmp_path / "calib", tmp_path / "out.onnx", skip_slow_nodes=False)
    assert "\n" not in str(raised.value)
