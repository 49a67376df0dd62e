"""Report of `onnxq eval`: plain data for text, plots and JSON."""

from dataclasses import dataclass, field

from onnxq.comparison.caches import CacheError
from onnxq.evaluation.gates import Gate
from onnxq.evaluation.notebook import html_table
from onnxq.evaluation.origin import Origin
from onnxq.evaluation.scores.uncertainty import Value
from onnxq.evaluation.verification import DecisionShare, SampleError

SCHEMA = 3
"""Version of the JSON; it changes when a key changes its meaning or is removed."""


@dataclass(frozen=True)
class ChangedDecision:
    """Number of samples with one label and one pair of different predictions.

    label                     class index; None without labels
    float_class, other_class  predictions of the float model and of the other model
    count                     number of samples
    """

    label: int | None
    float_class: int
    other_class: int
    count: int


@dataclass(frozen=True)
class ClassRow:
    """One class: its samples, and the number of correct predictions of both models."""

    label: int
    samples: int
    float_right: int
    right: int


@dataclass(frozen=True)
class WorstSample:
    """A sample with a large output error.

    sqnr_db                   SQNR of its worst output part against float, dB
    float_class, other_class  predictions of both models; None if the output holds no single decision
    float_text, other_text    answers of both models as text; None if the metric reads none
    """

    sample: str
    sqnr_db: float
    label: str | None
    float_class: int | None
    other_class: int | None
    float_text: str | None = None
    other_text: str | None = None


@dataclass(frozen=True)
class PartScore:
    """A part of the outputs: its SQNR in dB, and the few samples with most of its noise, if any."""

    name: str
    sqnr_db: float
    worst: list[SampleError]


@dataclass(frozen=True)
class ModelScore:
    """Measurements of one model; a value without a measurement is None.

    metrics        scores by name; gates use the first
    agreement      share of decisions equal to the float model's, 0..1
    sqnr_db        SQNR of the worst output part against float, dB
    cosine         cosine similarity of all float outputs, mean over samples
    max_error      largest absolute difference
    bytes          size of the file and its external data
    latency_ms     median latency of one inference, ms
    latency_ratio  latency / latency of the float model, run in turns; below 1 is faster
    changed        decisions that differ from the float model's, most frequent first
    classes        classes with another number of correct predictions, largest loss first
    worst          samples with the least SQNR of their worst part, worst first
    parts          output parts, worst first
    decisions      changed and expected decisions of each output that decides
    selections     share of equal entries of each node that selects, by its name
    sequences      number of sequences of a stateful model, each model with its own states; else None
    caches         outputs that the next step takes and adds to, worst first; they are none of the parts
    before         metrics, sqnr_db, latency_ratio and bytes in the baseline, for the model of the same file
                   name
    """

    model: str
    metrics: dict[str, Value]
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    bytes: int
    latency_ms: float | None
    latency_ratio: float | None
    changed: list[ChangedDecision] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    worst: list[WorstSample] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    parts: list[PartScore] = field(default_factory=list)
    decisions: list[DecisionShare] = field(default_factory=list)
    selections: dict[str, float] = field(default_factory=dict)
    sequences: int | None = None
    caches: list[CacheError] = field(default_factory=list)


@dataclass(frozen=True)
class EvalReport:
    """Measurements of the float model first, then of each other model.

    labelled  number of samples with a label
    output    name of the evaluated output
    metric    name of the score for gates; None without one
    gates     required limits
    origin    command, machine, versions, digests
    seconds   wall time, s; empty with --no-latency: then the same command gives the same report
    checksum  SHA-256 of the rest, in the JSON file: a baseline that was changed is refused
    """

    data: str
    samples: int
    labelled: int
    output: str
    metric: str | None
    scores: list[ModelScore]
    gates: list[Gate]
    warnings: list[str]
    origin: Origin | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA
    checksum: str = ""

    def __repr__(self) -> str:
        others = ", ".join(repr(score.model) for score in self.scores[1:])
        return f"<EvalReport {others} against {self.scores[0].model!r}: {self.samples} samples>"

    def _repr_html_(self) -> str:
        """Return the scores for a notebook."""
        metrics = list(dict.fromkeys(name for score in self.scores for name in score.metrics))
        rows = [["model", *metrics, "agreement", "SQNR dB", "bytes", "latency ms"]]
        for score in self.scores:
            values = [score.metrics[name].value if name in score.metrics else None for name in metrics]
            numbers = [*values, score.agreement, score.sqnr_db, score.bytes, score.latency_ms]
            rows.append([score.model, *("" if each is None else f"{each:.6g}" for each in numbers)])
        return html_table(rows, header=True)
