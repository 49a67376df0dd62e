"""Simulate large jobs on 1 to 256 workers from what `cluster.py` measured, and show what limits them.

    python benchmarks/cluster_growth.py RECORD [--gigabits 10] [--plot FILE.png]

RECORD has rows of calibrate, eval and weights. Measured are: the workers' CPU time of an item, that of client
and scheduler for a task and for a result, and the bytes of both. Simulated are: 1 M samples calibrated,
50,000 samples evaluated, and GPTQ of a model with the products of a Llama of 7 B parameters, 128 blocks of
2,048 tokens. Time of a forward pass grows with MACs, that of GPTQ with rows times columns squared.

The simulation goes through the tasks one by one: client and scheduler are one server, the client's network
is one line, a worker does one task at a time, `TASKS_PER_THREAD` tasks a worker are on their way, and results
are taken in order. The times of tasks differ by 20 %. Models go from worker to worker.
"""

import argparse
import heapq
import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import print_header, print_row

from onnxq.cluster.dask_executor import MOST_ITEMS, TASK_SECONDS, TASKS_PER_THREAD
from onnxq.modes.products import LARGEST_MOMENTS, MEMORY

WORKERS = [2**i for i in range(9)]
SAMPLES, IMAGES = 1_000_000, 50_000
WIDTH, HIDDEN, LAYERS, VOCABULARY = 4096, 11008, 32, 32000
LARGE_PRODUCTS = LAYERS * [*4 * [(WIDTH, WIDTH)], *2 * [(WIDTH, HIDDEN)], (HIDDEN, WIDTH)]
"""Inputs and outputs of the products of a Llama of 7 B parameters."""
BLOCKS, TOKENS = 128, 2048
IMAGE_SECONDS = 0.05
"""Assumed time of both models for an image, where those that were measured are small."""
SPREAD = 0.2
"""Standard deviation of a task's time, as a share."""


@dataclass(frozen=True)
class Phase:
    """Equal tasks, with what each takes.

    tasks   number
    work    seconds of a worker
    result  seconds of the client for the result
    bytes   in both directions
    """

    tasks: int
    work: float
    result: float
    bytes: float


@dataclass(frozen=True)
class Large:
    """A large job: its phases one after another, and the bytes of the model."""

    name: str
    phases: Sequence[Phase]
    model: float


def simulate(large: Large, workers: int, task: float, bandwidth: float) -> tuple[float, float]:
    """Return the seconds of a job, and the share of them in which client and scheduler are busy.

    Args:
        large: the job.
        workers: number of workers with one thread.
        task: seconds of client and scheduler for a task.
        bandwidth: bytes per second of each machine's network.
    """
    now, busy = large.model / bandwidth * math.ceil(math.log2(workers + 1)), 0.0
    random = np.random.default_rng(0)
    for phase in large.phases:
        free, server, line = [now] * workers, now, now
        on_the_way: deque[float] = deque()
        works = phase.work * np.maximum(0.1, random.normal(1, SPREAD, phase.tasks))
        for work in works.tolist():
            if len(on_the_way) == TASKS_PER_THREAD * workers:
                server = max(server, on_the_way.popleft()) + phase.result
            server += task
            busy += task + phase.result
            line = max(line, server) + phase.bytes / bandwidth
            start = max(heapq.heappop(free), line)
            heapq.heappush(free, start + work)
            on_the_way.append(max(start + work, on_the_way[-1] if on_the_way else now))
        now = max(server + phase.result * len(on_the_way), on_the_way[-1], line)
    return now, busy / now


def larger(rows: Sequence[dict[str, Any]]) -> Iterator[Large]:
    """Yield the large jobs that the rows allow."""
    by_command = {row["command"]: row for row in rows}
    if "calibrate" in by_command:
        yield _over_samples(
            by_command["calibrate"], "Runs Count", SAMPLES, "calibration of 1,000,000 samples"
        )
    if "eval" in by_command:
        row, name = by_command["eval"], f"evaluation of {IMAGES:,} images"
        yield _over_samples(row, "Comparing", IMAGES, name)
        yield _over_samples(row, "Comparing", IMAGES, f"{name}, {IMAGE_SECONDS} s each", IMAGE_SECONDS)
    if "weights" in by_command:
        yield _language_model(by_command["weights"])


