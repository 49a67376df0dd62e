"""Integer kernels follow the file: with and without optimizations, outputs differ by at most one step.

Weights and inputs are chosen to saturate kernels without VNNI: neighbouring weights of the same sign and
inputs, all near the end of their range. To run those kernels:
`python benchmarks/older_cpu.py python -m pytest tests/end_to_end/test_one_step.py`.
"""

import numpy as np
import onnx
import pytest

import onnxq
from tests.conftest import normal, parse, runtime_outputs

CASES = {
    "dense": ("c = Conv<pads=[1,1,1,1]>(x, w)", (24, 16, 3, 3)),
    "pointwise": ("c = Conv(x, w)", (24, 16, 1, 1)),
    "strided, dilated": ("c = Conv<strides=[2,2], dilations=[2,2]>(x, w)", (24, 16, 3, 3)),
    "grouped": ("c = Conv<group=4>(x, w)", (24, 4, 3, 3)),
    "depthwise": ("c = Conv<group=16, pads=[1,1,1,1]>(x, w)", (16, 1, 3, 3)),
    "product": ("c = MatMul(x, w)", (9, 24)),
    "gemm": ("f = Flatten(x)\n c = Gemm(f, w)", (16 * 81, 24)),
}


def hard_weights(rng, shape):
    """Draw non-negative weights, half of them near the largest of their channel."""
    w = np.abs(normal(rng, *shape)) * 0.1
    near = rng.random(shape) < 0.5
    return np.where(near, 1 - 0.05 * rng.random(shape), w).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clamp", ["", "Relu"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_integer_kernels_are_within_one_step_of_the_file_as_written(name, clamp, per_channel, tmp_path, rng):
    layer, shape = CASES[name]
    convolution = "Conv" in layer
    behind = "Conv" if convolution else "MatMul"
    body = f"{layer}\n r = Relu(c)\n y = {behind}(r, v)" if clamp else f"{layer}\n y = {behind}(c, v)"
    channels = shape[0] if convolution else shape[1]
    constants = {
        "w": hard_weights(rng, shape),
        "v": normal(rng, *((4, channels, 1, 1) if convolution else (channels, 4))),
    }
    onnx.save_model(parse(f"g (float[1,16,9,9] x) => (float y) {{ {body} }}", constants), tmp_path / "m.onnx")
    (tmp_path / "calib").mkdir()
    for i in range(8):
        np.save(tmp_path / "calib" / f"{i}.npy", rng.random((1, 16, 9, 9), np.float32))
    onnxq.quantize(
        tmp_path / "m.onnx", tmp_path / "calib", skip_slow_nodes=False, per_channel=per_channel, standard=True
    )
    written = onnx.load(tmp_path / "m.int8.onnx")
    *_, between = [
        node for node in written.graph.node if node.op_type == "QuantizeLinear" and node.input[0] != "x"
    ]
    del written.graph.output[:]
    written.graph.output.append(
        onnx.helper.make_tensor_value_info(between.output[0], onnx.TensorProto.UINT8, None)
    )
    onnx.save(written, tmp_path / "between.onnx")
    for x in (np.ones((1, 16, 9, 9), np.float32), rng.random((1, 16, 9, 9), np.float32)):
        (fast,), (plain,) = (
            runtime_outputs(tmp_path / "between.onnx", {"x": x}, optimize=optimize)
            for optimize in (True, False)
        )
        assert plain.max() > 100
        assert np.abs(fast.astype(int) - plain.astype(int)).max() <= 1
