"""Run a float model on one sample: the memory of this process is the baseline of `growth.py`.

python benchmarks/float_inference.py MODEL SAMPLE.npy
"""

import sys

import numpy as np
import onnxruntime as ort

if __name__ == "__main__":
    session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.load(sys.argv[2])})
