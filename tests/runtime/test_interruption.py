"""Ctrl-C and SIGTERM end a command soon, also in a model whose loop never ends and in native code."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from tests.conftest import normal, parse

ENDLESS = """g (float[2,8] x) => (float[2,8] y) {
    go = Constant<value = bool {1}>()
    h = MatMul(x, w)
    y = Loop (, go, h) <body = b (int64 i, bool c, float[2,8] q) => (bool d, float[2,8] next) {
        d = Identity(c) p = MatMul(q, w) next = Tanh(p) }> }"""
NATIVE = """
import numpy as np, sys
from onnxq.graph.scratch import ScratchFolder
from onnxq.runtime.interruption import stopping_runs
a = np.random.default_rng(0).normal(size=(6000, 6000))
with ScratchFolder() as folder, stopping_runs("last words"):
    print("working", flush=True)
    np.linalg.svd(a)
"""
PATIENCE = 60
"""Seconds after which a command counts as stuck; the work of each takes longer, or does not end."""


def ended(process, number):
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["quantize", "bench", "eval"])
def test_an_endless_loop_is_interrupted(rng, tmp_path, command, number):
    onnx.save(parse(ENDLESS, {"w": normal(rng, 8, 8)}), tmp_path / "m.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(4):
        np.savez(tmp_path / "calib" / f"{i}.npz", x=normal(rng, 2, 8))
    arguments = {
        "quantize": ["m.onnx", "--calib", "calib", "-o", "o.onnx"],
        "bench": ["m.onnx"],
        "eval": ["m.onnx", "m.onnx", "--data", "calib"],
    }
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "onnxq", command, *arguments[command]],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)
        code, said = ended(process, number)
    assert code == 128 + number
    assert "Traceback" not in said
    assert not (tmp_path / "o.onnx").exists()
    assert not [path for path in tmp_path.iterdir() if "onnxq-" in path.name]


def test_native_code_that_does_not_return_is_left(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", NATIVE],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "working\n"
        time.sleep(1)
        code, said = ended(process, signal.SIGINT)
    assert (code, said) == (130, "last words\n")
    assert not list(tmp_path.glob("onnxq-*"))
