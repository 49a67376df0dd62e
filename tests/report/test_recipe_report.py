"""A new kind of report file needs one entry in one registry."""

import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from onnxq.evaluation.report import EvalReport
from onnxq.report.files import WRITERS, ReportWriter
from tests.conftest import CNN, SAMPLES

DATA = ["--data", str(SAMPLES / "eval")]
EVAL = ["eval", str(CNN), str(CNN), *DATA, "--samples", "4", "--no-latency"]


def as_csv(report):
    """One line per model."""
    if isinstance(report, EvalReport):
        return "".join(f"{score.model},{score.bytes}\n" for score in report.scores).encode()
    return "".join(f"{row.name},{row.sqnr_db}\n" for row in report.layers).encode()


def test_a_registered_suffix_is_written_by_the_commands(tmp_path, monkeypatch):
    path = tmp_path / "report.csv"
    refused = CliRunner().invoke(main, [*EVAL, "--report", str(path)])
    assert refused.exit_code == 2
    assert "unknown kind" in refused.stderr
    monkeypatch.setitem(WRITERS, ".csv", ReportWriter(as_csv, details=True))
    written = CliRunner().invoke(main, [*EVAL, "--report", str(path)])
    assert written.exit_code == 0, written.stderr
    assert path.read_text() == f"{CNN},{CNN.stat().st_size}\n" * 2

    quantize = ["quantize", str(CNN), "--calib", str(SAMPLES / "calib"), "--samples", "8", "--effort", "fast"]
    result = CliRunner().invoke(
        main, [*quantize, "-o", str(tmp_path / "int8.onnx"), "--report", str(tmp_path / "layers.csv")]
    )
    assert result.exit_code == 0, result.stderr
    assert len((tmp_path / "layers.csv").read_text().splitlines()) > 4  # details were measured for it


def test_a_kind_is_refused_where_it_does_not_apply_or_lacks_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(WRITERS, ".csv", ReportWriter(as_csv, libraries=("no_such_library",)))
    report = ["--report", str(tmp_path / "report.csv")]
    missing = CliRunner().invoke(main, [*EVAL, *report])
    assert missing.exit_code == 2
    assert ".csv needs no_such_library" in missing.stderr
    debug = CliRunner().invoke(main, ["debug", str(CNN), str(CNN), *DATA, *report])
    assert debug.exit_code == 2
    assert "choose a name that ends in .html, .json" in debug.stderr


@pytest.mark.parametrize("command", ["quantize", "eval"])
def test_the_help_names_every_kind(command):
    text = CliRunner().invoke(main, [command, "--help"]).stdout
    assert all(kind in text for kind in WRITERS)
