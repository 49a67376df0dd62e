"""Cases of a corpus: folders with model.onnx, calib/, eval/ and case.toml, and cases.py beside them.

The corpus's own cases.py loads a case and scores a quantized file of it.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_cases(corpus: Path) -> ModuleType:
    """Import the corpus's own module, cases.py."""
    spec = importlib.util.spec_from_file_location("cases", corpus / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module
    spec.loader.exec_module(module)
    return module


def folders(corpus: Path, wanted: list[str] | None = None) -> list[Path]:
    """List the folders of the cases by name, or the wanted ones among them."""
    found = sorted(path.parent for path in corpus.glob("*/case.toml"))
    return [folder for folder in found if not wanted or folder.name in wanted]


def divided(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split a benchmark's own arguments from those behind `--`, which go to onnxq."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]
