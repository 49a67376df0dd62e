"""Gradients of micro-batches: the same sums whoever adds them, samples sent once, errors made again after a loss."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from onnxq.finetuning.gradient_job import Missing, Sums, merged
from onnxq.options import Effort, FinetuneOptions, QuantizeOptions
from onnxq.pipeline import finetune

from ..conftest import CNN, SAMPLES


def sums_of(count: int) -> list[Sums]:
    rng = np.random.default_rng(count)
    return [
        Sums(i, 1, 2, float(rng.normal()), {"w": rng.normal(size=5).astype(np.float32)}, {})
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 8])
def test_sums_do_not_depend_on_who_adds_neighbors(count: int) -> None:
    sums = sums_of(count)
    wanted = [(each.first, each.count, each.loss, each.gradients["w"].tobytes()) for each in merged(sums)]
    for cut in range(count + 1):
        parts = [*merged(sums[:cut]), *merged(sums[cut:])]
        found = [(e.first, e.count, e.loss, e.gradients["w"].tobytes()) for e in merged(parts)]
        assert found == wanted, cut


@dataclass(eq=False)
class Loopback:
    """An executor whose jobs and items travel as to a worker, which forgets everything after some runs.

    losses   runs after which a worker is lost
    sent     how often each sample was sent for each micro-batch
    missing  micro-batches that could not be computed
    """

    losses: int = 10**9
    sent: Counter = field(default_factory=Counter)
    missing: int = 0

    def opened(self, job, workers):
        from onnxq.cluster.packing import pack, sendable, unpack

        def travelled(value):
            packed = pack(value)
            return unpack(packed.content, sendable(packed.arrays))

        opened, runs = [travelled(job).opened(1)], []

        def run(items):
            items = list(items)
            if not job.keeps_state:
                yield travelled(job.packed(opened[0](travelled([job.sent(each) for each in items]))))
                return
            runs.append(len(items))
            if len(runs) % self.losses == 0:
                opened[0] = travelled(job).opened(1)
            for each in items:
                self.sent.update((each.number, index) for index in each.samples)
            found = travelled(opened[0](travelled(items)))
            self.missing += sum(isinstance(each, Missing) for each in found)
            yield found

        return run


def tuned(path: Path, executor: Loopback | None, bits: int) -> str:
    """Finetune; return what the training found at each check, and the file."""
    options = QuantizeOptions(
        CNN, SAMPLES / "calib", output=path, samples=30, keep_int8=True, force=True, effort=Effort.FAST,
        cluster=executor,
    )  # fmt: skip
    report = finetune(options, FinetuneOptions(steps=30, batch=8, bits=(4,), gradient_bits=bits))
    assert report.finetuning is not None and len(report.finetuning.checks) > 3
    return repr(report.finetuning.checks) + sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("bits", [32, 8])
def test_a_process_that_forgets_is_told_again(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("cloudpickle")
    here = tuned(tmp_path / "here.onnx", None, bits)
    one = Loopback()
    assert tuned(tmp_path / "one.onnx", one, bits) == here
    assert one.missing == 0
    assert max(one.sent.values()) == 1
    forgetful = Loopback(losses=7)
    assert tuned(tmp_path / "two.onnx", forgetful, bits) == here
    assert forgetful.missing > 0
