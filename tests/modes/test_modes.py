from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnxq.errors import ModelError
from onnxq.formats import embeddings as tables
from onnxq.formats.matmul_nbits import BitsWriter
from onnxq.graph.files import load
from onnxq.modes import fp16, products
from onnxq.modes import weight_only as weights
from onnxq.options import Effort, Mode, QuantizeOptions, Rounding, Technique, WeightType
from onnxq.pipeline import quantize
from onnxq.runtime.sessions import open_session
from onnxq.techniques.blockwise import Grid, round_to_nearest
from onnxq.techniques.codebooks import BOOKS, FP4, NF4, encode_book
from onnxq.techniques.gptq_blocks import gptq_blocks
from onnxq.techniques.hqq import half_quadratic
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from tests.conftest import CNN, SAMPLES, TRANSFORMER, normal, parse
from tests.end_to_end.test_fuzz import Graph

RANDOM = np.random.default_rng(0)


def product(columns, channels, *, gemm=False):
    """Return a model y = x W (+ b) and its weight as [channels, K]."""
    rows = RANDOM.normal(size=(channels, columns)).astype(np.float32)
    weights = [numpy_helper.from_array(rows if gemm else np.ascontiguousarray(rows.T), "w")]
    if gemm:
        weights.append(numpy_helper.from_array(RANDOM.normal(size=channels).astype(np.float32), "b"))
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", transB=1)
    else:
        node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", columns])],
        [helper.make_tensor_value_info("y", 1, ["n", channels])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), rows


def run(model, x):
    return open_session(model).run(None, {"x": x})[0]


# --- blocks


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("columns", "channels"), [(256, 16), (33, 7), (300, 1), (17, 5)])
def test_the_kernel_decodes_what_the_reference_decodes(columns, channels, block, bits, symmetric):
    proto, rows = product(columns, channels)
    coded = round_to_nearest(rows, Grid(bits, block, symmetric))
    model = ir.from_proto(proto)
    BitsWriter(model, accuracy_level=0).product(model.graph[0], coded, "w")
    x = np.eye(columns, dtype=np.float32)
    assert np.allclose(run(model, x), coded.decoded().T, atol=1e-5)
    x = RANDOM.normal(size=(3, columns)).astype(np.float32)
    model = ir.from_proto(proto)
    BitsWriter(model, accuracy_level=4).product(model.graph[0], coded, "w")
    expected = x @ coded.decoded().T
    assert np.abs(run(model, x) - expected).max() < 0.02 * np.abs(x).max() * np.sqrt(
        columns
    )  # activations in 8 bits


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_the_nearest(bits, symmetric):
    rows = RANDOM.normal(size=(5, 100)).astype(np.float32)
    coded = round_to_nearest(rows, Grid(bits, 32, symmetric))
    steps = np.repeat(np.abs(coded.scales), 32, axis=1)[:, :100]
    error = np.abs(coded.decoded() - rows)
    assert np.all(error <= steps * 1.0001)  # ends of a range are cut by less than a step
    assert np.mean(error > steps * 0.5001) < 0.03
    assert coded.codes.max() <= coded.grid.top
    assert np.all(round_to_nearest(rows * 0, Grid(bits, 32, symmetric)).decoded() == 0)


@pytest.mark.parametrize("shared", ["channel", "tensor"])
def test_a_scale_for_a_channel_or_for_all(shared):
    coded = round_to_nearest(
        RANDOM.normal(size=(6, 512)).astype(np.float32), Grid(4, 128, symmetric=True, shared=shared)
    )
    assert len(np.unique(coded.scales)) == (6 if shared == "channel" else 1)


def test_gptq_keeps_the_outputs_of_correlated_inputs():
    rows = RANDOM.normal(size=(32, 128)).astype(np.float32)
    x = (
        RANDOM.normal(size=(2000, 16)) @ RANDOM.normal(size=(16, 128)) + 0.1 * RANDOM.normal(size=(2000, 128))
    ).astype(np.float32)
    grid = Grid(4, 32, symmetric=True)
    noise = [
        np.square(x @ (coded.decoded() - rows).T).mean()
        for coded in (round_to_nearest(rows, grid), gptq_blocks(rows, x.T @ x / 2000, grid))
    ]
    assert noise[1] < 0.25 * noise[0]


