"""Training of quantized models, from the command's options to the bytes of the file."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError, OnnxqError
from onnxq.finetune.finetune import finetuned, set_aside
from onnxq.finetune.form import CELL, Bias, Scale, Weight, training_form
from onnxq.finetune.training import State, Training
from onnxq.formats.compact import share_zeros
from onnxq.modes.static import quantize_static
from onnxq.options import Effort, FinetuneOptions, QuantizeOptions, Technique
from onnxq.pipeline import finetune
from onnxq.report.quantize_text import quantize_text
from onnxq.runtime.sessions import open_fake_quantized, open_session
from onnxq.search.inputs import Inputs, prepare
from onnxq.search.trial import Outcome
from onnxq.techniques.saturation import kernel_order, saturating_pairs
from onnxq.transforms.registry import weight_options

from ..conftest import CNN, SAMPLES, TRANSFORMER

CALIB = SAMPLES / "calib"
SHORT = FinetuneOptions(steps=6, batch=4)


def options(model: Path, output: Path | None = None, **more: object) -> QuantizeOptions:
    plain = {"effort": Effort.FAST, "without": (Technique.FALLBACK,), "method": "minmax", "samples": 48}
    return QuantizeOptions(model, CALIB, output=output, **(plain | more))  # type: ignore[arg-type]


def quantized(model: Path, **more: object) -> tuple[Inputs, Outcome]:
    inputs, _ = set_aside(prepare(options(model, **more)))
    return inputs, quantize_static(inputs, None, lambda _: None)


@pytest.fixture(scope="module", params=[CNN, TRANSFORMER], ids=["cnn", "transformer"])
def outcome(request: pytest.FixtureRequest) -> tuple[Inputs, Outcome]:
    return quantized(request.param)


def test_the_training_form_computes_what_the_file_computes(outcome) -> None:
    inputs, result = outcome
    recipe = result.choice.recipe
    form = training_form(recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates))
    kinds = {type(each) for each in form.trained.values()}
    assert kinds == {Weight, Bias, Scale}
    feeds = inputs.samples.validation[0].load()
    found = open_fake_quantized(form.model).run(None, feeds | form.fed(form.start()))
    expected = open_session(inputs.writer().write(recipe, result.parameters), optimize=False).run(None, feeds)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())


def test_values_at_the_start_give_the_parameters_of_the_file(outcome) -> None:
    inputs, result = outcome
    form = training_form(
        result.choice.recipe, result.parameters, weight_options(inputs.options, inputs.target.saturates)
    )
    updated = form.updated(form.start())
    assert updated.activations == result.parameters.activations
    for place, one in result.parameters.constants.items():
        np.testing.assert_array_equal(updated.constants[place].stored, one.stored, str(place))
    for each in form.trained.values():
        if isinstance(each, Weight):
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
    updated = form.updated(wild)
    checked = 0
    for each in form.trained.values():
        if isinstance(each, Weight):
            stored = updated.constants[each.place].stored
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


def test_an_interrupt_keeps_the_best_step_so_far(tmp_path: Path, monkeypatch, request) -> None:
    plain = Training._step

    def interrupted(self: Training, state: State) -> State:
        if state.step == 4:
            signal.raise_signal(signal.SIGINT)
        return plain(self, state)

    monkeypatch.setattr(Training, "_step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have let it be ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    report = finetune(options(CNN, tmp_path / "out.onnx"), replace(SHORT, steps=12))
    assert report.finetuning is not None
    assert report.finetuning.interrupted
    assert report.finetuning.steps == 4
    assert (tmp_path / "out.onnx").is_file()


def test_a_training_that_loses_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    report = finetune(options(CNN, tmp_path / "tuned.onnx"), replace(SHORT, rate=300.0))
    assert report.finetuning is not None
    assert not report.finetuning.kept
    written = quantized(CNN)[1].written.clone()
    share_zeros(written)
    stored = {each.name: each.raw_data for each in onnx.load(tmp_path / "tuned.onnx").graph.initializer}
    for name, value in written.graph.initializers.items():
        assert stored[name] == value.const_value.tobytes(), name
    assert "not finetuned" in quantize_text(report)


def test_samples_that_decide_are_used_for_nothing_else() -> None:
    inputs = prepare(options(CNN))
    fewer, aside = set_aside(inputs)
    names = [{each.name for each in part} for part in (
        fewer.samples.calibration, fewer.samples.validation, aside.stopping, aside.deciding
    )]  # fmt: skip
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == len(inputs.samples.every)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="at least 9"):
        set_aside(prepare(options(CNN, samples=8)))
    set_aside(prepare(options(CNN, samples=9)))


def test_labels_are_learned(tmp_path: Path) -> None:
    inputs, result = quantized(CNN)
    _, aside = set_aside(prepare(options(CNN)))
    path = tmp_path / "labels.csv"
    rows = [f"{sample.name},{i % 10}" for i, sample in enumerate(inputs.samples.every)]
    path.write_text("\n".join(["file,label", *rows, "elsewhere.png,3"]))
    _, tuning = finetuned(inputs, aside, result, replace(SHORT, labels=str(path)))
    assert tuning.steps
    path.write_text("file,label\n" + "\n".join(row.split(",")[0] + ",77" for row in rows))
    with pytest.raises(DataError, match="label 77, but the model has 10 classes"):
        finetuned(inputs, aside, result, replace(SHORT, labels=str(path)))
    path.write_text("file,label\n" + "\n".join(row.split(",")[0] + ",cat" for row in rows))
    with pytest.raises(DataError, match="'cat' is no number"):
        finetuned(inputs, aside, result, replace(SHORT, labels=str(path)))
