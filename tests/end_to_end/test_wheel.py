"""The wheel in an environment of its own, away from the repository."""

import os
import re
import subprocess
import sys
import zipfile

import pytest

from onnxq.version import __version__
from tests.conftest import CNN, ROOT, SAMPLES

LARGEST_MB = 1.0
"""Most megabytes of a wheel: code, templates and tables, no models."""


def _run(*command, folder, **variables):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, folder=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"onnxq-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < LARGEST_MB * 1e6
    assert {name.split("/")[0] for name in names} == {"onnxq", f"onnxq-{__version__}.dist-info"}
    kept = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "onnxq").rglob("*.*") if path.suffix != ".pyc"
    }
    assert kept <= set(names)


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(wheel, tmp_path):
    environment, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    _run(sys.executable, "-m", "venv", environment, folder=work)
    programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
    pins = ROOT / "constraints.txt"
    _run(programs / "python", "-m", "pip", "install", "-q", "-c", pins, f"{wheel}[report]", folder=work)
    onnxq = programs / "onnxq"
    made = _run(
        onnxq, "quantize", CNN, "--calib", SAMPLES / "calib", "--effort", "fast", "-o", "int8.onnx",
        "--report", "quantize.html", folder=work, NO_COLOR="1",
    )  # fmt: skip
    assert "wrote" in made.stdout
    labels = SAMPLES / "eval" / "labels.csv"
    _run(
        onnxq, "eval", CNN, "int8.onnx", "--data", SAMPLES / "eval", "--labels", labels, "--max-drop", "0.5",
        "--report", "eval.html", folder=work,
    )  # fmt: skip
    assert {path.name for path in work.iterdir()} == {"int8.onnx", "quantize.html", "eval.html"}
    where = _run(programs / "python", "-c", "import onnxq; print(onnxq.__file__)", folder=work).stdout
    assert where.startswith(str(environment))


def test_the_changelog_begins_with_the_version():
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading[1] == __version__
