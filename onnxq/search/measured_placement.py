"""`--measure`: what is faster in float on this machine, by its clock instead of the target's table.

All nodes are timed in both forms by the runtime's profiler, the float model and an int8 one in turns; what that suggests,
what the table suggests and all int8 are then timed as whole files against float, and the fastest is kept; of those as fast
the one with the fewest integers.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Collecting, collect
from onnxq.calibration.methods import MethodOptions
from onnxq.cost.model import CPUS, PROFILING_NS, Costs, Line
from onnxq.cost.placement import REASON as SLOW
from onnxq.cost.placement import place
from onnxq.data.samples import check_feeds, spread
from onnxq.errors import DataError, OnnxqError
from onnxq.evaluation.layer_errors import claimed_ms, kernel_ms
from onnxq.formats.writer import file_writer
from onnxq.graph.edit import Names, add_initializer, add_node
from onnxq.graph.files import file_bytes, save
from onnxq.inputs import Job, leave_float, planned_shapes
from onnxq.options import Method
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import activation_parameters, make_parameters
from onnxq.quantization.weights import WeightOptions, quantize_weights
from onnxq.runtime.latency import medians_ms
from onnxq.search.trade_off import Point
from onnxq.types import Feeds, QuantParams

SAMPLES, SECONDS = 4, 1.0
"""Samples that are run, and seconds for each whole file."""
TIE = 1.02
"""Files whose times differ by less are as fast."""
SMALL, LARGE = 1 << 12, 1 << 18
"""Elements of the conversions that are timed."""


def place_measured(job: Job) -> None:
    """Leave float what is faster so on this machine.

    Raises:
        OnnxqError: there are no samples to run, or nothing may stay float for speed.
    """
    if not job.options.skip_slow_nodes:
        raise OnnxqError("--measure finds what to leave float, --all-int8 leaves nothing float: choose one")
    if not job.calibration:
        raise DataError("--measure runs samples: give a folder with --calib")
    if not job.plan.nodes:  # LSTMs alone
        return
    feeds = [check_feeds(sample, job.specs) for sample in spread(job.calibration, SAMPLES)]
    shapes = planned_shapes(job.model, job.plan, feeds[0])
    quick, known = _Quick(job), CPUS.get(job.options.target, ())
    quantize, dequantize = _conversions()
    nodes = _node_ns(job, quick.model(job.plan), feeds)
    job.costs = (
        replace(known[0] if known else Costs({}, 8), nodes=nodes, quantize=quantize, dequantize=dequantize),
    )
    plans: dict[str, tuple[str, ...]] = {
        "all int8": (),
        "as nodes were timed": place(job.plan, shapes, job.costs).floats,
    }
    if known:
        plans |= {"as the target's table says": place(job.plan, shapes, known).floats}
    plans = {
        next(name for name, same in plans.items() if same == floats): floats for floats in plans.values()
    }  # each once
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        files = [Path(folder) / f"{i}.onnx" for i in range(len(plans))]
        for file, floats in zip(files, plans.values(), strict=True):
            save(quick.model(job.replan(job.model, dict.fromkeys(floats, SLOW))), file)
        whole, *times = medians_ms(
            [job.options.model, *files],
            feeds,
            threads=1,
            seconds=SECONDS * len(files),
            together=not job.large,
        )
        sizes = [file_bytes(file) / file_bytes(job.options.model) for file in files]
    fastest = min(*times, whole)
    held = {name: ms for name, ms in zip(plans, times, strict=True) if ms <= TIE * fastest}
    if whole <= TIE * fastest:
        held = {}
    # of those that are as fast the one with the fewest integers, for they only cost accuracy
    kept = max(held, key=lambda name: len(plans[name]), default=None)
    job.points = [
        Point(name, None, ms / whole, size, name == kept)
        for name, ms, size in zip(plans, times, sizes, strict=True)
    ]
    leave_float(job, tuple(job.plan.anchors) if kept is None else plans[kept])


class _Quick:
    """Writes files that take as long as the final ones: their ranges are those of a few samples, their weights rounded to nearest."""

    def __init__(self, job: Job) -> None:
        self.job, self.write = job, file_writer(job)
        samples = spread(job.calibration, SAMPLES)
        self.statistics = collect(
            job.model, job.plan.sources(), samples, "", Collecting(0, allow_nonfinite=True)
        )
        self.statistics.aliases |= {
            tensor.name: tensor.source for tensor in job.plan.tensors.values()
        }  # as nothing is float yet
        scales = {name: float(params.scale) for name, params in self._activations(job.plan).items()}
        self.weights = quantize_weights(
            job.plan, scales, {}, WeightOptions(job.options.per_channel, job.options.target)
        )

    def _activations(self, plan: Plan) -> dict[str, QuantParams]:
        return activation_parameters(plan, self.statistics, Method.MINMAX, MethodOptions())

    def model(self, plan: Plan) -> ir.Model:
        """The planned model, or a part of it."""
        return self.write(self.job.model, plan, make_parameters(plan, self._activations(plan), self.weights))


def _node_ns(job: Job, quantized: ir.Model, feeds: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """Nanoseconds of each planned node on integers and in float; 0 for what the other form's runtime takes into another node."""
    both = [job.model, quantized]
    as_float, integer = (
        [kernel_ms([model], feeds)[0] for model in both] if job.large else kernel_ms(both, feeds)
    )
    before, after = _claimed(job.model.graph, as_float), _claimed(quantized.graph, integer)
    return {
        name: (after.get(name, 0.0), before.get(name, 0.0))
        for name in job.plan.nodes
        if name in before or name in after
    }


def _claimed(nodes: Iterable[ir.Node], times: Mapping[str, float]) -> dict[str, float]:
    """Nanoseconds by node, without what the profiler adds."""
    return {name: max(0.0, ms * 1e6 - PROFILING_NS) for name, ms in claimed_ms(nodes, times).items()}


def _conversions() -> tuple[Line, Line]:
    """What a Q and a DQ take on this machine."""
    (small,), (large,) = (_conversion_ms(elements) for elements in (SMALL, LARGE))
    lines = []
    for name in ("q", "dq"):
        element = max(0.0, (large[name] - small[name]) * 1e6 / (LARGE - SMALL))
        lines.append(Line(max(0.0, small[name] * 1e6 - PROFILING_NS - element * SMALL), element))
    return lines[0], lines[1]


def _conversion_ms(elements: int) -> list[dict[str, float]]:
    shape = ir.Shape([1, elements])
    x, y = (ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)) for name in "xy")
    graph = ir.Graph([x], [y], nodes=[], opset_imports={"": 17}, name="conversions")
    model = ir.Model(graph, ir_version=8)
    names = Names(model)
    scale = add_initializer(graph, names.fresh("scale"), np.array(0.02, np.float32))
    zero = add_initializer(graph, names.fresh("zero"), np.array(128, np.uint8))
    stored, away, wide = (ir.Value(name=name) for name in ("stored", "away", "wide"))
    add_node(graph, "QuantizeLinear", [x, scale, zero], [stored], name="q")
    add_node(graph, "Identity", [stored], [away], name="between")
    add_node(graph, "DequantizeLinear", [away, scale, zero], [wide], name="dq")
    add_node(graph, "Neg", [wide], [y], name="end")
    return kernel_ms([model], [{"x": np.linspace(-2, 2, elements, dtype=np.float32)[None]}])
