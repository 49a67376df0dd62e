"""Connections to Dask clusters: by address, to new processes of this machine, or of Dask's configuration."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.cluster.versions import difference, instruction_sets, own_versions
from onnxq.errors import OnnxqError, first_line
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.runtime.status import activity, caution, tell

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

    from onnxq.cluster.workers import Workers

LOCAL, CONFIGURED = re.compile("local:([0-9]{1,3})"), "dask"
"""Texts for workers on this machine, and for the scheduler of Dask's configuration."""
SELDOM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "2s",
    "distributed.scheduler.work-stealing-interval": "1s",
}
"""Dask watches itself less often: by default this takes 2 % of a core for each process."""
CONNECTING, JOINING, ANSWERING = 10.0, 60.0, 10.0
"""Seconds to wait for the scheduler, for the first worker, and for the versions of all."""


@contextmanager
def executor_of(cluster: "str | Client | Executor | None") -> Iterator[Executor]:
    """Connect to a cluster for the block; without one, everything runs in this process.

    Args:
        cluster: an address such as `tcp://scheduler:8786`, `local:N` for N processes of this machine, `dask`
            for the scheduler that Dask's configuration names, a scheduler file (.json), a client, an
            executor, or None.

    Raises:
        OnnxqError: Dask is not installed, the scheduler cannot be reached, no worker joins, or versions
            differ.
    """
    if cluster is None or isinstance(cluster, Executor):
        yield cluster or IN_PROCESS
        return
    try:
        from distributed import Client

        from onnxq.cluster.dask_executor import DaskExecutor
    except ImportError as error:
        raise OnnxqError(
            f"--cluster needs Dask ({first_line(error)}): pip install dask distributed cloudpickle"
        ) from error
    if isinstance(cluster, Client):
        executor = DaskExecutor(cluster)
        _check(executor.workers)
        yield executor
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # onnxq says what matters in one line
    with _connected(cluster) as client:
        executor = DaskExecutor(client)
        _check(executor.workers)
        tell(f"{len(executor.workers.threads())} workers, dashboard: {client.dashboard_link}")
        yield executor


@contextmanager
def _connected(cluster: str) -> "Iterator[Client]":
    from distributed import Client

    local = LOCAL.fullmatch(cluster)
    with activity(f"connecting to {cluster}"):
        try:
            if local is not None:
                started = local_cluster(max(1, int(local[1])))
                client = Client(started, timeout=CONNECTING)
            else:
                started, client = None, Client(timeout=CONNECTING, **_scheduler(cluster))
        except (OSError, ValueError, TypeError) as error:
            raise OnnxqError(
                f"--cluster {cluster}: the scheduler cannot be reached ({first_line(error)}): "
                "check the address, and that `dask scheduler` runs there"
            ) from error
    try:
        yield client
    finally:
        client.close(timeout=1)
        if started is not None:
            started.close(timeout=5)


def local_cluster(workers: int) -> "LocalCluster":
    """Start a scheduler in this process, and workers of one thread in processes of their own."""
    import dask
    from distributed import LocalCluster

    with dask.config.set(SELDOM):
        return LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        )


def _scheduler(cluster: str) -> dict[str, Any]:
    """Return the arguments of a client.

    Raises:
        OnnxqError: the text names no scheduler.
    """
    if cluster == CONFIGURED:
        import dask

        address = dask.config.get("scheduler-address", None)
        if address is None:
            raise OnnxqError(
                "--cluster dask: Dask's configuration names no scheduler: set DASK_SCHEDULER_ADDRESS"
            )
        return {"address": address}
    if cluster.endswith(".json"):
        if not Path(cluster).is_file():
            raise OnnxqError(f"--cluster {cluster}: no such scheduler file: check the path")
        return {"scheduler_file": cluster}
    if "://" not in cluster:
        raise OnnxqError(
            f"--cluster {cluster}: expected tcp://HOST:PORT, local:N, dask, or a scheduler file (.json)"
        )
    return {"address": cluster}


def _check(workers: "Workers") -> None:
    """Wait for a worker, and compare the versions of all that answer.

    Raises:
        OnnxqError: no worker joins or answers, or versions differ.
    """
    with activity("waiting for a worker"):
        try:
            workers.client.wait_for_workers(1, timeout=JOINING)
        except TimeoutError as error:
            raise OnnxqError(
                f"--cluster: no worker has joined in {JOINING:.0f} s: start one with `dask worker ADDRESS`"
            ) from error
    wanted = own_versions()
    versions = _read(workers, list(wanted))
    for worker, found in versions.items():
        for name, version in wanted.items():
            if found[name] != version:
                raise difference(worker, name, found[name], version)
    own = instruction_sets()
    others = {worker: found["instructions"] for worker, found in versions.items()}
    different = sorted(worker for worker, found in others.items() if found != own)
    if different:
        caution(
            f"--cluster: {len(different)} of {len(others)} workers have CPUs of another family "
            f"({different[0]}: {others[different[0]] or 'none'}; this machine: {own or 'none'}): "
            "the bytes of the result may differ from those of other machines"
        )


def _read(workers: "Workers", names: list[str]) -> dict[str, dict[str, str | None]]:
    """Return the versions of each worker; a worker that stalls gives none.

    Raises:
        OnnxqError: no worker answers.
    """
    client, read = workers.client, _reader(names)
    before = workers.heartbeats()
    with suppress(TimeoutError):
        return dict(client.run(read, callback_timeout=ANSWERING))
    all_stall = workers.note_stalled(before, workers.heartbeats())
    with suppress(TimeoutError):
        if not all_stall:
            found = client.run(read, workers=workers.awake(), callback_timeout=ANSWERING)
            first = min(workers.stalled, default="")
            caution(
                f"--cluster: {len(workers.stalled)} workers do not answer ({first}): others do their work"
            )
            return dict(found)
    raise OnnxqError(
        f"--cluster: no worker answers in {ANSWERING:.0f} s: they stall, or the network is down: "
        "see their logs"
    )


def _reader(names: list[str]) -> Any:
    """Return a function that reads versions; it travels as its code, so that workers need no onnxq."""

    def read() -> dict[str, str | None]:
        import importlib
        import importlib.metadata
        import platform

        found: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in names:
            try:
                if name == "onnxq":
                    found[name] = importlib.import_module("onnxq.version").__version__
                elif name != "python":
                    found[name] = importlib.metadata.version(name)
            except ImportError:
                found[name] = None
        if found["onnxq"] is not None:
            found["instructions"] = importlib.import_module("onnxq.cluster.versions").instruction_sets()
        return found

    return read
