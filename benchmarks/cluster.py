"""Cost of a cluster on this machine: CPU time against one process, bytes moved, memory.

    python benchmarks/cluster.py MODEL DATA [--commands calibrate eval weights finetune] [--samples N]
                                 [--other INT8] [--preprocess FILE] [--workers 2] [--steps 24] [--repeats 3]
                                 [--record FILE]

A command runs in this process, and on a local cluster of worker processes with one thread each; the scheduler
runs in this process, too. CPU time is that of all processes, the median of runs that alternate, after one
that loads the modules. Both have to give the same bytes.
With fewer samples in DATA than N, links to them make up the rest. Training is that of `onnxq finetune`, with
gradients of 32 and of 8 bits, and as many micro-batches as workers. FILE keeps the rows for
`cluster_growth.py`.
"""

import argparse
import dataclasses
import hashlib
import json
import pickle
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import psutil
from distributed import Client

import onnxq
from onnxq.cluster.connection import local_cluster
from onnxq.cluster.dask_executor import DaskExecutor
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import open_samples
from onnxq.graph.files import load
from onnxq.pipeline import finetune
from onnxq.runtime.machine import this_machine
from onnxq.runtime.memory import reuse_freed_memory
from onnxq.runtime.parallel import Job
from onnxq.runtime.sessions import model_inputs

TASKS = 300
"""Tasks without work that show what a task costs."""


@dataclasses.dataclass
class Counts:
    """Of the jobs of one kind: items, tasks, bytes of both directions, and seconds of both sides."""

    items: int = 0
    tasks: int = 0
    sent: int = 0
    received: int = 0
    worked: float = 0.0
    adding: float = 0.0


def kind_of(job: Job) -> str:
    """Return the kind of a job: its type, and what it measures."""
    measure = getattr(job, "measure", None)
    return type(job).__name__ + ("" if measure is None else f" {type(measure).__name__}")


@dataclasses.dataclass(eq=False)
class Counting(DaskExecutor):
    """Counts by kind of job; `counting` is the CPU time that this takes, seconds."""

    kinds: dict[str, Counts] = dataclasses.field(default_factory=lambda: defaultdict(Counts))
    shipped: int = 0
    counting: float = 0.0

    def _kept(self, digest, arrays, workers):
        self.shipped += 0 if digest in self._chunks else sum(map(len, arrays))
        return super()._kept(digest, arrays, workers)

    def _note(self, sent, task, done):
        super()._note(sent, task, done)
        start = time.thread_time()
        counts = self.kinds[kind_of(sent.job)]
        counts.items += len(task.items)
        counts.tasks += 1
        counts.sent += task.size
        counts.worked += done.seconds
        counts.received += len(pickle.dumps(done.result, 5))
        self.counting += time.thread_time() - start

    def opened(self, job, workers):
        """Open a job, and time what the client does with its results."""
        run, counts = super().opened(job, workers), self.kinds[kind_of(job)]

        def timed(items):
            for result in run(items):
                start = time.thread_time()
                yield result
                counts.adding += time.thread_time() - start

        return timed


@dataclasses.dataclass(frozen=True)
class Nothing(Job):
    """A job without work."""

    def opened(self, _threads):
        """Return the items."""
        return list


@dataclasses.dataclass(eq=False)
class OneByOne(DaskExecutor):
    """Gives each item a task of its own."""

    def _note(self, sent, task, done):
        super()._note(sent, task, done)
        sent.items = 1


def task_seconds(client: Client) -> float:
    """Measure the CPU time of client and scheduler, which share this process, for a task without work."""
    start = time.process_time()
    for _ in OneByOne(client).opened(Nothing(), 1)(iter(range(TASKS))):
        pass
    return (time.process_time() - start) / TASKS


def cpu_seconds(client: Client) -> tuple[float, float]:
    """Return the CPU time so far of this process, which holds client and scheduler, and of all workers."""
    return time.process_time(), sum(client.run(time.process_time).values())


def memory(client: Client) -> list[float]:
    """Return the resident MB of the scheduler and of the largest worker."""

    def resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    return [round(client.run_on_scheduler(resident)), round(max(client.run(resident).values()))]


