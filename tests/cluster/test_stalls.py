"""Workers, schedulers and networks that stall: their work is done elsewhere, or the command ends in one line."""

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner

from onnxq.cli.commands import main
from onnxq.errors import OnnxqError
from onnxq.finetuning.gradient_job import GradientJob
from onnxq.runtime.parallel import Job
from tests.cluster.commands import (
    CALIB,
    TRAININGS,
    Squares,
    calibrated,
    finetuned,
    flat,
    with_8_bit_gradients,
)
from tests.cluster.conftest import Cluster
from tests.conftest import CNN


def stop(process):
    os.kill(process.pid, signal.SIGSTOP)


def acting(client, act, kind=object, number=1, patience=1.0):
    """An executor that acts on the worker of one of the results of a kind of job."""
    from onnxq.cluster.dask_executor import DaskExecutor

    @dataclass(eq=False)
    class Acting(DaskExecutor):
        stalled: list = field(default_factory=list)
        results: int = 0

        def _note(self, sent, task, done):
            super()._note(sent, task, done)
            self.results += isinstance(sent.job, kind)
            if self.results == number and not self.stalled:
                self.stalled.append(done.worker)
                act(done.worker)

    return Acting(client, patience=patience)


def when(command):
    return (GradientJob, 17) if command in TRAININGS else (object, 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", [calibrated, finetuned, with_8_bit_gradients])
def test_a_worker_may_stall_in_the_middle(client, cluster, tmp_path, command):
    executor = acting(client, lambda worker: stop(cluster.workers[worker]), *when(command))
    try:
        assert command(tmp_path, executor) == command(tmp_path, None)
    finally:
        for worker in executor.stalled:
            cluster.kill(worker)
    assert executor.stalled


@pytest.mark.slow
@pytest.mark.parametrize("command", [calibrated, finetuned, with_8_bit_gradients])
def test_a_worker_that_joins_late_takes_over_from_one_that_stalls(cluster, tmp_path, command):
    from distributed import Client

    cluster.resize(1)
    (first,) = cluster.workers
    with Client(cluster.address, timeout=120) as client:

        def replace(worker):
            cluster.resize(2)
            client.wait_for_workers(2, timeout=120)
            stop(cluster.workers[worker])

        executor = acting(client, replace, *when(command))
        try:
            assert command(tmp_path, executor) == command(tmp_path, None)
        finally:
            cluster.kill(first)
        assert executor.stalled == [first]
        assert executor.done.keys() == {first, *cluster.workers}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_cluster_whose_workers_all_end_or_stall_is_one_line(client, cluster, end):
    from onnxq.cluster.dask_executor import DaskExecutor

    results = DaskExecutor(client, patience=0.5).opened(Squares(0), 1)(range(10**6))
    next(results)
    try:
        for process in cluster.workers.values():
            os.kill(process.pid, end)
        with pytest.raises(OnnxqError, match="no worker was heard from in"):
            flat(results)
    finally:
        cluster.resize(0)


def test_a_command_with_a_worker_that_stalls_before_it_starts(cluster, tmp_path, monkeypatch):
    from onnxq.cluster import connection

    monkeypatch.setattr(connection, "ANSWERING", 2.0)
    out = tmp_path / "out.npz"
    command = ["calibrate", str(CNN), "--calib", str(CALIB), "--samples", "8", "-o", str(out)]
    command += ["--force", "--cluster", cluster.address]
    cluster.resize(2)
    try:
        stop(cluster.workers[min(cluster.workers)])
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0
        assert "warning: --cluster: 1 workers do not answer" in result.stderr
        stop(cluster.workers[max(cluster.workers)])
        result = CliRunner().invoke(main, [*command, "--quiet"])
        assert result.exit_code == 2
        assert "no worker answers in 2 s" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    finally:
        cluster.resize(0)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_scheduler_that_ends_or_stalls_is_one_line(end):
    from distributed import Client

    from onnxq.cluster.dask_executor import DaskExecutor

    own = Cluster()
    try:
        own.resize(1)
        client = Client(own.address, timeout=120)
        executor = DaskExecutor(client, patience=0.5)
        results = executor.opened(Squares(0), 1)(range(10**7))
        next(results)
        executor.workers.answering = 2.0
        os.kill(own.scheduler.pid, end)
        with pytest.raises(OnnxqError, match="the scheduler no longer answers"):
            flat(results)
    finally:
        own.close()
        client.close(timeout=1)


@dataclass(frozen=True)
class Megabytes(Job):
    """Gives so many megabytes for each item."""

    count: float

    def opened(self, threads):
        return lambda items: [os.urandom(int(self.count * 2**20)) for _ in items]


class SlowNetwork:
    """Hands on what the scheduler sends at most at `rate` bytes a second on each connection."""

    def __init__(self, address, rate):
        self.target, self.rate = address.removeprefix("tcp://").split(":"), rate
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            scheduler = socket.create_connection((self.target[0], int(self.target[1])))
            threading.Thread(target=self._hand_on, args=(client, scheduler, None), daemon=True).start()
            threading.Thread(target=self._hand_on, args=(scheduler, client, self.rate), daemon=True).start()

    def _hand_on(self, source, target, rate):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                time.sleep(len(data) / rate if rate else 0)
        except OSError:
            pass
        finally:
            for each in (source, target):
                each.close()

    def close(self):
        self.server.close()


@pytest.fixture
def slow_client(cluster):
    """A client behind a network of 2 MB/s."""
    from distributed import Client

    cluster.resize(1)
    network = SlowNetwork(cluster.address, 2 * 2**20)
    with Client(network.address, timeout=120) as client:
        client.wait_for_workers(1, timeout=120)
        yield client
    network.close()


def test_a_result_that_takes_longer_than_the_patience_is_fetched_with_more(slow_client):
    from onnxq.cluster.dask_executor import DaskExecutor

    executor = DaskExecutor(slow_client, patience=0.6)
    (result,) = flat(executor.opened(Megabytes(3), 1)(range(1)))
    assert len(result) == 3 * 2**20


def test_a_network_that_is_too_slow_is_one_line(slow_client):
    from onnxq.cluster.dask_executor import DaskExecutor

    executor = DaskExecutor(slow_client, patience=0.2)
    with pytest.raises(OnnxqError, match=r"a result was not fetched in \d+ s, at attempt 4: the network"):
        flat(executor.opened(Megabytes(40), 1)(range(1)))
