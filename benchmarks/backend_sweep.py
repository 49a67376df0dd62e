"""Quantize the backend test models of the ONNX project, each calibrated on its own inputs.

    python benchmarks/backend_sweep.py [--kind node simple pytorch-converted pytorch-operator] [--json FILE]

For each model that the runtime runs in float, `onnxq.quantize` must write a file whose outputs are close to
float (an SQNR of at least --least-db, or an error of at most 2 % of the largest value), or refuse it in one
line that says why. A traceback or a wrong file is a fault. The script prints each fault, then the number of
models by verdict and the commonest reasons of refusal; a fault makes it exit with 1.
"""

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

import onnxq
from onnxq.runtime.sessions import open_session

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
MOST_RELATIVE_ERROR = 0.02
"""Share of the largest value up to which an error counts as close to float at any SQNR."""
IDENTICAL_DB = 200.0
"""SQNR given to outputs that are close to float."""


def cases(kinds: list[str]) -> Iterator[tuple[str, onnx.ModelProto, list[list[object]]]]:
    """Yield (name, model, data sets of inputs) of each test."""
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tests = load_model_tests(kind=kind)
        for test in tests:
            if test.model is not None:
                yield f"{kind}/{test.name}", test.model, [list(inputs) for inputs, _ in test.data_sets or []]
                continue
            folder = Path(test.model_dir)
            sets = [read_inputs(data) for data in sorted(folder.glob("test_data_set_*"))]
            yield f"{kind}/{test.name}", onnx.load(folder / "model.onnx"), sets


def read_inputs(folder: Path) -> list[object]:
    """Read the inputs of a data set in their order; [None] where one is a sequence or an optional."""
    files = sorted(folder.glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
    try:
        return [onnx.numpy_helper.to_array(onnx.TensorProto.FromString(f.read_bytes())) for f in files]
    except Exception:
        return [None]


def judge(model: onnx.ModelProto, sets: list[list[object]], least_db: float) -> tuple[str, str]:
    """Quantize one model and return (verdict, detail); a verdict in capitals is a fault."""
    inputs = [value.name for value in model.graph.input]
    usable = sets and all(len(s) <= len(inputs) and all(isinstance(a, np.ndarray) for a in s) for s in sets)
    if not usable:
        return "not run", "inputs are no tensors"
    feeds = [dict(zip(inputs, s, strict=False)) for s in sets]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.save(model, folder / "model.onnx")
        # float outputs
        try:
            session = open_session(folder / "model.onnx")
            expected = [session.run(None, feed) for feed in feeds]
        except Exception as error:
            return "not run", f"float: {str(error).splitlines()[0][:120]}"
        # quantized file
        needed = {value.name for value in session.get_inputs()}
        (folder / "data").mkdir()
        for i, feed in enumerate(feeds):
            np.savez(folder / "data" / f"{i}.npz", **{k: v for k, v in feed.items() if k in needed})
        try:
            onnxq.quantize(folder / "model.onnx", folder / "data", folder / "int8.onnx")
        except onnxq.OnnxqError as error:
            return "refused", str(error).replace(str(folder), "")
        except Exception:
            lines = traceback.format_exc().strip().splitlines()
            return "TRACEBACK", f"{lines[-1]} | {lines[-3]}"
        # int8 outputs
        try:
            quantized = open_session(folder / "int8.onnx")
            found = [quantized.run(None, feed) for feed in feeds]
        except Exception as error:
            return "WRONG", f"does not run: {str(error).splitlines()[0][:160]}"
    return compare(expected, found, least_db)


def compare(expected: list[list[object]], found: list[list[object]], least_db: float) -> tuple[str, str]:
    """Return (verdict, detail) of int8 outputs against float outputs; the worst output decides."""
    worst = IDENTICAL_DB
    for outputs, others in zip(expected, found, strict=True):
        for want, have in zip(outputs, others, strict=True):
            a, b = np.asarray(want), np.asarray(have)
            if a.shape != b.shape or a.dtype != b.dtype:
                return "WRONG", f"{a.dtype}{a.shape} became {b.dtype}{b.shape}"
            worst = min(worst, sqnr_db(a, b))
    return ("WRONG", f"{worst:.1f} dB") if worst < least_db else ("quantized", f"{worst:.1f} dB")


def sqnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Return the SQNR in dB of `b` against `a` over finite values; IDENTICAL_DB where they are close."""
    if a.dtype.kind != "f":
        return IDENTICAL_DB
    keep = np.isfinite(a)
    a, b = a[keep].astype(np.float64), b[keep].astype(np.float64)
    if a.size == 0 or np.abs(a - b).max() <= MOST_RELATIVE_ERROR * np.abs(a).max():
        return IDENTICAL_DB
    return float(10 * np.log10(np.square(a).sum() / np.square(a - b).sum()))


def main() -> None:
    """Judge all models and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="*", default=list(KINDS), help="kinds of tests")
    parser.add_argument("--least-db", type=float, default=20.0, help="lowest SQNR in dB that passes")
    parser.add_argument("--json", type=Path, help="write all verdicts to this file")
    args = parser.parse_args()
    results, counts, reasons = {}, Counter(), Counter()
    start = time.perf_counter()
    for name, model, sets in cases(args.kind):
        verdict, detail = judge(model, sets, args.least_db)
        results[name] = (verdict, detail)
        counts[verdict] += 1
        if verdict == "refused":
            reasons[detail.split(": ", 2)[1][:60]] += 1
        if verdict.isupper():
            print(f"{verdict}  {name}: {detail}", flush=True)
    print(f"\n{sum(counts.values())} models in {time.perf_counter() - start:.0f} s")
    for verdict, count in counts.most_common():
        print(f"  {verdict:10} {count}")
    print("reasons of refusal:")
    for reason, count in reasons.most_common(12):
        print(f"  {count:5} {reason}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    raise SystemExit(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    main()
