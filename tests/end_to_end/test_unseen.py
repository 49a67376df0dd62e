"""Parts of a model that calibration samples leave out are right on other samples, or named in a warning."""

import json

import numpy as np
import onnx
import pytest

from onnxq.options import Effort, Format, QuantizeOptions
from onnxq.pipeline import calibrate, quantize
from onnxq.plan.reasons import Cause
from tests.conftest import normal, parse, runtime_outputs

LOOP = """g (float[5,64] x, int64 n) => (float[5,64] y) {
    go = Constant<value = bool {1}>()
    y = Loop(n, go, x) <body = b (int64 i, bool ci, float[5,64] s) => (bool co, float[5,64] t) {
        co = Identity(ci) p = MatMul(s, w) r = Relu(p) t = Mul(r, factor) }> }"""
FADING = """g (float[5,64] x, int64 n) => (float[5,64] y) {
    go = Constant<value = bool {1}>()
    y = Loop(n, go, x) <body = b (int64 i, bool ci, float[5,64] s) => (bool co, float[5,64] t) {
        co = Identity(ci) p = MatMul(s, w) t = Mul(p, factor) }> }"""
BRANCH = """g (float[M,64] x, bool use) => (float[M,64] y) {
    y = If(use) <
        then_branch = t () => (float[M,64] p) { h = MatMul(x, w) r = Relu(h) p = MatMul(r, v) },
        else_branch = e () => (float[M,64] q) { h2 = MatMul(x, w) r2 = Tanh(h2) q = MatMul(r2, v) }> }"""
BEHIND = """g (float[M,64] x, bool use) => (float[M,64] y) {
    z = If(use) <
        then_branch = t () => (float[M,64] p) { p = Relu(x) },
        else_branch = e () => (float[M,64] q) { q = Mul(x, ten) }>
    h = MatMul(z, w) r = Relu(h) y = MatMul(r, v) }"""
HEAD = """g (float[M,64] x, float[R,64] k) => (float[M,64] y, float[R,64] z) {
    h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) h2 = MatMul(k, v) r2 = Relu(h2) z = MatMul(r2, w) }"""
JOINED = """g (float[M,64] x, float[R,64] k) => (float[T,64] y) {
    h = MatMul(x, w) a = Concat<axis = 0>(h, k) r = Relu(a) y = MatMul(r, v) }"""
GEMMS = """g (float[5,64] x, bool use) => (float[5,64] y) {
    y = If(use) <
        then_branch = t () => (float[5,64] p) { h = Gemm(x, w, bias) p = Relu(h) },
        else_branch = e () => (float[5,64] q) {
            h2 = Gemm(x, v, bias) r2 = Relu(h2) s2 = Gemm<transB = 1>(r2, w, bias) q = Sigmoid(s2) }> }"""
CONVS = """g (float[1,16,8,8] i, bool use) => (float[1,16,8,8] y) {
    y = If(use) <
        then_branch = t () => (float[1,16,8,8] p) { h = Conv(i, c) r = Relu(h) p = Conv(r, d) },
        else_branch = e () => (float[1,16,8,8] q) { h2 = Conv(i, d) r2 = Relu(h2) q = Conv(r2, c) }> }"""


def operand(op: str) -> str:
    return f"""g (float[M,64] x, float[M,64] k) => (float[M,64] y) {{
        h = MatMul(x, w) a = {op}(h, k) r = Relu(a) y = MatMul(r, v) }}"""


CASES = {
    "zero addend": (operand("Add"), {"k": 0.0}, {"k": 3.0}),
    "zero factor": (operand("Mul"), {"k": 0.0}, {"k": 1.0}),
    "zero operand of a float node": (operand("Sub"), {"k": 0.0}, {"k": 3.0}),
    "empty head": (HEAD, {"k": None}, {"k": 1.0}),
    "empty operand of a Concat": (JOINED, {"k": None}, {"k": 1.0}),
    "branch not taken": (BRANCH, {"use": True}, {"use": False}),
    "branch of Gemms not taken": (GEMMS, {"use": True}, {"use": False}),
    "branch of Convs not taken": (CONVS, {"use": True}, {"use": False}),
    "behind a branch not taken": (BEHIND, {"use": True}, {"use": False}),
    "no iteration": (LOOP, {"n": 0}, {"n": 2}),
    "one iteration": (LOOP, {"n": 1}, {"n": 3}),
    "fading state": (FADING, {"n": 6}, {"n": 6}),
}
"""Graph, inputs in calibration samples, and in others: float by its scale, None for no rows."""


