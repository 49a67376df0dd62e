"""Weights on disk while a model is worked on."""

import gc

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxq
from onnxq.data.samples import spread
from onnxq.job import prepare
from onnxq.model import spill
from onnxq.model.runtime import open_session
from onnxq.options import QuantizeOptions
from onnxq.search import _more_samples
from tests.conftest import normal, parse


@pytest.fixture
def model(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(spill, "SPILL", 1 << 18)
    text = "g (float[4,300] x) => (float[4,300] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    onnx.save_model(parse(text, {"w": normal(rng, 300, 300), "v": normal(rng, 300, 300)}), tmp_path / "m.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.save(tmp_path / "calib" / f"{i}.npy", normal(rng, 4, 300))
    return tmp_path / "m.onnx"


def test_a_file_holds_the_weights_as_long_as_the_job_lives(model, tmp_path):
    job = prepare(QuantizeOptions(model, tmp_path / "calib", tmp_path / "o.onnx"))
    held = [value.const_value for value in job.model.graph.initializers.values()]
    assert all(isinstance(tensor, ir.ExternalTensor) and tensor.offset % spill.PAGE == 0 for tensor in held)
    feeds = {"x": np.load(tmp_path / "calib" / "0.npy")}
    (found,), (wanted,) = open_session(job.model).run(None, feeds), open_session(model).run(None, feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    folder = job.scratch
    assert folder.is_dir()
    del job, held
    gc.collect()
    assert not folder.exists()


def test_nothing_is_left_behind(model, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    onnxq.quantize(model, tmp_path / "calib", tmp_path / "o.onnx")
    gc.collect()
    assert list(scratch.iterdir()) == []
    assert all(not t.external_data for t in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer)


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
    assert len(spread(list(range(175)), 96)) == 96