def _over_samples(
    row: dict[str, Any], kind: str, samples: int, name: str, assumed: float | None = None
) -> Large:
    """Return a job whose work grows with the samples; the bytes of a task stay those that were measured."""
    counts, measured = row["jobs"][kind], row["samples"]
    work, result = assumed or row["workers CPU s"] / measured, counts["adding"] / measured
    share = min(TASK_SECONDS / work, MOST_ITEMS * (measured / counts["items"]))
    # histograms are as large for any number of samples; the sampled rows of layers do not grow with it
    moved = (counts["sent"] + counts["received"]) / counts["tasks"]
    if kind != "Runs Count":
        moved *= share * counts["tasks"] / measured
    phase = Phase(math.ceil(samples / share), work * share, result * share, moved)
    return Large(name, [phase], row["model MB"] * 1e6)


def _language_model(row: dict[str, Any]) -> Large:
    """Return GPTQ of the large model: a pass over the blocks for each turn of layers, then the products."""
    runs, coding, known = row["jobs"]["Runs TakeRows"], row["jobs"]["_Coding"], row["products"]
    passed = _turns(row["inputs"])
    scale = row["workers CPU s"] / sum(each["worked"] for each in row["jobs"].values())
    passes = runs["worked"] * scale / (row["samples"] * passed)
    macs = sum(k * n for k, n in known) * row["tokens"]
    forward = passes * sum(k * n for k, n in LARGE_PRODUCTS) * TOKENS / macs
    rounding = coding["worked"] * scale / sum(n * k * k for k, n in known)
    # each turn of layers is as large as memory allows; q, k, v share their input, and so do gate and up
    inputs = LAYERS * [WIDTH, WIDTH, WIDTH, HIDDEN]
    turns = _turns(inputs)
    # as many rows for each input, which are longer
    rows = runs["received"] / row["samples"] * sum(inputs) / sum(row["inputs"]) / turns
    phases = [Phase(BLOCKS, forward, runs["adding"] / row["samples"] / passed, rows)] * turns
    for k, n in dict.fromkeys(LARGE_PRODUCTS):
        second = 4 * k * k if 4 * k * k <= LARGEST_MOMENTS else 0
        count = LARGE_PRODUCTS.count((k, n))
        phases.append(Phase(count, rounding * n * k * k, 0.0, 4 * k * n + second + k * n))
    return Large("GPTQ of 7 B parameters", phases, 4.0 * sum(k * n for k, n in LARGE_PRODUCTS))


def _turns(inputs: Sequence[int]) -> int:
    """Return the passes over the samples that collect second moments of inputs of these sizes."""
    return max(1, math.ceil(sum(4 * k * k for k in inputs if 4 * k * k <= LARGEST_MOMENTS) / MEMORY))


def limit(found: Sequence[tuple[float, float]]) -> str:
    """Tell from how many workers on client and scheduler, or the network, are the limit."""
    first = found[0][0]
    for workers, (seconds, busy) in zip(WORKERS, found, strict=True):
        if busy > 0.9:
            return f"scheduler and client, from {workers} workers on"
        if seconds > 2 * first / workers:
            return f"network or last tasks, from {workers} workers on"
    return f"none up to {WORKERS[-1]}"


def plot(results: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the time of each job over the number of workers."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, len(results), figsize=(4.5 * len(results), 3.6), squeeze=False)
    for axis, (name, found) in zip(axes[0], results.items(), strict=True):
        axis.loglog(WORKERS, [seconds for seconds, _ in found], "o-", label="simulated")
        axis.loglog(WORKERS, [found[0][0] / n for n in WORKERS], ":", color="gray", label="ideal")
        other = axis.twinx()
        other.plot(WORKERS, [100 * busy for _, busy in found], "s--", color="C1", markersize=4)
        other.set_ylim(0, 105)
        other.set_ylabel("scheduler and client busy, % (dashed)", color="C1", fontsize=8)
        axis.set(title=name, xlabel="workers", ylabel="seconds")
        axis.title.set_fontsize(10)
        axis.legend(fontsize=8, loc="lower left")
    plt.tight_layout()
    plt.savefig(path, dpi=90)


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--gigabits", type=float, default=10.0, help="network of each machine, Gbit/s")
    parser.add_argument("--plot", type=Path, help="draw the results to this picture")
    arguments = parser.parse_args()
    rows = json.loads(arguments.record.read_text())["rows"]
    task, bandwidth = float(np.median([row["task s"] for row in rows])), arguments.gigabits * 1e9 / 8
    results = {
        large.name: [simulate(large, workers, task, bandwidth) for workers in WORKERS]
        for large in larger(rows)
    }
    print_header(["workers", *results])
    for i, workers in enumerate(WORKERS):
        cells = [f"{found[i][0]:,.0f} s ({found[i][1]:.0%})" for found in results.values()]
        print_row([workers, *cells])
    print_row(["limit", *map(limit, results.values())])
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
