"""Bodies of If, Loop and Scan: their values are calibrated and their kernels are integer, in both formats."""

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import Selection, make_plan
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import open_session
from tests.conftest import Quantized, normal, parse, run, to_ir

both = pytest.mark.parametrize("qoperator", [False, True], ids=["qdq", "qoperator"])
PAD = "<pads=[1,1,1,1]>"

IF = f"""g (float[N,3,8,8] x, bool c) => (float[N,4,8,8] y) {{
    h = Conv{PAD}(x, w0)
    z = If (c) <
        then_branch = t () => (float[N,4,8,8] a) {{ p = Conv{PAD}(h, w1) r = Relu(p) a = Conv{PAD}(r, w2) }},
        else_branch = e () => (float[N,4,8,8] b) {{ q = Conv{PAD}(h, w2) b = Tanh(q) }}>
    k = Relu(h)
    y = Add(z, k) }}"""
LOOP = f"""g (float[1,4,8,8] x, int64 n) => (float[1,4,8,8] y, float[T,1,4,8,8] s) {{
    go = Constant<value = bool {{1}}>()
    y, s = Loop (n, go, x) <
        body = b (int64 i, bool cond_in, float[1,4,8,8] h)
            => (bool cond, float[1,4,8,8] next, float[1,4,8,8] seen)
            {{ cond = Identity(cond_in) c = Conv{PAD}(h, w1) r = Relu(c) d = Conv{PAD}(r, w2)
            next = Tanh(d) seen = Add(c, d) }}> }}"""
SCAN = """g (float[1,6] h0, float[T,1,5] x) => (float[1,6] h, float[T,1,6] s) {
    h, s = Scan<num_scan_inputs = 1,
        body = b (float[1,6] before, float[1,5] xi) => (float[1,6] after, float[1,6] seen)
            { p = MatMul(xi, wx) q = MatMul(before, wh) a = Add(p, q)
            after = Tanh(a) seen = Identity(after) }> (h0, x) }"""
NESTED = f"""g (float[1,4,8,8] x, int64 n) => (float[1,4,8,8] y) {{
    go = Constant<value = bool {{1}}>()
    one = Constant<value = int64 {{1}}>()
    y = Loop (n, go, x) <
        body = b (int64 i, bool cond_in, float[1,4,8,8] h) => (bool cond, float[1,4,8,8] next) {{
            cond = Identity(cond_in)
            odd = Mod(i, two) isodd = Equal(odd, one)
            m = If (isodd) <
                then_branch = t () => (float[1,4,8,8] a) {{ p = Conv{PAD}(h, w1) a = Conv{PAD}(p, w2) }},
                else_branch = e () => (float[1,4,8,8] b) {{ b = Conv{PAD}(x, w2) }}>
            next = Tanh(m) }}> }}"""


def convs(rng):
    return {
        "w0": 0.3 * normal(rng, 4, 3, 3, 3),
        "w1": 0.3 * normal(rng, 4, 4, 3, 3),
        "w2": 0.3 * normal(rng, 4, 4, 3, 3),
    }


def integer_kernels(quantized, tmp_path):
    saved = tmp_path / "optimized.onnx"
    open_session(quantized.model, save_optimized=saved)
    found = []

    def walk(graph):
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(onnx.load_model(saved, load_external_data=False).graph)
    return found


@both
def test_if(rng, tmp_path, qoperator):
    feeds = [{"x": normal(rng, 1, 3, 8, 8), "c": np.array(i % 2 == 0)} for i in range(8)]
    quantized = Quantized(parse(IF, convs(rng)), feeds, qoperator=qoperator)
    error, difference = quantized.errors()
    assert error < 0.05
    assert difference < 0.02
    assert integer_kernels(quantized, tmp_path).count("QLinearConv") == 4


@both
def test_loop(rng, tmp_path, qoperator):
    feeds = [{"x": normal(rng, 1, 4, 8, 8), "n": np.array(3)} for _ in range(8)]
    quantized = Quantized(parse(LOOP, convs(rng)), feeds, qoperator=qoperator)
    error, difference = quantized.errors()
    assert error < 0.06
    assert difference < 0.03
    assert integer_kernels(quantized, tmp_path).count("QLinearConv") == 2


