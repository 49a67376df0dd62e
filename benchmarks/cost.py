"""Cost of quantizing: wall time relative to plain float inference (R), and peak memory.

    python benchmarks/cost.py MODEL CALIB [--preprocess FILE] [--samples 200] [--rounds 3] [-- OPTIONS]

Each round times plain inference over the same decoded samples (default threads), then the command. The output
shows medians; `calibration pass` includes reading and decoding the samples. OPTIONS are those of `onnxq
quantize`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from corpus_cases import divided

from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds, open_samples, spread
from onnxq.runtime.sessions import input_specs, open_session


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(own)
    forms = read_forms(args.preprocess)
    session = open_session(args.model)
    specs = input_specs(session)
    feeds = [check_feeds(s, specs) for s in spread(open_samples(args.calib, specs, forms), args.samples)]
    bare, calibration, whole = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "onnxq", "quantize", str(args.model),
            "--calib", str(args.calib), "--samples", str(args.samples),
            "-o", f"{scratch}/out.onnx", "--force", "--json",
            *(["--preprocess", args.preprocess] if args.preprocess else []), *options,
        ]  # fmt: skip
        for _ in range(args.rounds):
            start = time.perf_counter()
            for feed in feeds:
                session.run(None, feed)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            whole.append(time.perf_counter() - start)
            calibration.append(report["seconds"]["calibrate"])
    # the largest child is the command; a plain inference process would hold only the model and the runtime
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    base, passes = statistics.median(bare), statistics.median(calibration)
    print(f"bare inference     {base:.2f} s over {len(feeds)} samples")
    print(f"calibration pass   {passes:.2f} s, R = {passes / base:.2f}")
    print(f"whole command      {statistics.median(whole):.2f} s, R = {statistics.median(whole) / base:.2f}")
    print(f"peak memory        {peak:.0f} MB")


if __name__ == "__main__":
    main()