def feeds(rng, text, given):
    found = {"i": normal(rng, 1, 16, 8, 8)} if "[1,16,8,8] i" in text else {"x": normal(rng, 5, 64)}
    for name, value in given.items():
        if name == "k":
            found[name] = normal(rng, 0, 64) if value is None else normal(rng, 5, 64) * np.float32(value)
        else:
            found[name] = np.array(value, bool if name == "use" else np.int64)
    return found


def prepared(tmp_path, text, samples, factor=3.0):
    rng = np.random.default_rng(0)
    constants = {
        "w": normal(rng, 64, 64) / 8, "v": normal(rng, 64, 64) / 8, "bias": normal(rng, 64),
        "c": normal(rng, 16, 16, 1, 1) / 4, "d": normal(rng, 16, 16, 1, 1) / 4,
        "factor": np.float32(factor), "ten": np.float32(10),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f"{name})" in text or f"{name}," in text}
    onnx.save(parse(text, used), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, sample in enumerate(samples):
        np.savez(tmp_path / "data" / f"{i:03}.npz", **sample)
    return tmp_path / "m.onnx"


def options(model, **more):
    given = {"effort": Effort.FAST, "skip_slow_nodes": False, "force": True} | more
    return QuantizeOptions(model, model.parent / "data", model.parent / "out.onnx", **given)


def error(folder, samples):
    """Largest rms error relative to the signal of an output."""
    worst = 0.0
    for sample in samples:
        for optimize in (True, False):
            pairs = zip(
                runtime_outputs(folder / "m.onnx", sample),
                runtime_outputs(folder / "out.onnx", sample, optimize=optimize),
                strict=True,
            )
            worst = max(worst, *(np.sqrt(np.square(y - x).mean() / np.square(x).mean()) for x, y in pairs))
    return worst


@pytest.mark.parametrize("form", [Format.QDQ, Format.QOPERATOR])
@pytest.mark.parametrize("case", CASES)
def test_what_no_sample_ran_is_right_on_other_samples(case, form, tmp_path):
    text, given, other = CASES[case]
    rng = np.random.default_rng(1)
    model = prepared(
        tmp_path, text, [feeds(rng, text, given) for _ in range(16)], 0.3 if text == FADING else 3.0
    )
    effort = Effort.BALANCED if case == "fading state" else Effort.FAST
    report = quantize(options(model, format=form, effort=effort))
    assert error(tmp_path, [feeds(rng, text, other) for _ in range(4)]) < 0.05
    named = any("'y'" in warning or "'z'" in warning for warning in report.warnings)
    assert named or case == "fading state"


def test_statistics_of_other_samples_know_what_they_did_not_see(tmp_path):
    rng = np.random.default_rng(1)
    model = prepared(tmp_path, BRANCH, [feeds(rng, BRANCH, {"use": True}) for _ in range(8)])
    calibrate(options(model), tmp_path / "s.npz")
    report = quantize(options(model, stats=(tmp_path / "s.npz",)))
    assert error(tmp_path, [feeds(rng, BRANCH, {"use": False})]) < 0.05
    assert "no sample takes the else branch" in " ".join(report.warnings)
    calibrated = quantize(QuantizeOptions(model, None, tmp_path / "out.onnx", stats=(tmp_path / "s.npz",),
                                          effort=Effort.FAST, force=True))  # fmt: skip
    assert "no sample takes the else branch" in " ".join(calibrated.warnings)
    assert error(tmp_path, [feeds(rng, BRANCH, {"use": False})]) < 0.05


def test_the_report_names_nodes_that_no_sample_ran(tmp_path):
    rng = np.random.default_rng(1)
    model = prepared(tmp_path, CONVS, [feeds(rng, CONVS, {"use": True}) for _ in range(8)])
    report = quantize(options(model))
    reasons = {row.reason for row in report.floats if row.op_type == "Conv"}
    assert reasons == {"no sample shows the range of 'r2'"}
    assert all(np.isfinite(ends).all() for ends in report.ranges.values())
    json.dumps(report.ranges, allow_nan=False)
    assert Cause.CALIBRATION.name


@pytest.mark.parametrize("value", [0, 2])
def test_an_input_that_is_read_for_its_size_alone_hides_nothing(tmp_path, value):
    text = """g (float[M,64] x, float[M,64] k) => (float[M,64] y) {
        s = Shape(k) z = ConstantOfShape(s) a = Add(x, z) y = MatMul(a, w) }"""
    rng = np.random.default_rng(1)
    samples = [feeds(rng, text, {}) | {"k": np.full((5, 64), value, np.float32)} for _ in range(8)]
    report = quantize(options(prepared(tmp_path, text, samples), without=("ranges-at-run-time",)))
    assert not [warning for warning in report.warnings if "'k'" in warning]
    assert report.planned == 1
    assert report.kernels.integer_share == 1
    assert error(tmp_path, samples[:2]) < 0.05


def test_an_input_that_is_the_same_in_all_samples_is_named(tmp_path):
    text = """g (float[M,64] x, float[M,64] k) => (float[M,64] y) {
        h = MatMul(x, w) a = Mul(h, k) r = Relu(a) y = MatMul(r, v) }"""
    rng = np.random.default_rng(1)
    samples = [feeds(rng, text, {}) | {"k": np.full((5, 64), 2, np.float32)} for _ in range(8)]
    report = quantize(options(prepared(tmp_path, text, samples)))
    assert error(tmp_path, samples[:2]) < 0.05
    (said,) = [warning for warning in report.warnings if "input 'k' is 2 in all samples" in warning]
    assert "output 'y'" in said


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("bool use) => (float[M,64] y) { h = MatMul(x, w) g = MatMul(x, v) s = Where(use, h, g) y = MatMul(s, v) }", {"use": True}),
        ("int64 n) => (float[M,64] y) { f = Cast<to=1>(n) h = MatMul(x, w) a = Mul(h, f) y = MatMul(a, v) }", {"n": 0}),
        ("int64 n) => (float[M,64] y) { h = MatMul(x, w) g = MatMul(h, v) s = Concat<axis=0>(h, g) a = Gather(s, n) r = Relu(a) y = MatMul(r, v) }", {"n": 3}),
    ],
)  # fmt: skip
def test_a_choice_that_is_the_same_in_all_samples_is_named(text, given, tmp_path):
    text = "g (float[M,64] x, " + text
    rng = np.random.default_rng(1)
    model = prepared(tmp_path, text, [feeds(rng, text, given) for _ in range(8)])
    report = quantize(options(model))
    (name,) = given
    said = [
        warning for warning in report.warnings if f"input '{name}' is {int(given[name])} in all" in warning
    ]
    assert said or any("calibration did not see" in warning for warning in report.warnings)
    assert "output 'y'" in "".join(report.warnings)


def test_samples_that_show_all_change_nothing(tmp_path):
    rng = np.random.default_rng(1)
    samples = [feeds(rng, BRANCH, {"use": bool(i % 2)}) for i in range(12)]
    report = quantize(options(prepared(tmp_path, BRANCH, samples)))
    assert not any("calibration did not see" in warning for warning in report.warnings)
    assert error(tmp_path, samples[:4]) < 0.05
    assert report.planned == 4


@pytest.mark.parametrize("taken", [1, 2])
def test_a_branch_that_a_single_sample_takes_is_named(taken, tmp_path):
    rng = np.random.default_rng(0)
    samples = [{"x": normal(rng, 5, 64), "use": np.array(i >= taken)} for i in range(16)]
    model = prepared(tmp_path, BRANCH, samples)
    report = quantize(options(model, effort=Effort.FAST, skip_slow_nodes=False))
    said = [warning for warning in report.warnings if "a single sample takes the else branch" in warning]
    assert len(said) == (taken == 1)
    assert all("output 'y'" in each for each in said)
