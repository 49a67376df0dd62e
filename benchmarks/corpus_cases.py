"""A corpus: folders with model.onnx, calib/, eval/ and case.toml, and cases.py beside them, which loads and scores them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_cases(corpus: Path) -> ModuleType:
    """The corpus's own module."""
    spec = importlib.util.spec_from_file_location("cases", corpus / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module
    spec.loader.exec_module(module)
    return module


def folders(corpus: Path, wanted: list[str] | None = None) -> list[Path]:
    """The cases' folders, by name."""
    found = sorted(path.parent for path in corpus.glob("*/case.toml"))
    return [folder for folder in found if not wanted or folder.name in wanted]


def divided(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A benchmark's own arguments, and those behind `--`, which are for onnxq."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]
