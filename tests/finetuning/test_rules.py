"""Each rule against finite differences."""

import zlib

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from onnxq.finetuning.rules.table import RULES
from onnxq.types import Array

from .differences import largest_error, single

TOLERANCE = 1e-3
ADD = {"reduction": "add"}


def values(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    """Return values that differ from one another and from whole numbers by more than a step of differences."""
    rng = np.random.default_rng((zlib.crc32(str(shape).encode()), seed))
    size = int(np.prod(shape))
    spread = low + (high - low) * (np.arange(size) + 0.5) / size
    return rng.permutation(spread).reshape(shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


SIGNED = values(2, 3, 5, low=-2.45, high=2.55)
POSITIVE = values(2, 3, 4, low=0.5, high=2.5)
SMALL = values(2, 5, low=-0.8, high=0.85)
IMAGE = values(2, 4, 6, 7)
WIDE = IMAGE * 10

UNARY = {
    "Abs": SIGNED, "Acos": SMALL, "Asin": SMALL, "Atan": SIGNED, "Celu": SIGNED, "Cos": SIGNED, "Elu": SIGNED,
    "Erf": SIGNED, "Exp": SIGNED, "HardSigmoid": SIGNED, "HardSwish": SIGNED, "Identity": SIGNED,
    "LeakyRelu": SIGNED, "Log": POSITIVE, "Mish": SIGNED, "Neg": SIGNED, "Reciprocal": POSITIVE, "Relu": SIGNED,
    "Selu": SIGNED, "Sigmoid": SIGNED, "Sin": SIGNED, "Softplus": SIGNED, "Softsign": SIGNED, "Sqrt": POSITIVE,
    "Tanh": SIGNED, "ThresholdedRelu": SIGNED, "Softmax": SIGNED, "LogSoftmax": SIGNED, "Flatten": SIGNED,
    "Transpose": SIGNED, "LpNormalization": SIGNED, "GlobalAveragePool": IMAGE, "GlobalMaxPool": WIDE,
    "ReduceL1": SIGNED, "ReduceL2": SIGNED, "ReduceLogSum": POSITIVE, "ReduceLogSumExp": SIGNED, "ReduceMax": SIGNED,
    "ReduceMean": SIGNED, "ReduceMin": SIGNED, "ReduceProd": POSITIVE, "ReduceSumSquare": SIGNED, "Dropout": SIGNED,
    "Floor": np.floor(SIGNED) + np.float32(0.5), "Sign": np.floor(SIGNED) + np.float32(0.5), "Round": np.floor(SIGNED), "Ceil": np.floor(SIGNED) + np.float32(0.5),
}  # fmt: skip
A, B = values(2, 3, 4), values(3, 1, seed=1)
FILTER, GROUPED, DEPTHWISE = values(3, 4, 3, 2), values(6, 2, 3, 3), values(4, 1, 3, 3)
CASES = {
    **{op_type: (op_type, {"x": array}, {"opset": 18 if op_type == "Mish" else 17}) for op_type, array in UNARY.items()},
    "Gelu": ("Gelu", {"x": SIGNED}, {"opset": 20}),
    "Gelu tanh": ("Gelu", {"x": SIGNED}, {"opset": 20, "approximate": "tanh"}),
    "FastGelu": ("FastGelu", {"x": SIGNED}, {"domain": "com.microsoft"}),
    "Gelu of the runtime": ("Gelu", {"x": SIGNED}, {"domain": "com.microsoft"}),
    "QuickGelu": ("QuickGelu", {"x": SIGNED}, {"domain": "com.microsoft"}),
    "Clip": ("Clip", {"x": SIGNED, "c1": np.float32(-1.01), "c2": np.float32(1.01)}, {}),
    "Cast": ("Cast", {"x": SIGNED}, {"to": 1}),
    "Add repeated": ("Add", {"a": A, "b": B}, {}),
    "Sum": ("Sum", {"a": A, "b": B, "d": values(4)}, {}),
    "Mean": ("Mean", {"a": A, "b": B, "d": values(4)}, {}),
    "Sub repeated": ("Sub", {"a": B, "b": A}, {}),
    "Mul repeated": ("Mul", {"a": A, "b": B}, {}),
    "Div repeated": ("Div", {"a": A, "b": values(1, 3, 1, low=0.5)}, {}),
    "Pow": ("Pow", {"a": POSITIVE, "b": values(4)}, {}),
    "Pow by an integer": ("Pow", {"a": SIGNED, "c": np.array(3, np.int64)}, {}),
    "Max": ("Max", {"a": A, "b": B}, {}),
    "Min": ("Min", {"a": A, "b": B}, {}),
    "PRelu": ("PRelu", {"a": A, "b": values(3, 1, low=0.1)}, {}),
    "Where": ("Where", {"c": np.array([[True], [False], [True]]), "a": A, "b": B}, {}),
    "ReduceSum": ("ReduceSum", {"x": SIGNED, "c": ints(0, -1)}, {"keepdims": 0}),
    "ReduceSum of all": ("ReduceSum", {"x": SIGNED}, {}),
    "ReduceMean along axes": ("ReduceMean", {"x": SIGNED}, {"axes": [1], "keepdims": 0}),
    "ReduceMean along axes of an input": ("ReduceMean", {"x": SIGNED, "c": ints(1)}, {"opset": 18}),
    "Softmax along axis 1": ("Softmax", {"x": SIGNED}, {"axis": 1}),
    "Softmax of opset 11": ("Softmax", {"x": SIGNED}, {"opset": 11}),
    "LogSoftmax of opset 11": ("LogSoftmax", {"x": SIGNED}, {"opset": 11, "axis": 2}),
    "ReduceMax of opset 11": ("ReduceMax", {"x": SIGNED}, {"opset": 11, "axes": [1]}),
    "Mul of opset 11": ("Mul", {"a": A, "b": B}, {"opset": 11}),
    "CumSum": ("CumSum", {"x": SIGNED, "c": np.array(1, np.int64)}, {"exclusive": 1}),
    "CumSum in reverse": ("CumSum", {"x": SIGNED, "c": np.array(2, np.int64)}, {"reverse": 1}),
    "Trilu": ("Trilu", {"x": SIGNED}, {"upper": 0}),
    "MatMul": ("MatMul", {"a": A, "b": values(4, 5)}, {}),
    "MatMul in batches": ("MatMul", {"a": values(2, 1, 3, 4), "b": values(5, 4, 2)}, {}),
    "MatMul of a vector": ("MatMul", {"a": values(4), "b": values(2, 4, 3)}, {}),
    "MatMul by a vector": ("MatMul", {"a": A, "b": values(4)}, {}),
    "Gemm": ("Gemm", {"a": values(3, 4), "b": values(4, 5), "d": values(5)}, {"alpha": 0.5, "beta": 2.0}),
    "Gemm transposed": ("Gemm", {"a": values(4, 3), "b": values(5, 4), "d": values(3, 1)}, {"transA": 1, "transB": 1}),
    "Gemm A transposed": ("Gemm", {"a": values(4, 3), "b": values(4, 5)}, {"transA": 1}),
    "Gemm B transposed": ("Gemm", {"a": values(3, 4), "b": values(5, 4)}, {"transB": 1}),
    "Einsum": ("Einsum", {"a": A, "b": values(2, 5, 4)}, {"equation": "bij,bkj->bik"}),
    "Conv": ("Conv", {"x": IMAGE, "w": FILTER, "b": values(3)}, {"pads": [1, 0, 1, 1]}),
    "Conv with strides": ("Conv", {"x": IMAGE, "w": FILTER}, {"strides": [2, 3], "pads": [0, 1, 1, 0]}),
    "Conv dilated": ("Conv", {"x": IMAGE, "w": FILTER}, {"dilations": [2, 3], "pads": [2, 1, 2, 1]}),
    "Conv with more padding than reach": ("Conv", {"x": IMAGE, "w": values(3, 4, 1, 1)}, {"pads": [1, 1, 1, 1]}),
    "Conv of one place": ("Conv", {"x": IMAGE, "w": values(3, 4, 1, 1), "b": values(3)}, {}),
    "Conv of one place with strides": ("Conv", {"x": IMAGE, "w": values(3, 4, 1, 1)}, {"strides": [2, 2]}),
    "Conv in groups": ("Conv", {"x": IMAGE, "w": GROUPED, "b": values(6)}, {"group": 2, "pads": [1, 1, 1, 1]}),
    "Conv in groups with strides": ("Conv", {"x": IMAGE, "w": GROUPED}, {"group": 2, "strides": [2, 2]}),
    "Conv depthwise": ("Conv", {"x": IMAGE, "w": DEPTHWISE, "b": values(4)}, {"group": 4, "pads": [1, 1, 1, 1]}),
    "Conv depthwise with strides": ("Conv", {"x": IMAGE, "w": DEPTHWISE}, {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "Conv depthwise with a multiplier": ("Conv", {"x": IMAGE, "w": values(8, 1, 3, 3)}, {"group": 4}),
    "Conv with auto_pad": ("Conv", {"x": IMAGE, "w": FILTER}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "Conv with auto_pad below": ("Conv", {"x": IMAGE, "w": FILTER}, {"auto_pad": "SAME_LOWER"}),
    "Conv 1-D": ("Conv", {"x": values(2, 3, 9), "w": values(4, 3, 3)}, {"strides": [2], "pads": [1, 0]}),
    "Conv 3-D": ("Conv", {"x": values(1, 2, 4, 5, 4), "w": values(3, 2, 2, 3, 2)}, {"pads": [1, 0, 1, 0, 1, 0]}),
    "ConvTranspose": ("ConvTranspose", {"x": IMAGE, "w": values(4, 3, 3, 2), "b": values(3)}, {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
    "ConvTranspose in groups": ("ConvTranspose", {"x": IMAGE, "w": values(4, 3, 2, 2)}, {"group": 2, "strides": [2, 2]}),
    "ConvTranspose with output_padding": ("ConvTranspose", {"x": IMAGE, "w": values(4, 3, 3, 3)}, {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}),
    "ConvTranspose with output_shape": ("ConvTranspose", {"x": IMAGE, "w": values(4, 3, 3, 3)}, {"strides": [2, 2], "output_shape": [12, 14]}),
    "MaxPool": ("MaxPool", {"x": WIDE}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool with overlap": ("MaxPool", {"x": WIDE}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "MaxPool with ceil_mode": ("MaxPool", {"x": WIDE}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "MaxPool 1-D dilated": ("MaxPool", {"x": values(2, 3, 9)}, {"kernel_shape": [2], "dilations": [2]}),
    "AveragePool": ("AveragePool", {"x": IMAGE}, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "AveragePool with pads": ("AveragePool", {"x": IMAGE}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "AveragePool with auto_pad": ("AveragePool", {"x": IMAGE}, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "AveragePool with ceil_mode": ("AveragePool", {"x": IMAGE}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "Resize nearest": ("Resize", {"x": values(2, 3, 3, 4), "none1": ints(), "c": np.array([1, 1, 2, 3], np.float32)}, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    "Resize linear": ("Resize", {"x": values(2, 3, 3, 4), "none1": ints(), "c": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}),
    "Resize linear to sizes": ("Resize", {"x": values(2, 3, 5, 6), "none1": ints(), "none2": ints(), "c": ints(2, 3, 3, 9)}, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    "Resize cubic": ("Resize", {"x": values(1, 1, 5, 6), "none1": ints(), "none2": ints(), "c": ints(1, 1, 8, 9)}, {"mode": "cubic"}),
    "Reshape": ("Reshape", {"x": SIGNED, "c": ints(5, -1)}, {}),
    "Squeeze": ("Squeeze", {"x": values(2, 1, 3), "c": ints(1)}, {}),
    "Unsqueeze": ("Unsqueeze", {"x": A, "c": ints(0, 2)}, {}),
    "Transpose by perm": ("Transpose", {"x": A}, {"perm": [1, 2, 0]}),
    "Concat": ("Concat", {"a": A, "b": values(2, 2, 4), "d": values(2, 1, 4)}, {"axis": 1}),
    "Split": ("Split", {"x": IMAGE, "c": ints(1, 3)}, {"axis": 1, "outputs": 2}),
    "Split, one part used": ("Split", {"x": IMAGE, "c": ints(1, 3)}, {"axis": 1, "outputs": 2, "used": 0}),
    "Slice": ("Slice", {"x": IMAGE, "c1": ints(1, -4), "c2": ints(3, 100), "c3": ints(1, -1)}, {}),
    "Slice with steps": ("Slice", {"x": IMAGE, "c1": ints(0, -1), "c2": ints(6, -100), "c3": ints(2, 3), "c4": ints(2, -2)}, {}),
    "Pad": ("Pad", {"x": values(2, 3, 4), "c1": ints(0, 1, -1, 0, 2, 1)}, {}),
    "Pad reflecting": ("Pad", {"x": values(2, 3, 4), "c1": ints(0, 1, 2, 0, 0, 1)}, {"mode": "reflect"}),
    "Pad by the edge": ("Pad", {"x": values(2, 3, 4), "c1": ints(0, 0, 2, 0, 1, 1)}, {"mode": "edge"}),
    "Gather": ("Gather", {"x": IMAGE, "c": ints(2, -4)}, {"axis": 1}),
    "Gather twice": ("Gather", {"x": IMAGE, "c": np.array([[2, 1], [0, 2]])}, {"axis": 2}),
    "Gather one": ("Gather", {"x": IMAGE, "c": np.array(1)}, {"axis": 3}),
    "Gather by data": ("Gather", {"x": IMAGE, "i": np.array([[2, 1], [0, 2]])}, {"axis": 1}),
    "GatherElements": ("GatherElements", {"x": A, "i": np.array([[[0, 1, 1, 0]], [[2, 1, 0, 2]]])}, {"axis": 1}),
    "GatherND": ("GatherND", {"x": A, "i": np.array([[0, 1], [1, 2], [0, 1]])}, {}),
    "ScatterElements": ("ScatterElements", {"x": A, "i": np.array([[[0, 1, 1, 0]], [[2, 1, 0, 2]]]), "u": values(2, 1, 4)}, {"axis": 1}),
    "ScatterND": ("ScatterND", {"x": A, "i": np.array([[0, 1], [1, 2]]), "u": values(2, 4, seed=2)}, {}),
    "TopK": ("TopK", {"x": A, "c": ints(2)}, {"axis": 1, "outputs": 2}),
    "Expand": ("Expand", {"x": values(3, 1), "c": ints(2, 3, 4)}, {}),
    "Tile": ("Tile", {"x": A, "c": ints(1, 2, 3)}, {}),
    "DepthToSpace": ("DepthToSpace", {"x": values(1, 8, 2, 3)}, {"blocksize": 2}),
    "DepthToSpace CRD": ("DepthToSpace", {"x": values(1, 8, 2, 3)}, {"blocksize": 2, "mode": "CRD"}),
    "SpaceToDepth": ("SpaceToDepth", {"x": values(1, 2, 4, 6)}, {"blocksize": 2}),
    "LayerNormalization": ("LayerNormalization", {"x": A, "s": values(4), "b": values(4, seed=1)}, {"axis": -1}),
    "LayerNormalization of two axes": ("LayerNormalization", {"x": A, "s": values(3, 4)}, {"axis": 1}),
    "SimplifiedLayerNormalization": ("SimplifiedLayerNormalization", {"x": A, "s": values(4)}, {"axis": -1}),
    "InstanceNormalization": ("InstanceNormalization", {"x": IMAGE, "s": values(4), "b": values(4, seed=1)}, {}),
    "GroupNormalization": ("GroupNormalization", {"x": IMAGE, "s": values(4), "b": values(4, seed=1)}, {"num_groups": 2, "opset": 21}),
    "GroupNormalization with scales of groups": ("GroupNormalization", {"x": IMAGE, "s": values(2), "b": values(2, seed=1)}, {"num_groups": 2, "opset": 18}),
    "BatchNormalization": ("BatchNormalization", {"x": IMAGE, "s": values(4), "b": values(4, seed=1), "c1": values(4), "c2": values(4, low=0.5)}, {}),
    "RMSNormalization": ("RMSNormalization", {"x": A, "s": values(4)}, {"opset": 23}),
    "Swish": ("Swish", {"x": SIGNED}, {"opset": 24, "alpha": 1.5}),
}  # fmt: skip
QUANTIZERS = {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}
NOT_DIFFERENTIATED = {
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "NonMaxSuppression", "NonZero", "Not", "OneHot", "Shape", "Size",
}  # fmt: skip


def loads(opset: int) -> bool:
    try:
        ort.InferenceSession(single("Identity", {"x": SIGNED}, opset=opset).SerializeToString())
    except Fail:
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_rule_agrees_with_finite_differences(name: str) -> None:
    op_type, inputs, attributes = CASES[name]
    settings = dict(attributes)
    if not loads(settings.get("opset", 17)):
        pytest.skip("this ONNX Runtime does not know the opset")
    used = settings.pop("used", None)
    model = single(op_type, inputs, **settings)
    feeds = {key: array for key, array in inputs.items() if not key.startswith(("c", "none"))}
    assert largest_error(model, feeds, used=used) < TOLERANCE


def test_every_rule_has_a_case() -> None:
    tried = {op_type for op_type, _, _ in CASES.values()}
    assert set(RULES) - tried - QUANTIZERS - NOT_DIFFERENTIATED == set()
