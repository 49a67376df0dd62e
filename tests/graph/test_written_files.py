"""Where a file may be written, and how it gets there."""

import os
from pathlib import Path

import pytest

from onnxq.errors import OutputError
from onnxq.graph.files import check_output, check_target, created_folder, staged


def names(folder):
    return [path.name for path in folder.iterdir()]


def write(path, *, force=True, text="new", data=False, meanwhile=lambda: None):
    with staged(path, force=force) as building:
        building.write_text(text)
        if data:
            building.with_name(f"{building.name}.data").write_text(text)
        meanwhile()


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "o.onnx"
    with pytest.raises(OutputError, match="was created while"):
        write(path, force=False, meanwhile=lambda: path.write_text("of another run"))
    assert path.read_text() == "of another run"
    assert names(tmp_path) == ["o.onnx"]


@pytest.mark.parametrize("force", [True, False])
def test_a_link_that_appears_meanwhile_is_kept(tmp_path, force):
    path = tmp_path / "o.onnx"
    with pytest.raises(OutputError):
        write(path, force=force, meanwhile=lambda: path.symlink_to("nothing"))
    assert path.is_symlink()


def test_several_files_are_moved_together_or_not_at_all(tmp_path):
    (tmp_path / "o.onnx.data").write_text("mine")
    with pytest.raises(OutputError, match=r"o\.onnx\.data: was created while"):
        write(tmp_path / "o.onnx", force=False, data=True)
    assert names(tmp_path) == ["o.onnx.data"]
    assert (tmp_path / "o.onnx.data").read_text() == "mine"


def test_a_written_file_has_one_link_and_the_usual_permissions(tmp_path):
    for force in (False, True):
        write(tmp_path / "o.onnx", force=force)
        found = (tmp_path / "o.onnx").stat()
        assert found.st_nlink == 1
        mask = os.umask(0)
        os.umask(mask)
        assert found.st_mode & 0o777 == 0o666 & ~mask


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write(tmp_path / "o.onnx", force=False)
    assert (tmp_path / "o.onnx").read_text() == "new"
    with pytest.raises(OutputError, match="was created while"):
        write(tmp_path / "o.onnx", force=False, text="newer")
    assert (tmp_path / "o.onnx").read_text() == "new"


def test_folders_are_made_and_removed_after_a_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a" / "b" / "o.onnx"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    write(tmp_path / "a" / "b" / "o.onnx")
    with pytest.raises(ValueError, match="x"), created_folder(tmp_path / "a" / "c"):
        raise ValueError("x")
    assert names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("content", [None, b"no model", b""])
def test_a_source_that_is_no_model_is_left_to_its_reader(tmp_path, content):
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    if content is not None:
        source.write_bytes(content)
    target.touch()
    check_output(target, source, force=True)
    with pytest.raises(OutputError, match="exists already"):
        check_output(target, source, force=False)


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    for name in ("n" * 300, f"{'n' * 300}/o.onnx"):
        with pytest.raises(OutputError, match="File name too long"):
            check_target(tmp_path / name, [], force=False)


def test_nothing_is_created_by_a_check(tmp_path):
    check_target(tmp_path / "a" / "b" / "o.onnx", [], force=False)
    assert names(tmp_path) == []
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_target(Path(__file__) / "a" / "o.onnx", [], force=False)
