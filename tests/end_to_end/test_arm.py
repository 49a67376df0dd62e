"""Files of the sample networks in ONNX Runtime for ARM, emulated, against the same files on this machine."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

import onnxq
from tests.conftest import CNN, ROOT, SAMPLES, TRANSFORMER, runtime_outputs

BENCHMARKS = ROOT / "benchmarks"


def compared(arguments, folder):
    """Run benchmarks/arm.py; skip the test where the environment cannot be set up."""
    if sys.platform != "linux" or shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: it is in Debian's package qemu-user")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("the packages for ARM come from apt, which this system does not have")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from arm_environment import prepare
    finally:
        sys.path.remove(str(BENCHMARKS))
    environment = ROOT / "build" / "arm"
    try:
        prepare(environment)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages or wheels for ARM cannot be downloaded: {error}")
    record = folder / "record.json"
    command = [sys.executable, BENCHMARKS / "arm.py", *arguments, "--environment", environment]
    subprocess.run([*command, "--record", record], check=True, cwd=ROOT, capture_output=True)
    return json.loads(record.read_text())["results"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [CNN, TRANSFORMER], ids=["cnn", "transformer"])
def test_the_same_values_on_emulated_arm_cpus(model, tmp_path):
    files = {target: tmp_path / f"{target}.onnx" for target in (onnxq.Target.PORTABLE, onnxq.Target.ARM)}
    for target, file in files.items():
        options = {"effort": onnxq.Effort.FAST, "keep_int8": True, "target": target}
        report = onnxq.quantize(model, SAMPLES / "calib", file, **options)
        assert report.kernels.integer_share == 1
    cpus = ("neoverse-n1", "cortex-a72", "max")
    arguments = ["--data", SAMPLES / "eval", "--samples", "8", "--cpu", *cpus]
    rows = compared(["files", model, *files.values(), *arguments], tmp_path)
    assert {row["cpu"] for row in rows} == {"this machine", *cpus}
    assert len(rows) == 8
    here = {row["file"]: row["sqnr_db"] for row in rows if row["cpu"] == "this machine"}
    for row in rows:
        assert row["error"] == ""
        assert row["decisions"] == 1
        assert row["sqnr_db"] > 30
        if row["file"] == "portable.onnx":  # that of ARM may saturate on this machine
            assert row["sqnr_db"] == pytest.approx(here["portable.onnx"], abs=0.5)
            assert row["alike_db"] is None or row["alike_db"] > 40


def test_the_runner_of_the_emulated_python(tmp_path):
    images = [np.load(path) for path in sorted((SAMPLES / "eval").glob("*.npy"))[:3]]
    (name,) = [value.name for value in onnx.load(CNN).graph.input]
    arrays = {f"{i}:{name}": image for i, image in enumerate(images)}
    np.savez(tmp_path / "feeds.npz", **arrays)
    command = [
        sys.executable,
        BENCHMARKS / "arm_runner.py",
        CNN,
        tmp_path / "feeds.npz",
        tmp_path / "out.npz",
    ]
    subprocess.run(command, check=True)
    found = np.load(tmp_path / "out.npz")
    assert set(found.files) == {"0:0", "1:0", "2:0", "nanoseconds"}
    assert found["nanoseconds"] > 0
    for i, image in enumerate(images):
        (expected,) = runtime_outputs(CNN, {name: image})
        np.testing.assert_array_equal(found[f"{i}:0"], expected)
