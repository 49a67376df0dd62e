"""Every end of a command: one line on stderr, and an exit code that a gate's failure cannot be taken for."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from tests.conftest import CNN, ROOT, SAMPLES

LONG = "n" * 300
PYTHON = [sys.executable, "-m", "onnxq"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CNN, "model.onnx")
    Path("data").mkdir()
    for file in sorted((SAMPLES / "calib").glob("*.npy"))[:8]:
        shutil.copy(file, "data")
    return tmp_path


def onnxq(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def shell(command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = " ".join(PYTHON)
    return subprocess.run(
        ["bash", "-c", command.replace("onnxq", program)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a\nb"), 70, "fault in onnxq itself (ValueError: a): please report it"),
        (KeyError(), 70, "fault in onnxq itself (KeyError): please report it"),
        (RecursionError("deep"), 70, "please report it"),
        (AssertionError(), 70, "please report it"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(28, "No space left on device", "x"), 2, "x: No space left on device"),
        (ImportError("no module"), 2, "no module"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_exception_is_one_line_and_no_failed_gate(work, monkeypatch, error, code, said, verbose):
    from onnxq.evaluation import inspection

    def fail(*_):
        raise error

    monkeypatch.setattr(inspection, "inspect_model", fail)
    result = onnxq("inspect", "model.onnx", *["-v"] * verbose)
    assert result.exit_code == code
    assert result.stdout == ""
    assert ("Traceback" in result.stderr) == verbose
    *traceback, line = result.stderr.splitlines()
    assert line.startswith("onnxq: error: ")
    assert said in line
    assert bool(traceback) == verbose


def test_a_fault_before_the_command_is_one_line(monkeypatch):
    monkeypatch.setattr("onnxq.cli.commands.read_config", lambda *_: 1 / 0)
    result = onnxq("--config", CNN, "inspect", CNN)
    assert result.exit_code == 70
    assert result.stderr.startswith("onnxq: error: fault in onnxq itself (ZeroDivisionError")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", LONG),
        ("inspect", f"{LONG}.onnx"),
        ("inspect", ""),
        ("inspect", "\udcff.onnx"),
        ("quantize", "model.onnx", "--calib", LONG),
        ("quantize", "model.onnx", "--calib", ""),
        ("quantize", "model.onnx", "--calib", "data", "-o", f"{LONG}.onnx"),
        ("quantize", "model.onnx", "--calib", "data", "-o", ""),
        ("quantize", "model.onnx", "--calib", "data", "--report", f"{LONG}.json"),
        ("quantize", "model.onnx", "--calib", "data", "--report", "report"),
        ("quantize", "model.onnx", "--calib", "data", "--report", os.devnull, "--force"),
        ("finetune", "model.onnx", "--calib", "data", "--report", "report.pdf"),
        ("quantize", "model.onnx", "--calib", "data", "--preprocess", LONG),
        ("quantize", "model.onnx", "--calib", "data", "--max-drop", 1, "--labels", LONG),
        ("quantize", "model.onnx", "--calib", "data", "--max-drop", 1, "--metric", LONG),
        ("quantize", "model.onnx", "--calib", "data", "--max-drop", "nan"),
        ("quantize", "model.onnx", "--calib", "data", "--samples", "9" * 30),
        ("quantize", f"{'m' * 248}.onnx", "--calib", "data"),
        ("calibrate", "model.onnx", "--calib", "data", "-o", "s.npz", "--shard", "²/3"),
        ("bench", "model.onnx", "--shape", "image=²"),
        ("bench", "model.onnx", "--shape", f"image={'9' * 5000}"),
        ("bench", "model.onnx", "--threads", "1000000"),
        ("bench", "model.onnx", "--seconds", "inf"),
        ("--config", LONG, "inspect", "model.onnx"),
        ("--config", "data", "inspect", "model.onnx"),
        ("unknown",),
        ("inspect", "--unknown", "\x1b[31m"),
    ],
)
def test_a_name_or_number_that_cannot_be_is_one_line(work, arguments):
    shutil.copy("model.onnx", f"{'m' * 248}.onnx")
    result = onnxq(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("onnxq: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.strip().isprintable()


@pytest.mark.parametrize(
    "command", ["onnxq inspect model.onnx", "onnxq inspect model.onnx --json", "onnxq --help"]
)
def test_outputs_that_cannot_be_written(work, command):
    full = shell(f"{command} > /dev/full", work)
    assert (full.returncode, len(full.stderr.splitlines())) == (2, 1), full.stderr
    assert "No space left on device" in full.stderr
    closed = shell(f"{command} | true; exit ${{PIPESTATUS[0]}}", work)  # the reader wants no more
    assert (closed.returncode, closed.stderr) == (0, "")
    assert shell(f"{command} >&-", work).returncode == 0
    assert shell(f"{command} 2>&-", work).returncode == 0
    assert shell("onnxq inspect nothing.onnx 2> /dev/full", work).returncode == 2


def test_a_closed_stream_gets_no_other_file(work):
    """The first file opened would be number 1 or 2, and get all that is printed."""
    done = shell("onnxq quantize model.onnx --calib data --effort fast -o o.onnx >&- 2>&-", work)
    assert done.returncode == 0
    assert shell("onnxq inspect o.onnx", work).returncode == 0


@pytest.mark.parametrize(
    "command", [["--help"], ["inspect", "model.onnx"], ["quantize", "model.onnx", "--calib", "data"]]
)
def test_an_interrupt_while_modules_load_is_one_line(work, command):
    """The signal comes when `onnxq.cli.program` has begun; before that, the interpreter answers it."""
    started = (
        "import sys; sys.argv[1:] = {!r}; from onnxq.cli import program; print(1, flush=True); program.run()"
    )
    for delay in (0.0, 0.03, 0.1, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", started.format(command)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        process.stdout.readline()
        time.sleep(0.005 + delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        if process.returncode != 0:  # a fast command may have ended
            assert process.returncode == 130
            assert errors.splitlines()[-1].startswith("onnxq: error: interrupted")
    assert not list(work.glob(".onnxq-*"))


def test_sigterm_ends_through_the_clean_up(work, monkeypatch):
    from onnxq import pipeline

    def end(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pipeline, "save", end)
    result = onnxq("quantize", "model.onnx", "--calib", "data", "--effort", "fast", "-o", "new/o.onnx")
    assert result.exit_code == 143
    assert "error: terminated" in result.stderr
    assert sorted(path.name for path in work.iterdir()) == ["data", "model.onnx"]


def test_quiet_prints_errors_only(work):
    done = onnxq("quantize", "model.onnx", "--calib", "data", "--effort", "fast", "-q", "-o", "a.onnx")
    assert (done.exit_code, done.output) == (0, "")
    failed = onnxq(
        "quantize",
        "model.onnx",
        "--calib",
        "data",
        "--effort",
        "fast",
        "-q",
        "-o",
        "b.onnx",
        "--max-size",
        0.01,
    )
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert [line.split(":")[1] for line in failed.stderr.splitlines()] == [" gate failed"]


class StandsForTerminal(io.StringIO):
    def isatty(self):
        return True


def test_quiet_shows_no_progress(monkeypatch):
    from onnxq.runtime.progress import hidden_progress, progress

    monkeypatch.setattr("sys.stderr", StandsForTerminal())
    assert not progress([]).disable
    with hidden_progress(True), hidden_progress(False):
        assert progress([]).disable
    assert not progress([]).disable
