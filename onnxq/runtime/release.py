"""Release of the installed ONNX Runtime: some forms are only written where it runs them rightly."""

import re

import onnxruntime


def runtime_release(version: str = onnxruntime.__version__) -> tuple[int, int]:
    """Return the major and minor number, of 1.24.0.dev20260101 too; (0, 0) where there are none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
