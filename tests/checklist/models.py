"""Lines 31 to 52: shapes, names, inputs and outputs, old and new models, and parts that stay in float."""

import numpy as np
from onnx import TensorProto, helper

import onnxq
from tests.checklist.case import LINES, PAD, SAMPLES, Case, cnn, images, line
from tests.conftest import normal, parse, runtime_outputs


@line(31, "sizes that change from sample to sample")
def _(rng):
    text = f"""(float[N,4,H,W] x) => (float[N,4,H,W] y) {{
        h = Conv{PAD}(x, w1) r = Relu(h) y = Conv{PAD}(r, w2) }}"""
    case = cnn(rng, text, 2)
    case.feeds = [{"x": normal(rng, 1 + i % 2, 4, 5 + i, SAMPLES + 4 - i)} for i in range(SAMPLES)]
    return case


for _method in ("entropy", "percentile", "mse"):

    @line(31, f"sizes that change from sample to sample, {_method}")
    def _(rng, method=_method):
        case = next(maker for name, maker in LINES if name.startswith("31"))(rng)
        case.options = {"method": onnxq.Method(method)}
        return case


@line(32, "a tensor already named like those that are added")
def _(rng):
    text = f"""h = Conv{PAD}(x, w1) h_quantized = Relu(h)
        h_QuantizeLinear_Input = Conv{PAD}(h_quantized, w2) y = Relu(h_QuantizeLinear_Input)"""
    return cnn(rng, text, 2)


@line(33, "initializers already named like those that are added")
def _(rng):
    text = f"h = Conv{PAD}(x, w1) m = Mul(h, w1_scale) s = Tanh(m) y = Conv{PAD}(s, w2)"
    return cnn(rng, text, 2, extra={"w1_scale": normal(rng, 1, 4, 8, 8)})


@line(34, "an input that is a graph output too")
def _(rng):
    text = f"""(float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z) {{
        h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2) z = Identity(x) }}"""
    return cnn(rng, text, 2)


@line(35, "a weight that is a graph output")
def _(rng):
    text = f"""(float[1,4,8,8] x) => (float[1,4,8,8] y, float[4,4,3,3] w2) {{
        h = Conv{PAD}(x, w1) r = Relu(h) y = Conv{PAD}(r, w2) }}"""
    return cnn(rng, text, 2)


@line(36, "a model that is quantized already")
def _(rng):
    text = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(wq, s, zw)
        h = Conv<pads=[1,1,1,1]>(d, w) hq = QuantizeLinear(h, s, z) y = DequantizeLinear(hq, s, z)"""
    extra = {
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "zw": np.int8(0),
        "wq": rng.integers(-9, 9, (4, 4, 3, 3)).astype(np.int8),
    }
    return cnn(rng, text, 1, extra=extra, says="it is quantized already")


@line(36, "a model that is quantized in part")
def _(rng):
    text = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(wq, s, zw)
        h = Conv<pads=[1,1,1,1]>(d, w) hq = QuantizeLinear(h, s, z) e = DequantizeLinear(hq, s, z)
        y = Conv<pads=[1,1,1,1]>(e, w2)"""
    extra = {
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "zw": np.int8(0),
        "wq": rng.integers(-9, 9, (4, 4, 3, 3)).astype(np.int8),
    }
    return cnn(rng, text, 2, extra=extra)


for _opset in (7, 8, 9, 10, 11, 12):

    @line(37, f"opset {_opset}")
    def _(rng, opset=_opset):
        norm = "BatchNormalization(h, b, b, m, v)"
        clip = "Clip<min=0.0, max=6.0>(n)" if opset < 11 else "Relu(n)"
        text = f"""h = Conv{PAD}(x, w1, b) n = {norm} c = {clip} p = MaxPool<kernel_shape=[1,1]>(c)
            y = Conv{PAD}(p, w2)"""
        extra = {"b": normal(rng, 4), "m": normal(rng, 4), "v": np.abs(normal(rng, 4)) + 0.5}
        case = cnn(rng, text, 2, extra=extra, opset=opset)
        case.model.ir_version = 3 if opset < 9 else 4
        if case.model.ir_version == 3:  # initializers had to be inputs
            for tensor in case.model.graph.initializer:
                case.model.graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        return case


