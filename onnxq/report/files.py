"""Report files; the suffix sets the kind, and `WRITERS` registers them."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from onnxq.errors import OnnxqError
from onnxq.evaluation.baseline import checksum
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.report import EvalReport
from onnxq.graph.files import check_target, staged
from onnxq.report.junit import junit
from onnxq.report.markdown import markdown
from onnxq.report.quantization import QuantizeReport

Report = QuantizeReport | EvalReport | DebugReport


@dataclass(frozen=True)
class ReportWriter:
    """A kind of report file.

    write      makes the content of the file
    debug      whether it takes the report of `onnxq debug`
    details    whether it shows layers and histograms, which `onnxq quantize` measures only on request
    libraries  modules that it needs, from the extras `report` and `plots`
    """

    write: Callable[[Any], bytes]
    debug: bool = False
    details: bool = False
    libraries: tuple[str, ...] = ()


def as_text(report: Any) -> str:
    """Format a report as JSON; infinite numbers and NaN become null."""
    plain = asdict(report) if is_dataclass(report) and not isinstance(report, type) else report
    plain = _finite(plain)
    if isinstance(report, EvalReport):
        plain["checksum"] = checksum(plain)
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(report: Report) -> bytes:
    from onnxq.report.html import measurement_date, page

    return page(report, measurement_date(report)).encode()


def _plots(report: QuantizeReport | EvalReport) -> bytes:
    from onnxq.report.plots import plots

    return plots(report)


WRITERS: dict[str, ReportWriter] = {
    ".html": ReportWriter(_page, debug=True, details=True, libraries=("jinja2",)),
    ".json": ReportWriter(lambda report: as_text(report).encode() + b"\n", debug=True),
    ".md": ReportWriter(lambda report: markdown(report).encode()),
    ".xml": ReportWriter(junit),
    ".png": ReportWriter(_plots, details=True, libraries=("matplotlib",)),
}
"""Kinds of report files by suffix; an entry here is all that a new kind needs."""


def check_reports(
    files: Mapping[Path, str],
    inputs: Iterable[Path] = (),
    *,
    output: Path | None = None,
    force: bool = False,
    debug: bool = False,
) -> None:
    """Check before any work that all report files can be written.

    Args:
        files: kinds (suffixes) by path.
        inputs: files that must not be overwritten.
        output: the other file that the command writes.
        force: whether files that exist may be overwritten.
        debug: whether the report is one of `onnxq debug`.

    Raises:
        OnnxqError: The kind is unknown, its library is missing, or the file cannot be written there.
    """
    import importlib.util

    inputs = list(inputs)
    known = [kind for kind, writer in WRITERS.items() if writer.debug or not debug]
    for path, kind in files.items():
        if kind not in known:
            raise OnnxqError(f"--report {path}: unknown kind: choose a name that ends in {', '.join(known)}")
        for library in WRITERS[kind].libraries:
            if importlib.util.find_spec(library) is None:
                raise OnnxqError(f"--report {path}: {kind} needs {library}: pip install {library}")
        if output is not None and path.resolve() == output.resolve():
            raise OnnxqError(f"--report {path}: the output goes there: choose another file")
        check_target(path, inputs, force=force, report=True)


def needs_details(kinds: Iterable[str]) -> bool:
    """Tell whether one of the kinds shows layers and histograms; `check_reports` refuses unknown kinds."""
    return any(WRITERS[kind].details for kind in kinds if kind in WRITERS)


def write_reports(report: Report, files: Mapping[Path, str], *, force: bool = False) -> None:
    """Write each report file atomically; one that exists is overwritten only with `force`.

    Raises:
        OutputError: A file cannot be written, or exists and `force` is false.
    """
    for path, kind in files.items():
        content = WRITERS[kind].write(report)
        with staged(path, force=force) as building:
            building.write_bytes(content)
