"""Temporary folders of killed runs go with the next run; those of living ones, and the user's own, stay."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxq.errors import OutputError
from onnxq.graph import scratch
from onnxq.graph.scratch import ScratchFolder, no_temporary_space, remove_all, sweep
from tests.conftest import CNN, SAMPLES

HOLDER = """
import sys, time
from pathlib import Path
from onnxq.graph.scratch import ScratchFolder
folders = [ScratchFolder(Path(sys.argv[1])), ScratchFolder()]
for folder in folders:
    (folder.path / "weights.data").write_bytes(bytes(1 << 20))
print(*[folder.path for folder in folders], flush=True)
time.sleep(120)
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder for outputs and one for temporary files."""
    folders = [tmp_path / "out", tmp_path / "temporary"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders[1]))
    return folders


@pytest.fixture
def holder(places):
    """Another process that holds a folder in each place."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, places[0]],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(places[1])},
    ) as process:
        held = [Path(text) for text in process.stdout.readline().split()]
        assert [folder.parent for folder in held] == places
        yield process, held
        process.kill()


def sweep_again(places):
    scratch._swept.clear()
    for place in places:
        sweep(place)


def test_folders_of_a_killed_process_are_swept_and_those_of_a_living_one_are_not(holder, places):
    process, held = holder
    sweep_again(places)
    assert all((folder / "weights.data").exists() for folder in held)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all((folder / "weights.data").exists() for folder in held)
    sweep_again(places)
    assert [list(place.iterdir()) for place in places] == [[], []]


def test_a_command_sweeps_both_places(holder, places, tmp_path):
    process, held = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    command = [sys.executable, "-m", "onnxq", "quantize", CNN, "--calib", SAMPLES / "calib"]
    command += ["-o", places[0] / "o.onnx", "--effort", "fast"]
    subprocess.run(command, check=True, env=os.environ | {"TMPDIR": str(places[1])}, capture_output=True)
    assert not any(folder.exists() for folder in held)
    assert [path.name for path in places[0].iterdir()] == ["o.onnx"]


def test_nothing_else_is_swept(places, tmp_path):
    kept = ["onnxq-results", "onnxq-abcdefgh", "my-onnxq-abcdefgh.tmp", "onnxq-abcdefgh.tmp.bak"]
    for name in kept:
        (places[1] / name).mkdir()
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "file").touch()
    (places[1] / "onnxq-linklink.tmp").symlink_to(target)
    (places[1] / "onnxq-filefile.tmp").touch()
    sweep_again(places)
    assert {path.name for path in places[1].iterdir()} == {*kept, "onnxq-linklink.tmp", "onnxq-filefile.tmp"}
    assert (target / "file").exists()


def test_folders_go_with_their_block_and_with_the_process(places):
    with ScratchFolder() as folder:
        assert folder.parent == places[1]
    assert not folder.exists()
    other = ScratchFolder(places[0])
    remove_all()
    assert not other.path.exists()


def test_no_place_for_temporary_files_is_told(monkeypatch, tmp_path):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(OutputError, match="TMPDIR"):
        ScratchFolder()
    assert "TMPDIR" in no_temporary_space()
    with pytest.raises(OutputError, match="missing: cannot be written"):
        ScratchFolder(tmp_path / "missing")
