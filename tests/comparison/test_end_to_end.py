"""Reports on small models whose error one ratio over all outputs does not show."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError
from onnxq.options import Effort, Limits, Method, QuantizeOptions, Technique
from onnxq.pipeline import quantize
from onnxq.report.quantization import QuantizeReport
from onnxq.report.quantize_text import quantize_rows
from onnxq.search.inputs import prepare
from tests.conftest import normal, parse

PLAIN = (Technique.FALLBACK, Technique.SMOOTHING, Technique.EQUALIZATION, Technique.GPTQ)


def quantized(
    folder: Path,
    *,
    without: tuple[Technique, ...] = (),
    states: tuple[str, ...] = (),
    samples: int = 200,
    effort: Effort = Effort.BALANCED,
) -> QuantizeReport:
    options = QuantizeOptions(
        folder / "model.onnx",
        folder / "data",
        folder / "out.onnx",
        method=Method.MSE,
        without=without,
        states=states,
        skip_slow_nodes=False,
        force=True,
        samples=samples,
        effort=effort,
    )
    return quantize(options)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A model of 120 outputs; one comes from a product whose input range is too wide for 8 bits."""
    folder, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    names = [f"y{i}" for i in range(119)]
    text = f"""g (float[1,16] x) => ({", ".join(f"float[1,4] {name}" for name in names)}, float[1,4] bad) {{
        m = MatMul(x, w0) h = Tanh(m) a = MatMul(h, w1) {", ".join(names)} = Split<axis=1>(a, sizes)
        wide = Mul(h, spread) r = Relu(wide) bad = MatMul(r, w2) }}"""
    spread = np.float32([1e4, *[1] * 15])
    weights = {"w0": normal(rng, 16, 16) / 4, "w1": normal(rng, 16, 476), "w2": normal(rng, 16, 4)}
    weights["w2"][0] /= 1e4  # the wide input counts no more than the others
    onnx.save(parse(text, weights | {"spread": spread, "sizes": np.full(119, 4)}), folder / "model.onnx")
    (folder / "data").mkdir()
    for i in range(24):
        np.save(folder / "data" / f"{i:02}.npy", normal(rng, 1, 16))
    return folder


def test_one_ruined_output_of_120_is_the_bound_and_is_named(many):
    report = quantized(many, without=PLAIN)
    outputs = report.outputs
    assert len(outputs.parts) == 120
    assert outputs.worst_part.name == "bad"
    assert outputs.bound_db == outputs.worst_part.bound_db < 5
    assert outputs.sqnr_db == outputs.worst_part.sqnr_db
    assert min(part.sqnr_db for part in outputs.parts if part.name != "bad") > 25
    assert any(
        "'bad'" in warning and "and" not in warning.split("(")[1].split(")")[0] for warning in report.warnings
    )
    (gate,) = report.gated(Limits(min_sqnr=20)).gates
    assert not gate.holds
    assert gate.found == outputs.bound_db
    assert any("'bad', the worst of 120 parts" in row[1] for row in quantize_rows(report))


def test_one_ruined_output_of_120_is_saved(many):
    report = quantized(many)
    assert len(report.fallback.nodes) == 1
    assert report.fallback.before_db < 5
    assert report.outputs.bound_db >= 20
    assert next(part.sqnr_db for part in report.outputs.parts if part.name == "bad") > 25
    assert report.kernels.model_share > 0.8
    assert not any("far from float" in warning for warning in report.warnings)
    assert report.gated(Limits(min_sqnr=20)).gates[0].holds


RECURRENT = """g (float[1,4] x, float[1,16] {a}) => (float[1,4] y, float[1,16] {b}) {{
    u = MatMul(x, w) r = MatMul({a}, k) s = Add(u, r) {b} = Tanh(s) y = MatMul({b}, v) }}"""