def test_half_quadratic_rounding_is_no_worse_where_weights_have_outliers():
    rows = RANDOM.standard_t(3, size=(64, 256)).astype(np.float32)
    grid = Grid(4, 64, symmetric=False)
    errors = [
        np.abs(coded.decoded() - rows).sum()
        for coded in (round_to_nearest(rows, grid), half_quadratic(rows, grid))
    ]
    assert errors[1] < 0.98 * errors[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", [WeightType.INT4, WeightType.INT8])
@pytest.mark.parametrize("gemm", [True, False])
def test_standard_operators(kind, symmetric, gemm, tmp_path):
    proto, rows = product(100, 48, gemm=gemm)
    onnx.save(proto, tmp_path / "m.onnx")
    options = {"weight_type": kind, "symmetric": symmetric, "rounding": Rounding.RTN, "standard": True}
    made(tmp_path / "m.onnx", Mode.WEIGHTS, tmp_path, **options)
    written = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {node.domain for node in written.graph.node} == {""}
    decoded = round_to_nearest(rows, Grid(8 if kind is WeightType.INT8 else 4, 32, symmetric)).decoded()
    bias = next((numpy_helper.to_array(t) for t in written.graph.initializer if t.name == "b"), 0)
    x = np.eye(100, dtype=np.float32)
    found = open_session(tmp_path / "o.onnx", optimize=False).run(None, {"x": x})[0]
    assert np.allclose(found, decoded.T + bias, atol=1e-4)


def test_standard_operators_run_in_the_kernel_of_few_bits(tmp_path):
    proto, _ = product(256, 64)
    onnx.save(proto, tmp_path / "m.onnx")
    report, _ = made(tmp_path / "m.onnx", Mode.WEIGHTS, tmp_path, standard=True)
    assert report.kernels.counts == {"MatMulNBits": 1}
    with pytest.raises(ModelError, match="ONNX itself has no nf4"):
        made(
            tmp_path / "m.onnx", Mode.WEIGHTS, tmp_path, standard=True, weight_type=WeightType.NF4, force=True
        )


# --- books


def test_codes_of_the_books_are_the_published_values():
    assert NF4.tolist() == pytest.approx(
        [
            -1,
            -0.6961928,
            -0.52507305,
            -0.39491749,
            -0.28444138,
            -0.18477343,
            -0.09105004,
            0,
            0.0795803,
            0.1609302,
            0.2461123,
            0.33791524,
            0.44070983,
            0.562617,
            0.72295684,
            1,
        ],
        abs=1e-8,
    )
    assert np.allclose(FP4[:8] * 12, [0, 0.0625, 8, 12, 4, 6, 2, 3])
    assert np.array_equal(FP4[8:], -FP4[:8])


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("columns", "channels"), [(256, 16), (64, 3)])
def test_the_kernel_decodes_the_books(name, block, columns, channels):
    proto, rows = product(columns, channels)
    model = ir.from_proto(proto)
    coded = encode_book(rows, name, block)
    BitsWriter(model, 0).book_product(model.graph[0], coded, "w")
    decoded, absmax = coded.decoded(), coded.absmax
    assert np.allclose(run(model, np.eye(columns, dtype=np.float32)), decoded.T, atol=1e-6)
    nearest = np.abs(rows.reshape(-1, 1) / np.repeat(absmax, block)[: rows.size, None] - BOOKS[name]).min(1)
    assert np.allclose(
        np.abs(decoded - rows).reshape(-1), nearest * np.repeat(absmax, block)[: rows.size], atol=1e-6
    )


