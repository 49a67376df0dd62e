"""`onnxq bench`: models against one another on this machine, run in turns."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.gates import Gate, at_least, at_most
from onnxq.evaluation.generation import Generator
from onnxq.graph.files import file_bytes, load
from onnxq.options import Limits
from onnxq.runtime.latency import time_in_turns
from onnxq.runtime.machine import Machine, this_machine
from onnxq.runtime.sessions import InputSpec, input_specs, open_session, run
from onnxq.types import Array, Feeds

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or goes away."""
SAMPLES = 8
"""Samples that are taken in turn."""
MEASURE = """
import json, resource, sys, time
import numpy as np, onnxruntime as ort
def peak():  # of this program alone: ru_maxrss goes on from the parent's
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with np.load(sys.argv[2], allow_pickle=False) as file:
    feeds = {str(file[f"name{i}"]): file[f"value{i}"] for i in range(len(file.files) // 2)}
options = ort.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, int(sys.argv[3])
start = time.perf_counter()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
load = time.perf_counter() - start
session.run(None, feeds)
print(json.dumps([load * 1000, peak() - before]))
"""
"""Run by a fresh interpreter: model, feeds, threads; prints load time in ms and memory in kB."""


@dataclass(frozen=True)
class BenchOptions:
    """What is run.

    data        samples to run on; None for random values
    preprocess  preset or TOML file that says how a file becomes an input
    shapes      sizes of inputs whose shape is open, by name
    batches     batch sizes: the first axis of every input is repeated so often
    threads     numbers of threads of the runtime
    runs, seconds  most runs of each model, and seconds after which no further turn begins
    tokens      language models: generate so many tokens after a prompt
    limits      gates
    """

    data: Path | None = None
    preprocess: str | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batches: Sequence[int] = (1,)
    threads: Sequence[int] = (1,)
    runs: int = 200
    seconds: float = 10.0
    tokens: int | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Timing:
    """One model at one setting: milliseconds an inference, medians of runs in turns.

    low_ms, high_ms  10th and 90th percentile
    ratio            to the first model's; below 1 is faster
    throughput       samples a second
    """

    batch: int
    threads: int
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    throughput: float
    runs: int


@dataclass(frozen=True)
class Spoken:
    """Generation: milliseconds to the first token and for each further one, and the share of tokens that the first model gives too."""

    prompt: int
    tokens: int
    first_ms: float
    token_ms: float
    per_second: float
    agreement: float


@dataclass(frozen=True)
class ModelBench:
    """One model: bytes of its file, load time, memory that it takes (peak, with one inference), and timings."""

    model: str
    bytes: int
    load_ms: float | None
    memory_bytes: int | None
    timings: list[Timing]
    generation: Spoken | None = None


@dataclass(frozen=True)
class BenchReport:
    """The models in the order given; the first is what the others are held against."""

    machine: Machine
    samples: int
    models: list[ModelBench]
    gates: list[Gate]
    schema: int = SCHEMA


def bench(paths: Sequence[Path], options: BenchOptions) -> BenchReport:
    """Measure models.

    Raises:
        OnnxqError: a model or the data cannot be used.
    """
    for path in paths:
        load(path)
    specs = input_specs(open_session(paths[0]))
    forms = read_forms(options.preprocess)
    feeds = _feeds(specs, forms, options)
    timings: list[list[Timing]] = [[] for _ in paths]
    for batch in options.batches:
        batched = [
            {name: np.repeat(array, batch, axis=0) if array.ndim else array for name, array in feed.items()}
            for feed in feeds
        ]
        for threads in options.threads:
            for rows, timing in zip(timings, _timings(paths, batched, batch, threads, options), strict=True):
                rows.append(timing)
    spoken = _spoken(paths, feeds[0], forms, options) if options.tokens else [None] * len(paths)
    models = []
    for path, rows, words in zip(paths, timings, spoken, strict=True):
        load_ms, memory = _alone(path, feeds[0], options.threads[0])
        models.append(ModelBench(str(path), file_bytes(path), load_ms, memory, rows, words))
    return BenchReport(this_machine(), len(feeds), models, _gates(models, options.limits))


