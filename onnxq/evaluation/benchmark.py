"""`onnxq bench`: latency, memory and size of models on this machine, run in turns."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxq.cost.target import find_target
from onnxq.data.preprocessing import Forms, read_forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError, ModelError
from onnxq.evaluation.expectation import Expectation, Expected
from onnxq.evaluation.gates import Gate, at_least, at_most
from onnxq.evaluation.generation import Decoder, Generator
from onnxq.graph.files import file_bytes, load
from onnxq.options import Limits, Targets
from onnxq.runtime.latency import time_in_turns
from onnxq.runtime.load_cost import load_cost
from onnxq.runtime.machine import Machine, this_machine
from onnxq.runtime.sessions import InputSpec, input_specs, open_session, run
from onnxq.types import Array, Feeds

SCHEMA = 1
"""Version of the JSON; it changes when a key changes its meaning or is removed."""
SAMPLES = 8
"""Number of samples that the runs cycle through."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of `onnxq bench`.

    data        samples to run; None for random values
    preprocess  preset or TOML file for preprocessing
    shapes      shapes of inputs with dynamic sizes, by name
    batches     batch sizes; the first axis of every input is repeated
    threads     numbers of intra-op threads
    runs, seconds  most runs per model, and time (s) after which no further turn starts
    tokens      tokens to generate after a prompt, for language models
    target      CPUs whose cost models say what latency they expect, as in `QuantizeOptions`; () for none
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
    target: Targets = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Timing:
    """Latency of one model at one batch size and thread count, ms per inference.

    median_ms        median over runs, models in turns
    low_ms, high_ms  10th and 90th percentile
    ratio            latency / latency of the first model; below 1 is faster
    throughput       samples per second
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
class GenerationTiming:
    """Latency of text generation.

    prompt, tokens  length of the prompt and of the generated text, tokens
    first_ms        time to the first token, ms
    token_ms        median time per further token, ms
    per_second      further tokens per second
    agreement       share of tokens equal to the first model's, 0..1
    """

    prompt: int
    tokens: int
    first_ms: float
    token_ms: float
    per_second: float
    agreement: float


@dataclass(frozen=True)
class ModelBench:
    """Measurements of one model.

    bytes         size of the file
    load_ms       time to create a session in a new process, ms
    memory_bytes  peak memory of session and one inference
    timings       latency at each batch size and thread count
    generation    latency of text generation, for language models
    """

    model: str
    bytes: int
    load_ms: float | None
    memory_bytes: int | None
    timings: list[Timing]
    generation: GenerationTiming | None = None


@dataclass(frozen=True)
class BenchReport:
    """Measurements of all models in the order given; the first is the reference.

    expected  latency that the target expects of each model, if a target was given
    warnings  lines about the target
    """

    machine: Machine
    samples: int
    models: list[ModelBench]
    gates: list[Gate]
    expected: list[Expectation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    schema: int = SCHEMA


def bench(paths: Sequence[Path], options: BenchOptions) -> BenchReport:
    """Measure models in turns.

    Raises:
        OnnxqError: A model or the data cannot be used.
    """
    target = find_target(options.target) if options.target else None
    for path in paths:
        load(path)
    specs = input_specs(open_session(paths[0]))
    forms = read_forms(options.preprocess)
    feeds = feeds_of(paths[0], specs, forms, options.shapes, options.data)
    timings: list[list[Timing]] = [[] for _ in paths]
    expectations, model = [], None if target is None else Expected(paths[0], target)
    for batch in options.batches:
        batched = [
            {name: np.repeat(array, batch, axis=0) if array.ndim else array for name, array in feed.items()}
            for feed in feeds
        ]
        if model is not None:
            expectations += model.of(paths, batched[0], batch)
        for threads in options.threads:
            for rows, timing in zip(timings, _timings(paths, batched, batch, threads, options), strict=True):
                rows.append(timing)
    generated = _generation(paths, feeds[0], forms, options) if options.tokens else [None] * len(paths)
    models = []
    for path, rows, generation in zip(paths, timings, generated, strict=True):
        load_ms, memory = load_cost(path, feeds[0], options.threads[0])
        models.append(ModelBench(str(path), file_bytes(path), load_ms, memory, rows, generation))
    return BenchReport(
        this_machine(),
        len(feeds),
        models,
        _gates(models, options.limits),
        _with_measured(expectations, models),
        [] if target is None else list(target.notes),
    )


def _with_measured(expectations: Sequence[Expectation], models: Sequence[ModelBench]) -> list[Expectation]:
    """Add the measured latencies at the same batch size and number of threads."""
    measured = {
        (model.model, timing.batch, timing.threads): timing.median_ms
        for model in models
        for timing in model.timings
    }
    return [
        replace(each, measured_ms=measured.get((each.model, each.batch, each.threads)))
        for each in expectations
    ]


def feeds_of(
    model: Path,
    specs: list[InputSpec],
    forms: Forms,
    shapes: Mapping[str, Sequence[int]],
    data: Path | None,
) -> list[Feeds]:
    """Return a few samples of the data, or one of random values with these shapes.

    Raises:
        DataError: The data cannot be used, or the model has no input of such a name.
    """
    unknown = set(shapes) - {spec.name for spec in specs}
    if unknown:
        raise DataError(
            f"--shape {min(unknown)}: the model has no such input: choose one of "
            f"{', '.join(spec.name for spec in specs)}"
        )
    if data is not None:
        return [
            check_feeds(sample, specs)
            for sample in open_samples(data, specs, forms, SAMPLES, model)[:SAMPLES]
        ]
    random = np.random.default_rng(0)
    return [{spec.name: _random(spec, shapes.get(spec.name), random) for spec in specs}]


def _random(spec: InputSpec, shape: Sequence[int] | None, random: np.random.Generator) -> Array:
    """Draw floats in 0..1 or integers 0 and 1 (valid in any embedding table); dynamic sizes default to 1."""
    sizes = list(shape) if shape is not None else [size or 1 for size in spec.shape]
    if spec.dtype is None or spec.dtype.kind not in "fiub":
        raise DataError(
            f"input '{spec.name}' has type {spec.dtype}, which has no random values: give samples with --data"
        )
    values = random.random(sizes) if spec.dtype.kind == "f" else random.integers(2, size=sizes)
    return np.asarray(values, spec.dtype)


def _timings(
    paths: Sequence[Path], feeds: Sequence[Feeds], batch: int, threads: int, options: BenchOptions
) -> list[Timing]:
    sessions = [open_session(path, threads=threads) for path in paths]
    for path, session in zip(paths, sessions, strict=True):
        _check_batch(path, session, feeds[0], batch)
    times = time_in_turns(sessions, feeds, options.runs, options.seconds)
    base = statistics.median(times[0])
    rows = []
    for record in times:
        low, median, high = (float(value) for value in np.quantile(record, [0.1, 0.5, 0.9]))
        rows.append(
            Timing(batch, threads, median, low, high, median / base, batch * 1000 / median, len(record))
        )
    return rows


def _check_batch(path: Path, session: ort.InferenceSession, feeds: Feeds, batch: int) -> None:
    try:
        run(session, feeds, "1")
    except ModelError as error:
        raise ModelError(
            f"{path}: does not run at batch size {batch}: {error}: choose another --batch"
        ) from error


def _generation(
    paths: Sequence[Path], feeds: Feeds, forms: Forms, options: BenchOptions
) -> list[GenerationTiming | None]:
    assert options.tokens is not None
    prompt = [int(token) for token in np.asarray(feeds.get(forms.text.ids, [])).reshape(-1)]
    if options.data is None or not prompt:
        raise DataError("--tokens needs a prompt: give a text file with --data, and its tokenizer")
    generators = [
        Generator(Decoder(open_session(path, threads=options.threads[0]), forms.text)) for path in paths
    ]
    found = [generator.generate(prompt, options.tokens) for generator in generators]
    rows: list[GenerationTiming | None] = []
    for each in found:
        later = each.times_ms[1:] or each.times_ms
        token = statistics.median(later)
        same = float(np.mean([a == b for a, b in zip(each.tokens, found[0].tokens, strict=True)]))
        rows.append(
            GenerationTiming(len(prompt), options.tokens, each.times_ms[0], token, 1000 / token, same)
        )
    return rows


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
