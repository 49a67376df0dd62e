"""What verification reads from the runtime: coverage, leftovers, requantizations, how far outputs are, and what does not fit."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.comparison.feedback import Feedback
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.evaluation import verification as verify
from onnxq.evaluation.verification import (
    Outputs,
    VerificationInputs,
    compare_outputs,
    inspect_kernels,
    original_names,
)
from onnxq.graph.macs import concrete_shapes, node_macs
from onnxq.normalize.passes import normalize
from onnxq.options import QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.runtime.sessions import model_inputs
from tests.conftest import CNN, SAMPLES, Quantized, normal, parse, to_ir


def kernels_of(quantized, path):
    ir.save(quantized.model, path)
    return inspect_kernels(
        path, quantized.float, quantized.plan, concrete_shapes(quantized.float, quantized.feeds[0])
    )


def quantized_from(rng, text, **shapes):
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) {" + text + "}",
        {k: normal(rng, *s) for k, s in shapes.items()},
    )
    return Quantized(model, [{"x": normal(rng, 1, 4, 8, 8)} for _ in range(3)])


def test_all_planned_macs_run_on_integers(rng, tmp_path):
    quantized = quantized_from(
        rng, "a = Conv(x, w) r = Relu(a) y = Conv(r, v)", w=(4, 4, 1, 1), v=(4, 4, 1, 1)
    )
    kernels = kernels_of(quantized, tmp_path / "m.onnx")
    assert kernels.integer_share == kernels.model_share == 1.0
    assert kernels.counts["QLinearConv"] == 2
    assert kernels.leftover == 2
    assert kernels.requantizations == []
    assert kernels.fell_back == []


def test_the_share_of_a_model_counts_what_stays_float(rng, tmp_path):
    text = "a = Conv(x, w) y = ConvTranspose(a, v)"
    kernels = kernels_of(quantized_from(rng, text, w=(4, 4, 1, 1), v=(4, 4, 1, 1)), tmp_path / "m.onnx")
    assert kernels.integer_share == 1.0
    assert kernels.model_share == 0.5


def test_requantizations_are_named(rng, tmp_path):
    text = "a = Conv(x, w) r = Relu(a) c = Conv(r, v) s = Add(a, c) y = Conv(s, u)"
    shapes = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1), "u": (4, 4, 1, 1)}
    assert kernels_of(quantized_from(rng, text, **shapes), tmp_path / "m.onnx").requantizations == ["r"]


def test_a_planned_node_that_runs_in_float_is_named(rng, tmp_path):
    quantized = quantized_from(rng, "a = Conv(x, w) y = Conv(a, v)", w=(4, 4, 1, 1), v=(4, 4, 1, 1))
    first = next(iter(quantized.plan.nodes))
    for node in quantized.model.graph:  # a bias in float keeps this runtime from its integer kernel
        if node.name == first:
            quantizer = node.outputs[0].consumers()[0]
            extra = ir.Node("", "Neg", [node.outputs[0]], name="extra")
            extra.outputs[0].name = "extra"
            quantized.model.graph.append(extra)
            quantized.model.graph.outputs.append(extra.outputs[0])
            assert quantizer.op_type == "QuantizeLinear"
            break
    kernels = kernels_of(quantized, tmp_path / "m.onnx")
    assert kernels.fell_back == [first]
    assert 0 < kernels.integer_share < 1


@pytest.mark.parametrize(
    ("optimized", "written", "suspect"),
    [(8.0, 19.0, True), (18.0, 19.0, False), (50.0, 70.0, False), (30.0, 70.0, True), (None, None, False)],
)
def test_integer_kernels_that_compute_something_else_are_suspect(optimized, written, suspect):
    outputs = Outputs(
        samples=4, unseen=1, bound_db=optimized, sqnr_db=optimized, parts=[], worst=[], decisions=[], selections={}, sequences=None,
        checked=4, optimized_db=optimized, unoptimized_db=written,
    )  # fmt: skip
    assert outputs.suspect == suspect


def inputs_of(tmp_path, text, weights, samples, **more):
    """A model with the given weight, as the file `one.onnx`, and what another is compared with it on."""
    for name, weight in weights.items():
        onnx.save(parse(text, {"k": np.float32(weight)}), tmp_path / f"{name}.onnx")
    source = tmp_path / "one.onnx"
    loaded = [Sample(name, lambda feeds=feeds: feeds) for name, feeds in samples]
    given = {"unseen": frozenset(), "feedback": Feedback()} | more
    return VerificationInputs(
        source, normalize(ir.load(source)), loaded, specs=model_inputs(ir.load(source)), **given
    )


def test_a_file_is_compared_on_all_samples_and_bound_by_those_that_nothing_saw(rng, tmp_path):
    """y = x k: the file is 1 % off, and 10 % where x is beyond its range, as it is in the unseen sample alone."""
    text = "g (float[1,4] x) => (float[1,4] y) { c = Clip(x, low, high) e = Sub(x, c) f = Mul(e, beyond) s = Add(c, f) y = Mul(s, k) }"
    text = text.replace(
        "{ c",
        "{ low = Constant<value_float=-2.0>() high = Constant<value_float=2.0>() beyond = Constant<value_float=0.9>() c",
        1,
    )
    exact = "g (float[1,4] x) => (float[1,4] y) { y = Mul(x, k) }"
    samples = [
        (f"{i}", {"x": rng.uniform(1, 2, (1, 4)).astype(np.float32) * (1 if i else 8)}) for i in range(6)
    ]
    given = inputs_of(tmp_path, exact, {"one": 1.0}, samples, unseen=frozenset({"0"}))
    onnx.save(parse(text, {"k": np.float32(0.99)}), tmp_path / "other.onnx")
    outputs = compare_outputs(tmp_path / "other.onnx", given)
    assert (outputs.samples, outputs.unseen, outputs.checked) == (6, 1, 4)
    x = np.concatenate([feeds["x"] for _, feeds in samples])
    y = 0.99 * (np.clip(x, -2, 2) + 0.9 * (x - np.clip(x, -2, 2)))
    noise, signal = np.square(y - x).sum(1), np.square(x).sum(1)
    assert outputs.sqnr_db == pytest.approx(10 * np.log10(signal.sum() / noise.sum()), abs=0.01)
    assert outputs.bound_db <= 10 * np.log10(signal[0] / noise[0]) < outputs.sqnr_db
    assert outputs.optimized_db == pytest.approx(outputs.unoptimized_db, abs=0.01)
    assert outputs.worst_part.name == "y"
    assert outputs.sequences is None


@pytest.mark.parametrize("held", [1, 64 << 20])
def test_states_are_handed_on_however_few_samples_fit_into_memory(tmp_path, monkeypatch, held):
    """A gain of 1 % a step: in five steps noise grows from 1 % to 5 %, and starts anew with each sequence."""
    text = (
        "g (float[1,1] x, float[1,1] h0) => (float[1,1] y, float[1,1] hn) { hn = Mul(h0, k) y = Add(hn, x) }"
    )
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    samples = [(f"{folder}/{i}", {"x": zero, "h0": one}) for folder in "ab" for i in range(5)]
    monkeypatch.setattr(verify, "HELD_BYTES", held)
    feedback = Feedback({"h0": 1}, frozenset({"a/0", "b/0"}))
    given = inputs_of(tmp_path, text, {"one": 1.0, "other": 1.01}, samples, feedback=feedback)
    outputs = compare_outputs(tmp_path / "other.onnx", given)
    grown = np.array([1.01**step - 1 for step in range(1, 6)])
    assert outputs.sqnr_db == pytest.approx(-10 * np.log10(np.mean(grown**2)), abs=0.01)
    assert (
        outputs.unoptimized_db
        == outputs.optimized_db
        == pytest.approx(np.median(-20 * np.log10(grown[:4])), abs=0.01)
    )
    assert (outputs.samples, outputs.sequences, outputs.checked) == (10, 2, 4)


@pytest.mark.parametrize(
    ("wrong", "finite", "said"),
    [
        (np.nan, ("x",), True),
        (np.inf, ("x",), True),
        (np.nan, (), True),
        (np.inf, (), False),
        (np.nan, None, False),
    ],
)
def test_a_sample_with_numbers_that_are_none_is_said(tmp_path, wrong, finite, said):
    text = "g (float[1,2] x) => (float[1,2] y) { y = Mul(x, k) }"
    given = inputs_of(tmp_path, text, {"one": 1.0}, [("bad", {"x": np.float32([[1, wrong]])})], finite=finite)
    if said:
        with pytest.raises(DataError, match="sample bad: tensor 'x' holds 1 "):
            compare_outputs(tmp_path / "one.onnx", given)
    else:
        assert compare_outputs(tmp_path / "one.onnx", given).sqnr_db == 200


@pytest.mark.parametrize(
    ("text", "constants", "macs"),
    [
        ("y = Conv<pads=[1,1,1,1], group=2>(x, w)", {"w": (6, 2, 3, 3)}, 6 * 64 * 2 * 9),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": (4, 5, 2, 2)}, 4 * 64 * 5 * 4),
        ("y = MatMul(x, w)", {"w": (8, 3)}, 4 * 8 * 3 * 8),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", {"w": (3, 256)}, 3 * 256),
        ("y = Relu(x)", {}, 0),
    ],
)
def test_macs(rng, text, constants, macs):
    rank = 2 if "Gemm" in text else 4
    output = ",".join("ABCD"[:rank])
    model = parse(
        f"g (float[N,4,8,8] x) => (float[{output}] y) {{ {text} }}",
        {k: normal(rng, *s) for k, s in constants.items()},
    )
    normalized = normalize(to_ir(model))
    shapes = concrete_shapes(normalized, {"x": np.zeros((1, 4, 8, 8), np.float32)})
    assert sum(node_macs(node, shapes) for node in normalized.graph) == macs


def test_names_of_joined_products_are_found_and_others_kept():
    assert original_names("conv_nhwc") == ["conv"]
    assert original_names("query + key_token_3") == [
        "query + key",
        "query",
        "key",
    ]  # a model's own node may be called so


def test_of_large_outputs_a_part_of_the_samples_is_compared(tmp_path, monkeypatch):
    """Where few samples fit into memory at a time, both files would be opened for each few of them."""
    options = QuantizeOptions(
        CNN, SAMPLES / "calib", tmp_path / "out.onnx", skip_slow_nodes=False, samples=100
    )
    assert quantize(options).outputs.samples == 100
    monkeypatch.setattr(verify, "HELD_BYTES", 8 * 4 * (8 * 8 + 10))
    outputs = quantize(replace(options, force=True)).outputs
    assert 8 * verify.MOST_BLOCKS <= outputs.samples <= 8 * verify.MOST_BLOCKS + 8
    assert outputs.unseen > 0


def test_an_output_too_small_to_be_compared_is_named(rng, tmp_path):
    """Half precision has no number near 1e-9: the file gives zeros."""
    text = "g (float[M,64] x) => (float[M,64] y, float[M,64] z) { y = MatMul(x, w) z = MatMul(x, v) }"
    tiny = normal(rng, 64, 64) * np.float32(1e-9)
    onnx.save(parse(text, {"w": tiny, "v": normal(rng, 64, 64)}), tmp_path / "m.onnx")
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", normal(rng, 5, 64))
    report = quantize(QuantizeOptions(tmp_path / "m.onnx", tmp_path, tmp_path / "o.onnx", mode="fp16"))
    (said,) = [warning for warning in report.warnings if "has no value other than zero" in warning]
    assert "output 'y' has" in said
