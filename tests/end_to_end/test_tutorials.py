"""The commands of the tutorials run as they are written, one after the other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
INSTALLS = re.compile(r"pip3? install|uv|pipx")
"""Commands for an environment, which the tests have."""


def _commands(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not INSTALLS.match(line)]


def _run(commands, folder):
    environment = os.environ | {"PATH": PATH, "PYTHONPATH": str(ROOT)}
    script = "\n".join(commands)
    result = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=environment, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_first_steps(tmp_path):
    for name in ("sample_models", "calib_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    commands = _commands("first-steps.md")
    assert [line.split()[1] for line in commands] == ["inspect", "quantize", "eval", "debug"]
    _run(commands, tmp_path)
    assert {"digits.int8.onnx", "quantize.html", "eval.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_text_recognizer(tmp_path):
    """Downloads a package with the model."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (options,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = _commands("tutorial.md")
    first = next(i for i, line in enumerate(commands) if line.startswith("onnxq"))
    _run(commands[:first], tmp_path)
    folder = tmp_path / "ocr"
    (folder / "make_data.py").write_text(program, encoding="utf-8")
    (folder / "onnxq.toml").write_text(options, encoding="utf-8")
    repository = [line for line in commands if "sample_models/" in line]
    own = [line for line in commands[first:] if line not in repository]
    _run([f"{sys.executable} make_data.py", *own], folder)
    for name in ("sample_models", "calib_data"):
        (tmp_path / name).symlink_to(ROOT / name)
    _run(repository, tmp_path)
    assert (folder / "rec.int8.onnx").is_file()
    assert (folder / "eval.html").is_file()
