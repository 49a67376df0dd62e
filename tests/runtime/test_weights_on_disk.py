"""Weights on disk while a model is processed."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxq
from onnxq.graph.edit import constant
from onnxq.options import QuantizeOptions
from onnxq.runtime import weights_on_disk
from onnxq.runtime.sessions import open_session
from onnxq.search.inputs import prepare
from onnxq.search.variants import _more_samples
from tests.conftest import normal, parse


@pytest.fixture
def model(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(weights_on_disk, "DISK_THRESHOLD", 1 << 18)
    text = "g (float[4,300] x) => (float[4,300] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    onnx.save_model(
        parse(text, {"w": normal(rng, 300, 300), "v": normal(rng, 300, 300)}), tmp_path / "m.onnx"
    )
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 4, 300))
    return tmp_path / "m.onnx"


def test_a_file_holds_the_weights_as_long_as_the_inputs_live(model, tmp_path):
    inputs = prepare(QuantizeOptions(model, tmp_path / "calib", tmp_path / "o.onnx"))
    held = [value.const_value for value in inputs.model.graph.initializers.values()]
    assert all(
        isinstance(tensor, ir.ExternalTensor) and tensor.offset % weights_on_disk.PAGE == 0 for tensor in held
    )
    feeds = {"x": np.load(tmp_path / "calib" / "0.npy")}
    (found,), (wanted,) = open_session(inputs.model).run(None, feeds), open_session(model).run(None, feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    folder = inputs.store.folder
    assert folder.is_dir()
    del inputs, held
    gc.collect()
    assert not folder.exists()


def test_several_forms_lie_in_one_folder(model, tmp_path):
    inputs = prepare(QuantizeOptions(model, tmp_path / "calib", tmp_path / "o.onnx"))
    before = [constant(value) for value in inputs.model.graph.initializers.values()]
    form = inputs.model.clone()
    for value in form.graph.initializers.values():
        value.const_value = ir.Tensor(2 * constant(value))
    inputs.store.offload(form)
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in form.graph.initializers.values())
    for one, of_form, wanted in zip(
        inputs.model.graph.initializers.values(), form.graph.initializers.values(), before, strict=True
    ):
        np.testing.assert_array_equal(constant(one), wanted)
        np.testing.assert_array_equal(constant(of_form), 2 * wanted)


def test_nothing_is_left_behind(model, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    onnxq.quantize(model, tmp_path / "calib", tmp_path / "o.onnx")
    gc.collect()
    assert list(scratch.glob("onnxq-*")) == []
    assert all(
        not t.external_data
        for t in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer
    )


def test_nothing_is_left_behind_by_a_run_that_is_told_to_end(model, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [
        sys.executable,
        Path(__file__).with_name("interrupted_quantize_program.py"),
        "quantize",
        model,
        "--calib",
        tmp_path / "calib",
        "-o",
        tmp_path / "o.onnx",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}
    ) as process:
        assert process.stdout.readline().startswith(f"working {scratch}")
        process.terminate()
        assert process.wait(30) == 143
    assert list(scratch.glob("onnxq-*")) == []
    assert not (tmp_path / "o.onnx").exists()


class Rows:
    def __init__(self, rows):
        self.rows = rows


class Layer:
    def __init__(self, wanted):
        self.total = wanted

    def wanted(self, samples):
        return self.total


def test_samples_are_as_many_as_the_layers_need_but_hopeless_ones():
    moments = {Layer(1000): Rows(4000), Layer(2000): Rows(1000), Layer(5000): Rows(48)}
    assert _more_samples(moments, 48, 175) == 96
    assert _more_samples({Layer(5000): Rows(48)}, 48, 175) == 0
    assert _more_samples({Layer(5000): Rows(900)}, 48, 175) == 175


def test_weights_that_a_file_in_the_making_looks_at_can_be_read(model, tmp_path):
    inputs = prepare(QuantizeOptions(model, tmp_path / "calib", tmp_path / "o.onnx"))
    value = next(iter(inputs.model.graph.initializers.values()))
    looked_at = value.const_value.numpy()  # as a model that is written to a file does
    for _ in range(2):
        np.testing.assert_array_equal(constant(value), looked_at)


@pytest.mark.parametrize("away", ["weights", "temporary files"])
def test_weights_on_two_drives_are_read(away, tmp_path, rng, monkeypatch):
    """Windows has several roots; here a folder plays the second drive."""
    monkeypatch.setattr(weights_on_disk, "DISK_THRESHOLD", 1)
    text = "g (float[4,300] x) => (float[4,300] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }"
    onnx.save_model(parse(text, {name: normal(rng, 300, 300) for name in "wvu"}), tmp_path / "m.onnx")
    feeds = {"x": normal(rng, 4, 300)}
    wanted = open_session(tmp_path / "m.onnx").run(None, feeds)[0]
    model = ir.load(tmp_path / "m.onnx")
    here, other = tmp_path / "here", tmp_path / "other"
    for folder, name in ((here, "w"), (other, "v")):
        folder.mkdir()
        value = model.graph.initializers[name]
        weights_on_disk._write_weights([(value, value.const_value)], folder / "weights.data", folder)
    drives = {"weights": other, "temporary files": Path(tempfile.gettempdir())}
    monkeypatch.setattr(
        weights_on_disk,
        "_drive",
        lambda path: "D:" if drives[away] in (path, *path.parents) and here not in path.parents else "/",
    )
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert np.array_equal(open_session(model).run(None, feeds)[0], wanted)
    assert all(model.graph.initializers[name].const_value is tensor for name, tensor in before.items())
