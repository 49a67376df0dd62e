"""Load time and peak memory, also as other systems count it."""

import builtins
import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from onnxq.runtime import load_cost as module
from onnxq.runtime.load_cost import load_cost, peak_memory
from tests.conftest import CNN

FEEDS = {"image": np.zeros((1, 1, 8, 8), np.float32)}


@pytest.fixture
def no_proc(monkeypatch):
    """A system without /proc."""
    original = builtins.open

    def opened(path, *arguments, **options):
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(path)
        return original(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", opened)


def test_a_model_is_measured_in_a_new_process():
    load_ms, memory = load_cost(CNN, FEEDS, 1)
    assert 0.1 < load_ms < 60_000
    assert 1e6 < memory < 1e9


def test_a_model_that_does_not_load_has_no_cost(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert load_cost(tmp_path / "bad.onnx", FEEDS, 1) == (None, None)


def test_the_new_process_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert load_cost(CNN, FEEDS, 1)[0] is not None


def test_the_peak_is_in_bytes_and_holds_what_was_allocated():
    before = peak_memory()
    held = np.ones(1 << 26, np.uint8)
    after = peak_memory()
    assert 1e6 < before <= after < 1e11
    assert after >= held.nbytes


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_other_systems_count_ru_maxrss_in_their_own_unit(system, unit, no_proc, monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5_000_000 + who))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", system)
    assert peak_memory() == 5_000_000 * unit


def test_a_system_that_does_not_tell_has_no_peak(no_proc, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails, as on Windows
    monkeypatch.setattr(sys, "platform", "wasi")
    assert peak_memory() is None


def windows(monkeypatch, answer):
    """A system with the kernel32 library of Windows."""

    class Call:
        def __init__(self, function):
            self.function = function

        def __call__(self, *arguments):
            return self.function(*arguments)

    def library(name):
        assert name == "kernel32"
        return SimpleNamespace(
            GetCurrentProcess=Call(lambda: 2**64 - 1), K32GetProcessMemoryInfo=Call(answer)
        )

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", library, raising=False)


def test_windows_gives_the_peak_working_set(monkeypatch):
    def answer(process, counters, size):
        assert process.value == 2**64 - 1  # the whole handle, not an int of 32 bits
        assert size == 8 + 8 * ctypes.sizeof(ctypes.c_size_t)  # PROCESS_MEMORY_COUNTERS
        assert counters._obj.size == size
        counters._obj.peak_working_set = 123_456_789
        return 1

    windows(monkeypatch, answer)
    assert peak_memory() == 123_456_789


def test_windows_may_refuse(monkeypatch):
    windows(monkeypatch, lambda process, counters, size: 0)
    assert peak_memory() is None


def test_a_peak_that_is_not_told_leaves_the_load_time(monkeypatch, capsys, tmp_path):
    np.savez(tmp_path / "feeds.npz", name0=np.array("image"), value0=FEEDS["image"])
    monkeypatch.setattr(module, "peak_memory", lambda: None)
    module._measure(str(CNN), str(tmp_path / "feeds.npz"), "1")
    assert capsys.readouterr().out.endswith(", null]\n")
