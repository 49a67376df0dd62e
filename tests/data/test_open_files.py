"""More sample files than a process may open are read all the same."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import CNN

MOST = 64
"""Limit of open files."""


def limited():
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))


@pytest.mark.parametrize("rows", [False, True], ids=["a file a sample", "a row a sample"])
def test_samples_need_few_open_files(rng, tmp_path, rows):
    images = rng.random((200, 1, 8, 8), np.float32)
    (tmp_path / "calib").mkdir()
    for i, image in enumerate([] if rows else images):
        np.save(tmp_path / "calib" / f"{i:03}.npy", image[None])
    if rows:
        np.save(tmp_path / "calib" / "all.npy", images)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "onnxq",
            "quantize",
            CNN,
            "--calib",
            "calib",
            "-o",
            "o.onnx",
            "--effort",
            "fast",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.onnx").exists()
