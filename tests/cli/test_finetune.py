"""`onnxq finetune`: wrong use is one line and exit code 2, before anything is read or written."""

import json

import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main

from ..conftest import CNN, SAMPLES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "finetuning trains on samples: give a folder with --calib"),
        (("--calib", "calib", "--bits", "8,x"), "expected numbers from 2 to 8 with commas"),
        (("--calib", "calib", "--bits", "8,6", "--weight-bits", "4"), "ends with 6, but --weight-bits is 4"),
        (("--calib", "calib", "--mode", "weights", "--bits", "8,4"), "choose --weight-type int4 or int8"),
        (("--calib", "calib", "--mode", "weights", "--block", "48"), "--block 48: choose"),
        (("--calib", "calib", "--samples", "5"), "give at least 9"),
        (("--calib", "calib", "--checkpoint", str(CNN)), "not a checkpoint of onnxq"),
        (("--calib", "calib", "--checkpoint", "OUTPUT"), "is the output, too"),
        (
            ("--calib", "calib", "--labels", "labels.csv", "--max-drop", "1", "--data", "x"),
            "leave --data out",
        ),
        (("--calib", "calib", "--label-share", "0.2"), "--label-share has no effect without --labels"),
        (("--calib", "calib", "--metric", "classification"), "--data and --metric have no effect"),
        (("--calib", "calib", "--checkpoint", "r.json", "--report", "r.json"), "a report goes there"),
        (("--calib", "calib", "--checkpoint", "/proc/state.npz"), "--checkpoint /proc/state.npz: cannot be"),
        (("--calib", "calib", "--steps", "2", "--bits", "8,6,4"), "has 3 parts"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, arguments, message):
    output = tmp_path / "out.onnx"
    places = {"calib": str(SAMPLES / "calib"), "OUTPUT": str(output)}
    given = [places.get(each, each) for each in arguments]
    result = CliRunner().invoke(main, ["finetune", str(CNN), "-o", str(output), *given])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not output.exists()


def test_the_report_names_the_command(tmp_path):
    chosen = ["--effort", "fast", "--method", "minmax", "--samples", "9", "--steps", "1", "--keep-int8"]
    command = [
        "finetune",
        str(CNN),
        "--calib",
        str(SAMPLES / "calib"),
        "-o",
        str(tmp_path / "out.onnx"),
        *chosen,
    ]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["origin"]["command"] == " ".join(["onnxq", *command, "--json"])
