"""Target files: the kernel times of one CPU in ONNX Runtime, as TOML.

`onnxq profile` measures a device and writes such a file; `--target FILE` plans with it. The files in
`tables/` are those of the CPU families. A row holds one kind of node in one form, `float` or `integer`; its
numbers are nanoseconds per call, per MAC, and per unit of each other size (see `Work` in
`onnxq/cost/model.py`); numbers that are 0 are left out. The kinds `fused ...` are activations that the float
convolution before them computes, and `plain ...` float convolutions outside the blocked layout.

| table     | CPU and instruction set                        | fitted to                      |
|-----------|------------------------------------------------|--------------------------------|
| epyc_avx2 | AMD EPYC (Zen 5), AVX2 only                    | the shortest of three passes   |
| xeon_avx2 | Intel Xeon (Emerald Rapids), AVX2 only         | the shortest of four passes    |
| epyc_vnni | AMD EPYC (Zen 5), AVX512-VNNI                  | the shortest of three passes   |
| xeon_vnni | Intel Xeon (Emerald Rapids), AVX512-VNNI, AMX  | one pass                       |
| neoverse_n1 | ARM Neoverse N1, dot products                | instructions under emulation   |
| cortex_a72  | ARM Cortex-A72, no dot products              | instructions under emulation   |

In `transpose` rows, `outputs` counts images whose channels share cache lines; in the tables of the families
the extra time was measured on the EPYC only.
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxq.errors import OnnxqError
from onnxq.runtime.machine import Machine

FORMAT = 1
"""Version of the file; it changes when a key changes its meaning."""
MOST_BYTES = 1 << 20
"""Bytes of the largest file."""
LARGEST = 1e9
"""Largest number in a file."""

Table = dict[str, tuple[float, ...]]
"""Nanoseconds in the order of `COLUMNS`, by `<form> <kind>`."""
COLUMNS = ("call", "macs", "inputs", "outputs", "patches", "weights", "places", "runs", "idle")
"""Numbers of a row: one per call, then one per field of `Work`."""
FORMS = ("float", "integer")

_CONVOLUTIONS = ("depthwise", "grouped", "pointwise", "spatial")
_BOTH = ("Add", "AveragePool", "Concat", "LeakyRelu", "Mul", "Resize", "Sigmoid", "product")
_FUSED = ("Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid")
BLOCKED = frozenset((*(f"float {kind}" for kind in (*_CONVOLUTIONS, "stem", "reorder")), "integer stem"))
"""Rows that only CPUs with the blocked layout of float convolutions have."""
ROWS = BLOCKED | frozenset(
    (
        *(f"{form} {kind}" for form in FORMS for kind in _BOTH),
        *(f"float plain {kind}" for kind in _CONVOLUTIONS),
        *(f"float fused {kind}" for kind in _FUSED),
        *(f"float {kind}" for kind in ("HardSigmoid", "Relu")),
        *(f"integer {kind}" for kind in (*_CONVOLUTIONS, "Clip")),
        *(f"integer {kind}" for kind in ("quantize", "dequantize", "transpose")),
    )
)
"""Rows of a file. A node of another kind counts as 0 in both forms."""

_HEAD = """\
# Kernel times of one CPU in ONNX Runtime, for onnxq quantize --target FILE; written by onnxq profile.
# A row is a kind of node: nanoseconds per call, per MAC, and per unit of the other sizes.
"""


@dataclass(frozen=True)
class TargetFile:
    """Kernel times of one CPU.

    machine    the CPU with its instruction sets, and the versions that were measured
    onnxq      version of onnxq that measured
    threads    intra-op threads of the measured sessions
    block      channels in a block of the float convolutions' layout; 0 if the runtime has none here
    saturates  whether the integer kernels add two products in 16 bits, which saturate
    profiling  nanoseconds that the profiler adds to a call, included in the rows
    table      the rows
    """

    machine: Machine
    onnxq: str
    threads: int
    block: int
    saturates: bool
    profiling: float
    table: Table


def read_target_file(path: Path) -> TargetFile:
    """Read a file of `onnxq profile`.

    Raises:
        OnnxqError: the file cannot be read, is damaged, or was made by a newer onnxq.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise OnnxqError(f"--target {path}: cannot be read: {error.strerror}: check the path") from error
    if len(content) > MOST_BYTES:
        raise OnnxqError(f"--target {path}: more than {MOST_BYTES} bytes: name a file of onnxq profile")
    return _parsed(content, f"--target {path}")


