"""Lines 15 to 30: consumers of a value, bodies, sources of weights, and unusual values."""

import itertools

import numpy as np
import onnx
from onnx import numpy_helper

from tests.checklist.case import PAD, SAMPLES, Case, cnn, conv_weights, images, line
from tests.conftest import normal, parse


@line(15, "a Conv output that is a graph output and feeds Relu")
def _(rng):
    text = f"""(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] h) {{
        h = Conv{PAD}(x, w1) r = Relu(h) y = Conv{PAD}(r, w2) }}"""
    return cnn(rng, text, 2)


@line(16, "a Conv output used inside an If branch and by Relu")
def _(rng):
    text = f"""(float[1,4,8,8] x, bool c) => (float[1,4,8,8] y) {{ h = Conv{PAD}(x, w1) r = Relu(h)
        z = If (c) <then_branch = t () => (float[1,4,8,8] a) {{ a = Tanh(h) }},
            else_branch = e () => (float[1,4,8,8] d) {{ d = Neg(h) }}>
        q = Conv{PAD}(r, w2) y = Add(q, z) }}"""
    case = cnn(rng, text, 2)
    case.feeds = [feed | {"c": np.array(i % 2 == 0)} for i, feed in enumerate(case.feeds)]
    return case


@line(17, "a Conv only inside a Loop")
def _(rng):
    text = f"""(float[1,4,8,8] x, int64 n) => (float[1,4,8,8] y) {{ go = Constant<value = bool {{1}}>()
        y = Loop (n, go, x) <body = b (int64 i, bool ci, float[1,4,8,8] s) => (bool co, float[1,4,8,8] t)
            {{ co = Identity(ci) p = Conv{PAD}(s, w1) r = Relu(p) q = Conv{PAD}(r, w2) t = Tanh(q) }}> }}"""
    case = cnn(rng, text, 2)
    case.feeds = [feed | {"n": np.array(2)} for feed in case.feeds]
    return case


@line(18, "a local function")
def _(rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) { h = local.block(x, w1) y = local.block(h, w2) }
        <domain: "local", opset_import: ["" : 17]> block (a, k) => (r)
            { c = Conv<pads=[1,1,1,1]>(a, k) r = Relu(c) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(a, n) for n, a in conv_weights(rng, "w1", "w2").items()
    )
    return Case(model, images(rng, 1, 4, 8, 8), {"QLinearConv": 2})


@line(19, "a node with a body that is neither If, Loop nor Scan")
def _(rng):
    text = f"""(float[N,4,8,8] x) => (float[N,4,8,8] y) {{ h = Conv{PAD}(x, w1) s = SequenceConstruct(h, h)
        m = SequenceMap (s) <body = b (float[N,4,8,8] e) => (float[N,4,8,8] r)
            {{ c = Conv{PAD}(e, w2) r = Relu(c) }}>
        i = Constant<value = int64 {{0}}>() z = SequenceAt(m, i) y = Conv{PAD}(z, w3) }}"""
    return cnn(rng, text, 2)


@line(20, "weights behind Constant, Identity, Transpose and Cast")
def _(rng):
    text = f"""i = Identity(w1) h = Conv{PAD}(x, i) r = Relu(h)
        t = Transpose<perm=[1,0,2,3]>(w2) j = Conv{PAD}(r, t) s = Relu(j)
        f = Cast<to=1>(half) y = Conv{PAD}(s, f)"""
    large = {
        "w1": 0.1 * normal(rng, 64, 4, 3, 3),
        "w2": 0.1 * normal(rng, 64, 64, 3, 3),
        "half": 0.1 * normal(rng, 4, 64, 3, 3),
    }
    case = cnn(rng, text, 3, extra=large | {"half": large["half"].astype(np.float16)})

    def smaller(folder, _model):
        assert (folder / "model.int8.onnx").stat().st_size < 0.35 * (folder / "model.onnx").stat().st_size

    case.after = smaller
    return case


@line(21, "initializers that are listed as graph inputs, before version 4 of the format")
def _(rng):
    text = f"""(float[1,4,8,8] x, float[4,4,3,3] w1) => (float[1,4,8,8] y) {{
        h = Conv{PAD}(x, w1) r = Relu(h) y = Conv{PAD}(r, w2) }}"""
    case = cnn(rng, text, 2)
    case.model.ir_version = 3
    case.model.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in case.model.graph.initializer
        if tensor.name != "w1"
    )
    return case


@line(22, "a grouped ConvTranspose between convolutions")
def _(rng):
    text = f"h = Conv{PAD}(x, w1) t = ConvTranspose<group=2, pads=[1,1,1,1]>(h, wt) y = Conv{PAD}(t, w2)"
    return cnn(rng, text, 2, extra={"wt": 0.3 * normal(rng, 4, 2, 3, 3)})


