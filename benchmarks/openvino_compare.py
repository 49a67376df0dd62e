"""Compare onnxq in ONNX Runtime with OpenVINO, and run onnxq's `--standard` files there.

    python benchmarks/openvino_compare.py CORPUS [--case NAME ...] [--files FOLDER] [--record FILE]
                                          [--transformer NAME ...]

For each case the table has the milliseconds of CPU time of one inference and the SQNR in dB against the float
model in ONNX Runtime, all on one thread and timed in turns: the float model and onnxq's file in ONNX Runtime;
the float model, NNCF's int8 form of it and onnxq's `--standard` file in OpenVINO. NNCF calibrates on at most
100 samples; cases of --transformer get its model type for transformers. FOLDER keeps onnxq's files,
CASE.portable.onnx and CASE.standard.onnx, and those already there are not made again. The first run installs
OpenVINO, NNCF and ONNX Runtime into an environment of their own, the folder of --environment
(build/openvino), from the package index: about 560 MB.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from harness import case_settings, model_folders, print_header, print_row, quantize_command
from peer_environments import Peer, interpreter, peer_variables
from sample_sqnr import sqnr_db

from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.graph.files import load
from onnxq.runtime.machine import this_machine
from onnxq.runtime.sessions import model_inputs
from onnxq.types import Array, Feeds

ENVIRONMENT = Path("build/openvino")
OPENVINO = Peer(("openvino", "nncf", f"onnxruntime=={version('onnxruntime')}"), "openvino_runner.py", ())
RUNNER = Path(__file__).with_name(OPENVINO.script)
REFERENCE = "float"
CALIBRATION, SAMPLES, TIMED_SECONDS = 100, 12, 10.0
COLUMNS = {
    REFERENCE: "float",
    "onnxq": "onnxq",
    "ov float": "OpenVINO: float",
    "ov nncf": "OpenVINO: NNCF int8",
    "ov onnxq": "OpenVINO: onnxq",
}
"""Column heads by label of a run."""
OPTIONS = {"portable": (), "standard": ("--standard",)}
"""Options of onnxq's files by the last part of their names."""


@dataclass(frozen=True)
class Run:
    """A file to run: the engine, and the configuration of NNCF if its int8 form is to be run."""

    file: str
    engine: str
    nncf: str = ""


@dataclass(frozen=True)
class Results:
    """Outputs of each run by label, milliseconds, errors, and versions of the tools."""

    outputs: dict[str, list[list[Array]]]
    ms: dict[str, float]
    errors: dict[str, str]
    versions: dict[str, str]


def installed(environment: Path) -> bool:
    """Whether the environment is there."""
    return (environment / "ready").exists()


def run_all(
    environment: Path, runs: dict[str, Run], feeds: Sequence[Feeds], calibration: Sequence[Feeds] = (),
    seconds: float = 0.0,
) -> Results:  # fmt: skip
    """Run files in OpenVINO's environment, which is made if it is missing.

    Args:
        environment: its folder.
        runs: files by label.
        feeds: samples to run.
        calibration: samples for NNCF.
        seconds: time for measuring latency; 0 for none.
    """
    python = interpreter(environment.resolve().parent, environment.name, OPENVINO)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name, samples in (("eval", feeds), ("calib", calibration)):
            (work / name).mkdir()
            for i, feed in enumerate(samples):
                np.savez(work / name / f"{i:05}.npz", **feed)
        job = {"files": {label: asdict(each) for label, each in runs.items()}, "seconds": seconds}
        (work / "job.json").write_text(json.dumps(job))
        done = subprocess.run(
            [python, RUNNER, work], check=False, capture_output=True, text=True, env=peer_variables()
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        result = json.loads((work / "result.json").read_text())
        outputs: dict[str, list[list[Array]]] = {}
        with np.load(work / "outputs.npz") as stored:
            for key in stored.files:  # in the order of samples and outputs
                label, number, _ = key.rsplit(":", 2)
                found = outputs.setdefault(label, [[] for _ in feeds])
                found[int(number)].append(stored[key])
    for label in result["errors"]:
        outputs.pop(label, None)
    versions = {name: result[name] for name in ("openvino", "nncf")}
    return Results(outputs, result["ms"], result["errors"], versions)


def read_feeds(folder: Path, model: Path, settings: Path | None, count: int) -> list[Feeds]:
    """Read evenly spread samples of a folder."""
    specs = model_inputs(load(model))
    forms = read_forms(str(settings)) if settings is not None else None
    return [check_feeds(each, specs) for each in spread(open_samples(folder, specs, forms, 10**6), count)]


def quantized(folder: Path, kind: str, kept: Path) -> Path:
    """Return onnxq's file of a case, made unless it is there."""
    file = kept.resolve() / f"{folder.name}.{kind}.onnx"
    if not file.exists():
        settings = case_settings(folder)
        model, calib = folder / "model.onnx", folder / "calib"
        command = quantize_command(model, calib, file, *OPTIONS[kind], preprocess=settings)
        subprocess.run(command, check=True)
    return file


def measure(folder: Path, kept: Path, environment: Path, nncf: str) -> dict[str, Any]:
    """Run and time a case; the result is its part of the record."""
    model, settings = folder / "model.onnx", case_settings(folder)
    data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
    runs = {
        REFERENCE: Run(str(model), "onnxruntime"),
        "onnxq": Run(str(quantized(folder, "portable", kept)), "onnxruntime"),
        "ov float": Run(str(model), "openvino"),
        "ov nncf": Run(str(model), "openvino", nncf),
        "ov onnxq": Run(str(quantized(folder, "standard", kept)), "openvino"),
    }
    feeds = read_feeds(data, model, settings, SAMPLES)
    calibration = read_feeds(folder / "calib", model, settings, CALIBRATION)
    found = run_all(environment, runs, feeds, calibration, TIMED_SECONDS)
    expected = found.outputs[REFERENCE]
    db = {label: round(sqnr_db(expected, outputs), 1) for label, outputs in found.outputs.items()}
    ms = {label: round(each, 3) for label, each in found.ms.items()}
    return {"case": folder.name, "ms": ms, "db": db, "errors": found.errors, "versions": found.versions}


def cell(result: dict[str, Any], label: str) -> str:
    """Format one run: milliseconds, times as fast as float, dB."""
    if label in result["errors"]:
        return str(result["errors"][label][:60])
    ms, base = result["ms"][label], result["ms"][REFERENCE]
    if label == REFERENCE:
        return f"{ms:.2f} ms"
    return f"{ms:.2f} ms ({base / ms:.2f}x), {result['db'][label]:.1f} dB"


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "corpus", type=Path, help="folder of folders with model.onnx, calib/, eval/, case.toml"
    )
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--transformer", nargs="*", default=[], help="cases for NNCF's transformer type")
    parser.add_argument("--files", type=Path, help="folder that keeps onnxq's files")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="folder (build/openvino)")
    parser.add_argument("--record", type=Path, help="write all results to this JSON file")
    args = parser.parse_args()
    if not installed(args.environment):
        print(f"installing {', '.join(OPENVINO.packages)} into {args.environment}", flush=True)
    print_header(["case", *COLUMNS.values()])
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.files or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        for folder in model_folders(args.corpus, args.case):
            nncf = "transformer" if folder.name in args.transformer else "default"
            results.append(measure(folder, kept, args.environment, nncf))
            print_row([folder.name, *(cell(results[-1], label) for label in COLUMNS)])
    if args.record:
        record = {"machine": asdict(this_machine()), "cases": results}
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