def commands(arguments: argparse.Namespace, data: Path, folder: Path) -> dict[str, Callable[..., Any]]:
    """Return the measured commands as functions of samples and an executor; they return their own figures."""
    model, how = arguments.model, {"preprocess": arguments.preprocess}

    def calibrate(samples, cluster):
        file = folder / "s.npz"
        onnxq.calibrate(model, data, file, samples=samples, force=True, cluster=cluster, **how)
        return {"SHA-256": sha256(file)}

    def evaluate(samples, cluster):
        others = [arguments.other or model]
        found = onnxq.evaluate(model, others, data, latency=False, samples=samples, cluster=cluster, **how)
        return {"SQNR dB": found.scores[1].sqnr_db}

    def weights(samples, cluster):
        file = folder / "w.onnx"
        onnxq.quantize(
            model, data, file, mode="weights", samples=samples, force=True, cluster=cluster, **how
        )  # fmt: skip
        return {"SHA-256": sha256(file)}

    def trained(bits):
        def train(samples, cluster):
            options = onnxq.QuantizeOptions(
                model, data, output=folder / "t.onnx", samples=samples, keep_int8=True, force=True,
                effort=onnxq.Effort.FAST, cluster=cluster, **how,
            )  # fmt: skip
            tuning = onnxq.FinetuneOptions(
                steps=arguments.steps, bits=(arguments.weight_bits,), gradient_bits=bits,
                micro_batches=arguments.workers,
            )  # fmt: skip
            after_db = finetune(options, tuning).finetuning.after_db
            return {"SQNR dB": round(after_db, 2), "SHA-256": sha256(folder / "t.onnx")}

        return train

    trainings = {"finetune": trained(32), "finetune, 8-bit gradients": trained(8)}
    found = {"calibrate": calibrate, "eval": evaluate, "weights": weights, **trainings}
    return {name: each for name, each in found.items() if name.split(",")[0] in arguments.commands}


def measure(
    name: str, command: Callable[..., Any], samples: int, client: Client, repeats: int
) -> dict[str, Any]:
    """Measure a command in this process and on the cluster, and memory there with more and more samples."""
    held = {}
    if name != "weights":  # where seconds of loading modules do not count
        command(max(12, samples // 8), None)
        for part in (max(12, samples // 8), samples // 4, samples // 2, samples):
            command(part, DaskExecutor(client))
            held[part] = memory(client)
    owns, locals_, theres = list[float](), list[float](), list[float]()
    for _ in range(repeats):
        start = time.process_time()
        figures = command(samples, None)
        owns.append(time.process_time() - start)
        executor, before = Counting(client), cpu_seconds(client)
        if command(samples, executor) != figures:
            raise SystemExit(f"{name}: the cluster gives another result")
        after = cpu_seconds(client)
        locals_.append(after[0] - before[0] - executor.counting)
        theres.append(after[1] - before[1])
    own, local, there = map(statistics.median, (owns, locals_, theres))
    return {
        "command": name,
        "samples": samples,
        "in process CPU s": round(own, 2),
        "client and scheduler CPU s": round(local, 2),
        "workers CPU s": round(there, 2),
        "ratio": round((local + there) / own, 2),
        "ratios": [round((a + b) / c, 2) for a, b, c in zip(locals_, theres, owns, strict=True)],
        "model MB": round(executor.shipped / 1e6, 2),
        "memory MB of scheduler and worker by samples": held or {samples: memory(client)},
        "jobs": {kind: dataclasses.asdict(counts) for kind, counts in executor.kinds.items()},
        **figures,
    }


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sizes(model: Path, data: Path, preprocess: str | None) -> dict[str, Any]:
    """Return the products of a model as [inputs, outputs], their inputs, and the values of a sample."""
    specs = model_inputs(load(model))
    first = open_samples(data, specs, read_forms(preprocess), 1, model)[0].load()
    graph = onnx.load(model, load_external_data=False).graph
    weights = {each.name: list(each.dims) for each in graph.initializer if len(each.dims) == 2}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    inputs = {node.input[0]: weights[node.input[1]][0] for node in products}
    return {
        "products": [weights[node.input[1]] for node in products],
        "inputs": list(inputs.values()),
        "tokens": int(first[specs[0].name].size),
    }


def enough(data: Path, samples: int, folder: Path) -> Path:
    """Return a folder of at least so many samples: links to those of `data`, again and again."""
    files = sorted(each for each in data.iterdir() if each.suffix not in (".csv", ".toml"))
    if len(files) >= samples:
        return data
    folder.mkdir()
    for number in range(samples):
        source = files[number % len(files)].resolve()
        (folder / f"{number:06}{source.suffix}").symlink_to(source)
    return folder


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--commands", nargs="*", default=["calibrate", "eval"])
    parser.add_argument("--other", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3, help="runs here and there, which alternate")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--record", type=Path, help="add the rows to this JSON file")
    arguments = parser.parse_args()
    reuse_freed_memory()  # as the commands do
    with (
        tempfile.TemporaryDirectory() as scratch,
        local_cluster(arguments.workers) as cluster,
        Client(cluster) as client,
    ):
        folder = Path(scratch)
        data = enough(arguments.data, arguments.samples, folder / "samples")
        task = task_seconds(client)
        rows = []
        for name, command in commands(arguments, data, folder).items():
            rows.append(
                measure(name, command, arguments.samples, client, arguments.repeats)
                | {"task s": round(task, 5)}
            )
            rows[-1] |= sizes(arguments.model, data, arguments.preprocess) if name == "weights" else {}
            print(json.dumps(rows[-1]), flush=True)
    if arguments.record:
        known = json.loads(arguments.record.read_text())["rows"] if arguments.record.is_file() else []
        content = {"machine": dataclasses.asdict(this_machine()), "rows": known + rows}
        arguments.record.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