@line(23, "depthwise and grouped convolutions")
def _(rng):
    text = f"""d = Conv<pads=[1,1,1,1], group=4>(x, wd) g2 = Conv<pads=[1,1,1,1], group=2>(d, wg, b)
        y = Conv{PAD}(g2, w1)"""
    return cnn(rng, text, 3, extra={"wd": normal(rng, 4, 1, 3, 3), "wg": normal(rng, 4, 2, 3, 3)})


@line(24, "a channel of zeros, and a tiny one with a large bias")
def _(rng):
    weight, bias = 0.3 * normal(rng, 4, 4, 3, 3), normal(rng, 4)
    weight[1], weight[2], bias[2] = 0, weight[2] * 1e-7, 3.0
    return cnn(
        rng, f"h = Conv{PAD}(x, wz, bz) r = Relu(h) y = Conv{PAD}(r, w2)", 2, extra={"wz": weight, "bz": bias}
    )


@line(25, "a weight of zeros, an activation of zeros, an empty operand of Concat")
def _(rng):
    text = f"""z = Conv{PAD}(x, wz) h = Conv{PAD}(x, w1) c = Concat<axis=0>(h, none) d = Add(c, z)
        r = Relu(d) y = Conv{PAD}(r, w2)"""
    extra = {"wz": np.zeros((4, 4, 3, 3), np.float32), "none": np.zeros((0, 4, 8, 8), np.float32)}
    return cnn(rng, text, 2, extra=extra)  # the sum with an operand that is always zero has no range


for _value, _sample in itertools.product((np.nan, np.inf), range(4)):

    @line(26 if np.isnan(_value) else 27, f"{_value} in sample {_sample}, which calibrates or is held out")
    def _(rng, value=_value, sample=_sample):
        says = f"sample {sample:02}.npz: tensor 'x' holds 1 NaN or infinite"
        case = cnn(rng, f"h = Conv{PAD}(x, w1) y = Conv{PAD}(h, w2)", 2, says=says)
        case.feeds[sample]["x"][0, 1, 2, 3] = value
        return case


for _mask in (-np.inf, float(np.finfo(np.float32).min), -1e4):

    @line(28, f"an attention mask of {_mask:g}")
    def _(rng, mask=_mask):
        text = """g (float[2,6,8] x, bool[2,6,6] keep) => (float[2,6,8] y) {
            q = MatMul(x, wq) k = MatMul(x, wk) t = Transpose<perm=[0,2,1]>(k)
            s = MatMul(q, t) m = Where(keep, zero, low) a = Add(s, m) p = Softmax(a)
            v = MatMul(x, wv) o = MatMul(p, v) y = MatMul(o, wo) }"""
        constants = {name: 0.3 * normal(rng, 8, 8) for name in ("wq", "wk", "wv", "wo")}
        model = parse(text, constants | {"zero": np.float32(0), "low": np.float32(mask)})
        feeds = [
            {"x": normal(rng, 2, 6, 8), "keep": (rng.random((2, 6, 6)) < 0.7) | np.eye(6, dtype=bool)}
            for _ in range(SAMPLES)
        ]
        return Case(model, feeds, {"MatMulIntegerToFloat": 3})


@line(28, "a constant mask inside an integer region")
def _(rng):
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., ::2] = -np.finfo(np.float32).max
    return cnn(
        rng,
        f"h = Conv{PAD}(x, w1) m = Add(h, mask) r = Relu(m) y = Conv{PAD}(r, w2)",
        2,
        extra={"mask": mask},
    )


for _type, _number in ((np.float16, 29), (np.float64, 30)):

    @line(_number, f"a model of {np.dtype(_type)}")
    def _(rng, kind=_type):
        name = {np.float16: "float16", np.float64: "double"}[kind]
        text = f"""g ({name}[5,8] x) => ({name}[5,4] y) {{
            h = Gemm(x, w1, b) r = Relu(h) c = Clip(r, , six) y = Gemm(c, w2) }}"""
        constants = {
            "w1": normal(rng, 8, 7),
            "b": normal(rng, 7),
            "six": np.float32(6),
            "w2": normal(rng, 7, 4),
        }
        model = parse(text, {key: np.asarray(array, kind) for key, array in constants.items()})
        return Case(model, [{"x": normal(rng, 5, 8).astype(kind)} for _ in range(SAMPLES)], {"QGemm": 2})


@line(29, "convolutions of float16")
def _(rng):
    text = f"""g (float16[N,4,8,8] x) => (float16[N,4,8,8] y) {{
        h = Conv{PAD}(x, w1, b) r = Relu(h) y = Conv{PAD}(r, w2) }}"""
    constants = conv_weights(rng, "w1", "w2") | {"b": normal(rng, 4)}
    model = parse(text, {key: array.astype(np.float16) for key, array in constants.items()})
    return Case(
        model, [{"x": normal(rng, 1, 4, 8, 8).astype(np.float16)} for _ in range(SAMPLES)], {"QLinearConv": 2}
    )
