"""A notebook runs from its first cell to its last: bars while it works, and reports as HTML tables."""

import pytest

from tests.conftest import CNN, SAMPLES

CELLS = (
    "import onnxq",
    f"report = onnxq.quantize({str(CNN)!r}, {str(SAMPLES / 'calib')!r}, 'small.onnx', effort=onnxq.Effort.FAST, "
    "samples=24, keep_int8=True)\nreport",
    f"onnxq.evaluate({str(CNN)!r}, ['small.onnx'], {str(SAMPLES / 'eval')!r}, samples=20)",
    f"onnxq.drift('small.onnx', {str(SAMPLES / 'eval')!r}, samples=10)",
    "onnxq.quantize('none.onnx')",
)


def outputs(cell, kind):
    """Return the displayed outputs of a cell in a MIME type."""
    found = [each.get("data", {}) for each in cell.outputs]
    return [each[kind] for each in found if kind in each]


@pytest.mark.slow
def test_a_notebook_shows_bars_reports_and_one_line_errors(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    preprocessors = pytest.importorskip("nbconvert.preprocessors")
    for package in ("ipykernel", "ipywidgets"):
        pytest.importorskip(package)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    runner = preprocessors.ExecutePreprocessor(timeout=300, allow_errors=True, kernel_name="python3")
    runner.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    quantized, evaluated, drifted, failed = notebook.cells[1:]
    for cell, words in (
        (quantized, ("small.onnx", "<table>")),
        (evaluated, ("small.onnx", "agreement", "latency ms")),
        (drifted, ("clipped", "<th")),
    ):
        assert not any(each.output_type == "error" for each in cell.outputs), cell.outputs
        (page,) = outputs(cell, "text/html")
        assert all(word in page for word in words), page
    assert outputs(quantized, "application/vnd.jupyter.widget-view+json")  # a bar of the notebook's own
    assert outputs(evaluated, "application/vnd.jupyter.widget-view+json")
    (error,) = [each for each in failed.outputs if each.output_type == "error"]
    assert error.ename.endswith("Error") and "none.onnx: no such file" in error.evalue
    assert (tmp_path / "small.onnx").stat().st_size < CNN.stat().st_size