@both
def test_scan(rng, tmp_path, qoperator):
    feeds = [{"h0": np.zeros((1, 6), np.float32), "x": normal(rng, 7, 1, 5)} for _ in range(8)]
    model = parse(SCAN, {"wx": 0.4 * normal(rng, 5, 6), "wh": 0.4 * normal(rng, 6, 6)})
    quantized = Quantized(model, feeds, qoperator=qoperator)
    error, difference = quantized.errors()
    assert error < 0.05
    assert difference < 0.02
    kernels = integer_kernels(quantized, tmp_path)
    assert kernels.count("QGemm") + kernels.count("MatMulIntegerToFloat") == 2


def save(tmp_path, model, feeds):
    onnx.save_model(model, tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i, feed in enumerate(feeds):
        np.savez(tmp_path / "calib" / f"{i}.npz", **feed)


def test_an_if_in_a_loop_stays_float(rng, tmp_path):
    """Its values exist only in some iterations, so no scan output can stack them."""
    feeds = [{"x": normal(rng, 1, 4, 8, 8), "n": np.array(4)} for _ in range(8)]
    text = NESTED.replace("y = Loop", f"v = Conv{PAD}(x, w1) y = Loop").replace(
        "next = Tanh(m)", "next = Add(m, v)"
    )
    save(tmp_path, parse(text, convs(rng) | {"two": np.int64(2)}), feeds)
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib")
    assert report.kernels.counts["QLinearConv"] == 1
    assert any("iteration to iteration" in group.reason for group in report.floats)
    assert report.outputs.sqnr_db > 20


def test_an_if_file_is_right(rng, tmp_path):
    feeds = [{"x": normal(rng, 1, 3, 8, 8), "c": np.array(i % 3 == 0)} for i in range(24)]
    save(tmp_path, parse(IF, convs(rng)), feeds)
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "calib")
    assert report.kernels.counts["QLinearConv"] == 4
    assert report.kernels.integer_share == 1
    assert report.outputs.sqnr_db > 25


def test_values_of_bodies_are_shown(rng):
    model = normalize(to_ir(parse(NESTED, convs(rng) | {"two": np.int64(2)})))
    conv = next(v for graph in model.graphs() for node in graph for v in node.outputs if v.name == "p")
    exposed = expose(model, [conv.name])
    session = open_session(exposed.model)
    ((output, levels),) = exposed.outputs.values()
    assert levels == 1
    feeds = {"x": normal(rng, 1, 4, 8, 8), "n": np.array(1)}
    assert session.run([output], feeds)[0].size == 0  # the first iteration takes the other branch


