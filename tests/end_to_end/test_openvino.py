"""`--standard` files in OpenVINO, where `benchmarks/openvino_compare.py` has installed it."""

import numpy as np
import onnx
import pytest

import onnxq
from tests.conftest import CNN, ROOT, SAMPLES, TRANSFORMER

ENVIRONMENT = ROOT / "build" / "openvino"
FILES = {
    "qdq": {"standard": True},
    "qdq-uint16": {"activation_type": onnxq.ActivationType.UINT16},
    "qdq-int16": {"activation_type": onnxq.ActivationType.INT16},
    "bfloat16": {"mode": onnxq.Mode.WEIGHTS, "weight_type": onnxq.WeightType.BFLOAT16},
    "int8-weights": {"mode": onnxq.Mode.WEIGHTS, "weight_type": onnxq.WeightType.INT8, "standard": True},
}
"""Options of files that OpenVINO runs, by name."""
ALIKE_DB = 35.0
"""SQNR from which a file counts as right though ONNX Runtime comes closer: OpenVINO rounds 16 bits otherwise."""


@pytest.mark.slow
@pytest.mark.parametrize("model", [CNN, TRANSFORMER], ids=["cnn", "transformer"])
def test_standard_files_give_the_same_values_in_openvino(model, tmp_path, monkeypatch):
    if not (ENVIRONMENT / "ready").exists():
        pytest.skip("OpenVINO is not installed: benchmarks/openvino_compare.py installs it in build/openvino")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from openvino_compare import Run, read_feeds, run_all
    from sample_sqnr import sqnr_db

    runs = {"float": Run(str(model), "onnxruntime")}
    for name, options in FILES.items():
        file = tmp_path / f"{name}.onnx"
        fast = {"effort": onnxq.Effort.FAST, "keep_int8": True}
        onnxq.quantize(model, SAMPLES / "calib", file, **fast, **options)
        assert {node.domain for node in onnx.load(file).graph.node} == {""}
        runs |= {name: Run(str(file), "onnxruntime"), f"{name} there": Run(str(file), "openvino")}
    found = run_all(ENVIRONMENT, runs, read_feeds(SAMPLES / "eval", model, None, 8))
    assert found.errors == {}
    expected = found.outputs["float"]
    for name in FILES:
        here, there = (sqnr_db(expected, found.outputs[label]) for label in (name, f"{name} there"))
        assert there > min(here - 1.0, ALIKE_DB), name
        decisions = [np.argmax(sample[0]) for sample in found.outputs[f"{name} there"]]
        assert decisions == [np.argmax(sample[0]) for sample in expected]
