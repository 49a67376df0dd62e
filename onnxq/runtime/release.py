"""Release of the installed ONNX Runtime: some forms are only written where it runs them rightly."""

import re

import onnxruntime

OPSET_23_KERNELS = (1, 24)
"""First release with kernels for QuantizeLinear and DequantizeLinear of opset 23 and later."""


def has_standard_qdq(opset: int, release: tuple[int, int] | None = None) -> bool:
    """Whether the runtime has kernels for QuantizeLinear and DequantizeLinear with an axis at an opset."""
    newest = 22 if (release or runtime_release()) < OPSET_23_KERNELS else opset
    return 13 <= opset <= newest


def runtime_release(version: str = onnxruntime.__version__) -> tuple[int, int]:
    """Return the major and minor number, of 1.24.0.dev20260101 too; (0, 0) where there are none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
