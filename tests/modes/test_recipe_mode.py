"""The recipe for a mode: one function, and its entry in MODES."""

import numpy as np
import onnx
import onnx_ir as ir
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import constant
from onnxq.modes.products import outcome
from onnxq.pipeline import MODES
from onnxq.plan.plan import Plan
from tests.conftest import CNN, SAMPLES

NAME = "coarse"


def make_coarse(inputs, references):
    """Round large weights to multiples of 1/64; they stay float."""
    model, count = inputs.model.clone(), 0
    for value in model.graph.initializers.values():
        array = constant(value)
        if array is not None and array.dtype == np.float32 and array.size > 500:
            value.const_value = ir.tensor(np.rint(array * 64) / 64, name=value.name)
            count += 1
    recipe = Recipe(inputs.model, Plan(), techniques=(NAME,))
    return outcome(inputs, model, recipe, [f"{count} coarse weights"], count)


def test_a_registered_mode_runs_from_python_and_from_the_command_line(tmp_path, monkeypatch):
    output = tmp_path / "coarse.onnx"
    command = ["quantize", str(CNN), "--calib", str(SAMPLES / "calib"), "--samples", "20", "-o", str(output)]
    refused = CliRunner().invoke(main, [*command, "--mode", NAME])
    assert refused.exit_code == 2
    assert "--mode coarse: unknown name: choose one of static, dynamic, weights, fp16, auto" in refused.stderr
    monkeypatch.setitem(MODES, NAME, make_coarse)
    accepted = CliRunner().invoke(main, [*command, "--mode", NAME])
    assert accepted.exit_code == 0, accepted.stderr
    assert "coarse weights" in accepted.stdout
    large = [onnx.numpy_helper.to_array(each) for each in onnx.load(output).graph.initializer]
    large = [array for array in large if array.size > 500]
    assert large
    assert all(np.array_equal(array * 64, np.rint(array * 64)) for array in large)
    report = onnxq.quantize(CNN, SAMPLES / "calib", output, mode=NAME, samples=20, force=True)
    assert (report.mode, report.techniques) == (NAME, [NAME])
    assert 15 < report.outputs.sqnr_db < 60
