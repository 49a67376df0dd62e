"""Import onnxq as the command line does; print whether sympy is loaded before a symbolic size needs it."""

import sys

from onnxq.runtime.memory import loading

with loading("onnxq.pipeline"):
    import onnxq.pipeline  # noqa: F401

import onnx_ir

before = "sympy.core" in sys.modules
print(before, onnx_ir.SymbolicDim("n") + 1)
