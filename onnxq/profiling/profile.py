"""`onnxq profile`: measure this machine and fit its target file."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from onnxq.cost.target_file import BLOCKED, ROWS, TargetFile, as_toml
from onnxq.errors import OnnxqError
from onnxq.graph.files import check_target, staged
from onnxq.profiling.device import block_size, saturates, tiny
from onnxq.profiling.fit import RowFit, fit
from onnxq.profiling.kernels import all_cases
from onnxq.profiling.measurement import Measured, Patience, Probe, Times, measure
from onnxq.runtime.machine import this_machine
from onnxq.version import __version__

CALLS = 8, 24
"""Pairs of operators in the chains that show the time of a call."""
UNSTEADY = 0.1
"""Share of models without agreeing times from which the report warns."""


@dataclass(frozen=True)
class Profile:
    """The measurement of a machine.

    file       the target file
    rows       how well each row describes the kernels that were measured
    models     number of models that were timed
    rounds     rounds in which they were
    unsettled  models whose times did not agree in the end
    seconds    wall time
    warnings   lines for the user
    """

    file: TargetFile
    rows: list[RowFit]
    models: int
    rounds: int
    unsettled: int
    seconds: float
    warnings: list[str]

    def summary(self) -> dict[str, Any]:
        """Return what the JSON of `onnxq profile` shows; the costs are in the file."""
        facts = asdict(self)
        file: dict[str, Any] = facts.pop("file")
        del file["table"]
        return file | facts


def profile(output: Path, threads: int = 1, *, force: bool = False) -> Profile:
    """Measure this machine and write its target file.

    Args:
        output: the file.
        threads: intra-op threads of the sessions.
        force: overwrite a file.

    Raises:
        OutputError: the file cannot be written, or exists and `force` is not set.
    """
    check_target(output, [], force=force)
    found = measured(threads)
    with staged(output, force=force) as building:
        building.write_bytes(as_toml(found.file).encode())
    return found


def measured(threads: int, patience: Patience | None = None) -> Profile:
    """Measure the kernels of the installed runtime on this machine and fit its costs.

    Args:
        threads: intra-op threads of the sessions.
        patience: how long to measure; minutes by default.

    Raises:
        OnnxqError: the runtime lacks a kernel.
    """
    start = time.monotonic()
    block, saturating = block_size(), saturates()
    cases = all_cases(block)
    calls = overhead_probes()
    probes = {probe.name: probe for probe in (*calls, *(probe for case in cases for probe in case.probes))}
    found = measure(list(probes.values()), threads, patience)
    overhead = measurement_overhead(found.times)
    rows = [
        row
        for case in cases
        for row in case.rows([found.times[probe.name] for probe in case.probes], overhead)
    ]
    table, quality = fit(rows)
    missing = sorted((ROWS if block else ROWS - BLOCKED) - table.keys())
    if missing:
        raise OnnxqError(
            f"onnxruntime {this_machine().onnxruntime} has no kernel for the row '{missing[0]}' on this "
            "device: install another version"
        )
    return Profile(
        TargetFile(this_machine(), __version__, threads, block, saturating, overhead, table),
        quality,
        len(probes),
        found.rounds,
        found.unsettled,
        time.monotonic() - start,
        _warnings(found, len(probes)),
    )


def overhead_probes() -> list[Probe]:
    """Return the models that show the time of a call with the profiler and without."""
    return [
        Probe("calls", partial(tiny, CALLS[1])),
        *(Probe(f"calls {count}", partial(tiny, count), wall=True, exact=True) for count in CALLS),
    ]


def measurement_overhead(times: Mapping[str, Times]) -> float:
    """Return the nanoseconds that the profiler adds to a call: it shows them, whole runs do not take them."""
    few, many = (times[f"calls {count}"][""] for count in CALLS)
    call = (many - few) / (2 * (CALLS[1] - CALLS[0]))
    shown = sum(times["calls"].values()) / (2 * CALLS[1])
    return float(f"{max(0.0, shown - call):.3g}")


def _warnings(found: Measured, models: int) -> list[str]:
    if found.unsettled <= UNSTEADY * models:
        return []
    return [
        f"{found.unsettled} of {models} kernels did not take the same time twice: other work may have "
        "disturbed the measurement; repeat it on an idle machine"
    ]
