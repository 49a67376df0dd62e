"""Names of the Python API."""

import importlib
import pkgutil
from pathlib import Path

import onnxq


def test_no_public_function_is_hidden_by_a_module():
    """Python sets a module as an attribute of its package as soon as anything imports it."""
    modules = {module.name for module in pkgutil.iter_modules([str(Path(onnxq.__file__).parent)])}
    functions = {name for name in onnxq.__all__ if callable(getattr(onnxq, name))}
    assert not functions & modules
    for name in modules - {"__main__"}:
        importlib.import_module(f"onnxq.{name}")
    assert all(callable(getattr(onnxq, name)) for name in functions)