@line(38, "a newer IR than the runtime loads")
def _(rng):
    case = cnn(rng, f"h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2)", 2, says="cannot load it")
    case.model.ir_version = 99
    return case


@line(39, "an untyped result of a contrib operator feeding Conv")
def _(rng):
    case = cnn(rng, f"h = Conv{PAD}(x, w1) i = Identity(h) y = Conv{PAD}(i, w2)", 2)
    case.model.graph.node[1].op_type, case.model.graph.node[1].domain = "Gelu", "com.microsoft"
    case.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return case


@line(40, "a sequence as input")
def _(rng):
    case = cnn(rng, f"h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2)", 2, says="is not a tensor")
    case.model.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    case.feeds = [feed | {"s": np.zeros(3, np.float32)} for feed in case.feeds]
    return case


@line(40, "integer and string inputs")
def _(rng):
    text = """g (int64[N,5] ids, string[1] word) => (float[N,5,6] y, string[1] upper) {
        e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) y = MatMul(r, v) upper = Identity(word) }"""
    model = parse(
        text, {"table": normal(rng, 30, 8), "w": 0.3 * normal(rng, 8, 7), "v": 0.3 * normal(rng, 7, 6)}
    )
    feeds = [{"ids": rng.integers(0, 30, (2, 5)), "word": np.array([f"w{i}"])} for i in range(SAMPLES)]
    return Case(model, feeds, {"MatMulIntegerToFloat": 1})


@line(41, "an embedding tied to the last product")
def _(rng):
    text = """g (int64[2,5] ids) => (float[2,5,30] y) {
        e = Gather(table, ids) h = MatMul(e, w) t = Transpose<perm=[1,0]>(table) y = MatMul(h, t) }"""
    model = parse(text, {"table": normal(rng, 30, 8), "w": 0.3 * normal(rng, 8, 8)})
    return Case(
        model, [{"ids": rng.integers(0, 30, (2, 5))} for _ in range(SAMPLES)], {"MatMulIntegerToFloat": 1}
    )


for _cell, _gates in (("LSTM", 4), ("GRU", 3)):

    @line(42, f"{_cell} between products")
    def _(rng, cell=_cell, gates=_gates):
        text = f"""g (float[7,1,8] x) => (float[7,1,6] y) {{
            h = MatMul(x, w) s, last = {cell}<hidden_size=5>(h, wi, wr)
            q = Squeeze(s, one) y = MatMul(q, v) }}"""
        shapes = {"w": (8, 9), "wi": (1, gates * 5, 9), "wr": (1, gates * 5, 5), "v": (5, 6)}
        model = parse(
            text, {name: 0.3 * normal(rng, *shape) for name, shape in shapes.items()} | {"one": np.int64([1])}
        )
        return Case(model, images(rng, 7, 1, 8), {"MatMulIntegerToFloat": 2})


@line(45, "BatchNormalization behind a product, a Relu and nothing")
def _(rng):
    text = """g (float[5,8] x) => (float[5,4] y) {
        n0 = BatchNormalization(x, s8, b8, b8, s8) p = MatMul(n0, w) a = Add(p, c)
        n1 = BatchNormalization(a, s4, c, c, s4) r = Relu(n1)
        n2 = BatchNormalization(r, s4, c, c, s4) y = Gemm(n2, v) }"""
    constants = {"w": normal(rng, 8, 4), "c": normal(rng, 4), "v": normal(rng, 4, 4), "b8": normal(rng, 8)}
    scales = {"s8": np.abs(normal(rng, 8)) + 0.5, "s4": np.abs(normal(rng, 4)) + 0.5}
    return Case(parse(text, constants | scales), images(rng, 5, 8), {"QGemm": 2})


