"""silero-vad, streaming: one decision a chunk of 32 ms."""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import torch
from silero_vad import load_silero_vad

CHUNK, RATE = 512, 16000

torch.set_num_threads(1)
model, found = load_silero_vad(onnx=True), []
for path in sorted((Path(sys.argv[1]) / "sounds").glob("*.wav")):
    with wave.open(str(path)) as file:
        values = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    model.reset_states()
    for start in range(0, len(values) - CHUNK + 1, CHUNK):
        found.append(bool(model(torch.from_numpy(values[start : start + CHUNK].copy()), RATE) > 0.5))
print(json.dumps(found))
