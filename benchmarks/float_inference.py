"""Run a float model on one sample: the memory of this process is the baseline of `growth.py`.

python benchmarks/float_inference.py MODEL SAMPLE.npy [RUNS]

With a number of runs, one thread runs them.
"""

import sys

import numpy as np
import onnxruntime as ort

if __name__ == "__main__":
    options, runs = ort.SessionOptions(), 1
    if len(sys.argv) > 3:
        options.intra_op_num_threads, runs = 1, int(sys.argv[3])
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, {"x": np.load(sys.argv[2])})
