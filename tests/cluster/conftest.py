"""A Dask scheduler and workers as real processes on the loopback address, ended by their ids."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("cluster_program.py")
STARTING = 120
"""Seconds after which a process that does not start ends."""
PATIENCE = 300
"""Seconds after which a test counts as stuck."""


def start(*arguments: str) -> tuple[subprocess.Popen, str]:
    """Start a scheduler or a worker; return the process and its address."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | threads | {"PYTHONPATH": paths},
        text=True,
    )
    return process, process.stdout.readline().strip()


class Cluster:
    """A scheduler and its workers by address."""

    def __init__(self) -> None:
        self.scheduler, self.address = start()
        self.workers: dict[str, subprocess.Popen] = {}

    def resize(self, count: int) -> None:
        """Start or end workers until there are `count`."""
        while len(self.workers) < count:
            process, address = start(self.address)
            self.workers[address] = process
        while len(self.workers) > count:
            self.kill(next(iter(self.workers)))

    def kill(self, address: str) -> None:
        """End a worker as a power cut does."""
        process = self.workers.pop(address)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End all processes."""
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A scheduler without workers."""
    pytest.importorskip("distributed")
    found = Cluster()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def client(cluster: Cluster) -> Iterator:
    """A client of two workers."""
    from distributed import Client

    cluster.resize(2)
    with Client(cluster.address, timeout=120) as connected:
        connected.wait_for_workers(2, timeout=120)
        yield connected


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that waits for ever."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def expired(*_: object) -> None:
        raise TimeoutError(f"{request.node.name} took more than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
