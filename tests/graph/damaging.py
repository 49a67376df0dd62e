"""Damaged copies of five models through load, normalize and plan: `python -m tests.graph.damaging FIRST COUNT QUANTIZED`.

Prints a line for each copy whose outcome is not a plan or an `OnnxqError` of one line, and the number of each
outcome at the end. A process of its own, because native code that reads a damaged model may end it.
"""

import json
import logging
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import onnxq
from onnxq.errors import OnnxqError
from onnxq.graph.files import load
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import make_plan
from onnxq.runtime.sessions import explained
from tests.checklist import graphs  # noqa: F401  (it registers its lines)
from tests.checklist.case import LINES
from tests.conftest import CNN, TRANSFORMER, parse
from tests.end_to_end.test_bodies import LOOP, convs

FROM_CHECKLIST = ("a local function", "a Conv output used inside an If branch and by Relu")


def whole_models() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    yield CNN.read_bytes()
    yield TRANSFORMER.read_bytes()
    yield parse(LOOP, convs(rng)).SerializeToString()
    for subject in FROM_CHECKLIST:
        make = next(maker for name, maker in LINES if name[3:] == subject)
        yield make(rng).model.SerializeToString()


def damaged(content: bytes, seed: int) -> bytes:
    """Flip up to 8 bits, cut the end off, or swap two chunks of up to 256 bytes."""
    rng = np.random.default_rng(seed)
    data, kind = bytearray(content), seed % 3
    if kind == 0:
        for _ in range(rng.integers(1, 9)):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[int(rng.integers(len(data))) :]
    else:
        size = int(rng.integers(1, 257))
        a, b = (int(at) for at in rng.integers(len(data) - size, size=2))
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(data)


def outcome(path: Path, *, quantized: bool) -> str:
    try:
        if quantized:
            target = path.with_suffix(".fp16.onnx")
            onnxq.quantize(path, None, target, mode=onnxq.Mode.FP16, effort=onnxq.Effort.FAST, force=True)
            return "quantized"
        with explained(path):
            make_plan(normalize(load(path)))
    except OnnxqError as error:
        return "several lines" if "\n" in str(error) else "refused"
    except Exception:
        return traceback.format_exc()
    return "planned"


def main() -> None:
    first, count, quantized = (int(text) for text in sys.argv[1:])
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # its warnings concern its own passes
    sources, outcomes = list(whole_models()), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for seed in range(first, first + count):
            path.write_bytes(damaged(sources[seed % len(sources)], seed))
            found = outcome(path, quantized=seed < first + quantized)
            if found not in ("planned", "quantized", "refused"):
                print(json.dumps({"seed": seed, "found": found}), file=sys.stderr)  # noqa: T201
                found = "wrong"
            outcomes[found] += 1
    print(json.dumps(outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
