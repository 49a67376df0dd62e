"""Finished files are put in place as a whole, and never over a file that appeared meanwhile."""

import os
import threading

import pytest

from onnxq.errors import OutputError
from onnxq.graph.files import staged


def write(path, content, *, force=False, data=False):
    with staged(path, force=force) as building:
        building.write_bytes(content)
        if data:
            building.with_name(f"{path.name}.data").write_bytes(content)


@pytest.fixture(params=[True, False], ids=["hard links", "no hard links"])
def _links(request, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("_links")
def test_of_two_runs_on_one_output_one_fails(tmp_path):
    path, outcomes, start = tmp_path / "o.onnx", [], threading.Barrier(8)

    def work(number):
        try:
            with staged(path, force=False) as building:
                building.write_bytes(bytes([number]) * 1000)
                start.wait()
            outcomes.append(number)
        except OutputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [each for each in outcomes if isinstance(each, int)]
    assert path.read_bytes() == bytes([winner]) * 1000
    assert path.stat().st_nlink == 1
    assert all("--force" in each for each in outcomes if each != winner)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("there", ["o.onnx", "o.onnx.data"])
def test_a_file_in_the_way_of_the_model_or_its_data_leaves_nothing(tmp_path, there):
    (tmp_path / there).write_bytes(b"another's")
    with pytest.raises(OutputError, match=f"{there}: was created"):
        write(tmp_path / "o.onnx", b"mine", data=True)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_bytes() == b"another's"


def test_force_replaces(tmp_path):
    for content in (b"first", b"second"):
        write(tmp_path / "o.onnx", content, force=True, data=True)
        assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "o.onnx.data").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2
