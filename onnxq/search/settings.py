"""Thresholds of the accuracy search, in one place."""

from dataclasses import dataclass, field
from typing import Self

from onnxq.calibration.methods import METHODS
from onnxq.options import Effort, Method


@dataclass(frozen=True)
class SearchSettings:
    """Thresholds of the accuracy search; the defaults are those of `--effort balanced`.

    Candidates:
    methods                calibration methods that `--method auto` compares. `fast` compares two: on each of
                           11 models one of them is within 0.5 dB of the best method (docs/decisions.md)
    all_techniques         also try weights rounded to nearest without any technique
    layer_samples          calibration samples for the moments of the layers' inputs; None for all
    layer_rows             rows of a layer's input, as a multiple of the rows that second moments of 8-bit
                           weights need
    second_moments         collect second moments; means need fewer samples
    comparison_samples     validation samples on which candidates are compared; calibration samples are added
                           where there are fewer
    node_samples           samples on which the noise of single nodes is measured; a few more where the
                           outputs have several parts
    max_change_ratio       among candidates within one standard error of the best, one is kept whose expected
                           decision changes are at most this multiple of the fewest
    as_float_db            SQNR from which outputs count as equal to float
    min_technique_gain_db  gain that a technique needs if it adds nodes to the graph
    min_transform_macs     share of the planned MACs that a graph transform has to reach to be tried

    Budget:
    search_passes          passes over all samples that the search may take; three times as many where the
                           user sets a target
    search_macs            MACs that any search may take, even if these are more passes
    least_samples          number of validation samples, at least, however small the budget is
    candidates             number of candidates that usually share half of the budget
    least_node_samples     number of samples, at least, on which single nodes are measured
    least_steps            number of sets of float nodes, at least, that are tried
    max_steps              number of sets of float nodes that are tried

    Fallback to float:
    target_db              SQNR that each part of the outputs keeps on new samples
    more_samples_db        distance of the outputs from the target below which more validation samples decide
    more_samples           number of these samples, limited by `more_samples_bytes`
    more_stateful_samples  the same for stateful models, where a sequence of samples counts as one
    more_samples_bytes     limit of the memory for the inputs and outputs of these samples
    min_gain_db            least gain of a fallback that does not reach the target; below it, nodes stay int8
    max_time               limit of the fallback: growth of the expected time, a share
    max_weights            limit of the fallback: share of the planned weights
    least_saving           share of the float time that int8 has to save where the outputs miss the target
    unusable_db            the limits do not hold while the outputs are below this
    unusable_int8_db       the limits do not hold where the int8 outputs are below this
    max_groups             number of groups of neighbouring nodes that are measured together, at most
    min_groups             number of groups in models with many nodes, where loading takes longer than running
    max_loaded_nodes       number of nodes that may be loaded in all measurements
    min_remaining          share of the noise at or below which the remaining nodes do not explain the
                           remaining noise
    reliable_values        number of values of a part from which a difference of two errors is reliable
    min_explained          share of the noise that single nodes have to explain
    worst_db               parts within this of the worst part have to be explained
    rounds                 rounds of the fallback
    step_db                gain that a round aims at where a task metric decides
    close_db               overshoot that is accepted where the target is not the user's
    max_elementwise_groups number of groups of elementwise integer nodes that are measured, at most
    latency_samples        validation samples on which latency is measured

    LSTMs:
    min_lstm_db              least SQNR of the outputs with int8 LSTM weights: two fifths of the noise at
                             20 dB are left to other nodes
    max_shared_scale_loss_db loss that one scale for all of R may cost over all LSTMs; the kernel spends
                             a seventh of its time on 4 x hidden scales

    SmoothQuant:
    max_scaling_loss_db    loss that leaving out scalings may cost
    """

    methods: tuple[str, ...] = field(default_factory=lambda: tuple(METHODS))
    all_techniques: bool = False
    layer_samples: int | None = 100
    layer_rows: float = 1.0
    second_moments: bool = True
    comparison_samples: int = 16
    node_samples: int = 6
    max_change_ratio: float = 1.1
    as_float_db: float = 40.0
    min_technique_gain_db: float = 0.5
    min_transform_macs: float = 0.05

    search_passes: float = 10.0
    search_macs: float = 1e11
    least_samples: int = 4
    candidates: int = 10
    least_node_samples: int = 2
    least_steps: int = 8
    max_steps: int = 64

    target_db: float = 20.0
    more_samples_db: float = 4.0
    more_samples: int = 200
    more_stateful_samples: int = 200
    more_samples_bytes: int = 256 << 20
    min_gain_db: float = 2.0
    max_time: float = 0.5
    max_weights: float = 0.75
    least_saving: float = 0.15
    unusable_db: float = 16.0
    unusable_int8_db: float = 12.0
    max_groups: int = 64
    min_groups: int = 16
    max_loaded_nodes: int = 64_000
    min_remaining: float = 0.1
    reliable_values: int = 2000
    min_explained: float = 0.5
    worst_db: float = 6.0
    rounds: int = 6
    step_db: float = 3.0
    close_db: float = 1.0
    max_elementwise_groups: int = 16
    latency_samples: int = 4

    min_lstm_db: float = 22.0
    max_shared_scale_loss_db: float = 0.5

    max_scaling_loss_db: float = 0.3

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
                    comparison_samples=8,
                )
            case Effort.BEST:
                return cls(all_techniques=True, layer_samples=None, layer_rows=2.0, search_passes=30.0)
            case Effort.BALANCED:
                return cls()
