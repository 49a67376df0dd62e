"""Values outside the calibrated ranges, against a reference, and the gates on them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.errors import DataError, ModelError
from tests.conftest import CNN, SAMPLES


@pytest.fixture(scope="module")
def images():
    return np.concatenate([np.load(path) for path in sorted((SAMPLES / "calib").glob("*.npy"))[:40]])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("drift") / "model.int8.onnx"
    onnxq.quantize(CNN, images, path, effort=onnxq.Effort.FAST)
    return path


def save(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        np.save(folder / f"{i:03d}.npy", image[None])
    return folder


def test_values_out_of_range_are_counted_layer_by_layer(quantized, images):
    report = onnxq.drift(quantized, images * 1.5, reference=images, float_model=CNN)
    rows = {row.tensor: row for row in report.layers}
    image = rows["image"]
    assert image.op_type == "" and image.seen_high == pytest.approx(1.5)
    assert image.clipped == pytest.approx(np.mean(images * 1.5 > image.high))
    assert image.reference == 0.0
    assert image.shift == pytest.approx(0.5 * images.mean() / images.std(), rel=1e-3)
    assert [row.more for row in report.layers] == sorted((row.more for row in report.layers), reverse=True)
    assert report.sqnr_db < report.reference_sqnr_db - 10


def test_data_of_the_calibration_pass_and_others_fail(quantized, images, tmp_path):
    good, bad = save(tmp_path / "good", images[:20]), save(tmp_path / "bad", images[:20] * 1.5)
    base = tmp_path / "base.json"
    made = CliRunner().invoke(main, ["drift", str(quantized), "--data", str(good), "--json"])
    assert made.exit_code == 0, made.stderr
    assert "without a reference" in made.stderr
    base.write_text(made.stdout)
    line = ["drift", str(quantized), "--reference", str(base), "--max-clipped", "0.01", "--max-shift", "0.3"]
    passed = CliRunner().invoke(main, [*line, "--data", str(good)])
    assert passed.exit_code == 0, passed.stderr
    assert "image" in passed.stdout and "clipped" in passed.stdout
    failed = CliRunner().invoke(main, [*line, "--data", str(bad)])
    assert failed.exit_code == 1
    assert "beyond the reference, --max-clipped 0.01" in failed.stderr and "--max-shift" in failed.stderr
    unchecked = CliRunner().invoke(main, ["drift", str(quantized), "--data", str(good), "--min-sqnr", "1"])
    assert unchecked.exit_code == 1 and "cannot be checked" in unchecked.stderr


def test_wrong_use_is_one_line(quantized, images, tmp_path):
    with pytest.raises(ModelError, match="no calibrated ranges"):
        onnxq.drift(CNN, images)
    content = {"layers": [], "sqnr_db": None, "sha256": "0"}
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="another model"):
        onnxq.drift(quantized, images, reference=tmp_path / "other.json")
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DataError, match="no report of onnxq drift"):
        onnxq.drift(quantized, images, reference=tmp_path / "none.json")
