"""The bytes of a file do not depend on the threads that NumPy multiplies matrices with."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import ThreadpoolController

import onnxq

BLAS = ThreadpoolController().select(user_api="blas")
SIZE = 384


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Three products of correlated inputs: many weights lie close to the middle between two integers."""
    folder, random = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for index in range(3):
        values = random.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"y{index}"], name=f"product{index}"))
        last = f"y{index}"
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", SIZE])],
        weights,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )
    (folder / "data").mkdir()
    mixed = random.normal(size=(SIZE // 4, SIZE))
    for index in range(12):
        rows = random.normal(size=(64, SIZE // 4)) @ mixed / 8
        np.savez(folder / "data" / f"{index:02}.npz", x=rows.astype(np.float32))
    return folder


@pytest.mark.skipif(not BLAS.info(), reason="this NumPy's library has no number of threads")
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_the_threads_of_matrix_products_change_nothing(wide, mode, tmp_path):
    files = []
    for threads in (1, 3):
        target = tmp_path / f"{threads}.onnx"
        with BLAS.limit(limits=threads):
            onnxq.quantize(wide / "m.onnx", wide / "data", target, mode=mode, keep_int8=True)
        files.append(target.read_bytes())
    assert files[0] == files[1]
