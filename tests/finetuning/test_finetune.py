"""Training of quantized models, from the command's options to the bytes of the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.errors import DataError, OnnxqError
from onnxq.finetuning.backward import measure
from onnxq.finetuning.division import divided
from onnxq.finetuning.features import find_features
from onnxq.finetuning.finetune import finetuned
from onnxq.finetuning.frontier import Frontier
from onnxq.finetuning.integer_form import training_form, updated
from onnxq.finetuning.reconstruction import find_layers, least_squares, reconstructed
from onnxq.finetuning.trained import Bias, Scale
from onnxq.finetuning.trained_weights import CELL, ChannelGrowth, ChannelWeight
from onnxq.finetuning.training import State, Training
from onnxq.formats.compact import share_zeros
from onnxq.modes.static import quantize_static
from onnxq.options import Effort, FinetuneOptions, QuantizeOptions, Technique
from onnxq.pipeline import finetune
from onnxq.report.quantize_text import quantize_text
from onnxq.runtime.sessions import open_fake_quantized, open_session
from onnxq.search.inputs import Inputs, prepare
from onnxq.search.references import References
from onnxq.search.trial import Outcome
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from onnxq.transforms.registry import weight_options

from ..conftest import CNN, SAMPLES, TRANSFORMER, parse

CALIB = SAMPLES / "calib"
SHORT = FinetuneOptions(steps=6, batch=4)


def options(model: Path, output: Path | None = None, **more: object) -> QuantizeOptions:
    plain = {"effort": Effort.FAST, "without": (Technique.FALLBACK,), "method": "minmax", "samples": 48}
    return QuantizeOptions(model, CALIB, output=output, **(plain | more))  # type: ignore[arg-type]


def all_int8(folder: Path, **more: object) -> QuantizeOptions:
    """Return options for model.onnx and calib/ of a folder, with no node in float for speed or accuracy."""
    plain = {"effort": Effort.FAST, "without": (Technique.FALLBACK,), "skip_slow_nodes": False}
    return QuantizeOptions(folder / "model.onnx", folder / "calib", **(plain | more))  # type: ignore[arg-type]


def quantized(model: Path, **more: object) -> tuple[Inputs, Outcome]:
    inputs = prepare(options(model, **more))
    return inputs, quantize_static(inputs, None, lambda _: None)


@pytest.fixture(scope="module", params=[CNN, TRANSFORMER], ids=["cnn", "transformer"])
def outcome(request: pytest.FixtureRequest) -> tuple[Inputs, Outcome]:
    return quantized(request.param)


def test_the_training_form_computes_what_the_file_computes(outcome) -> None:
    inputs, result = outcome
    recipe = result.choice.recipe
    form = training_form(recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates))
    kinds = {type(each) for each in form.trained.values()}
    assert kinds == {ChannelWeight, ChannelGrowth, Bias, Scale}
    feeds = inputs.samples.validation[0].load()
    found = open_fake_quantized(form.model).run(None, feeds | form.fed(form.start()))
    expected = open_session(inputs.writer().write(recipe, result.parameters), optimize=False).run(None, feeds)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())


def test_sessions_of_a_training_give_the_memory_of_a_run_back(outcome) -> None:
    inputs, _ = outcome
    held = open_fake_quantized(inputs.model).get_session_options()
    assert not held.enable_cpu_mem_arena
    assert not held.enable_mem_pattern


def test_values_at_the_start_give_the_parameters_of_the_file(outcome) -> None:
    inputs, result = outcome
    form = training_form(
        result.choice.recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates)
    )
    found = updated(form, form.start())
    assert found.activations == result.parameters.activations
    for place, one in result.parameters.constants.items():
        np.testing.assert_array_equal(found.constants[place].stored, one.stored, str(place))
    for each in form.trained.values():
        if isinstance(each, ChannelWeight):
            assert np.abs(each.start - each.integers(each.start)).max() <= CELL + 1e-4


def test_trained_weights_keep_the_pair_rule_and_their_limit() -> None:
    inputs, result = quantized(CNN)
    form = training_form(
        result.choice.recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates)
    )
    rng = np.random.default_rng(0)
    wild = {
        name: each.clipped(np.asarray(each.start + rng.normal(0, 60, each.start.shape), np.float32))
        for name, each in form.trained.items()
    }
    found = updated(form, wild)
    checked = 0
    for each in form.trained.values():
        if isinstance(each, ChannelWeight):
            stored = found.constants[each.place].stored
            assert np.abs(stored.astype(int)).max() <= each.limit
            if each.pair_safe:
                checked += 1
                assert saturating_pairs(kernel_order(stored, each.axis)) == 0
    assert checked


@pytest.mark.parametrize("bits", [4, 6])
def test_few_bits_are_stored_within_their_limit(bits: int, tmp_path: Path) -> None:
    report = finetune(options(CNN, tmp_path / "out.onnx"), replace(SHORT, bits=(bits,)))
    stored = [
        onnx.numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "out.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
    ]
    assert stored
    assert max(np.abs(each.astype(int)).max() for each in stored) <= 2 ** (bits - 1) - 1
    assert report.finetuning is not None
    assert report.finetuning.bits == (bits,)


def test_the_loss_falls_and_the_file_comes_closer_to_float(tmp_path: Path) -> None:
    long = FinetuneOptions(steps=60, batch=16, bits=(4,))
    report = finetune(options(CNN, tmp_path / "out.onnx", samples=200), long)
    tuning = report.finetuning
    assert tuning is not None and tuning.kept, tuning
    assert tuning.after_db > tuning.before_db + 0.5
    assert report.outputs.suspect is False
    assert "finetuned" in quantize_text(report)


def test_the_same_seed_gives_the_same_bytes_also_after_a_stop(tmp_path: Path, monkeypatch) -> None:
    tuning = FinetuneOptions(steps=12, batch=4, bits=(6, 4), gradient_bits=8)
    finetune(options(CNN, tmp_path / "one.onnx"), tuning)
    finetune(options(CNN, tmp_path / "two.onnx"), tuning)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    # stopped in the middle of the last part, then resumed
    plain, count = Training._step, []

    def stopping(self: Training, state: State) -> State:
        count.append(state.step)
        if len(count) == 10:
            raise RuntimeError("power failure")
        return plain(self, state)

    kept = replace(tuning, checkpoint=tmp_path / "state.npz")
    monkeypatch.setattr(Training, "_step", stopping)
    with pytest.raises(RuntimeError):
        finetune(options(CNN, tmp_path / "three.onnx"), kept)
    monkeypatch.setattr(Training, "_step", plain)
    finetune(options(CNN, tmp_path / "three.onnx"), kept)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "three.onnx").read_bytes()
    # another training does not take the checkpoint
    with pytest.raises(OnnxqError, match="with other options"):
        finetune(options(CNN, tmp_path / "four.onnx"), replace(kept, seed=1))
    with pytest.raises(OnnxqError, match="not a checkpoint"):
        finetune(options(CNN, tmp_path / "four.onnx"), replace(kept, checkpoint=CNN.with_name("README.md")))


@pytest.mark.usefixtures("interrupted")
def test_an_interrupt_keeps_the_best_step_so_far(tmp_path: Path) -> None:
    report = finetune(options(CNN, tmp_path / "out.onnx"), replace(SHORT, steps=12))
    assert report.finetuning is not None
    assert report.finetuning.interrupted
    assert report.finetuning.steps == 4
    assert (tmp_path / "out.onnx").is_file()


def test_a_training_that_loses_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("onnxq.finetuning.finetune.reconstructed", lambda form, _: form.start())
    report = finetune(options(CNN, tmp_path / "tuned.onnx"), replace(SHORT, rate=1e6))
    assert report.finetuning is not None
    assert not report.finetuning.kept
    written = quantized(CNN)[1].written.clone()
    share_zeros(written)
    stored = {each.name: each.raw_data for each in onnx.load(tmp_path / "tuned.onnx").graph.initializer}
    for name, value in written.graph.initializers.items():
        assert stored[name] == value.const_value.tobytes(), name
    assert "not finetuned" in quantize_text(report)


def test_unseen_samples_decide_nothing() -> None:
    inputs = prepare(options(CNN))
    found = divided(inputs)
    names = [
        {each.name for each in part}
        for part in (found.training, found.stopping, inputs.samples.validation, found.unseen)
    ]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == len(inputs.samples.every)
    assert names[0] | names[1] == {each.name for each in inputs.samples.calibration}
    assert names[1] | names[2] == {each.name for each in found.deciding}


def test_the_claim_of_a_trained_file_stands_on_samples_that_nothing_was_trained_on(
    tmp_path: Path, monkeypatch
) -> None:
    chosen = options(CNN, tmp_path / "out.onnx", samples=200, effort=Effort.BALANCED)
    with monkeypatch.context() as patched:
        patched.setattr("onnxq.finetuning.finetune.reconstructed", lambda form, _: form.start())
        plain = finetune(chosen, FinetuneOptions(steps=2, batch=2, rate=1e6))
    assert not plain.finetuning.kept
    assert plain.outputs.samples == 200
    trained = finetune(replace(chosen, force=True), FinetuneOptions(steps=40, batch=16, bits=(4,)))
    assert trained.finetuning.kept
    split = prepare(chosen).samples
    assert trained.outputs.samples == len(split.validation) + len(split.unseen)
    assert trained.outputs.unseen == len(split.unseen)


def test_the_gradient_of_a_weight_scale_is_that_of_all_its_weights() -> None:
    growth = ChannelGrowth("w", np.zeros(2, np.float32), 0, 2)
    weight, target = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[2, 0, 1], [1, 1, 1]])

    def loss(value: np.ndarray) -> float:
        return float((weight * growth.factor(value) * target).sum())

    value, step = np.float32([0.1, -0.2]), 1e-3
    found = growth.gradient(target * weight * growth.factor(value))
    for i in range(2):
        moved = np.float32([step * (i == 0), step * (i == 1)])
        slope = (loss(value + moved) - loss(value - moved)) / (2 * step)
        np.testing.assert_allclose(found[i], slope, rtol=1e-2)


def test_least_squares_takes_back_errors_that_the_inputs_explain_and_no_chance() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 400, 6)).astype(np.float32)
    rows = rng.normal(size=(1, 3, 6)).astype(np.float32)
    true = rows + np.float32(0.2) * rng.normal(size=rows.shape).astype(np.float32)
    found = least_squares(rows, x, x @ true.swapaxes(1, 2))
    assert np.square(found - true).sum() < 0.02 * np.square(rows - true).sum()
    noise = rng.normal(size=(1, 400, 3)).astype(np.float32)
    found = least_squares(rows, x, x @ rows.swapaxes(1, 2) + noise)
    assert found is None or np.square(found - rows).sum() < 0.01 * np.square(rows).sum()
    few, wide = (rng.normal(size=(1, count, 30)).astype(np.float32) for count in (40, 16))
    noise = rng.normal(size=(1, 40, 16)).astype(np.float32)
    assert least_squares(wide, few, few @ wide.swapaxes(1, 2) + noise) is None


def test_reconstruction_brings_the_file_closer_to_float() -> None:
    inputs, result = quantized(CNN, weight_bits=4)
    form = training_form(
        result.choice.recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates)
    )
    assert len(find_layers(form)) == len(form.weights)
    feeds = [sample.load() for sample in inputs.samples.calibration]
    found = reconstructed(form, feeds)
    references = References.of(inputs.model, inputs.samples.unseen, [], inputs.specs)
    before, after = (
        references.measure_before_softmax(inputs.writer().write(result.choice.recipe, updated(form, each)))
        for each in (form.start(), found)
    )
    assert after.sqnr_db > before.sqnr_db + 1.5


def test_a_layer_makes_up_for_the_error_of_a_shortcut_that_is_broadcast(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in {"v": (8, 8, 3, 3), "w": (8, 8, 3, 3), "u": (8, 8, 1, 1), "b": (8,)}.items()
    }
    graph = parse("""g (float[1,8,6,6] x) => (float[1,8,6,6] y) {
        a = Conv<pads = [1,1,1,1]>(x, v, b)
        r = Relu(a)
        m = GlobalAveragePool(r)
        s = Conv(m, u, b)
        c = Conv<pads = [1,1,1,1]>(r, w, b)
        d = Add(c, s)
        y = Relu(d)
    }""", weights)  # fmt: skip
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(24):
        np.save(tmp_path / "calib" / f"{i:02}.npy", rng.normal(size=(1, 8, 6, 6)).astype(np.float32))
    chosen = all_int8(tmp_path, weight_bits=3)
    inputs = prepare(chosen)
    result = quantize_static(inputs, None, lambda _: None)
    form = training_form(
        result.choice.recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates)
    )
    shortcuts = [layer.shortcut is not None for layer in find_layers(form)]
    assert sorted(shortcuts) == [False, True, True]
    feeds = [sample.load() for sample in inputs.samples.calibration]
    found = reconstructed(form, feeds)
    changed = [found[layer.weight] is not form.trained[layer.weight].start for layer in find_layers(form)]
    # the first layer has no error to make up for, the output of the second one is broadcast
    assert changed == [False, False, True]
    references = References.of(inputs.model, inputs.samples.calibration, [], inputs.specs)
    before, after = (
        references.measure_before_softmax(inputs.writer().write(result.choice.recipe, updated(form, each)))
        for each in (form.start(), found)
    )
    assert after.sqnr_db > before.sqnr_db + 0.5


def test_a_graph_that_runs_from_node_to_node_computes_what_it_computes_at_once() -> None:
    model = ir.from_proto(onnx.load(TRANSFORMER))
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    feeds = [{"image": np.load(path)} for path in sorted(CALIB.iterdir())[:2]]
    feeds = [{model.graph.inputs[0].name: next(iter(each.values()))} for each in feeds]
    frontier, nodes = Frontier(model, feeds, quantized=False), list(model.graph)
    names = [value.name for value in model.graph.outputs]
    for place in (len(nodes) // 3, len(nodes) // 2, len(nodes) - 1):
        found = list(frontier.moved(nodes[place].name, names))
        for sample, each in zip(feeds, found, strict=True):
            expected = open_session(model).run(names, sample)
            np.testing.assert_allclose(each[names[0]], expected[0], rtol=1e-4, atol=1e-4)


def test_sizes_that_a_graph_computes_from_shapes_are_passed_on() -> None:
    """Two samples of other sizes: the Resize behind the kept values takes sizes computed in front of them."""
    graph = parse("""g (float[1, 1, a, b] x) => (float[1, 1, c, d] y) {
        e = Neg(x)
        s = Shape(x)
        t = Mul(s, factors)
        f = Relu(e)
        r = Resize(f, , , t)
        y = Neg(r)
    }""", {"factors": np.array([1, 1, 2, 2])})  # fmt: skip
    model = ir.from_proto(graph)
    for node in model.graph:
        node.name = f"{node.op_type}_{node.outputs[0].name}"
    feeds = [{"x": np.random.default_rng(size).normal(size=(1, 1, size, 3))} for size in (2, 5)]
    feeds = [{"x": each["x"].astype(np.float32)} for each in feeds]
    frontier = Frontier(model, feeds, quantized=False)
    for place in ("Relu_f", "Resize_r", "Neg_y"):
        for sample, each in zip(feeds, list(frontier.moved(place, ["y"])), strict=True):
            np.testing.assert_array_equal(each["y"], open_session(model).run(None, sample)[0])


def test_inner_values_are_compared_at_the_narrowest_places() -> None:
    graph = parse("""g (float[1,4] x) => (float[1,4] y) {
        a = Relu(x)
        b = Relu(a)
        c = Neg(a)
        d = Add(b, c)
        e = MatMul(d, w)
        f = Relu(e)
        y = MatMul(f, w)
    }""", {"w": np.eye(4, dtype=np.float32)})  # fmt: skip
    model = ir.from_proto(graph)
    shapes = {name: [1, 4] for name in "xabcdefy"} | {"w": [4, 4]}
    assert find_features(model, {"b", "c", "d", "f"}, shapes) == ["d", "f"]


@pytest.mark.parametrize(("samples", "warned"), [(12, True), (24, False)])
def test_a_choice_by_few_samples_is_said(
    samples: int, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxq.finetuning.finetune.verdict", lambda *_: (True, "kept"))
    tuning = replace(SHORT, steps=1, bits=(4,))
    report = finetune(options(CNN, tmp_path / "out.onnx", samples=samples, weight_bits=4), tuning)
    assert any("which may be chance: give 24 or more" in each for each in report.warnings) is warned


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="at least 9"):
        divided(prepare(options(CNN, samples=8)))
    divided(prepare(options(CNN, samples=9)))


def test_labels_are_learned(tmp_path: Path) -> None:
    inputs, result = quantized(CNN)
    path = tmp_path / "labels.csv"
    rows = [f"{sample.name},{i % 10}" for i, sample in enumerate(inputs.samples.every)]
    path.write_text("\n".join(["file,label", *rows, "elsewhere.png,3"]))
    _, tuning = finetuned(inputs, result, replace(SHORT, labels=str(path)))
    assert tuning.steps
    path.write_text("file,label\n" + "\n".join(row.split(",")[0] + ",77" for row in rows))
    with pytest.raises(DataError, match="label 77, but the model has 10 classes"):
        finetuned(inputs, result, replace(SHORT, labels=str(path)))
    path.write_text("file,label\n" + "\n".join(row.split(",")[0] + ",cat" for row in rows))
    with pytest.raises(DataError, match="'cat' is no number"):
        finetuned(inputs, result, replace(SHORT, labels=str(path)))


def in_half_precision(rng: np.random.Generator) -> onnx.ModelProto:
    weights = {
        name: rng.normal(0, 0.3, shape).astype(np.float16)
        for name, shape in {"v": (8, 3, 3, 3), "u": (8, 8, 3, 3), "w": (8, 5)}.items()
    }
    text = """g (float16[n,3,12,12] x) => (float16[n,5] y) {
        a = Conv<pads = [1,1,1,1]>(x, v)
        r = Relu(a)
        b = Conv<pads = [1,1,1,1]>(r, u)
        s = Relu(b)
        m = GlobalAveragePool(s)
        f = Flatten(m)
        y = MatMul(f, w)
    }"""
    return parse(text, weights)


def test_a_model_with_outputs_in_half_precision_is_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    onnx.save(in_half_precision(rng), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(48):
        np.save(tmp_path / "calib" / f"{i:02}.npy", rng.normal(size=(1, 3, 12, 12)).astype(np.float16))
    chosen = all_int8(tmp_path, keep_int8=True, weight_bits=4)
    inputs = prepare(chosen)
    result, done = finetuned(inputs, quantize_static(inputs, None, lambda _: None), SHORT)
    assert done.kept
    assert done.weights == 3
    assert done.after_db > done.before_db + 0.5
    assert result.written.graph.outputs[0].dtype is ir.DataType.FLOAT16


def test_shapes_are_measured_where_one_symbol_stands_for_two_sizes() -> None:
    # the runtime takes the memory of one Sigmoid for the other
    graph = parse("""g (float[1,1,H,W] x) => (float[N,1] y, float[N,1] z) {
        a = Reshape(x, s)
        y = Sigmoid(a)
        p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)
        b = Reshape(p, s)
        z = Sigmoid(b)
    }""", {"s": np.array([-1, 1], np.int64)})  # fmt: skip
    found = measure(ir.from_proto(graph), {"x": np.ones((1, 1, 4, 4), np.float32)})
    assert found.shapes["y"] == (16, 1)
    assert found.shapes["z"] == (4, 1)
