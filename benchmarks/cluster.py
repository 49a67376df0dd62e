"""Cost of a cluster: overhead, bytes moved and memory, measured; its growth to 256 workers, simulated.

    python benchmarks/cluster.py MODEL DATA [--other INT8] [--samples N] [--workers 2]

A command runs in this process and on a local cluster of processes with one thread each. The simulation is a
pipeline: with W workers a job takes the longest of the workers' time, the scheduler's time for the tasks, the
client's time for the results, and the transfers, besides the start. Its inputs are the measured ones.
"""

import argparse
import dataclasses
import json
import math
import pickle
import tempfile
import time
from pathlib import Path

import psutil
from distributed import Client, LocalCluster

import onnxq
from onnxq.cluster.dask_executor import TASK_SECONDS, DaskExecutor
from onnxq.runtime.parallel import Job

BANDWIDTH = 1.25e9
"""Bytes per second of the client's network, for the simulation: 10 Gbit/s."""
WORKERS = [2**i for i in range(9)]
JOBS = {"calibrate": 1_000_000, "eval": 50_000}
"""Samples of each simulated job."""


@dataclasses.dataclass(eq=False)
class Counting(DaskExecutor):
    """Counts items, bytes, tasks and seconds of all jobs."""

    items: int = 0
    tasks: int = 0
    sent: int = 0
    received: int = 0
    worked: float = 0.0
    adding: float = 0.0
    shipped: int = 0

    def _kept(self, digest, arrays):
        self.shipped += 0 if digest in self._chunks else sum(map(len, arrays))
        return super()._kept(digest, arrays)

    def _note(self, sent, task, done):
        super()._note(sent, task, done)
        self.items += len(task.items)
        self.tasks += 1
        self.sent += task.size
        self.worked += done.seconds
        self.received += len(pickle.dumps(done.result, 5))

    def opened(self, job, workers):
        run = super().opened(job, workers)

        def timed(items):
            for result in run(items):
                start = time.perf_counter()
                yield result
                self.adding += time.perf_counter() - start

        return timed


@dataclasses.dataclass(frozen=True)
class Nothing(Job):
    """A job without work."""

    def opened(self, threads):
        return list


def task_seconds(client: Client, tasks: int = 200) -> float:
    """Measure the time that one task costs client and scheduler together."""
    executor = Counting(client)
    start = time.perf_counter()
    for _ in executor.opened(Nothing(), 1)(iter(range(tasks))):
        pass
    return (time.perf_counter() - start) / max(1, executor.tasks)


def commands(arguments: argparse.Namespace, folder: Path) -> dict:
    """Return the measured commands as functions of samples and an executor."""

    def calibrate(samples, cluster):
        onnxq.calibrate(
            arguments.model, arguments.data, folder / "s.npz", samples=samples, force=True, cluster=cluster
        )

    def evaluate(samples, cluster):
        onnxq.evaluate(
            arguments.model,
            [arguments.other or arguments.model],
            arguments.data,
            latency=False,
            samples=samples,
            cluster=cluster,
        )

    return {"calibrate": calibrate, "eval": evaluate}


def memory(client: Client) -> dict[str, float]:
    """Return the resident MB of the scheduler and of the largest worker."""

    def resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    return {"scheduler": client.run_on_scheduler(resident), "worker": max(client.run(resident).values())}


def measure(name, command, arguments, client) -> dict:
    """Measure a command in this process, and on the cluster with a quarter of the samples and with all."""
    start = time.perf_counter()
    command(arguments.samples, None)
    here = time.perf_counter() - start
    command(max(4, arguments.samples // 4), DaskExecutor(client))  # workers have loaded their modules
    few = memory(client)
    executor = Counting(client)
    start = time.perf_counter()
    command(arguments.samples, executor)
    there = time.perf_counter() - start
    return {
        "command": name,
        "samples": arguments.samples,
        "in process s": here,
        "cluster s": there,
        "tasks": executor.tasks,
        "work of a sample ms": 1000 * executor.worked / arguments.samples,
        "client's work of a sample ms": 1000 * executor.adding / arguments.samples,
        "bytes of a sample": (executor.sent + executor.received) / arguments.samples,
        "bytes of the model": executor.shipped,
        "memory, a quarter of the samples": few,
        "memory, all": memory(client),
    }


def simulate(row: dict, samples: int, task: float) -> list[dict]:
    """Return the time of a job of many samples by the number of workers, and the part that limits it."""
    work, adding = row["work of a sample ms"] / 1000, row["client's work of a sample ms"] / 1000
    found = []
    for workers in WORKERS:
        tasks = samples * work / TASK_SECONDS
        parts = {
            "workers": samples * work / workers,
            "scheduler": math.ceil(tasks) * task,
            "client": samples * adding,
            "network": (samples * row["bytes of a sample"] + workers * row["bytes of the model"]) / BANDWIDTH,
        }
        limit = max(parts, key=lambda part: parts[part])
        found.append({"workers": workers, "seconds": parts[limit], "limit": limit})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=arguments.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        rows = [
            measure(name, command, arguments, client)
            for name, command in commands(arguments, Path(folder)).items()
        ]
        task = task_seconds(client)
    print("measured")
    for row in rows:
        print(json.dumps(row))
    print(f"a task without work: {1000 * task:.2f} ms")
    print(f"simulated, from the numbers above and {8 * BANDWIDTH / 1e9:.0f} Gbit/s")
    for row in rows:
        for found in simulate(row, JOBS[row["command"]], task):
            print(json.dumps({"command": row["command"], "samples": JOBS[row["command"]], **found}))


if __name__ == "__main__":
    main()
