"""Thresholds of the accuracy search, in one place."""

from dataclasses import dataclass, field
from typing import Self

from onnxq.calibration.methods import METHODS
from onnxq.options import Effort, Method


@dataclass(frozen=True)
class SearchSettings:
    """Thresholds of the accuracy search; the defaults are those of `--effort balanced`.

    Comparing candidates:
    methods          calibration methods to compare with `--method auto`. For `fast` these two: one of them is within 0.5 dB of
                     the best on each of 11 models (docs/decisions.md)
    all_techniques   try weights rounded to nearest without any technique, too
    layer_samples    calibration samples for the moments of layers' inputs; None for all
    layer_rows       rows of a layer's input, in units of what second moments of 8-bit weights need
    second_moments   collect second moments; means need fewer samples
    compared         validation samples on which candidates are compared; calibration samples follow where there are fewer
    quick            samples on which the noise of single nodes is measured; a few more where outputs have several parts
    alike_changes    candidates within one standard error of the best are alike; of those, one with at most this factor times
                     the fewest expected decision changes is kept
    clear_db         outputs as close as this count as float
    technique_db     dB that a technique must gain when it adds nodes to the graph
    transform_macs   share of the planned MACs that a graph transform has to reach to be tried

    Fallback to float:
    target_db        SQNR that each part of the outputs keeps on fresh samples
    doubt_db         more validation samples decide where the outputs are within this of the target
    more_samples     number of these, as long as their inputs and outputs take at most `more_bytes`
    more_in_sequences  the same for stateful models, where samples of a sequence count as one
    least_gain_db    nodes stay int8 where leaving them in float gains less without reaching the target
    most_time, most_weights  limits of the fallback: added share of the expected time, share of the planned weights
    ruined_db, useless_db    the limits fall where they leave the outputs below the first, or where int8 is below the second
    most_units, least_units  groups of neighbouring nodes that are measured together; fewer in models with many nodes, ...
    most_loaded      ... for then loading the model takes longer than running it: nodes loaded in all
    unexplained      share of the noise below which the remaining nodes do not explain the remaining noise
    many_values      values of a part above which a difference of two errors stands out from chance
    explained, worst_db  share of the noise that single nodes have to explain, in each part within worst_db of the worst
    rounds           rounds of the fallback
    step_db          noise that a round removes where a metric decides, whose tolerance is unknown beforehand
    close_db         overshoot of a target that nobody asked for
    most_functions   groups of elementwise integer nodes that are measured
    timed            validation samples that latency is measured on

    LSTMs:
    lstm_db          least SQNR of the outputs with int8 LSTM weights: two fifths of the noise at 20 dB are left to other nodes
    shared_scale_db  loss in dB that one scale for all of R may cost over all LSTMs: 4 hidden scales take a seventh of the time

    SmoothQuant:
    scaling_db       loss in dB that leaving out scalings may cost
    """

    methods: tuple[str, ...] = field(default_factory=lambda: tuple(METHODS))
    all_techniques: bool = False
    layer_samples: int | None = 100
    layer_rows: float = 1.0
    second_moments: bool = True
    compared: int = 16
    quick: int = 6
    alike_changes: float = 1.1
    clear_db: float = 40.0
    technique_db: float = 0.5
    transform_macs: float = 0.05

    target_db: float = 20.0
    doubt_db: float = 4.0
    more_samples: int = 64
    more_in_sequences: int = 200
    more_bytes: int = 64 << 20
    least_gain_db: float = 2.0
    most_time: float = 0.5
    most_weights: float = 0.75
    ruined_db: float = 16.0
    useless_db: float = 12.0
    most_units: int = 64
    least_units: int = 16
    most_loaded: int = 64_000
    unexplained: float = 0.1
    many_values: int = 2000
    explained: float = 0.5
    worst_db: float = 6.0
    rounds: int = 6
    step_db: float = 3.0
    close_db: float = 1.0
    most_functions: int = 16
    timed: int = 4

    lstm_db: float = 22.0
    shared_scale_db: float = 0.5

    scaling_db: float = 0.3

    @classmethod
    def of(cls, effort: Effort) -> Self:
        """Return the settings of an effort."""
        match effort:
            case Effort.FAST:
                return cls(
                    methods=(Method.MSE, Method.PERCENTILE),
                    layer_samples=16,
                    layer_rows=0.25,
                    second_moments=False,
                    compared=8,
                )
            case Effort.BEST:
                return cls(all_techniques=True, layer_samples=None, layer_rows=2.0)
            case Effort.BALANCED:
                return cls()
