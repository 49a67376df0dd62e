"""Reports as files; the suffix says the kind, and `WRITERS` names them all."""

import json
import math
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from onnxq.errors import OnnxqError, OutputError
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.report import EvalReport
from onnxq.graph.files import umask
from onnxq.report.junit import junit
from onnxq.report.markdown import markdown
from onnxq.report.quantization import QuantizeReport

Report = QuantizeReport | EvalReport


def as_text(report: Any) -> str:
    """A report as JSON; numbers that JSON has no name for (infinite, NaN) are null."""
    plain = asdict(report) if is_dataclass(report) and not isinstance(report, type) else report
    return json.dumps(_finite(plain), indent=2, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(report: Report | DebugReport) -> bytes:
    from onnxq.report.html import page

    return page(report).encode()


def _plots(report: Report) -> bytes:
    from onnxq.report.plots import plots

    return plots(report)


WRITERS: dict[str, Callable[[Report], bytes]] = {
    ".html": _page,
    ".json": lambda report: as_text(report).encode() + b"\n",
    ".md": lambda report: markdown(report).encode(),
    ".xml": lambda report: junit(report),
    ".png": _plots,
}
DEBUG_WRITERS: dict[str, Callable[[DebugReport], bytes]] = {
    ".html": _page,
    ".json": lambda report: as_text(report).encode() + b"\n",
}
NEEDED = {".html": ("jinja2",), ".png": ("matplotlib",)}


def check_reports(files: Mapping[Path, str], kinds: Collection[str] = WRITERS) -> None:
    """Refuse, before any work, a report that cannot be written, or that is of none of the kinds.

    Raises:
        OnnxqError: the kind is not known, its library is missing, or there is no such folder.
    """
    import importlib.util

    for path, kind in files.items():
        if kind not in kinds:
            raise OnnxqError(f"--report {path}: expected a name that ends in {', '.join(kinds)}")
        for library in NEEDED.get(kind, ()):
            if importlib.util.find_spec(library) is None:
                raise OnnxqError(f"--report {path}: {kind} needs {library}: pip install 'onnxq[report]'")
        if not path.parent.is_dir():
            raise OutputError(f"--report {path}: the folder {path.parent} does not exist: create it")


def write_reports(report: Report | DebugReport, files: Mapping[Path, str]) -> None:
    """Write each file at once or not at all.

    Raises:
        OutputError: a file cannot be written.
    """
    for path, kind in files.items():
        content = DEBUG_WRITERS[kind](report) if isinstance(report, DebugReport) else WRITERS[kind](report)
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                file.write(content)
            Path(file.name).chmod(0o666 & ~umask())
            Path(file.name).replace(path)
        except OSError as error:
            raise OutputError(f"{path}: the report cannot be written: {error.strerror}") from error
