"""Samples behind URLs: the same as those of a folder, and one line for each fault."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.data.urls import url_of

from ..conftest import CNN, SAMPLES

CALIB = SAMPLES / "calib"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/calib", "s3://bucket/calib"),
        ("file:///data/calib", "file:///data/calib"),
        ("memory://calib", "memory://calib"),
        ("calib", None),
        ("C:/calib", None),
        ("module:function", None),
    ],
)
def test_urls_survive_a_path(given: str, url: str | None) -> None:
    assert url_of(Path(given)) == url


def test_statistics_are_those_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    onnxq.calibrate(CNN, CALIB, here, samples=12)
    onnxq.calibrate(CNN, f"file://{CALIB.absolute()}", there, samples=12)
    assert here.read_bytes() == there.read_bytes()


def test_samples_are_read_on_use(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    out = tmp_path / "out.npz"
    shape = tuple(each or 1 for each in input_shape())
    for number in range(10):
        with system.open(f"/digits/{number}.npy", "wb") as stream:
            np.save(stream, np.full(shape, number / 10, np.float32))
    result = CliRunner().invoke(main, ["calibrate", str(CNN), "--calib", "memory://digits", "-o", str(out)])
    assert result.exit_code == 0, result.stderr
    assert out.is_file()


def input_shape() -> list[int | None]:
    from onnxq.graph.files import load
    from onnxq.runtime.sessions import model_inputs

    return [each if isinstance(each, int) else None for each in model_inputs(load(CNN))[0].shape]


@pytest.mark.parametrize(
    ("url", "says"),
    [("nothing://x", "nothing"), ("memory://none", "memory://none"), ("file:///no/such/folder", "no sample")],
)
def test_faults_are_one_line(tmp_path: Path, url: str, says: str) -> None:
    pytest.importorskip("fsspec")
    command = ["calibrate", str(CNN), "--calib", url, "-o", str(tmp_path / "out.npz")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_without_fsspec_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    command = ["calibrate", str(CNN), "--calib", "s3://bucket/x", "-o", str(tmp_path / "out.npz")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "pip install fsspec" in result.stderr