def test_a_branch_that_is_always_taken_is_inlined(rng):
    text = IF.replace(", bool c)", ")").replace("h = Conv", "c = Constant<value = bool {1}>() h = Conv", 1)
    model = parse(text, convs(rng))
    feeds = {"x": normal(rng, 1, 3, 8, 8)}
    normalized = normalize(to_ir(model))
    assert "If" not in [node.op_type for node in normalized.graph]
    np.testing.assert_allclose(run(model, feeds)[0], run(normalized, feeds)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taken", [True, False])
def test_branches_that_give_an_outer_value_keep_what_stands_between(taken, rng):
    text = f"""g (float[N,3,8,8] x, bool c) => (float[N,4,8,8] y, float[N,4,8,8] z) {{
        h = Conv{PAD}(x, w0) z = Identity(h)
        y = If (c) <
            then_branch = t () => (float[N,4,8,8] a) {{ a = Identity(h) }},
            else_branch = e () => (float[N,4,8,8] b) {{ k = Identity(h) b = Identity(k) }}> }}"""
    model = parse(text, {"w0": normal(rng, 4, 3, 3, 3)})
    feeds = {"x": normal(rng, 2, 3, 8, 8), "c": np.array(taken)}
    before = run(model, feeds)
    normalized = normalize(to_ir(model))
    assert [value.name for value in normalized.graph.outputs] == ["y", "z"]
    for ours, theirs in zip(run(normalized, feeds), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def with_weights_as_states(
    text, states="wx, wh", taken="float[5,6] wx1, float[6,6] wh1", given="float[5,6] wx2, float[6,6] wh2"
):
    """Turn the weights of SCAN's recurrent cell into states that it passes from step to step."""
    text = text.replace("h, s = Scan", "h, u, v, s = Scan").replace("(h0, x) }", f"(h0, {states}, x) }}")
    text = text.replace("float[1,5] xi)", f"{taken}, float[1,5] xi)").replace(
        "float[1,6] after,", f"float[1,6] after, {given},"
    )
    return text.replace("(xi, wx)", "(xi, wx1) wx2 = Identity(wx1)").replace(
        "(before, wh)", "(before, wh1) wh2 = Identity(wh1)"
    )


def test_weights_that_are_states_of_a_loop_are_weights(rng, tmp_path):
    model = parse(
        with_weights_as_states(SCAN), {"wx": 0.4 * normal(rng, 5, 6), "wh": 0.4 * normal(rng, 6, 6)}
    )
    feeds = [{"h0": np.zeros((1, 6), np.float32), "x": normal(rng, 7, 1, 5)} for _ in range(8)]
    normalized = normalize(to_ir(model))
    for before, after in zip(run(model, feeds[0]), run(normalized, feeds[0]), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    (scan,) = (node for node in normalized.graph if node.op_type == "Scan")
    assert [len(scan.inputs), len(scan.outputs)] == [2, 2]
    error, _ = Quantized(model, feeds).errors()
    assert error < 0.05


def test_a_state_that_a_graph_gives_or_a_body_changes_stays(rng):
    constants = {"wx": 0.4 * normal(rng, 5, 6), "wh": 0.4 * normal(rng, 6, 6)}
    text = with_weights_as_states(SCAN).replace("float[T,1,6] s) {", "float[T,1,6] s, float[5,6] u) {", 1)
    model = parse(text.replace("wh2 = Identity(wh1)", "wh2 = Tanh(wh1)"), constants)
    feeds = {"h0": np.zeros((1, 6), np.float32), "x": normal(rng, 7, 1, 5)}
    normalized = normalize(to_ir(model))
    (scan,) = (node for node in normalized.graph if node.op_type == "Scan")
    assert len(scan.inputs) == 4
    for before, after in zip(run(model, feeds), run(normalized, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_loop_that_hands_weights_on_beside_what_it_counts(rng):
    """Exporters of while loops make the weight and the bound states, and use their final values."""
    text = """g (float[1,6] x, int64 n) => (float[1,6] y) {
        go = Constant<value = bool {1}>()
        h, v, m = Loop (n, go, x, w, n) <
            body = b (int64 i, bool c, float[1,6] before, float[6,6] w1, int64 m1)
                => (bool next, float[1,6] after, float[6,6] w1, int64 m1) {
                next = Less(i, m1) p = MatMul(before, w1) after = Tanh(p) }>
        q = MatMul(h, v) k = Cast<to = 1>(m) y = Mul(q, k) }"""
    model = parse(text, {"w": 0.4 * normal(rng, 6, 6)})
    feeds = {"x": normal(rng, 1, 6), "n": np.array(3)}
    normalized = normalize(to_ir(model))
    (loop,) = (node for node in normalized.graph if node.op_type == "Loop")
    assert [len(loop.inputs), len(loop.outputs)] == [3, 1]
    np.testing.assert_allclose(run(normalized, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-6)
    assert set(make_plan(normalized, Selection()).anchors) == {
        node.name for graph in normalized.graphs() for node in graph if node.op_type == "MatMul"
    }


def test_bodies_that_use_the_same_names(rng):
    """Exporters repeat a cell's names in every loop: quantization must keep the values apart."""
    cell = """Loop (n, go, {x}) <
        body = b{i} (int64 i, bool c, float[1,6] before) => (bool next, float[1,6] after) {{
            next = Identity(c) p = MatMul(before, {w}) after = Tanh(p) }}>"""
    first, second = cell.format(x="x", w="w1", i=1), cell.format(x="k", w="w2", i=2)
    text = f"""g (float[1,6] x, int64 n) => (float[1,6] y) {{
        go = Constant<value = bool {{1}}>() h = {first} k = Mul(h, ten) y = {second} }}"""
    model = parse(text, {"w1": normal(rng, 6, 6), "w2": 0.2 * normal(rng, 6, 6), "ten": np.float32(3)})
    feeds = [{"x": normal(rng, 1, 6), "n": np.array(2)} for _ in range(16)]
    quantized = Quantized(model, feeds)
    assert len(quantized.plan.anchors) == 2
    assert (
        len({tensor.source for tensor in quantized.plan.tensors.values()}) == len(quantized.plan.tensors) == 2
    )
    error, difference = quantized.errors()
    assert error < 0.05
    assert difference < 0.02
