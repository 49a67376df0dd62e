"""Samples without a batch axis, or of a type that converts without loss, work in every mode."""

import numpy as np
import onnx
import pytest

import onnxq
from tests.conftest import normal, parse, runtime_outputs

DENSE = "g (float[N,32] x) => (float[N,16] y) { h = Gemm(x, w)\n r = Relu(h)\n y = Gemm(r, v) }"
IDS = "g (int64[N,T] ids) => (float[N,T,16] y) { e = Gather(t, ids)\n h = MatMul(e, w)\n r = Relu(h)\n y = MatMul(r, v) }"
IMAGES = "g (float[1,4,6,6] x) => (float[1,16,6,6] y) { h = Conv<pads=[1,1,1,1]>(x, w)\n r = Relu(h)\n y = Conv(r, v) }"


def write_rows_of_a_table(rng, folder):
    rows = normal(rng, 40, 32)
    names = ",".join(f"c{i}" for i in range(32))
    np.savetxt(folder / "a.csv", rows, delimiter=",", header=names, comments="")
    return {"x": rows[:1]}


def write_vectors(rng, folder):
    rows = normal(rng, 40, 32)
    for i, row in enumerate(rows):
        np.save(folder / f"{i:02}.npy", row)
    return {"x": rows[:1]}


def write_one_array(rng, folder):
    rows = normal(rng, 40, 32)
    np.save(folder / "a.npy", rows.astype(np.float16))
    return {"x": rows[:1]}


def write_ids(rng, folder):
    ids = rng.integers(0, 50, (40, 7)).astype(np.int32)
    for i, row in enumerate(ids):
        np.savez(folder / f"{i:02}.npz", ids=row)
    return {"ids": ids[:1].astype(np.int64)}


def write_images(rng, folder):
    images = normal(rng, 40, 4, 6, 6)
    for i, image in enumerate(images):
        np.save(folder / f"{i:02}.npy", image)
    return {"x": images[:1]}


CASES = {
    "table": (DENSE, {"w": (32, 64), "v": (64, 16)}, write_rows_of_a_table),
    "vectors": (DENSE, {"w": (32, 64), "v": (64, 16)}, write_vectors),
    "one array": (DENSE, {"w": (32, 64), "v": (64, 16)}, write_one_array),
    "ids": (IDS, {"t": (50, 32), "w": (32, 64), "v": (64, 16)}, write_ids),
    "images": (IMAGES, {"w": (32, 4, 3, 3), "v": (16, 32, 1, 1)}, write_images),
}


MODES = ("balanced", "fast", "dynamic")


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in CASES for mode in MODES if (name, mode) != ("images", "dynamic")],
)
def test_samples_are_converted_in_every_mode(name, mode, tmp_path, rng):
    text, shapes, write = CASES[name]
    model = parse(text, {key: normal(rng, *shape) / 6 for key, shape in shapes.items()})
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    feeds = write(rng, tmp_path / "data")
    effort = onnxq.Effort.FAST if mode == "fast" else onnxq.Effort.BALANCED
    kind = onnxq.Mode.DYNAMIC if mode == "dynamic" else onnxq.Mode.STATIC
    report = onnxq.quantize(
        tmp_path / "m.onnx", tmp_path / "data", tmp_path / "q.onnx", mode=kind, effort=effort
    )
    assert report.samples > 20
    expected, found = (runtime_outputs(tmp_path / file, feeds)[0] for file in ("m.onnx", "q.onnx"))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
