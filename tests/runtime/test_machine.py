"""The machine's description on Linux, and as other systems would give it."""

import os
import platform
import sys
from types import ModuleType, SimpleNamespace

import pytest

from onnxq.runtime import machine
from onnxq.runtime.machine import this_machine

X86 = "processor : 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni\nflags : later\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU implementer : 0x41\nCPU part : 0xd0c\n"
APPLE = (
    "machdep.cpu.cores_per_package: 8\n"
    "machdep.cpu.brand_string: Apple M2\n"
    "hw.optional.arm.FEAT_DotProd: 1\n"
    "hw.optional.arm.FEAT_I8MM: 1\n"
    "hw.optional.arm.FEAT_SME: 0\n"
)


def features(monkeypatch, **known):
    """Let NumPy report these instruction sets, under the module name of NumPy 2 or 1."""
    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        module = ModuleType(name)
        module.__cpu_features__ = known
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def no_file(tmp_path):
    return tmp_path / "cpuinfo"


def test_this_machine_has_a_name_and_cores():
    found = this_machine()
    assert found.cpu
    assert found.cores >= 1
    assert found.python == platform.python_version()


def test_linux_on_x86(no_file):
    no_file.write_text(X86)
    found = this_machine(no_file)
    assert found.cpu == "Some Xeon"
    assert found.instructions == ["avx2", "avx512f", "avx512_vnni", "avx_vnni"]


def test_linux_on_arm_names_the_core_by_its_numbers(no_file):
    no_file.write_text(ARM)
    found = this_machine(no_file)
    assert found.cpu.endswith("implementer 0x41 part 0xd0c")
    assert found.instructions == ["asimddp", "i8mm"]


def test_linux_without_any_fact_falls_back_to_the_architecture(no_file):
    no_file.write_text("\n")
    found = this_machine(no_file)
    assert found.cpu == (platform.processor() or platform.machine())
    assert found.instructions == []


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_macos_asks_sysctl(monkeypatch, no_file, tmp_path):
    sysctl = tmp_path / "sysctl"
    sysctl.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'machdep.cpu hw.optional' ] || exit 1\ncat <<'END'\n{APPLE}END\n"
    )
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    features(monkeypatch, ASIMDDP=True, SVE=False)
    found = this_machine(no_file)
    assert (found.cpu, found.instructions) == ("Apple M2", ["asimddp", "i8mm"])


def test_macos_on_intel_without_sysctl_uses_what_numpy_knows(monkeypatch, no_file, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "processor", lambda: "i386")
    features(monkeypatch, AVX2=True, AVX512F=True, AVX512VNNI=True, AVX512FP16=False)
    found = this_machine(no_file)
    assert (found.cpu, found.instructions) == ("i386", ["avx2", "avx512f", "avx512_vnni"])


def test_windows_asks_the_registry(monkeypatch, no_file):
    class Key:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def value(key, name):
        assert isinstance(key, Key)
        return {"ProcessorNameString": "Some Core i7   "}[name], 1

    def opened(root, path):
        assert (root, path) == ("HKLM", machine.CPU_KEY)
        return Key()

    registry = SimpleNamespace(HKEY_LOCAL_MACHINE="HKLM", OpenKey=opened, QueryValueEx=value)
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    features(monkeypatch, AVX2=True)
    found = this_machine(no_file)
    assert (found.cpu, found.cores, found.instructions) == ("Some Core i7", 6, ["avx2"])


def test_windows_without_the_key_falls_back(monkeypatch, no_file):
    def refused(root, path):
        raise FileNotFoundError(path)

    registry = SimpleNamespace(HKEY_LOCAL_MACHINE="HKLM", OpenKey=refused)
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 85")
    assert this_machine(no_file).cpu == "Intel64 Family 6 Model 85"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with /proc/cpuinfo")
def test_numpy_knows_the_instruction_sets_that_linux_names():
    named = {name for name, known in machine.NUMPY_NAMES.items() if known}
    assert machine._known_to_numpy() == named & set(this_machine().instructions)
