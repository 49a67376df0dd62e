"""Each line of the checklist quantizes to a correct file in integer kernels, or is refused in one line.

Each case takes the whole way: `onnxq.quantize` with its defaults, from file to file. The result runs with
and without the runtime's optimizations and is compared with the float model, independently of onnxq's own
verification.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.errors import OnnxqError
from tests.checklist import graphs, models, products  # noqa: F401  (they register their lines)
from tests.checklist.case import LINES, Case, cnn
from tests.conftest import runtime_outputs


def write_case(case: Case, folder: Path) -> None:
    """Write model.onnx and calib/."""
    onnx.save_model(case.model, folder / "model.onnx")
    (folder / "calib").mkdir()
    for i, feed in enumerate(case.feeds):
        np.savez(folder / "calib" / f"{i:02}.npz", **feed)


def check_outputs(case: Case, source: Path, written: Path) -> None:
    """Compare the float model with the int8 file, optimized and unoptimized, over all samples."""
    noise = signal = difference = size = 0.0
    for feeds in case.feeds:
        for a, b, c in zip(
            runtime_outputs(source, feeds),
            runtime_outputs(written, feeds),
            runtime_outputs(written, feeds, optimize=False),
            strict=True,
        ):
            if a.dtype.kind != "f":
                assert np.array_equal(a, b)
                continue
            assert np.isfinite(b).all() or not np.isfinite(a).all()
            size = max(size, float(np.abs(a).max(initial=0)))
            noise, signal = noise + float(np.square(a - b).sum()), signal + float(np.square(a).sum())
            difference = max(difference, float(np.abs(b - c).max(initial=0)))
    assert noise <= case.error**2 * signal
    assert difference <= case.step * size


@pytest.mark.parametrize(("name", "maker"), LINES, ids=[name for name, _ in LINES])
def test_line(name, maker, tmp_path, rng):
    case = maker(rng)
    write_case(case, tmp_path)
    source, written = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    before = source.read_bytes()
    if case.says is not None:
        with pytest.raises(OnnxqError, match=re.escape(case.says)) as raised:
            onnxq.quantize(source, tmp_path / "calib", **case.options)
        assert "\n" not in str(raised.value)
        assert not written.exists()
        return
    report = onnxq.quantize(source, tmp_path / "calib", **case.options)
    assert source.read_bytes() == before
    for kernel, count in case.kernels.items():
        assert report.kernels.counts.get(kernel, 0) >= count, report.kernels.counts
    assert not report.kernels.fell_back
    check_outputs(case, source, written)
    if case.after is not None:
        case.after(tmp_path, case.model)


@pytest.mark.parametrize("layout", ["several files", "links", "hard link", "link outside"])
def test_43_external_data(layout, tmp_path, rng):
    case = cnn(rng, "h = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, w2)", 2)
    folder, store = tmp_path / "model", tmp_path / "store"
    folder.mkdir()
    store.mkdir()
    write_case(case, folder)
    onnx.save_model(
        case.model,
        folder / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    files = [folder / "w1", folder / "w2"]
    assert all(file.is_file() for file in files)
    moved = files if layout == "link outside" else [*files, folder / "model.onnx"]
    if "link" in layout:
        for file in moved:
            shutil.move(file, store / file.name)
            os.link(store / file.name, file) if layout == "hard link" else file.symlink_to(store / file.name)
    if layout in ("hard link", "link outside"):
        with pytest.raises(OnnxqError, match=r"copy (it|the file)"):
            onnxq.quantize(folder / "model.onnx", folder / "calib", tmp_path / "out.onnx")
        return
    onnxq.quantize(folder / "model.onnx", folder / "calib", tmp_path / "out.onnx")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["out.onnx"]
    check_outputs(case, folder / "model.onnx", tmp_path / "out.onnx")


def test_44_a_read_only_folder_takes_its_output_elsewhere(tmp_path, rng):
    case = cnn(rng, "h = Conv<pads=[1,1,1,1]>(x, w1) y = Conv<pads=[1,1,1,1]>(h, w2)", 2)
    folder = tmp_path / "model"
    folder.mkdir()
    write_case(case, folder)
    before = sorted(file.name for file in folder.iterdir())
    folder.chmod(0o555)
    try:
        onnxq.quantize(folder / "model.onnx", folder / "calib", tmp_path / "out.onnx")
    finally:
        folder.chmod(0o755)
    assert sorted(file.name for file in folder.iterdir()) == before
    check_outputs(case, folder / "model.onnx", tmp_path / "out.onnx")


def test_every_line_is_there():
    numbers = {int(name[:2]) for name, _ in LINES}
    assert numbers | {43, 44} == set(range(1, 53))
