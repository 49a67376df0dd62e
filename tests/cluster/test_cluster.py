"""Commands on a cluster of real processes: the same bytes, whatever the workers do."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.commands import main
from onnxq.errors import DataError, OnnxqError
from onnxq.finetuning.gradient_job import GradientJob
from onnxq.runtime.parallel import IN_PROCESS, Job
from tests.cluster.commands import CALIB, COMMANDS, TRAININGS, Squares, flat
from tests.conftest import CNN, TRANSFORMER


def test_bytes_do_not_depend_on_the_number_of_workers(cluster, tmp_path):
    here = [command(tmp_path, None) for command in COMMANDS]
    for count in (1, 2, 3):
        cluster.resize(count)
        assert [command(tmp_path, cluster.address) for command in COMMANDS] == here


def killing(client, cluster, kind=object, number=1):
    """An executor that kills the worker of one of the results of a kind of job, and starts another one."""
    from onnxq.cluster.dask_executor import DaskExecutor

    @dataclass(eq=False)
    class Killing(DaskExecutor):
        killed: list = field(default_factory=list)
        results: int = 0

        def _note(self, sent, task, done):
            super()._note(sent, task, done)
            self.results += isinstance(sent.job, kind)
            if self.results == number and not self.killed:
                self.killed.append(done.worker)
                cluster.kill(done.worker)
                cluster.resize(2)

    return Killing(client)


def test_results_come_in_order_though_a_worker_dies_and_another_joins(client, cluster):
    executor = killing(client, cluster)
    assert flat(executor.opened(Squares(), 1)(range(200))) == [number**2 for number in range(200)]
    assert len(executor.done) >= 2
    assert sum(executor.done.values()) == 200


@pytest.mark.parametrize("command", COMMANDS)
def test_a_worker_may_be_killed_in_the_middle(client, cluster, tmp_path, command):
    kind, number = (GradientJob, 17) if command in TRAININGS else (object, 1)
    executor = killing(client, cluster, kind, number)
    assert command(tmp_path, executor) == command(tmp_path, None)
    assert executor.killed


def test_work_of_a_stalled_worker_runs_again(client, cluster):
    from onnxq.cluster.dask_executor import DaskExecutor

    executor = DaskExecutor(client, patience=0.5)
    results = executor.opened(Squares(0.05), 1)(range(30))
    first = next(results)
    stalled = next(iter(executor.done))
    os.kill(cluster.workers[stalled].pid, signal.SIGSTOP)
    try:
        assert flat([first, *results]) == [number**2 for number in range(30)]
    finally:
        cluster.kill(stalled)  # the scheduler may have given it up: the next test gets another one


def test_items_are_taken_only_as_they_are_needed(client):
    from onnxq.cluster.dask_executor import MOST_ITEMS, TASKS_PER_THREAD, DaskExecutor

    taken = []
    results = DaskExecutor(client).opened(Squares(0), 1)(taken.append(i) or i for i in range(100_000))
    next(results)
    assert len(taken) <= 2 * MOST_ITEMS * TASKS_PER_THREAD * 2
    results.close()


KNOWN = {}
"""Feeds of this process alone."""


def load_known(name):
    if name not in KNOWN:
        raise DataError(f"{name}: no such file")
    return {"x": KNOWN[name]}


@dataclass(frozen=True)
class Sums(Job):
    """Sums the values of samples."""

    def opened(self, threads):
        return lambda samples: [float(sample.load()["x"].sum()) for sample in samples]


def test_samples_that_workers_cannot_load_are_sent(client):
    from onnxq.cluster.dask_executor import DaskExecutor
    from onnxq.data.sample import Sample

    KNOWN.update({str(i): np.full(4, i, np.float32) for i in range(5)})
    samples = [Sample(str(i), partial(load_known, str(i))) for i in range(5)]
    assert flat(DaskExecutor(client).opened(Sums(), 1)(samples)) == [0, 4, 8, 12, 16]
    missing = Sample("5", partial(load_known, "5"))
    with pytest.raises(DataError, match="5: no such file"):
        flat(DaskExecutor(client).opened(Sums(), 1)([*samples, missing]))


def test_a_model_arrives_as_it_left_and_is_sent_once():
    pytest.importorskip("cloudpickle")
    import onnx_ir as ir

    from onnxq.cluster.packing import pack, sendable, unpack

    model = ir.load(TRANSFORMER)
    packed = pack(model)
    assert packed.arrays
    assert pack(model).digest == packed.digest
    copy = unpack(packed.content, sendable(packed.arrays))
    same = [ir.serde.serialize_model(each).SerializeToString() for each in (model, copy)]
    assert same[0] == same[1]


def test_other_versions_are_refused_in_one_line(cluster, monkeypatch):
    from onnxq.cluster import connection

    cluster.resize(1)
    found = connection.own_versions()
    monkeypatch.setattr(connection, "own_versions", lambda: found | {"numpy": "0.1"})
    with pytest.raises(OnnxqError, match=r"worker tcp://127.0.0.1:\d+ has .* of numpy, and this machine 0.1"):
        onnxq.calibrate(CNN, CALIB, "unwritten.npz", cluster=cluster.address)
    assert not Path("unwritten.npz").exists()


def test_workers_with_cpus_of_another_family_are_named_in_a_warning(cluster, monkeypatch, tmp_path):
    from onnxq.cluster import connection

    cluster.resize(1)
    monkeypatch.setattr(connection, "instruction_sets", lambda: "aarch64 asimddp")
    out = tmp_path / "out.npz"
    command = ["calibrate", str(CNN), "--calib", str(CALIB), "--samples", "8", "-o", str(out)]
    result = CliRunner().invoke(main, [*command, "--cluster", cluster.address])
    assert result.exit_code == 0
    assert "warning: --cluster: 1 of 1 workers have CPUs of another family" in result.stderr
    assert "this machine: aarch64 asimddp" in result.stderr
    with pytest.warns(UserWarning, match="of another family"):
        onnxq.calibrate(CNN, CALIB, out, samples=8, force=True, cluster=cluster.address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "missing.json", "local:two"])
def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, monkeypatch, address):
    pytest.importorskip("distributed")
    from onnxq.cluster import connection

    monkeypatch.setattr(connection, "CONNECTING", 1.0)
    out = tmp_path / "out.npz"
    result = CliRunner().invoke(
        main, ["calibrate", str(CNN), "--calib", str(CALIB), "-o", str(out), "--cluster", address]
    )
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"--cluster {address}" in result.stderr
    assert not out.exists()


def test_an_interrupt_cancels_the_work(client):
    from onnxq.cluster.dask_executor import DaskExecutor

    results = DaskExecutor(client).opened(Squares(0.5), 1)(range(1000))
    timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        flat(results)
    deadline = time.monotonic() + 30
    while any(client.processing().values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(client.processing().values())


def test_without_a_cluster_dask_is_not_loaded():
    code = "import sys, onnxq.pipeline, onnxq.api; sys.exit('dask' in sys.modules or 'cloudpickle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_both_executors_do_a_job_alike(client):
    from onnxq.cluster.dask_executor import DaskExecutor

    here, there = (flat(each.opened(Squares(0), 2)(range(50))) for each in (IN_PROCESS, DaskExecutor(client)))
    assert here == there
