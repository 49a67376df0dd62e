"""Run a model on samples in this Python's ONNX Runtime; `arm.py` starts it in the emulated one.

    python arm_runner.py MODEL FEEDS.npz OUTPUTS.npz

FEEDS.npz holds arrays `SAMPLE:INPUT`, OUTPUTS.npz gets arrays `SAMPLE:INDEX OF THE OUTPUT`, and the least
nanoseconds of one run as `nanoseconds`.
"""

import sys
import time

import numpy as np
import onnxruntime


def main(model: str, feeds: str, outputs: str) -> None:
    """Run the model on one thread, sample by sample."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    samples: dict[str, dict[str, np.ndarray]] = {}
    with np.load(feeds) as stored:
        for key in stored.files:
            sample, name = key.split(":", 1)
            samples.setdefault(sample, {})[name] = stored[key]
    found, times = {}, []
    for sample, feed in samples.items():
        start = time.perf_counter_ns()
        values = session.run(None, feed)
        times.append(time.perf_counter_ns() - start)
        found |= {f"{sample}:{i}": value for i, value in enumerate(values)}
    np.savez(outputs, nanoseconds=np.array(min(times)), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
