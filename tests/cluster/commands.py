"""Commands whose result is compared with that of other workers, and a job without a model."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import onnxq
from onnxq.evaluation.evaluate import EvalOptions
from onnxq.options import Limits
from onnxq.pipeline import finetune, quantize
from onnxq.runtime.parallel import Job
from onnxq.search.task import Task
from tests.conftest import CNN, SAMPLES, TRANSFORMER

CALIB = SAMPLES / "calib"
FEW = {"samples": 24, "keep_int8": True, "force": True}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def calibrated(folder, cluster):
    path = folder / "stats.npz"
    onnxq.calibrate(CNN, CALIB, path, samples=24, force=True, cluster=cluster)
    return sha256(path)


def quantized(folder, cluster):
    path = folder / "cnn.onnx"
    onnxq.quantize(CNN, CALIB, path, effort=onnxq.Effort.FAST, cluster=cluster, **FEW)
    return sha256(path)


def with_gptq(folder, cluster):
    path = folder / "weights.onnx"
    onnxq.quantize(TRANSFORMER, CALIB, path, mode="weights", cluster=cluster, **FEW)
    return sha256(path)


def evaluated(folder, cluster):
    labels = SAMPLES / "eval" / "labels.csv"
    models = [TRANSFORMER, CNN]
    report = onnxq.evaluate(
        models[0], models[1:], SAMPLES / "eval", labels=labels, latency=False, samples=40, cluster=cluster
    )
    return repr((report.scores, report.origin.digests))


def finetuned(folder, cluster, **tuning):
    path = folder / "tuned.onnx"
    tuning = onnxq.FinetuneOptions(**{"steps": 30, "batch": 8, "bits": (4,), **tuning})
    few = FEW | {"samples": 60, "effort": onnxq.Effort.FAST}
    options = onnxq.QuantizeOptions(CNN, CALIB, output=path, cluster=cluster, **few)
    report = finetune(options, tuning)
    assert len(report.finetuning.checks) > 3
    return repr(report.finetuning.checks) + sha256(path)


def with_8_bit_gradients(folder, cluster):
    return finetuned(folder, cluster, gradient_bits=8, bits=(5, 4), steps=40, micro_batches=3)


def within_a_drop(folder, cluster):
    path = folder / "drop.onnx"
    options = onnxq.QuantizeOptions(
        CNN, CALIB, output=path, effort=onnxq.Effort.FAST, cluster=cluster, limits=Limits(max_drop=1.0), **FEW
    )
    labels = EvalOptions(labels=SAMPLES / "eval" / "labels.csv", samples=60)
    assert quantize(options, Task(SAMPLES / "eval", labels)).drop is not None
    return sha256(path)


TRAININGS = [finetuned, with_8_bit_gradients]
COMMANDS = [calibrated, quantized, with_gptq, evaluated, within_a_drop, *TRAININGS]


@dataclass(frozen=True)
class Squares(Job):
    """Squares numbers, slowly."""

    seconds: float = 0.02

    def opened(self, threads):
        return self._squares

    def _squares(self, numbers):
        time.sleep(self.seconds * len(numbers))
        return [number**2 for number in numbers]


def flat(groups):
    return [each for group in groups for each in group]
