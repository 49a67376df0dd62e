"""Kernel times of single CPUs, read from the CSV files in `tables/`.

`benchmarks/kernel_costs.py` measures kernels, fits the times and writes such a file. A row holds one kind of
node in one form, `float` or `integer`; its numbers are nanoseconds per call, per MAC, and per unit of each
other size (see `model.Work`). The kinds `fused ...` are activations that the float convolution before them
computes.

| table     | CPU and instruction set                        | fitted to                      |
|-----------|------------------------------------------------|--------------------------------|
| epyc_avx2 | AMD EPYC (Zen 5), AVX2 only                    | the shortest of three passes   |
| xeon_avx2 | Intel Xeon (Emerald Rapids), AVX2 only         | the shortest of four passes    |
| epyc_vnni | AMD EPYC (Zen 5), AVX512-VNNI                  | the shortest of three passes   |
| xeon_vnni | Intel Xeon (Emerald Rapids), AVX512-VNNI, AMX  | one pass                       |

Kinds measured as the difference of two models are fitted to the median pass instead of the shortest. In
`transpose` rows, `outputs` counts images whose channels share cache lines; the extra time was measured on the
EPYC only.
"""

import csv
from functools import cache
from importlib.resources import files

Table = dict[str, tuple[float, ...]]
"""Nanoseconds in the order of `COLUMNS`, by `<form> <kind>`."""
COLUMNS = ("call", "macs", "inputs", "outputs", "patches", "weights", "places", "runs", "idle")
"""Numbers of a row: one per call, then one per field of `model.Work`."""
HEADER = ("form", "kind", *COLUMNS)
"""First line of a table's file."""


@cache
def read_table(name: str) -> Table:
    """Read a table of this package by name, for example `epyc_avx2`."""
    path = files("onnxq.cost") / "tables" / f"{name}.csv"
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert tuple(header) == HEADER, f"{path}: unexpected columns {header}"
    return {f"{form} {kind}": tuple(map(float, numbers)) for form, kind, *numbers in rows}
