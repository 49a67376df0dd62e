"""Measure models with ONNX Runtime's profiler; `arm_costs.py` starts it with clocks that count instructions.

    python arm_profile_runner.py JOB.json OUT.json

JOB.json is a list of [name, file, whether whole runs count]. OUT.json gets for each name the nanoseconds of
one run by operator type, or those of a whole run under the empty name.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 4
"""Runs of each model. The least counts: the first run touches memory, and the profiler now and then grows."""


def random_feeds(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Return random inputs, always the same: normal floats, or any bytes."""
    random, feeds = np.random.default_rng(2), {}
    for each in session.get_inputs():
        if each.type == "tensor(float)":
            feeds[each.name] = random.normal(size=each.shape).astype(np.float32)
        else:
            feeds[each.name] = random.integers(0, 256, each.shape).astype(np.uint8)
    return feeds


def measure(model: str, *, whole: bool) -> dict[str, float]:
    """Return the least nanoseconds of one run by operator type, or of a whole run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if whole:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds, times = random_feeds(session), []
        for _ in range(RUNS):
            start = time.perf_counter_ns()
            session.run(None, feeds)
            times.append(time.perf_counter_ns() - start)
        return {"": float(min(times[1:]))}
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = random_feeds(session)
        for _ in range(RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    calls: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            calls.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] * 1000.0)
    found: dict[str, float] = {}
    for (op_type, _), times in calls.items():
        found[op_type] = found.get(op_type, 0.0) + min(times[1:])
    return found


def main(job: str, out: str) -> None:
    """Measure all models of the job."""
    wanted = json.loads(Path(job).read_text())
    found = {}
    for number, (name, model, whole) in enumerate(wanted, start=1):
        found[name] = measure(model, whole=whole)
        if number % 50 == 0:
            print(f"{number} of {len(wanted)} models", flush=True)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
