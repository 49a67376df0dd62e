"""Measure the gain of each technique: the default command against the same command without it.

    python benchmarks/ablation.py FOLDER [--case NAME ...] [--record FILE]

A case is a folder in FOLDER with model.onnx, calib/, eval/, and case.toml where samples need preprocessing.
The table has one row a case: the SQNR in dB of the default file over the evaluation samples, in the
runtime's integer kernels, then that of the file without each technique, with the technique's gain in
brackets; `=` stands for an identical file. For the kernels of a CPU without VNNI, where saturation matters,
start it with `python benchmarks/older_cpu.py python benchmarks/ablation.py ...`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from harness import case_settings, model_folders, print_header, print_row, quantize_command

from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.options import Technique


def quantized_sqnr(folder: Path, output: Path, without: str | None) -> float:
    """Quantize a case and return the SQNR in dB of its int8 file."""
    model, settings = folder / "model.onnx", case_settings(folder)
    more = ["--force", *(["--without", without] if without else [])]
    command = quantize_command(model, folder / "calib", output, *more, preprocess=settings)
    subprocess.run(command, check=True, capture_output=True)
    data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
    options = EvalOptions(preprocess=str(settings) if settings else None, latency=False)
    return evaluate(model, [output], data, options).scores[1].sqnr_db or 0.0


def without_metadata(path: Path) -> bytes:
    """Return a file's content without its metadata, which name the options."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    return bytes(model.SerializeToString(deterministic=True))


def measure(folder: Path) -> dict[str, Any]:
    """Return the SQNR in dB of a case by default and without each technique; None for an identical file."""
    with tempfile.TemporaryDirectory() as scratch:
        first, other = Path(scratch) / "default.onnx", Path(scratch) / "other.onnx"
        default = quantized_sqnr(folder, first, None)
        content = without_metadata(first)
        found: dict[str, Any] = {"default": round(default, 2)}
        for technique in Technique:
            value = quantized_sqnr(folder, other, str(technique))
            found[str(technique)] = None if without_metadata(other) == content else round(value, 2)
    return found


def cell(default: float, other: float | None) -> str:
    """Format the SQNR without a technique, and the technique's gain in brackets."""
    return "=" if other is None else f"{other:.1f} ({default - other:+.1f})"


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the cases")
    parser.add_argument("--case", nargs="*", help="only these cases")
    parser.add_argument("--record", type=Path, help="write all results to this JSON file")
    args = parser.parse_args()
    techniques = [str(technique) for technique in Technique]
    print_header(["case", "default", *techniques])
    rows = {}
    for folder in model_folders(args.folder, args.case):
        found = rows[folder.name] = measure(folder)
        cells = [cell(found["default"], found[technique]) for technique in techniques]
        print_row([folder.name, f"{found['default']:.1f}", *cells])
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