@line(46, "a Conv feeding a Conv and an operator that stays float")
def _(rng):
    text = f"""(float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] t) {{
        h = Conv{PAD}(x, w1) t = Tanh(h) y = Conv{PAD}(h, w2) }}"""
    return cnn(rng, text, 2)


@line(47, "state in, state out")
def _(rng):
    text = """g (float[1,8] x, float[1,6] state) => (float[1,4] y, float[1,6] next) {
        a = MatMul(x, wx) b = MatMul(state, wh) s = Add(a, b) next = Tanh(s) y = MatMul(next, wo) }"""
    model = parse(
        text, {"wx": 0.3 * normal(rng, 8, 6), "wh": 0.3 * normal(rng, 6, 6), "wo": normal(rng, 6, 4)}
    )
    feeds = [{"x": normal(rng, 1, 8), "state": np.tanh(normal(rng, 1, 6))} for _ in range(SAMPLES)]
    return Case(model, feeds, {"QGemm": 2, "MatMulIntegerToFloat": 1})


@line(48, "Softmax and Sigmoid, whose ranges are known")
def _(rng):
    text = """g (float[5,8] x) => (float[5,4] y) {
        a = Gemm(x, w) s = Softmax(a) b = Gemm(s, v) g = Sigmoid(b) y = Gemm(g, u) }"""
    return Case(
        parse(text, {k: normal(rng, *s) for k, s in {"w": (8, 7), "v": (7, 6), "u": (6, 4)}.items()}),
        images(rng, 5, 8),
        {"QGemm": 3},
    )


@line(49, "boxes and scores in one Concat")
def _(rng):
    text = f"""(float[1,4,8,8] x) => (float[1,8,8,8] y) {{
        h = Conv{PAD}(x, w1) r = Relu(h) p = Conv{PAD}(r, w2) boxes = Mul(p, stride)
        q = Conv{PAD}(r, w3) scores = Sigmoid(q) y = Concat<axis=1>(boxes, scores) }}"""
    case = cnn(rng, text, 3, extra={"stride": np.float32(320)})

    def scores_hold(folder, model):
        a, b = (
            runtime_outputs(path, case.feeds[0])[0][:, 4:]
            for path in (folder / "model.onnx", folder / "model.int8.onnx")
        )
        assert np.abs(a - b).max() < 0.05

    case.after = scores_hold
    return case


@line(50, "a spectrum with a logarithm before the network")
def _(rng):
    n = np.arange(16)
    filters = np.concatenate(
        [np.cos(np.outer(n, n) * np.pi / 16), np.sin(np.outer(n, n) * np.pi / 16)]
    ).astype(np.float32)[:, None]
    text = """g (float[1,1,160] x) => (float[1,4,17] y) {
        s = Conv<strides=[8]>(x, filters) p = Mul(s, s) e = MatMul(mel, p) c = Clip(e, tiny) l = Log(c)
        d = Div(l, std) h = Conv<pads=[1,1]>(d, w1) r = Relu(h) y = Conv(r, w2) }"""
    weights = {"w1": normal(rng, 8, 6, 3), "w2": normal(rng, 4, 8, 3), "mel": np.abs(normal(rng, 6, 32))}
    model = parse(text, weights | {"filters": filters, "tiny": np.float32(1e-8), "std": np.float32(3)})
    feeds = [{"x": normal(rng, 1, 1, 160) * np.float32(10.0 ** -(i % 5))} for i in range(SAMPLES)]
    return Case(model, feeds, {"QLinearConv": 2})


@line(51, "dead nodes and initializers that nothing uses")
def _(rng):
    return cnn(
        rng,
        f"dead = Conv{PAD}(x, w3) h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2)",
        2,
        extra={"unused": normal(rng, 9)},
    )


@line(52, "nothing to quantize")
def _(rng):
    return cnn(rng, "y = Relu(x)", 0, says="nothing to quantize: it has no Conv, MatMul or Gemm")