def recurrent(folder: Path, a: str = "h0", b: str = "hn") -> Path:
    """A state that keeps its content (orthogonal matrix), with 8 folders of 16 steps from the float model."""
    rng = np.random.default_rng(1)
    keep = np.linalg.qr(normal(rng, 16, 16))[0].astype(np.float32)
    weights = {"w": normal(rng, 4, 16) / 20, "k": keep, "v": normal(rng, 16, 4)}
    onnx.save(parse(RECURRENT.format(a=a, b=b), weights), folder / "model.onnx")
    for sequence in range(8):
        (folder / "data" / f"{sequence}").mkdir(parents=True)
        state = np.zeros((1, 16), np.float32)
        for step in range(16):
            x = normal(rng, 1, 4)
            np.savez(folder / "data" / f"{sequence}" / f"{step:02}.npz", **{"x": x, a: state})
            state = np.tanh(x @ weights["w"] + state @ keep)
    return folder


def test_a_stateful_model_is_judged_with_its_own_states(tmp_path):
    """Each step's error is kept by the state, so that the error after 16 steps is larger than that of one."""
    folder = recurrent(tmp_path)
    closed = quantized(folder, without=PLAIN)
    opened = quantized(folder, without=PLAIN, states=("none",))
    assert closed.outputs.sequences == 8
    assert opened.outputs.sequences is None
    assert closed.outputs.samples == opened.outputs.samples == 128
    assert closed.outputs.sqnr_db < opened.outputs.sqnr_db - 3
    assert closed.outputs.bound_db < opened.outputs.bound_db
    assert any("in 8 sequences, each model with its own states" in row[1] for row in quantize_rows(closed))


def test_a_stateful_model_without_names_for_states_is_seen_in_the_data(tmp_path):
    report = quantized(recurrent(tmp_path, "left_in", "left_out"), without=PLAIN)
    assert report.outputs.sequences == 8


def test_sequences_are_held_out_as_a_whole(tmp_path):
    report = quantized(recurrent(tmp_path), without=PLAIN)
    assert report.outputs.unseen in (16, 32)
    assert report.outputs.samples == 128


def test_more_sequences_verify_than_calibrate(tmp_path):
    """Two sequences of 16 samples are hardly any evidence: the others verify, as far as there is time."""
    report = quantized(recurrent(tmp_path), without=PLAIN, samples=32)
    assert report.outputs.sequences == 8
    assert report.outputs.samples == 128
    assert report.outputs.unseen >= 96
    assert report.samples <= 32
    hurried = quantized(tmp_path, without=PLAIN, samples=32, effort=Effort.FAST)
    assert hurried.outputs.samples <= 32


