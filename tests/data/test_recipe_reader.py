"""A new reader of samples needs one entry in one registry."""

import csv
from functools import partial

import numpy as np
from click.testing import CliRunner

from onnxq.cli.commands import main
from onnxq.data.sample import Sample
from onnxq.data.samples import READERS
from tests.conftest import CNN, SAMPLES


def read_rows(path, specs, _forms):
    """One sample per line of numbers, for the first input."""
    with open(path, newline="") as stream:
        rows = [np.float32(row) for row in csv.reader(stream, delimiter=" ")]
    shape = [1, *specs[0].shape[1:]]
    return [
        Sample(f"{path.name}:{i}", partial(dict, {specs[0].name: row.reshape(shape)}))
        for i, row in enumerate(rows, start=1)
    ]


def test_a_registered_suffix_feeds_quantize_and_eval(tmp_path, monkeypatch):
    arrays = [np.load(path) for path in sorted((SAMPLES / "calib").glob("*.npy"))[:8]]
    lines = [" ".join(map(repr, array.reshape(-1).tolist())) for array in arrays]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.ssv").write_text("\n".join(lines) + "\n")
    output = tmp_path / "int8.onnx"
    quantize = [
        "quantize",
        str(CNN),
        "--calib",
        str(tmp_path / "data"),
        "-o",
        str(output),
        "--effort",
        "fast",
    ]
    refused = CliRunner().invoke(main, quantize)
    assert refused.exit_code == 2
    assert "no sample found among 1 files" in refused.stderr

    monkeypatch.setitem(READERS[0], ".ssv", read_rows)
    written = CliRunner().invoke(main, quantize)
    assert written.exit_code == 0, written.stderr
    assert output.is_file()
    evaluated = CliRunner().invoke(
        main, ["eval", str(CNN), str(output), "--data", str(tmp_path / "data"), "--no-latency", "-v"]
    )
    assert evaluated.exit_code == 0, evaluated.stderr
    assert f"{len(arrays)} samples" in evaluated.stdout
    assert "rows.ssv:1" in evaluated.stdout