# --- whole models


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A small model whose output layer shares the embedding table, with text-like data."""
    folder = tmp_path_factory.mktemp("language")
    table = RANDOM.normal(size=(600, 64)).astype(np.float32)
    inner = RANDOM.normal(size=(64, 64)).astype(np.float32) / 8
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("MatMul", ["e", "inner"], ["h"], name="inner_product"),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0], name="turn"),
        helper.make_node("MatMul", ["t", "turned"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", 7, [1, "n"])],
        [helper.make_tensor_value_info("y", 1, [1, "n", 600])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(inner, "inner")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )
    (folder / "data").mkdir()
    for i in range(40):
        np.savez(folder / "data" / f"{i}.npz", ids=RANDOM.integers(600, size=(1, 12)))
    return folder


def made(model, mode, tmp_path, **options):
    report = quantize(QuantizeOptions(model, output=tmp_path / "o.onnx", mode=mode, **options))
    return report, load(tmp_path / "o.onnx")


@pytest.mark.parametrize("kind", [each for each in WeightType if each is not WeightType.BFLOAT16])
def test_weights_alone(language, kind, tmp_path):
    report, model = made(
        language / "m.onnx", Mode.WEIGHTS, tmp_path, weight_type=kind, calib=language / "data"
    )
    least = {WeightType.INT8: 30, WeightType.INT4: 15, WeightType.NF4: 15, WeightType.FP4: 12}[kind]
    assert report.outputs.sqnr_db > least
    assert report.kernels.integer_share == 1
    assert [node.op_type for node in model.graph if node.op_type == "GatherBlockQuantized"] == [
        "GatherBlockQuantized"
    ]
    # the embedding and the head that shares it are stored once, in 8 bits
    large = [
        value for value in model.graph.initializers.values() if value.const_value.nbytes >= 600 * 64 // 2
    ]
    assert len(large) == 1
    assert report.bytes_after < 0.4 * report.bytes_before


@pytest.mark.parametrize("rounding", Rounding)
def test_every_rounding(language, rounding, tmp_path):
    for symmetric in (True, False):
        options = {"rounding": rounding, "symmetric": symmetric, "calib": language / "data", "force": True}
        report, _ = made(language / "m.onnx", Mode.WEIGHTS, tmp_path, **options)
        assert report.outputs.sqnr_db > 15


@pytest.mark.parametrize("block", ["16", "256", "channel", "tensor"])
def test_every_granularity(block, tmp_path):
    report, _ = made(
        TRANSFORMER,
        Mode.WEIGHTS,
        tmp_path,
        weight_type=WeightType.INT8,
        block=block,
        calib=SAMPLES / "calib",
        samples=40,
    )
    assert report.outputs.sqnr_db > 25


def test_convolutions_are_stored_in_8_bits_and_run_in_float(tmp_path):
    report, model = made(
        CNN, Mode.WEIGHTS, tmp_path, weight_type=WeightType.INT8, calib=SAMPLES / "calib", samples=40
    )
    assert report.bytes_after < 0.35 * report.bytes_before
    assert report.outputs.sqnr_db > 30
    saved = tmp_path / "optimized.onnx"
    open_session(tmp_path / "o.onnx", save_optimized=saved)
    kinds = {node.op_type for node in onnx.load(saved).graph.node}
    assert not kinds & {"Mul", "DequantizeLinear"}  # widened when the file was loaded
    assert any(node.op_type == "Conv" for node in model.graph)


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_cells_are_stored_in_8_bits_with_scales_of_each_direction(op_type, gates, tmp_path, rng):
    weights = {"w": normal(rng, 2, gates * 48, 32), "r": 0.1 * normal(rng, 2, gates * 48, 48)}
    weights["w"][1] *= 1e-3  # with the scales of the other direction it would be zero
    text = f"""g (float[5, 1, 32] x) => (float[5, 2, 1, 48] y) {{
        y = {op_type} <hidden_size = 48, direction = "bidirectional"> (x, w, r)
    }}"""
    source, x = tmp_path / "cell.onnx", {"x": normal(rng, 5, 1, 32)}
    onnx.save(parse(text, weights), source)
    report, _ = made(source, Mode.WEIGHTS, tmp_path)
    assert report.bytes_after < 0.4 * report.bytes_before
    assert "weights of 1 other node stored in 8 bits, widened when the file is loaded" in report.notes
    before, after = (open_session(path).run(None, x)[0] for path in (source, tmp_path / "o.onnx"))
    for direction in range(2):
        noise = np.square(after[:, direction] - before[:, direction]).sum()
        assert noise < 10**-2.5 * np.square(before[:, direction]).sum()


@pytest.mark.parametrize("data", [True, False])
def test_dynamic(data, tmp_path):
    options = {"calib": SAMPLES / "calib", "samples": 60} if data else {}
    report, model = made(TRANSFORMER, Mode.DYNAMIC, tmp_path, **options)
    assert report.kernels.integer_share == 1
    assert (
        report.kernels.counts.get("MatMulIntegerToFloat", 0)
        + report.kernels.counts.get("DynamicQuantizeMatMul", 0)
        >= 6
    )
    quantized = [node.inputs[0] for node in model.graph if node.op_type == "DynamicQuantizeLinear"]
    assert len(quantized) == len(set(quantized))  # query, key and value share one
    for node in model.graph:
        if node.op_type == "MatMulIntegerToFloat":
            assert saturating_pairs(kernel_order(node.inputs[1].const_value.numpy(), 1)) == 0
    if data:
        assert report.outputs.sqnr_db > 25


def test_layers_with_ranges_at_run_time_have_errors(tmp_path):
    report, model = made(
        TRANSFORMER, Mode.DYNAMIC, tmp_path, calib=SAMPLES / "calib", samples=60, details=True
    )
    written = {node.name for node in model.graph if node.op_type == "MatMulIntegerToFloat"}
    errors = {row.name: row.sqnr_db for row in report.layers if row.name in written}
    assert len(errors) == 6  # queries, keys and values are joined into one product
    assert all(20 < error < 60 for error in errors.values()), errors


def test_dynamic_gemm_with_its_bias(tmp_path):
    proto, _rows = product(64, 48, gemm=True)
    onnx.save(proto, tmp_path / "m.onnx")
    made(tmp_path / "m.onnx", Mode.DYNAMIC, tmp_path)
    x = RANDOM.normal(size=(4, 64)).astype(np.float32)
    expected = run(tmp_path / "m.onnx", x)
    assert np.abs(run(tmp_path / "o.onnx", x) - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("mode", [Mode.DYNAMIC, Mode.WEIGHTS])
def test_nothing_to_quantize(mode, tmp_path):
    with pytest.raises(ModelError, match="nothing to quantize: Conv '/stem"):
        made(CNN, mode, tmp_path, op_types=("MatMul",))
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("mode", [Mode.DYNAMIC, Mode.WEIGHTS])
def test_no_weight_is_stored_in_more_bytes(mode, tmp_path):
    """A scale per channel of one value, or a block of 32 filled with zeros, takes more than the float32."""
    proto, _rows = product(1, 4000)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"nothing to quantize: MatMul .* would be no smaller"):
        made(tmp_path / "m.onnx", mode, tmp_path)


def test_half_precision(tmp_path):
    proto, rows = product(64, 48)
    rows[0, 0] = 1e6  # beyond float16
    large = helper.make_node("MatMul", ["y", "v"], ["z"], name="second")
    proto.graph.node.append(large)
    proto.graph.initializer.append(numpy_helper.from_array(np.full((48, 16), 1e6, np.float32), "v"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", 1, ["n", 16]))
    onnx.save(proto, tmp_path / "m.onnx")
    report, model = made(tmp_path / "m.onnx", Mode.FP16, tmp_path)
    kept = [value.const_value.dtype for value in model.graph.initializers.values()]
    assert sorted(kept) == sorted([ir.DataType.FLOAT16, ir.DataType.FLOAT])
    assert "half precision cannot hold" in " ".join(report.notes)
    report, _ = made(CNN, Mode.FP16, tmp_path, calib=SAMPLES / "calib", samples=40, force=True)
    assert report.outputs.sqnr_db > 50
    assert report.bytes_after < 0.56 * report.bytes_before


@pytest.mark.parametrize("mode", [Mode.DYNAMIC, Mode.WEIGHTS, Mode.FP16])
def test_the_same_command_gives_the_same_bytes(mode, tmp_path):
    options = {"calib": SAMPLES / "calib", "samples": 24, "effort": Effort.FAST, "force": True}
    made(TRANSFORMER, mode, tmp_path, **options)
    first = (tmp_path / "o.onnx").read_bytes()
    made(TRANSFORMER, mode, tmp_path, **options)
    assert (tmp_path / "o.onnx").read_bytes() == first


def test_models_that_come_in_half_precision(language, tmp_path):
    model = onnx.load(language / "m.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    model.graph.output[0].type.tensor_type.elem_type = 10
    onnx.save(model, tmp_path / "half.onnx")
    for mode in (Mode.DYNAMIC, Mode.WEIGHTS, Mode.FP16):
        report, _ = made(tmp_path / "half.onnx", mode, tmp_path, calib=language / "data", force=True)
        assert report.outputs.sqnr_db > 15


# --- random graphs

MODES_TRIED = (
    (Mode.DYNAMIC, {}, 8),
    (Mode.WEIGHTS, {"weight_type": WeightType.INT8}, 25),
    (Mode.WEIGHTS, {"rounding": Rounding.AWQ, "symmetric": False, "block": "16"}, 8),
    (Mode.WEIGHTS, {"weight_type": WeightType.NF4}, 8),
    (Mode.WEIGHTS, {"standard": True}, 8),
    (Mode.FP16, {}, 35),
)


@pytest.mark.parametrize("first", [0, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_graphs(first, tmp_path, monkeypatch):
    for module in (products, weights, fp16):
        monkeypatch.setattr(module, "SMALLEST", 4)
    monkeypatch.setattr(tables, "LEAST_ELEMENTS", 4)
    done = 0
    for seed in range(first, first + (20 if first == 0 else 300)):
        graph = Graph(seed)
        for _ in range(int(graph.rng.integers(2, 14))):
            graph.step()
        if not graph.nodes:
            continue
        onnx.save(graph.model(), tmp_path / "m.onnx")
        (tmp_path / "data").mkdir(exist_ok=True)
        for i in range(6):
            np.save(
                tmp_path / "data" / f"{i}.npy", graph.rng.normal(size=graph.values["x"]).astype(np.float32)
            )
        for mode, options, least in MODES_TRIED:
            try:
                report, _ = made(
                    tmp_path / "m.onnx", mode, tmp_path, calib=tmp_path / "data", force=True, **options
                )
            except ModelError as error:
                if "nothing to quantize" not in str(error):
                    raise
                continue
            done += 1
            found = report.outputs.sqnr_db
            # four bits ruin values that are small differences of others: they are named
            named = mode == Mode.WEIGHTS and any(
                "far from float" in each and f"'{report.outputs.worst_part.name}'" in each
                for each in report.warnings
            )
            assert found is None or found > least or named, f"seed {seed}, {mode} {options}"
    assert done > 40


# --- ranges at run time within static mode


def perceptron(rng):
    """Return two products with biases and a Relu between: the feed-forward block of a transformer."""
    text = """g (float[2,5,64] x) => (float[2,5,64] y) {
        a = MatMul(x, w0) b = Add(a, b0) c = Relu(b) d = MatMul(c, w1) e = Add(d, b1) y = Tanh(e) }"""
    weights = {
        "w0": normal(rng, 64, 96) / 8,
        "b0": normal(rng, 96),
        "w1": normal(rng, 96, 64) / 10,
        "b1": normal(rng, 64),
    }
    return parse(text, weights)


def test_products_among_floats_find_their_ranges_at_run_time(tmp_path, rng):
    onnx.save(perceptron(rng), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(24):  # ranges that differ from sample to sample, which one range cannot hold
        np.save(tmp_path / "calib" / f"{i:02}.npy", normal(rng, 2, 5, 64) * 10.0 ** (i % 3))
    options = QuantizeOptions(
        tmp_path / "model.onnx", tmp_path / "calib", tmp_path / "out.onnx", skip_slow_nodes=False
    )
    report = quantize(options)
    assert "ranges-at-run-time" in report.techniques
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == 2
    assert "Relu" in operators  # no calibrated range stands for it any more
    assert "QuantizeLinear" not in operators
    fast = quantize(replace(options, effort=Effort.FAST, force=True))
    assert "ranges-at-run-time" in fast.techniques
    for change in (
        {"standard": True, "without": (Technique.FALLBACK,)},
        {"without": (Technique.RUN_TIME_RANGES, Technique.FALLBACK)},
    ):
        fixed = quantize(replace(options, output=tmp_path / "fixed.onnx", force=True, **change))
        assert "ranges-at-run-time" not in fixed.techniques
        assert fixed.outputs.sqnr_db < report.outputs.sqnr_db
        assert not any(
            node.domain == "com.microsoft" for node in onnx.load(tmp_path / "fixed.onnx").graph.node
        )


@pytest.mark.parametrize("technique", [Technique.GPTQ, Technique.BIAS_CORRECTION, Technique.SMOOTHING])
@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_a_technique_can_be_left_out(technique, mode, tmp_path):
    options = QuantizeOptions(
        TRANSFORMER, SAMPLES / "calib", tmp_path / "out.onnx", samples=48, mode=mode, without=(technique,)
    )
    report = quantize(options)
    assert technique not in report.techniques
    assert not any(technique in trial.techniques for trial in report.trials)


def test_full_range_weights_where_saturation_does_not_matter(tmp_path):
    options = QuantizeOptions(CNN, SAMPLES / "calib", tmp_path / "out.onnx", samples=48, effort=Effort.FAST)
    pairs = []
    for without in ((), (Technique.NO_SATURATION,)):
        quantize(replace(options, without=without, force=True))
        stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer]
        pairs.append(
            sum(
                saturating_pairs(kernel_order(w, 0))
                for w in stored
                if w.dtype == np.int8 and w.ndim == 4 and w.shape[1] > 1
            )
        )
    assert pairs[0] == 0 < pairs[1]
