"""onnxq against its peers: same model, same calibration samples, same evaluation, same runtime, one run.

    python benchmarks/peers.py CORPUS ENVIRONMENTS [--case NAME ...] [--only TOOL ...] [--record FILE] [--plot FILE.png]

At the end stands, for each case, the peer that comes closest to float among those as fast as onnxq's default. What a
record holds of other tools and cases stays in it, and counts for that table and the plot. Each peer has an environment of
its own in the folder ENVIRONMENTS, made (from the package index) where it is missing.
Start it with `python benchmarks/older_cpu.py python benchmarks/peers.py ...` for the kernels of a CPU without VNNI; the
peers themselves run as they are. `x float` and SQNR are those of the written files in this environment's runtime.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from corpus_cases import folders, load_cases

from onnxq.runtime.latency import medians_ms
from onnxq.runtime.machine import this_machine

SCRIPTS = Path(__file__).with_name("peers")
MOST_SECONDS = 600
TIMED_SAMPLES, TIMED_SECONDS = 8, 6.0


@dataclass(frozen=True)
class Peer:
    """Packages of its environment, the script that runs it, and its configurations."""

    packages: tuple[str, ...]
    script: str
    configurations: tuple[str, ...]


PEERS = {
    "ONNX Runtime": Peer(
        ("onnxruntime", "onnx", "sympy"),
        "runtime.py",
        (
            "static U8S8 min-max",
            "static U8S8 reduced min-max",
            "static U8S8 percentile",
            "static U8S8 entropy",
            "dynamic",
            "dynamic reduced",
        ),
    ),
    "NNCF": Peer(
        ("nncf", "onnx", "onnxruntime"),
        "nncf_static.py",
        ("default", "mixed sequential overflow fix", "transformer"),
    ),
    "Neural Compressor": Peer(
        (
            "onnx-neural-compressor",
            "onnxruntime<1.21",
            "onnx<1.18",
            "ml-dtypes<0.5",
            "setuptools<80",
            "numpy<2",
            "prettytable",
            "psutil",
            "py-cpuinfo",
            "pyyaml",
            "pydantic",
            "scikit-learn",
        ),
        "neural_compressor.py",
        ("U8S8", "U8S8 reduced"),
    ),
    "AIMET-ONNX": Peer(("aimet-onnx",), "aimet.py", ("default", "equalized")),
    "AMD Quark": Peer(
        ("amd-quark", "onnxruntime", "onnx", "torch"), "quark_static.py", ("U8S8_AAWS", "A8W8")
    ),
}
OWN = ("", "--effort fast", "--effort best")
AS_FAST = 0.97
"""A file with this share of another's speed is as fast: what one measurement differs from the next by."""
COLUMNS = (
    "case",
    "tool",
    "configuration",
    "metric",
    "fp32",
    "int8",
    "SQNR dB",
    "x float",
    "size",
    "seconds",
    "peak MB",
)


def environment(root: Path, name: str, peer: Peer) -> Path:
    """The interpreter of a peer's environment."""
    folder = root / name.lower().replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *peer.packages], check=True, env=bare()
        )
        (folder / "ready").touch()
    return python


def bare() -> dict[str, str]:
    """This process's environment without what older_cpu.py puts there."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LD_PRELOAD")}


def timed(command: list[str], folder: Path, env: dict[str, str]) -> tuple[str | None, float, float]:
    """What went wrong, seconds, and peak memory in MB, of the process and its children one by one."""
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            if time.perf_counter() - start > MOST_SECONDS:
                process.kill()
                return f"not done after {MOST_SECONDS} s", time.perf_counter() - start, peak / 1024
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    lines = log.read_text(errors="replace").strip().splitlines()
    return (lines[-1] if lines else "failed") if process.returncode else None, seconds, peak / 1024


def resident(pid: int) -> int:
    """Peak resident memory of a running process so far, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def run(
    cases: Any, case: Any, label: tuple[str, str], command: list[str], env: dict[str, str], folder: Path
) -> dict[str, Any]:
    row = {"case": case.name, "tool": label[0], "configuration": label[1]}
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)
    wrong, seconds, peak = timed(command, folder, env)
    row |= {"seconds": round(seconds, 1), "peak_mb": round(peak)}
    if wrong is not None:
        return row | {"error": wrong.replace(f"{folder}/", "")}
    try:
        found = cases.evaluate(case, out)
        if "error" not in found:
            feeds = [
                case.read_sample(path) for path in (case.files("eval") or case.files("calib"))[:TIMED_SAMPLES]
            ]
            before, after = medians_ms([case.model, out], feeds, 1, TIMED_SECONDS)
            found["speedup"] = round(before / after, 3)
    except Exception as error:
        found = {"error": str(error).splitlines()[0]}
    return row | found