def test_a_wrong_pair_of_states_is_said_before_anything_is_done(tmp_path):
    folder = recurrent(tmp_path)
    with pytest.raises(
        DataError, match="--state h0=nothing: expected INPUT=OUTPUT; inputs are x, h0, outputs y, hn"
    ):
        quantized(folder, states=("h0=nothing",))
    assert not (folder / "out.onnx").exists()


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Boxes in pixels beside scores of three classes; the input of the scores is too wide for 8 bits."""
    folder, rng = tmp_path_factory.mktemp("detector"), np.random.default_rng(2)
    text = """g (float[1,8,4,4] x) => (float[1,16,7] y) {
        c = Conv(x, w0) h = Tanh(c) b = Conv(h, w1) wide = Mul(h, spread) r = Relu(wide) s = Conv(r, w2)
        rb = Reshape(b, four) rs = Reshape(s, three) pixels = Mul(rb, stride) p = Sigmoid(rs)
        cat = Concat<axis=1>(pixels, p) y = Transpose<perm=[0,2,1]>(cat) }"""
    weights = {
        "w0": normal(rng, 8, 8, 1, 1) / 3,
        "w1": normal(rng, 4, 8, 1, 1),
        "w2": 4 * normal(rng, 3, 8, 1, 1),
    }
    weights["w2"][:, 0] /= 1e4
    spread = np.float32([1e4, *[1] * 7]).reshape(1, 8, 1, 1)
    constants = {
        "spread": spread,
        "stride": np.float32(160),
        "four": np.array([1, 4, 16]),
        "three": np.array([1, 3, 16]),
    }
    onnx.save(parse(text, weights | constants), folder / "model.onnx")
    (folder / "data").mkdir()
    for i in range(24):
        np.save(folder / "data" / f"{i:02}.npy", normal(rng, 1, 8, 4, 4))
    return folder


def test_the_scores_of_a_detector_are_judged_on_their_own(detector):
    outputs = quantized(detector, without=PLAIN).outputs
    boxes, scores = outputs.parts
    assert (boxes.name, scores.name) == ("y[:, :, 0:4]", "y[:, :, 4:7]")
    assert boxes.sqnr_db > 25
    assert scores.sqnr_db < 15
    assert outputs.worst_part == scores
    assert outputs.bound_db == scores.bound_db


def test_the_scores_of_a_detector_are_saved(detector):
    report = quantized(detector)
    assert len(report.fallback.nodes) == 1
    assert report.outputs.bound_db >= 20
    assert min(part.sqnr_db for part in report.outputs.parts) > 22


def test_decisions_of_a_classifier_are_counted_in_front_of_its_softmax(tmp_path, rng):
    text = """g (float[1,16] x) => (float[1,5] y) {
        m = MatMul(x, w0) h = Tanh(m) a = MatMul(h, w1) y = Softmax(a) }"""
    onnx.save(
        parse(text, {"w0": normal(rng, 16, 16) / 4, "w1": 4 * normal(rng, 16, 5)}), tmp_path / "model.onnx"
    )
    (tmp_path / "data").mkdir()
    for i in range(48):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16))
    report = quantized(tmp_path, without=PLAIN)
    (decisions,) = report.outputs.decisions
    assert decisions.output == "y"
    assert decisions.count == 48
    assert 0 < decisions.expected < 0.05
    assert decisions.changed <= 2 / 48
    assert any(row[0] == "decisions" and "of 48 changed" in row[1] for row in quantize_rows(report))


def test_a_selection_is_judged_in_front_of_it_and_counted(tmp_path, rng):
    text = """g (float[1,16] x) => (float[1,3] best, int64[1,3] which) {
        m = MatMul(x, w0) h = Tanh(m) a = MatMul(h, w1) best, which = TopK(a, k) }"""
    weights = {"w0": normal(rng, 16, 16) / 4, "w1": normal(rng, 16, 40), "k": np.array([3])}
    onnx.save(parse(text, weights), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(24):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16))
    outputs = quantized(tmp_path, without=PLAIN).outputs
    assert [part.name for part in outputs.parts] == ["a"]
    assert outputs.sqnr_db > 25
    assert next(iter(outputs.selections.values())) > 0.85


@pytest.mark.parametrize(("samples", "folders"), [(64, [3, 1, 0]), (128, [6, 1, 1])])
def test_samples_of_a_sequence_stay_together(tmp_path, samples, folders):
    inputs = prepare(QuantizeOptions(recurrent(tmp_path) / "model.onnx", tmp_path / "data", samples=samples))
    parts = [
        {Path(sample.name).parent.name for sample in group}
        for group in (inputs.samples.calibration, inputs.samples.validation, inputs.samples.unseen)
    ]
    assert [len(part) for part in parts] == folders
    assert len(set.union(*parts)) == sum(folders)
    assert [sample.name for sample in inputs.samples.every] == sorted(
        sample.name for sample in inputs.samples.every
    )
    assert len(inputs.samples.every) == samples


def test_outputs_of_which_none_is_a_float_cannot_be_compared(tmp_path, rng):
    text = """g (float[1,16] x) => (uint8[1,4] y) {
        m = MatMul(x, w0) h = Tanh(m) a = MatMul(h, w1) y = Cast<to=2>(a) }"""
    onnx.save(parse(text, {"w0": normal(rng, 16, 16) / 4, "w1": normal(rng, 16, 4)}), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(24):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16))
    outputs = quantized(tmp_path, without=PLAIN).outputs
    assert outputs.sqnr_db is outputs.bound_db is outputs.worst_part is None
    assert outputs.parts == []
