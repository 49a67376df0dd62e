"""Compare onnxq with other quantizers: same model, calibration samples, evaluation and runtime.

    python benchmarks/peers.py CORPUS ENVIRONMENTS [--case NAME ...] [--only TOOL ...]
                               [--record FILE] [--plot FILE.png]

The first table has one row for each case, tool and configuration. The second gives, for each case, the peer
closest to float among those at least as fast as onnxq's default (within AS_FAST). Rows of other tools and
cases stay in the record, and count for the second table and the plot. Each peer has its own environment in
the folder ENVIRONMENTS, installed from the package index if missing. For the kernels of a CPU without VNNI,
start it with `python benchmarks/older_cpu.py python benchmarks/peers.py ...`; the peers themselves run as
they are. Speed-up and SQNR are measured on the written files in this environment's runtime.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from corpus_cases import folders, load_cases
from harness import print_header, print_row, quantize_command
from peer_environments import PEERS, SCRIPTS, interpreter, peer_variables

from onnxq.runtime.latency import medians_ms
from onnxq.runtime.machine import this_machine

MOST_SECONDS = 600
TIMED_SAMPLES, TIMED_SECONDS = 8, 6.0
OWN = ("", "--effort fast", "--effort best")
"""onnxq's own configurations: options of `onnxq quantize`."""
AS_FAST = 0.97
"""Share of another file's speed-up that counts as equally fast: the noise between two measurements."""
COLUMNS = {
    "case": "case",
    "tool": "tool",
    "configuration": "configuration",
    "metric": "metric",
    "fp32": "fp32",
    "score": "int8",
    "sqnr_db": "SQNR dB",
    "speedup": "x float",
    "size_ratio": "size",
    "seconds": "seconds",
    "peak_mb": "peak MB",
}
"""Column heads by key of a row."""
Row = dict[str, Any]


def run_timed(command: list[str], folder: Path, variables: dict[str, str]) -> tuple[str | None, float, float]:
    """Run a command for at most MOST_SECONDS.

    Returns:
        Its error, if any; its wall time in seconds; the peak memory of the process without children, in MiB.
    """
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=file, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_resident(process.pid))
            if time.perf_counter() - start > MOST_SECONDS:
                process.kill()
                return f"not done after {MOST_SECONDS} s", time.perf_counter() - start, peak / 1024
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    lines = log.read_text(errors="replace").strip().splitlines()
    return (lines[-1] if lines else "failed") if process.returncode else None, seconds, peak / 1024