def run_case(cases: Any, folder: Path, environments: Path, only: list[str] | None) -> list[dict[str, Any]]:
    case = cases.load(folder)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        samples, work = Path(scratch) / "samples", Path(scratch) / "work"
        samples.mkdir()
        work.mkdir()
        for i, path in enumerate(case.files("calib")[:200]):
            np.savez(samples / f"{i:05}.npz", **case.read_sample(path))
        quantize = [
            sys.executable,
            "-m",
            "onnxq",
            "quantize",
            str(case.model),
            "--calib",
            str(samples),
            "-o",
            str(work / "out.onnx"),
            "--force",
            "-q",
        ]
        for options in OWN if not only or "onnxq" in only else ():
            label = "onnxq", options or "default"
            rows.append(run(cases, case, label, [*quantize, *options.split()], dict(os.environ), work))
            show(rows[-1])
        for name, peer in PEERS.items():
            if only and name not in only:
                continue
            python = environment(environments, name, peer)
            for configuration in peer.configurations:
                command = [
                    str(python),
                    str(SCRIPTS / peer.script),
                    str(case.model),
                    str(samples),
                    str(work / "out.onnx"),
                    configuration,
                ]
                rows.append(run(cases, case, (name, configuration), command, bare(), work))
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    if "error" in row:
        cells = [
            row["case"],
            row["tool"],
            row["configuration"],
            row["error"][:80],
            *[""] * 5,
            row["seconds"],
            row["peak_mb"],
        ]
    else:
        keys = (
            "case",
            "tool",
            "configuration",
            "metric",
            "fp32",
            "score",
            "sqnr_db",
            "speedup",
            "size_ratio",
            "seconds",
            "peak_mb",
        )
        cells = [row.get(key) for key in keys]
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """SQNR over speed-up, a panel a case."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["case"] for row in rows))
    across = min(4, len(names))
    down = -(-len(names) // across)
    _, axes = plt.subplots(down, across, figsize=(4 * across, 3.2 * down), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        for i, tool in enumerate(["onnxq", *PEERS]):
            found = [
                row
                for row in rows
                if row["case"] == name
                and row["tool"] == tool
                and row.get("speedup")
                and row.get("sqnr_db") is not None
            ]
            axis.scatter(
                [r["speedup"] for r in found],
                [r["sqnr_db"] for r in found],
                label=tool,
                color=f"C{i}",
                marker="o*s^vDX"[i],
                s=50,
            )
        axis.axvline(1.0, color="gray", linewidth=0.8)
        axis.set(title=name, xlabel="times as fast as float", ylabel="SQNR dB")
    handles, labels = axes[0][0].get_legend_handles_labels()
    beside = axes.flat[-1] if len(names) < axes.size else axes[0][0]
    beside.legend(handles, labels, fontsize=8, loc="center" if beside is not axes[0][0] else "best")
    plt.tight_layout()
    plt.savefig(path, dpi=100)


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a record with those of a later run, in the order of cases and tools."""
    found = {(row["case"], row["tool"], row["configuration"]): row for row in (*before, *rows)}
    tools = ["onnxq", *PEERS]
    cases = list(dict.fromkeys(case for case, _, _ in found))
    return sorted(found.values(), key=lambda row: (cases.index(row["case"]), tools.index(row["tool"])))


def show_closest(rows: list[dict[str, Any]]) -> None:
    """For each case onnxq's default, and the closest to float of those as fast."""
    print(
        "\n| case | onnxq: SQNR dB | x float | the closest peer as fast | SQNR dB | x float |\n|---|---|---|---|---|---|"
    )
    for case in dict.fromkeys(row["case"] for row in rows):
        measured = [
            row
            for row in rows
            if row["case"] == case and row.get("speedup") and row.get("sqnr_db") is not None
        ]
        own = next(
            (row for row in measured if (row["tool"], row["configuration"]) == ("onnxq", "default")), None
        )
        if own is None:
            continue
        others = [
            row for row in measured if row["tool"] != "onnxq" and row["speedup"] >= AS_FAST * own["speedup"]
        ]
        best = max(others, key=lambda row: row["sqnr_db"], default=None)
        cells = (
            [f"{best['tool']}, {best['configuration']}", best["sqnr_db"], best["speedup"]]
            if best
            else ["none", "", ""]
        )
        print("| " + " | ".join(str(cell) for cell in (case, own["sqnr_db"], own["speedup"], *cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("environments", type=Path)
    parser.add_argument("--case", nargs="*")
    parser.add_argument("--only", nargs="*", choices=["onnxq", *PEERS])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    cases = load_cases(args.corpus.resolve())
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    rows = [
        row
        for folder in folders(args.corpus.resolve(), args.case)
        for row in run_case(cases, folder, args.environments.resolve(), args.only)
    ]
    if args.record:
        before = json.loads(args.record.read_text()) if args.record.exists() else {"rows": []}
        rows = merged(before["rows"], rows)
        args.record.write_text(
            json.dumps(before | {"machine": asdict(this_machine()), "rows": rows}, indent=1)
        )
    show_closest(rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