@cache
def shipped(name: str) -> TargetFile:
    """Read a file of this package by name, for example `epyc_avx2`."""
    return _parsed((files("onnxq.cost") / "tables" / f"{name}.toml").read_bytes(), name)


def as_toml(found: TargetFile) -> str:
    """Return the text of a file; the same values give the same text."""
    lines = [
        f"format = {FORMAT}",
        f"onnxq = {_quoted(found.onnxq)}",
        f"threads = {found.threads}",
        f"block = {found.block}",
        f"saturates = {str(found.saturates).lower()}",
        f"profiling = {found.profiling!r}",
        "",
        "[machine]",
    ]
    for each in fields(Machine):
        value = getattr(found.machine, each.name)
        if isinstance(value, list):
            value = f"[{', '.join(map(_quoted, value))}]"
        lines.append(f"{each.name} = {_quoted(value) if each.type is str else value}")
    for form in FORMS:
        lines += ["", f"[{form}]"]
        for name, row in sorted(found.table.items()):
            start, kind = name.split(" ", 1)
            numbers = [f"{column} = {cost!r}" for column, cost in zip(COLUMNS, row, strict=True) if cost]
            if start == form:
                lines.append(
                    f"{_key(kind)} = {{ {', '.join(numbers)} }}" if numbers else f"{_key(kind)} = {{}}"
                )
    return _HEAD + "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text as a TOML string; characters that are not printable ASCII become question marks."""
    return json.dumps("".join(c if c.isascii() and c.isprintable() else "?" for c in text))


def _key(kind: str) -> str:
    return kind if kind.isalnum() else _quoted(kind)


def _parsed(content: bytes, where: str) -> TargetFile:
    """Check the content of a file; raise an `OnnxqError` that begins with `where` for the first fault."""
    again = "profile the device again with onnxq profile"
    try:
        values: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise OnnxqError(f"{where}: not a target file of onnxq profile ({error}): {again}") from error

    def get(key: str, holds: Callable[[Any], bool], table: Mapping[str, Any] = values) -> Any:
        if key not in table:
            raise OnnxqError(f"{where}: has no '{key}': {again}")
        if not holds(table[key]):
            raise OnnxqError(f"{where}: '{key}' has the wrong value {str(table[key])[:40]!r}: {again}")
        return table[key]

    number = get("format", _is_count)
    if number != FORMAT:
        raise OnnxqError(f"{where}: has format {number}, this onnxq reads format {FORMAT}: {again}")
    machine = get("machine", _is_table)
    table: Table = {}
    for form in FORMS:
        for kind, row in get(form, _is_table).items():
            if f"{form} {kind}" not in ROWS:
                raise OnnxqError(f"{where}: [{form}] has a row '{kind}' of no kernel: {again}")
            table[f"{form} {kind}"] = _numbers(row, f"{where}: [{form}] {kind}: ", again)
    block = get("block", _is_count)
    missing = sorted((ROWS if block else ROWS - BLOCKED) - table.keys())
    if missing:
        raise OnnxqError(f"{where}: has no row '{missing[0]}': {again}")
    checks: dict[Any, Callable[[Any], bool]] = {str: _is_text, int: _is_count, list[str]: _is_texts}
    return TargetFile(
        Machine(**{each.name: get(each.name, checks[each.type], machine) for each in fields(Machine)}),
        get("onnxq", _is_text),
        get("threads", lambda value: _is_count(value) and value > 0),
        block,
        get("saturates", lambda value: isinstance(value, bool)),
        float(get("profiling", _is_number)),
        table,
    )


def _numbers(row: Any, where: str, again: str) -> tuple[float, ...]:
    """Return the numbers of a row in the order of `COLUMNS`."""
    if not _is_table(row) or not row.keys() <= set(COLUMNS) or not all(map(_is_number, row.values())):
        raise OnnxqError(f"{where}expected numbers from 0 to {LARGEST:.0e} of {', '.join(COLUMNS)}: {again}")
    return tuple(float(row.get(column, 0.0)) for column in COLUMNS)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LARGEST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)
