"""What a command shows on a terminal of 80 columns while it works."""

import sys

import pytest

from tests.conftest import CNN, ROOT, SAMPLES

if sys.platform == "win32":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

sys.path.insert(0, str(ROOT / "benchmarks"))
import silence


@pytest.fixture
def quantizing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    output = str(tmp_path / "int8.onnx")
    command = [sys.executable, "-m", "onnxq", "quantize", CNN, "--calib", SAMPLES / "calib", "-o", output]
    return [str(each) for each in command]


def test_a_terminal_shows_what_is_tried_within_its_width(quantizing):
    lines, code = silence.watch(quantizing, terminal=True)
    assert code == 0
    shown = [line for _, line in lines]
    assert max(map(len, shown)) <= silence.COLUMNS
    assert any(line.startswith("search:") and "trying" in line for line in shown)
    assert any(line.startswith("calibrate:") for line in shown)


def test_without_a_terminal_there_are_no_bars(quantizing):
    lines, code = silence.watch(quantizing, terminal=False)
    assert code == 0
    assert not [line for _, line in lines if line.startswith(("search:", "calibrate:"))]


def test_the_longest_silence_is_found():
    lines = [(1.0, "a"), (4.0, "b"), (5.0, "exit code 0")]
    assert silence.longest_silence(lines) == (3.0, "a")