def peak_resident(pid: int) -> int:
    """Return the peak resident memory of a running process so far, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure(cases: Any, case: Any, command: list[str], variables: dict[str, str], folder: Path) -> Row:
    """Run a command that writes folder/out.onnx, then score and time the file."""
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)
    error, seconds, peak = run_timed(command, folder, variables)
    cost = {"seconds": round(seconds, 1), "peak_mb": round(peak)}
    if error is not None:
        return cost | {"error": error.replace(f"{folder}/", "")}
    try:
        found: Row = cases.evaluate(case, out)
        if "error" not in found:
            paths = (case.files("eval") or case.files("calib"))[:TIMED_SAMPLES]
            feeds = [case.read_sample(path) for path in paths]
            before, after = medians_ms([case.model, out], feeds, 1, TIMED_SECONDS)
            found["speedup"] = round(before / after, 3)
    except Exception as failure:
        found = {"error": str(failure).splitlines()[0]}
    return cost | found


def run_case(cases: Any, folder: Path, environments: Path, only: list[str] | None) -> list[Row]:
    """Run onnxq and all peers, or those of `only`, on one case and print a row for each run."""
    case = cases.load(folder)
    rows: list[Row] = []

    def add(tool: str, configuration: str, command: list[str], variables: dict[str, str]) -> None:
        label = {"case": case.name, "tool": tool, "configuration": configuration}
        rows.append(label | measure(cases, case, command, variables, work))
        show(rows[-1])

    with tempfile.TemporaryDirectory() as scratch:
        samples, work = Path(scratch) / "samples", Path(scratch) / "work"
        samples.mkdir()
        work.mkdir()
        for i, path in enumerate(case.files("calib")[:200]):
            np.savez(samples / f"{i:05}.npz", **case.read_sample(path))
        quantize = quantize_command(case.model, samples, work / "out.onnx", "--force")
        for options in OWN if not only or "onnxq" in only else ():
            add("onnxq", options or "default", [*quantize, *options.split()], dict(os.environ))
        for name, peer in PEERS.items():
            if only and name not in only:
                continue
            script = [str(interpreter(environments, name, peer)), str(SCRIPTS / peer.script)]
            for configuration in peer.configurations:
                arguments = [str(case.model), str(samples), str(work / "out.onnx"), configuration]
                add(name, configuration, [*script, *arguments], peer_variables())
    return rows


def show(row: Row) -> None:
    """Print a row of the first table."""
    if "error" in row:
        kept = ("case", "tool", "configuration", "seconds", "peak_mb")
        cells = {key: row[key] for key in kept} | {"metric": row["error"][:80]}
        print_row(cells.get(key, "") for key in COLUMNS)
        return
    print_row(row.get(key) for key in COLUMNS)


def compared(rows: list[Row], case: str) -> list[Row]:
    """Return the rows of a case that have both a speed-up and an SQNR."""
    return [
        row for row in rows if row["case"] == case and row.get("speedup") and row.get("sqnr_db") is not None
    ]


def plot(rows: list[Row], path: Path) -> None:
    """Draw SQNR over speed-up, one panel a case."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["case"] for row in rows))
    across = min(4, len(names))
    down = -(-len(names) // across)
    _, axes = plt.subplots(down, across, figsize=(4 * across, 3.2 * down), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        for i, tool in enumerate(["onnxq", *PEERS]):
            found = [row for row in compared(rows, name) if row["tool"] == tool]
            x, y = [row["speedup"] for row in found], [row["sqnr_db"] for row in found]
            axis.scatter(x, y, label=tool, color=f"C{i}", marker="o*s^vDX"[i], s=50)
        axis.axvline(1.0, color="gray", linewidth=0.8)
        axis.set(title=name, xlabel="speed-up over float", ylabel="SQNR dB")
    handles, labels = axes[0][0].get_legend_handles_labels()
    free = len(names) < axes.size
    beside = axes.flat[-1] if free else axes[0][0]
    beside.legend(handles, labels, fontsize=8, loc="center" if free else "best")
    plt.tight_layout()
    plt.savefig(path, dpi=100)


def merged(before: list[Row], rows: list[Row]) -> list[Row]:
    """Merge the rows of a record with those of a later run, ordered by case and tool."""
    found = {(row["case"], row["tool"], row["configuration"]): row for row in (*before, *rows)}
    tools = ["onnxq", *PEERS]
    cases = list(dict.fromkeys(case for case, _, _ in found))
    return sorted(found.values(), key=lambda row: (cases.index(row["case"]), tools.index(row["tool"])))


def show_closest(rows: list[Row]) -> None:
    """Print the second table: onnxq's default, and the peer closest to float among those as fast."""
    print()
    print_header(["case", "onnxq: SQNR dB", "x float", "closest peer at least as fast", "SQNR dB", "x float"])
    for case in dict.fromkeys(row["case"] for row in rows):
        measured = compared(rows, case)
        default = ("onnxq", "default")
        own = next((row for row in measured if (row["tool"], row["configuration"]) == default), None)
        if own is None:
            continue
        fast = AS_FAST * own["speedup"]
        others = [row for row in measured if row["tool"] != "onnxq" and row["speedup"] >= fast]
        best = max(others, key=lambda row: row["sqnr_db"], default=None)
        cells = ["none", "", ""]
        if best is not None:
            cells = [f"{best['tool']}, {best['configuration']}", best["sqnr_db"], best["speedup"]]
        print_row([case, own["sqnr_db"], own["speedup"], *cells])


def main() -> None:
    """Run all cases, update the record and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of the cases, with cases.py")
    parser.add_argument("environments", type=Path, help="folder for the peers' environments")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--only", nargs="*", choices=["onnxq", *PEERS], help="only these tools")
    parser.add_argument("--record", type=Path, help="JSON file to update with all rows")
    parser.add_argument("--plot", type=Path, help="draw the rows to this picture")
    args = parser.parse_args()
    corpus = args.corpus.resolve()
    cases = load_cases(corpus)
    print_header(COLUMNS.values())
    rows: list[Row] = []
    for folder in folders(corpus, args.case):
        rows += run_case(cases, folder, args.environments.resolve(), args.only)
    if args.record:
        before = json.loads(args.record.read_text()) if args.record.exists() else {"rows": []}
        rows = merged(before["rows"], rows)
        record = before | {"machine": asdict(this_machine()), "rows": rows}
        args.record.write_text(json.dumps(record, indent=1))
    show_closest(rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
