"""A full temporary folder is named as such in all commands, and the model is not blamed."""

import os
import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest

from onnxq.errors import OutputError
from onnxq.evaluation.layer_errors import kernel_ms
from onnxq.runtime.sessions import open_session
from tests.conftest import CNN, normal, parse

TEXT = "g (float[M,1024] x) => (float[M,1024] y) { h=MatMul(x,w) r=Relu(h) y=MatMul(r,v) }"
MOST_BYTES = 1 << 20
"""Largest file that the commands may write: a stand-in for a full disk."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with 8 MB of weights, and samples."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("large")
    weights = {name: normal(rng, 1024, 1024) / 32 for name in "wv"}
    onnx.save(parse(TEXT, weights), path / "m.onnx")
    (path / "calib").mkdir()
    for i in range(4):
        np.savez(path / "calib" / f"{i}.npz", x=normal(rng, 2, 1024))
    return path


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))


@pytest.mark.parametrize(
    "arguments",
    [
        "quantize m.onnx --calib calib -o o.onnx",
        "quantize m.onnx --calib calib -o o.onnx --mode dynamic",
        "quantize m.onnx -o o.onnx --mode fp16",
        "calibrate m.onnx --calib calib -o s.npz",
        "eval m.onnx m.onnx --data calib",
        "bench m.onnx --shape x=400,1024",
    ],
)
def test_too_little_space_is_told(folder, tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "onnxq", *arguments.split()],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert lines[0].startswith(
        f"onnxq: error: the temporary folder {tmp_path} cannot be written: File too large"
    )
    assert {path.name for path in folder.iterdir()} == {"m.onnx", "calib"}
    assert not list(tmp_path.glob("onnxq-*"))


def test_what_the_runtime_cannot_write_is_told(tmp_path):
    with pytest.raises(OutputError, match="temporary folder"):
        open_session(CNN, save_optimized=tmp_path / "missing" / "o.onnx")


def test_a_profile_that_is_cut_off_is_told(monkeypatch):
    monkeypatch.setattr("onnxq.evaluation.layer_errors.Path.read_text", lambda *_, **__: '[{"name": "cut')
    with pytest.raises(OutputError, match="temporary folder"):
        kernel_ms([CNN], [{"image": np.zeros((1, 1, 8, 8), np.float32)}])
