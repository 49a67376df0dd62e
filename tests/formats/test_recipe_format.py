"""The recipe for an output format: one function, and its entry in WRITERS."""

import onnx
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.formats.qdq import write_qdq
from onnxq.formats.writer import WRITERS
from tests.conftest import CNN, SAMPLES

NAME = "labelled"


def write_labelled(model, plan, parameters):
    """Q/DQ nodes, and a label on each tensor's QuantizeLinear."""
    quantized = write_qdq(model, plan, parameters)
    for node in quantized.graph:
        if node.op_type == "QuantizeLinear":
            node.doc_string = NAME
    return quantized


@pytest.fixture
def registered(monkeypatch):
    """The registration, the only place that knows the format."""
    monkeypatch.setitem(WRITERS, NAME, write_labelled)


def labels(path):
    return [node.doc_string for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.usefixtures("registered")
def test_a_registered_format_is_written(tmp_path):
    outputs = {name: tmp_path / f"{name}.onnx" for name in ("qdq", NAME)}
    found = {
        name: onnxq.quantize(CNN, SAMPLES / "calib", path, format=name, samples=40, effort=onnxq.Effort.FAST)
        for name, path in outputs.items()
    }
    assert found[NAME].outputs.sqnr_db > 30
    assert len(labels(outputs[NAME])) >= 5
    assert set(labels(outputs[NAME])) == {NAME}
    assert set(labels(outputs["qdq"])) == {""}
    metadata = {each.key: each.value for each in onnx.load(outputs[NAME]).metadata_props}
    assert f'"format": "{NAME}"' in metadata["onnxq.options"]


def test_the_command_line_takes_registered_names_alone(tmp_path, monkeypatch):
    command = ["quantize", str(CNN), "--calib", str(SAMPLES / "calib"), "--effort", "fast", "--samples", "8"]
    command += ["-o", str(tmp_path / "int8.onnx"), "--format", NAME]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert f"--format {NAME}: unknown name: choose one of qdq, qoperator" in refused.stderr
    monkeypatch.setitem(WRITERS, NAME, write_labelled)
    accepted = CliRunner().invoke(main, command)
    assert accepted.exit_code == 0, accepted.stderr
    assert set(labels(tmp_path / "int8.onnx")) == {NAME}
