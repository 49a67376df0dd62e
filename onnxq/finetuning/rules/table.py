"""The table of rules by operator type; a new rule is one entry."""

import onnx_ir as ir

from onnxq.finetuning.rules import (
    elementwise,
    normalization,
    pooling,
    products,
    quantizers,
    reductions,
    shapes,
)
from onnxq.finetuning.rules.rule import Rule
from onnxq.graph.edit import MICROSOFT

RULES: dict[str, Rule] = {
    **elementwise.UNARY,
    **reductions.REDUCTIONS,
    "Add": elementwise.add,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": normalization.batch_normalization,
    "Cast": elementwise.cast,
    "Concat": shapes.concat,
    "Conv": products.convolution,
    "ConvTranspose": products.transposed_convolution,
    "CumSum": shapes.cumulative_sum,
    "DepthToSpace": shapes.depth_to_space,
    "DequantizeLinear": quantizers.dequantize,
    "Div": elementwise.divide,
    "Dropout": elementwise.dropout,
    "DynamicQuantizeLinear": quantizers.quantize,
    "Einsum": products.einsum,
    "Expand": shapes.expand,
    "Flatten": shapes.reshaped,
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gemm": products.gemm,
    "GlobalAveragePool": pooling.global_average,
    "GlobalMaxPool": pooling.global_maximum,
    "GroupNormalization": normalization.group_normalization,
    "Identity": elementwise.passed_on,
    "InstanceNormalization": normalization.instance_normalization,
    "LayerNormalization": normalization.layer_normalization,
    "LogSoftmax": reductions.log_softmax,
    "LpNormalization": normalization.lp_normalization,
    "MatMul": products.matmul,
    "Max": elementwise.extreme,
    "MaxPool": pooling.max_pool,
    "Mean": elementwise.mean,
    "Min": elementwise.extreme,
    "Mul": elementwise.multiply,
    "PRelu": elementwise.prelu,
    "Pad": shapes.pad,
    "Pow": elementwise.power,
    "QuantizeLinear": quantizers.quantize,
    "RMSNormalization": normalization.layer_normalization,
    "Reshape": shapes.reshaped,
    "Resize": pooling.resize,
    "ScatterElements": shapes.scatter_elements,
    "ScatterND": shapes.scatter_nd,
    "SimplifiedLayerNormalization": normalization.layer_normalization,
    "Slice": shapes.sliced,
    "Softmax": reductions.softmax,
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Squeeze": shapes.reshaped,
    "Sub": elementwise.subtract,
    "Sum": elementwise.add,
    "Tile": shapes.tile,
    "TopK": shapes.top_k,
    "Transpose": shapes.transpose,
    "Trilu": shapes.trilu,
    "Unsqueeze": shapes.reshaped,
    "Where": elementwise.where,
    **dict.fromkeys(
        (
            "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN",
            "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Round", "Shape", "Sign",
            "Size",
        ),
        elementwise.no_gradient,
    ),
}  # fmt: skip
"""Rules by operator type."""
SHARED = frozenset({"DequantizeLinear", "FastGelu", "Gelu", "QuantizeLinear", "QuickGelu"})
"""Operators that the runtime's own domain defines as ONNX does, or alone."""


def rule_of(node: ir.Node) -> Rule | None:
    """Return the rule of a node, None without one."""
    if node.domain in ("", "ai.onnx") or (node.domain == MICROSOFT and node.op_type in SHARED):
        return RULES.get(node.op_type)
    return None
