"""What each technique is worth: the default command, and the same with one technique left out.

    python benchmarks/ablation.py FOLDER [--case NAME ...] [--record FILE]

Each case is a folder in FOLDER with model.onnx, calib/, eval/, and case.toml where the samples need one. SQNR in dB of the outputs
over a case's samples for evaluation, in the runtime's integer kernels; start it with `python benchmarks/older_cpu.py python
benchmarks/ablation.py ...` for those of a CPU without VNNI, where saturation counts. In brackets what is lost by leaving the
technique out, and `=` where the file is the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnxq.evaluation.evaluate import EvalOptions, evaluate
from onnxq.options import Technique


def quantized(folder: Path, output: Path, without: str | None) -> float:
    """SQNR in dB of a case's int8 file."""
    forms = str(folder / "case.toml") if (folder / "case.toml").is_file() else None
    command = [
        sys.executable, "-m", "onnxq", "quantize", str(folder / "model.onnx"), "--calib", str(folder / "calib"),
        *(["--preprocess", forms] if forms else []), "-o", str(output), "--force", "-q", *(["--without", without] if without else []),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    data = folder / "eval" if (folder / "eval").is_dir() else folder / "calib"
    found = evaluate(folder / "model.onnx", [output], data, EvalOptions(preprocess=forms, latency=False))
    return found.scores[1].sqnr_db or 0.0


def bare(path: Path) -> bytes:
    """A file without its metadata, which name the options."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    return bytes(model.SerializeToString(deterministic=True))


def row(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        first, other = Path(scratch) / "default.onnx", Path(scratch) / "other.onnx"
        whole = quantized(folder, first, None)
        content = bare(first)
        found: dict[str, Any] = {"default": round(whole, 2)}
        for technique in Technique:
            value = quantized(folder, other, str(technique))
            found[str(technique)] = None if bare(other) == content else round(value, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", nargs="*")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    columns = ["default", *(str(technique) for technique in Technique)]
    print("| case | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    rows = {}
    for folder in sorted(path.parent for path in args.folder.resolve().glob("*/model.onnx")):
        if args.case and folder.name not in args.case:
            continue
        found = rows[folder.name] = row(folder)
        cells = [
            "=" if found[c] is None else f"{found[c]:.1f} ({found['default'] - found[c]:+.1f})"
            for c in columns[1:]
        ]
        print(f"| {folder.name} | {found['default']:.1f} | " + " | ".join(cells) + " |", flush=True)
    if args.record:
        args.record.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