def _feeds(specs: list[InputSpec], forms: Forms, options: BenchOptions) -> list[Feeds]:
    unknown = set(options.shapes) - {spec.name for spec in specs}
    if unknown:
        raise DataError(
            f"--shape {min(unknown)}: the model has no such input, but {', '.join(spec.name for spec in specs)}"
        )
    if options.data is not None:
        return [
            check_feeds(sample, specs)
            for sample in open_samples(options.data, specs, forms, SAMPLES)[:SAMPLES]
        ]
    random = np.random.default_rng(0)
    return [{spec.name: _random(spec, options.shapes.get(spec.name), random) for spec in specs}]


def _random(spec: InputSpec, shape: Sequence[int] | None, random: np.random.Generator) -> Array:
    """Values between 0 and 1, or the integers 0 and 1, which every table has; open sizes are 1 where nothing is said."""
    sizes = list(shape) if shape is not None else [size or 1 for size in spec.shape]
    if spec.dtype is None or spec.dtype.kind not in "fiub":
        raise DataError(f"input '{spec.name}' takes {spec.dtype}: give samples with --data")
    values = random.random(sizes) if spec.dtype.kind == "f" else random.integers(2, size=sizes)
    return np.asarray(values, spec.dtype)


def _timings(
    paths: Sequence[Path], feeds: Sequence[Feeds], batch: int, threads: int, options: BenchOptions
) -> list[Timing]:
    sessions = [open_session(path, threads=threads) for path in paths]
    for path, session in zip(paths, sessions, strict=True):
        _first(path, session, feeds[0], batch)
    times = time_in_turns(sessions, feeds, options.runs, options.seconds)
    base = statistics.median(times[0])
    rows = []
    for record in times:
        low, median, high = (float(value) for value in np.quantile(record, [0.1, 0.5, 0.9]))
        rows.append(
            Timing(batch, threads, median, low, high, median / base, batch * 1000 / median, len(record))
        )
    return rows


def _first(path: Path, session: ort.InferenceSession, feeds: Feeds, batch: int) -> None:
    try:
        run(session, feeds, "1")
    except ModelError as error:
        raise ModelError(f"{path}: it does not run at batch size {batch}: {error}") from error


def _spoken(paths: Sequence[Path], feeds: Feeds, forms: Forms, options: BenchOptions) -> list[Spoken | None]:
    assert options.tokens is not None
    prompt = [int(token) for token in np.asarray(feeds.get(forms.text.ids, [])).reshape(-1)]
    if options.data is None or not prompt:
        raise DataError("--tokens needs a prompt: give text with --data, and its tokenizer")
    generators = [Generator(open_session(path, threads=options.threads[0]), forms.text) for path in paths]
    found = [generator.generate(prompt, options.tokens) for generator in generators]
    rows: list[Spoken | None] = []
    for each in found:
        later = each.times_ms[1:] or each.times_ms
        token = statistics.median(later)
        same = float(np.mean([a == b for a, b in zip(each.tokens, found[0].tokens, strict=True)]))
        rows.append(Spoken(len(prompt), options.tokens, each.times_ms[0], token, 1000 / token, same))
    return rows


def _alone(path: Path, feeds: Feeds, threads: int) -> tuple[float | None, int | None]:
    """Load time in ms and memory in bytes, in a process of its own; None where the system does not tell."""
    arrays: dict[str, Any] = {}
    for i, (name, array) in enumerate(feeds.items()):
        arrays |= {f"name{i}": np.array(name), f"value{i}": array}
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        np.savez(Path(folder) / "feeds.npz", **arrays)
        command = [sys.executable, "-c", MEASURE, str(path), str(Path(folder) / "feeds.npz"), str(threads)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        return None, None
    load_ms, kilobytes = json.loads(result.stdout.strip().splitlines()[-1])
    return float(load_ms), int(kilobytes) * (1 if sys.platform == "darwin" else 1024)


def _gates(models: Sequence[ModelBench], limits: Limits) -> list[Gate]:
    gates: list[Gate] = []
    for model in models[1:]:
        slowest = max(timing.ratio for timing in model.timings)
        gates += at_least(
            "--min-speedup", model.model, limits.min_speedup, 1 / slowest, "speed-up is {:.2f}x"
        )
        gates += at_most(
            "--max-size",
            model.model,
            limits.max_size,
            model.bytes / models[0].bytes,
            "size is {:.3f} of float",
        )
    return gates
