import io
import time

import pytest
from tqdm import tqdm

from onnxq.runtime import status
from onnxq.runtime.progress import progress
from onnxq.runtime.status import activity, live_status


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name, seconds in (("PATIENCE", 0.0), ("PERIOD", 0.01), ("ELSEWHERE", 0.01)):
        monkeypatch.setattr(status, name, seconds)


def _run(monkeypatch, stream, **settings):
    monkeypatch.setattr("sys.stderr", stream)
    hidden = settings.get("hidden", False)
    with live_status(hidden=hidden), activity("outer"), activity(lambda: "measuring"):
        wanted = time.monotonic() + (0.1 if hidden else 30)
        while stream.getvalue().count("measuring") < 3 and time.monotonic() < wanted:
            time.sleep(0.01)
    return stream.getvalue()


def test_a_terminal_shows_the_innermost_activity_and_is_cleared(monkeypatch, quick):
    shown = _run(monkeypatch, Terminal())
    assert "measuring: 0 s" in shown
    assert "\n" not in shown
    assert shown.endswith("\r")


def test_elsewhere_each_activity_is_a_line(monkeypatch, quick):
    lines = set(_run(monkeypatch, io.StringIO()).splitlines())
    assert "onnxq: measuring: 0 s" in lines
    assert lines <= {"onnxq: measuring: 0 s", "onnxq: outer: 0 s"}


def test_a_quiet_command_shows_nothing(monkeypatch, quick):
    assert _run(monkeypatch, Terminal(), hidden=True) == ""


def test_an_activity_ends_with_its_error():
    with pytest.raises(ValueError, match="x"), activity("failing"):
        raise ValueError("x")
    assert status._activities == []


@pytest.mark.parametrize(("seconds", "text"), [(9.7, "9 s"), (125, "2 min 05 s")])
def test_durations(seconds, text):
    assert status._duration(seconds) == text


def test_a_bar_that_waits_for_its_next_step_is_drawn_anew(monkeypatch, quick):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with live_status(hidden=False), progress(total=3, desc="steps", mininterval=0) as bar:
        bar.update()
        wanted = time.monotonic() + 30
        while stream.getvalue().count("1/3") < 3 and time.monotonic() < wanted:
            time.sleep(0.01)
    assert stream.getvalue().count("1/3") >= 3


def test_the_innermost_activity_has_a_text():
    assert status.current_activity("none") == "none"
    with activity("outer"), activity(lambda: "inner"):
        assert status.current_activity("none") == "inner"


WARNING = "onnxq: warning: outputs are far from float ('first' 18.8 dB, 'second' 19.5 dB): check the file"


@pytest.mark.parametrize(("columns", "most"), [("60", 60), ("10", 40), ("", 80), ("wide", 80)])
def test_a_terminal_gets_lines_of_its_width(monkeypatch, columns, most):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("COLUMNS", columns)
    lines = status.fitted(WARNING).splitlines()
    assert max(map(len, lines)) <= most
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == WARNING
    assert len(lines) > 1


def test_a_path_is_not_broken(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    path = "/models/" + "a-long-name/" * 8 + "model.onnx"
    lines = status.fitted(f"onnxq: error: {path}: no such file").splitlines()
    assert f"  {path}:" in lines


def test_elsewhere_a_line_stays_whole(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setenv("COLUMNS", "40")
    assert status.fitted(WARNING) == WARNING


def test_a_bar_that_another_thread_is_making_is_left_alone():
    with tqdm.get_lock():
        half_made = tqdm.__new__(tqdm)
    try:
        assert not status._refresh_other_bars(None)
    finally:
        tqdm._instances.discard(half_made)
