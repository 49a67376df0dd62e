"""What `onnxq eval` finds, as it is printed, plotted and written to JSON."""

from dataclasses import dataclass, field

from onnxq.evaluation.gates import Gate
from onnxq.evaluation.scores.uncertainty import Value
from onnxq.evaluation.verification import DecisionShare, SampleError

SCHEMA = 3
"""Version of the JSON; it changes when a key changes its meaning or goes away."""


@dataclass(frozen=True)
class Changed:
    """Samples of one class (None without labels) that two models put into different classes, by those classes."""

    label: int | None
    float_class: int
    other_class: int
    count: int


@dataclass(frozen=True)
class ClassRow:
    """One class: its samples, and how many each model puts right."""

    label: int
    samples: int
    float_right: int
    right: int


@dataclass(frozen=True)
class Worst:
    """A sample whose outputs are far from the float model's; the classes are those with the best scores, if it decides."""

    sample: str
    sqnr_db: float
    label: str | None
    float_class: int | None
    other_class: int | None


@dataclass(frozen=True)
class PartScore:
    """A part of the outputs: its SQNR in dB, and the samples that carry most of its noise, where few do."""

    name: str
    sqnr_db: float
    worst: list[SampleError]


@dataclass(frozen=True)
class ModelScore:
    """One model's row; what could not be measured is None.

    metrics        by name, the one that gates hold first
    agreement      share of decisions that are the float model's
    sqnr_db        against float, of the worst part of the outputs, dB
    cosine         of all float outputs, mean over samples
    max_error      largest absolute difference
    bytes          of the file and its external data
    latency_ms     median of one inference
    latency_ratio  latency / the float model's, measured in turns; below 1 is faster
    changed        decisions that differ from the float model's, most frequent first
    classes        classes whose count of right decisions changed, worst first
    worst          samples with the least SQNR of their worst part, worst first
    parts          of the outputs, worst first
    decisions, selections  what the outputs decide; of the nodes that select, the share of entries that are the same
    sequences      of a stateful model how many were run, each model with its own states; else None
    before         metrics, sqnr_db, latency_ratio and bytes of the baseline's model of the same file name
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
    changed: list[Changed] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    parts: list[PartScore] = field(default_factory=list)
    decisions: list[DecisionShare] = field(default_factory=list)
    selections: dict[str, float] = field(default_factory=dict)
    sequences: int | None = None


@dataclass(frozen=True)
class EvalReport:
    """The float model's score first, then each other's.

    metric    the metric that gates hold; None without one
    labelled  samples with a label
    gates     conditions that were asked for
    """

    data: str
    samples: int
    labelled: int
    output: str
    metric: str | None
    scores: list[ModelScore]
    gates: list[Gate]
    warnings: list[str]
    schema: int = SCHEMA
