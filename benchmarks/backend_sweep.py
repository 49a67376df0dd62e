"""Quantize the ONNX project's own backend test models, each with its own inputs.

    python benchmarks/backend_sweep.py [--kind node simple pytorch-converted pytorch-operator] [--json FILE]

For each model that the runtime can run in float, `onnxq.quantize` has to give a file whose outputs are
close to float (SQNR of at least --least-db, or an error of at most 2 % of the largest value), or one
line that says why not. Anything else is a fault: a traceback, or a wrong file.
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


def cases(kinds: list[str]) -> Iterator[tuple[str, onnx.ModelProto, list[list[object]]]]:
    """(name, model, data sets of inputs)."""
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tests = load_model_tests(kind=kind)
        for test in tests:
            if test.model is not None:
                yield f"{kind}/{test.name}", test.model, [list(inputs) for inputs, _ in test.data_sets or []]
                continue
            folder = Path(test.model_dir)
            model = onnx.load(folder / "model.onnx")
            sets = []
            for data in sorted(folder.glob("test_data_set_*")):
                files = sorted(data.glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
                try:
                    sets.append(
                        [
                            onnx.numpy_helper.to_array(onnx.TensorProto.FromString(f.read_bytes()))
                            for f in files
                        ]
                    )
                except Exception:  # sequences and optionals
                    sets.append([None])
            yield f"{kind}/{test.name}", model, sets


def judge(model: onnx.ModelProto, sets: list[list[object]], least_db: float) -> tuple[str, str]:
    """(verdict, detail) of one case."""
    inputs = [value.name for value in model.graph.input]
    usable = sets and all(len(s) <= len(inputs) and all(isinstance(a, np.ndarray) for a in s) for s in sets)
    if not usable:
        return "not run", "inputs are no tensors"
    feeds = [dict(zip(inputs, s, strict=False)) for s in sets]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.save(model, folder / "model.onnx")
        try:
            session = open_session(folder / "model.onnx")
            expected = [session.run(None, feed) for feed in feeds]
        except Exception as error:
            return "not run", f"float: {str(error).splitlines()[0][:120]}"
        (folder / "data").mkdir()
        for i, feed in enumerate(feeds):
            needed = {value.name for value in session.get_inputs()}
            np.savez(folder / "data" / f"{i}.npz", **{k: v for k, v in feed.items() if k in needed})
        try:
            onnxq.quantize(folder / "model.onnx", folder / "data", folder / "int8.onnx")
        except onnxq.OnnxqError as error:
            return "refused", str(error).replace(str(folder), "")
        except Exception:
            return "TRACEBACK", traceback.format_exc().strip().splitlines()[
                -1
            ] + " | " + traceback.format_exc().strip().splitlines()[-3]
        try:
            quantized = open_session(folder / "int8.onnx")
            found = [quantized.run(None, feed) for feed in feeds]
        except Exception as error:
            return "WRONG", f"does not run: {str(error).splitlines()[0][:160]}"
    return compare(expected, found, least_db)


def compare(expected: list[list[object]], found: list[list[object]], least_db: float) -> tuple[str, str]:
    worst = 200.0
    for outputs, others in zip(expected, found, strict=True):
        for want, have in zip(outputs, others, strict=True):
            a, b = np.asarray(want), np.asarray(have)
            if a.shape != b.shape or a.dtype != b.dtype:
                return "WRONG", f"{a.dtype}{a.shape} became {b.dtype}{b.shape}"
            if a.dtype.kind != "f" or a.size == 0:
                continue
            keep = np.isfinite(a)
            a, b = a[keep].astype(np.float64), b[keep].astype(np.float64)
            if a.size == 0 or np.abs(a - b).max() <= 0.02 * np.abs(a).max():
                continue
            noise = np.square(a - b).sum()
            worst = min(worst, 10 * np.log10(np.square(a).sum() / noise))
    return ("WRONG", f"{worst:.1f} dB") if worst < least_db else ("quantized", f"{worst:.1f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="*", default=list(KINDS))
    parser.add_argument("--least-db", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
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
    print("refused because:")
    for reason, count in reasons.most_common(12):
        print(f"  {count:5} {reason}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    raise SystemExit(any(verdict.isupper() for verdict in counts))


if __name__ == "__main__":
    main()
