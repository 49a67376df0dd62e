"""Run and time files in OpenVINO and ONNX Runtime; `openvino_compare.py` starts it in OpenVINO's environment.

    python openvino_runner.py WORK

WORK/job.json names the files to run, by label: `engine` is "onnxruntime" or "openvino", `nncf` asks for
NNCF's int8 form of the file ("" for none, else "default" or "transformer"). WORK/calib and WORK/eval hold
samples as .npz files. The result is WORK/outputs.npz, arrays `LABEL:SAMPLE:OUTPUT`, and WORK/result.json: the
median milliseconds of CPU time of one inference by label, and the error of each label that failed.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino

Run = Callable[[dict[str, Any]], list[Any]]
LEAST_TURNS, MOST_TURNS = 5, 200
OPENVINO = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "INFERENCE_PRECISION_HINT": "f32",
}
"""One thread on any core, and float32 where the file says float, also on CPUs with bfloat16."""


def samples(folder: Path) -> list[dict[str, Any]]:
    """Read the samples in the order of their names."""
    return [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]


def in_onnxruntime(model: Path) -> Run:
    """Open a file in ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, feed))


def in_openvino(model: Path, configuration: str, calibration: list[dict[str, Any]]) -> Run:
    """Open a file in OpenVINO on one thread, or NNCF's int8 form of it."""
    core = openvino.Core()
    graph = core.read_model(str(model))
    if configuration:
        options = {"model_type": nncf.ModelType.TRANSFORMER} if configuration == "transformer" else {}
        size = len(calibration)
        graph = nncf.quantize(graph, nncf.Dataset(calibration), subset_size=size, **options)
    compiled = core.compile_model(graph, "CPU", OPENVINO)
    request = compiled.create_infer_request()

    def run(feed: dict[str, Any]) -> list[Any]:
        request.infer(feed)
        return [request.get_output_tensor(i).data.copy() for i in range(len(compiled.outputs))]

    return run


def times_in_turns(runs: dict[str, Run], feeds: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Return the median milliseconds of CPU time of each, run in turns in a new random order each time.

    OpenVINO computes in a thread of its own: on a busy machine the wall time is that of waking it.
    """
    times: dict[str, list[float]] = {label: [] for label in runs}
    order, chance, end = list(runs), random.Random(0), time.perf_counter() + seconds
    for turn in range(MOST_TURNS):
        if turn >= LEAST_TURNS and time.perf_counter() > end:
            break
        chance.shuffle(order)
        for label in order:
            start = time.process_time()
            runs[label](feeds[turn % len(feeds)])
            times[label].append((time.process_time() - start) * 1000)
    return {label: statistics.median(found) for label, found in times.items()}


def main(work: Path) -> None:
    """Open, run and time all files of the job."""
    job = json.loads((work / "job.json").read_text())
    feeds, calibration = samples(work / "eval"), samples(work / "calib")
    runs: dict[str, Run] = {}
    errors: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    for label, wanted in job["files"].items():
        model = Path(wanted["file"])
        try:
            if wanted["engine"] == "openvino":
                runs[label] = in_openvino(model, wanted["nncf"], calibration)
            else:
                runs[label] = in_onnxruntime(model)
            for number, feed in enumerate(feeds):
                for index, value in enumerate(runs[label](feed)):
                    outputs[f"{label}:{number}:{index}"] = value
        except Exception as error:  # each engine has its own types
            runs.pop(label, None)
            errors[label] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    times = times_in_turns(runs, feeds, job["seconds"]) if job["seconds"] else {}
    np.savez(work / "outputs.npz", **outputs)
    result = {"ms": times, "errors": errors, "openvino": openvino.__version__, "nncf": nncf.__version__}
    (work / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
