"""Measure the time that `onnxq record` adds to a call.

    python benchmarks/recording.py MODEL [--shape 1,3,224,224] [--calls 200 2000 20000]

One row a number of calls: the mean time of a call without and with the recorder, and the difference.
Calls differ from one another, so that none is a duplicate; of few calls almost all are written, of many few.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from harness import print_header, print_row

from onnxq.recording.application import RecordOptions
from onnxq.recording.sessions import recorded_sessions
from onnxq.runtime.sessions import input_specs

COLUMNS = ("calls", "plain us", "recorded us", "added us", "added")
INPUTS = 64
"""Different arrays that are fed in turns, each changed before its call."""


def mean_us(session: ort.InferenceSession, feeds: list[dict[str, np.ndarray]], calls: int) -> float:
    """Return the mean time of a call, us."""
    first = next(iter(feeds[0]))
    start = time.perf_counter()
    for number in range(calls):
        feed = feeds[number % len(feeds)]
        feed[first].reshape(-1)[0] = number
        session.run(None, feed)
    return (time.perf_counter() - start) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shape", help="sizes of the first input, for dynamic ones")
    parser.add_argument("--calls", type=int, nargs="+", default=[200, 2000, 20000])
    args = parser.parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(args.model), options, providers=["CPUExecutionProvider"])
    random, shapes = np.random.default_rng(0), {}
    specs = input_specs(session)
    if args.shape:
        shapes[specs[0].name] = json.loads(f"[{args.shape}]")
    feeds = [
        {
            spec.name: random.random(shapes.get(spec.name, [size or 1 for size in spec.shape])).astype(
                spec.dtype
            )
            for spec in specs
        }
        for _ in range(INPUTS)
    ]
    mean_us(session, feeds, min(args.calls))  # warm
    print(" ".join(sys.argv[1:]))
    print_header(COLUMNS)
    for calls in args.calls:
        plain = mean_us(session, feeds, calls)
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            with recorded_sessions(RecordOptions(folder).settings(folder)):
                recorded = mean_us(session, feeds, calls)
        added = recorded - plain
        print_row([str(calls), f"{plain:.0f}", f"{recorded:.0f}", f"{added:.0f}", f"{added / plain:.1%}"])


if __name__ == "__main__":
    main()
