"""16-bit activations and bfloat16 weights: the files as written, and combinations that make no sense."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from onnxq.calibration.methods import MethodOptions, choose_range
from onnxq.cli.commands import main
from onnxq.errors import ModelError
from onnxq.graph.edit import constant
from onnxq.graph.files import load
from onnxq.modes.other_engines import BFLOAT16_NOTE, WIDE_NOTE
from onnxq.options import ActivationType, Effort, Method, Mode, QuantizeOptions, WeightType
from onnxq.pipeline import quantize
from onnxq.types import INT16, UINT8, UINT16
from tests.calibration.sketches import sketch_of
from tests.conftest import CNN, SAMPLES, TRANSFORMER, normal, parse, run, runtime_outputs

RELUS = sum(node.op_type == "Relu" for node in onnx.load(CNN).graph.node)
WIDE = [ActivationType.UINT16, ActivationType.INT16]


def quantized(model, output, **options):
    options = {"calib": SAMPLES / "calib", "effort": Effort.FAST, "samples": 60} | options
    return quantize(QuantizeOptions(model, output=output, **options))


@pytest.fixture(scope="module", params=WIDE)
def wide(request, tmp_path_factory):
    """Return the type, the report and the file of the sample network."""
    output = tmp_path_factory.mktemp("wide") / f"{request.param}.onnx"
    return request.param, quantized(CNN, output, activation_type=request.param), output


def zero_points(model, op_type):
    """Return the zero points of all nodes of a type by the type of their integers."""
    found = {}
    for node in model.graph:
        if node.op_type == op_type:
            zero = constant(node.inputs[2])
            found.setdefault(zero.dtype.name, []).append(zero)
    return found


def test_a_file_with_wide_activations_is_standard_and_says_how_it_runs(wide):
    kind, report, output = wide
    proto = onnx.load(output)
    onnx.checker.check_model(proto, full_check=True)
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 21)]
    model = load(output)
    activations = zero_points(model, "QuantizeLinear")
    assert set(activations) == {str(kind)}
    assert set(zero_points(model, "DequantizeLinear")) == {str(kind), "int8", "int32"}
    symmetric = all(not zero.any() for zero in activations[str(kind)])
    assert symmetric == (kind is ActivationType.INT16)
    # a Relu stays: an engine that computes 16 bits in float may not saturate
    assert sum(node.op_type == "Relu" for node in model.graph) == RELUS
    assert WIDE_NOTE in report.notes
    assert not [line for line in report.warnings if "integer kernels" in line]
    assert report.kernels.integer_share == 0


def test_wide_activations_are_closer_to_float(wide, tmp_path):
    _, report, _ = wide
    narrow = quantized(CNN, tmp_path / "int8.onnx")
    # the noise of the int8 weights is left
    assert report.outputs.sqnr_db > narrow.outputs.sqnr_db + 3
    assert report.outputs.unoptimized_db == pytest.approx(report.outputs.optimized_db, abs=0.5)


def test_a_wide_file_computes_the_same_in_the_reference_evaluator(wide):
    from onnx.reference import ReferenceEvaluator

    _, _, output = wide
    (name,) = [value.name for value in load(output).graph.inputs]
    feed = {name: np.load(next((SAMPLES / "eval").glob("*.npy")))}
    (expected,) = ReferenceEvaluator(str(output)).run(None, feed)
    (found,) = runtime_outputs(output, feed)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", WIDE)
def test_a_hard_sigmoid_and_a_constant_operand(kind, rng, tmp_path):
    text = """m (float[1,8,6,6] x) => (float[1,8,6,6] y) {
        c = Conv <pads = [1,1,1,1]> (x, w)
        h = HardSigmoid (c)
        m = Mul (c, h)
        a = Add (m, k)
        y = Conv <pads = [1,1,1,1]> (a, v)
    }"""
    weights = {"w": normal(rng, 8, 8, 3, 3), "v": normal(rng, 8, 8, 3, 3), "k": normal(rng, 8, 1, 1)}
    model = parse(text, weights)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    feeds = [{"x": normal(rng, 1, 8, 6, 6)} for _ in range(20)]
    for i, feed in enumerate(feeds):
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    output = tmp_path / "wide.onnx"
    report = quantized(tmp_path / "m.onnx", output, calib=tmp_path / "data", activation_type=kind)
    assert "16" in next(group.reason for group in report.floats if group.op_type == "HardSigmoid")
    nodes = [node.op_type for node in load(output).graph]
    assert "Clip" not in nodes
    assert "Add" in nodes
    stored = zero_points(load(output), "DequantizeLinear")
    assert "uint8" not in stored
    noise = signal = 0.0
    for feed in feeds:
        (want,), (have,) = run(model, feed), runtime_outputs(output, feed)
        noise, signal = noise + np.square(have - want).sum(), signal + np.square(want).sum()
    assert 10 * np.log10(signal / noise) > 38


def test_more_bits_keep_a_wider_range(rng):
    sketch = sketch_of(np.concatenate([normal(rng, 200_000), np.array([12.0], np.float32)]))
    narrow, symmetric, wide = (
        choose_range(sketch, Method.MSE, MethodOptions(type=kind))[1] for kind in (UINT8, INT16, UINT16)
    )
    assert narrow < 10
    assert wide == symmetric == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mode dynamic", "--mode static only"),
        ("--mode auto", "--mode static only"),
        ("--format qoperator", "choose --format qdq"),
        ("--measure", "--measure times integer kernels"),
        ("--dynamic-lstm", "ONNX Runtime alone"),
    ],
)
def test_options_that_do_not_fit_wide_activations(options, message, tmp_path):
    refused(["--activation-type", "uint16", *options.split()], message, tmp_path)


@pytest.mark.parametrize("options", ["--rounding gptq", "--affine", "--block 64"])
def test_options_that_do_not_fit_bfloat16(options, tmp_path):
    wanted = ["--mode", "weights", "--weight-type", "bfloat16", *options.split()]
    refused(wanted, f"{options} is of integer weights", tmp_path)


def refused(options, message, tmp_path):
    command = ["quantize", str(CNN), "--calib", str(SAMPLES / "calib"), "-o", str(tmp_path / "o.onnx")]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_opset_that_cannot_be_lifted(rng, tmp_path):
    # Scan changed its inputs in opset 9: onnxq does not convert it
    text = """m (float[1,7,6] x) => (float[1,7,4] y) {
        s = Scan <num_scan_inputs = 1, body = b (float[6] i) => (float[6] o) { o = Neg (i) }> (, x)
        y = MatMul (s, w)
    }"""
    model = parse(text, {"w": normal(rng, 6, 4)}, opset=8)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "0.npz", x=normal(rng, 1, 7, 6))
    with pytest.raises(ModelError, match="opset 21"):
        quantized(
            tmp_path / "m.onnx", tmp_path / "o.onnx", calib=tmp_path / "0.npz",
            activation_type=ActivationType.UINT16,
        )  # fmt: skip


def test_bfloat16_weights(tmp_path):
    output = tmp_path / "b.onnx"
    report = quantized(TRANSFORMER, output, mode=Mode.WEIGHTS, weight_type=WeightType.BFLOAT16)
    onnx.checker.check_model(str(output), full_check=True)
    stored = [
        value for value in load(output).graph.initializers.values() if value.dtype == ir.DataType.BFLOAT16
    ]
    assert len(stored) > 5
    assert report.bytes_after < 0.55 * report.bytes_before
    # 8 bits of precision
    assert 45 < report.outputs.sqnr_db < 70
    assert BFLOAT16_NOTE in report.notes


def test_bfloat16_holds_what_half_precision_cannot(rng, tmp_path):
    large = normal(rng, 32, 32) * np.float32(1e30)
    beyond = np.full((1, 512), np.finfo(np.float32).max, np.float32)
    text = """m (float[1,32] x) => (float[1,32] y, float[1,512] z) {
        y = MatMul (x, w)
        s = ReduceSum <keepdims = 1> (x)
        z = Mul (s, k)
    }"""
    model = parse(text, {"w": large, "k": beyond})
    onnx.save(model, tmp_path / "m.onnx")
    options = {"calib": None, "mode": Mode.WEIGHTS, "weight_type": WeightType.BFLOAT16}
    report = quantized(tmp_path / "m.onnx", tmp_path / "o.onnx", **options)
    assert any("1 constants stay float32" in note and "k" in note for note in report.notes)
    feed = {"x": normal(rng, 1, 32)}
    want, have = run(model, feed)[0], runtime_outputs(tmp_path / "o.onnx", feed)[0]
    assert np.abs(have - want).max() < 0.01 * np.abs(want).max()
