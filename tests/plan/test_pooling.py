"""Max pools stay float where the runtime would use the slow integer kernel."""

import numpy as np
import onnx
import pytest

from onnxq.normalize.passes import normalize
from onnxq.options import QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.plan.plan import make_plan
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse, to_ir

BEFORE = {
    "relu": "c = Conv(x, w) r = Relu(c)",
    "hard swish": "c = Conv(x, w) s = HardSigmoid<alpha=0.16666667>(c) r = Mul(c, s)",
    "hard swish, then a sum": "c = Conv(x, w) s = HardSigmoid<alpha=0.16666667>(c) m = Mul(c, s) r = Add(m, c)",
    "hard swish, then a convolution": "c = Conv(x, w) s = HardSigmoid<alpha=0.16666667>(c) m = Mul(c, s) r = Conv(m, w)",
}
BEHIND = {
    "convolution": "y = Conv(p, w)",
    "sum, then a convolution": "a = Add(p, p) y = Conv(a, w)",
    "average": "g = GlobalAveragePool(p) f = Flatten(g) y = Gemm(f, k)",
}
SLOW = [(before, "average") for before in ("hard swish", "hard swish, then a sum")]


def pooled(before, behind, rng):
    text = f"{BEFORE[before]} p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) {BEHIND[behind]}"
    rank = "1,A,B,C" if "convolution" in behind else "1,A"
    weights = {"w": normal(rng, 16, 16, 1, 1) / 4} | (
        {"k": normal(rng, 16, 10)} if behind == "average" else {}
    )
    return parse(f"g (float[1,16,12,12] x) => (float[{rank}] y) {{ {text} }}", weights)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("before", BEFORE)
def test_pools_outside_the_fast_layout_stay_float(before, behind, rng, tmp_path):
    model = pooled(before, behind, rng)
    planned = {node.node.op_type for node in make_plan(normalize(to_ir(model))).nodes.values()}
    assert ("MaxPool" in planned) == ((before, behind) not in SLOW)

    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=normal(rng, 1, 16, 12, 12))
    quantize(QuantizeOptions(tmp_path / "model.onnx", tmp_path / "x.npz", skip_slow_nodes=False))
    open_session(to_ir(onnx.load(tmp_path / "model.int8.onnx")), save_optimized=tmp_path / "runs.onnx")
    runs = onnx.load(tmp_path / "runs.onnx")
    types = {value.name: value.type.tensor_type.elem_type for value in runs.graph.value_info}
    slow = [
        node
        for node in runs.graph.node
        if node.op_type == "MaxPool" and types.get(node.input[0]) == onnx.TensorProto.UINT8
    ]
    assert not slow
