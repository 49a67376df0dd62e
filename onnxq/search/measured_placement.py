"""`--measure`: placement by measured times on this machine instead of the target's cost model.

The runtime's profiler times all nodes in float and in int8, with the two models in turns. Three plans follow:
all int8, the plan by the measured times, and the plan by the cost model. Each is timed as a whole file
against float. The fastest is kept; among equally fast plans, the one with the fewest int8 nodes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Collecting, collect
from onnxq.calibration.methods import MethodOptions
from onnxq.cost.model import PROFILING_NS, Costs, Line
from onnxq.cost.placement import place
from onnxq.data.samples import check_feeds, spread
from onnxq.errors import DataError, OnnxqError
from onnxq.evaluation.layer_errors import claimed_ms, kernel_ms
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import Names, add_initializer, add_node
from onnxq.graph.files import file_bytes, save
from onnxq.graph.scratch import ScratchFolder, writing_temporaries
from onnxq.options import Method
from onnxq.plan.plan import Plan
from onnxq.plan.reasons import SLOWER
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.parameters import activation_parameters, make_parameters
from onnxq.quantization.weights import quantize_weights
from onnxq.runtime.latency import medians_ms
from onnxq.search.inputs import Inputs
from onnxq.search.placement import without_slow
from onnxq.search.trade_off import Point
from onnxq.transforms.registry import weight_options
from onnxq.types import Feeds, QuantParams

SAMPLES, SECONDS = 4, 1.0
"""Number of samples that are run, and seconds for each whole file."""
TIE = 1.02
"""Ratio of times up to which two files count as equally fast."""
SMALL, LARGE = 1 << 12, 1 << 18
"""Elements of the two conversions that are timed."""


@dataclass(frozen=True)
class Measured:
    """Placement by measurement.

    recipe    recipe with the slow nodes in float
    costs     cost model with the measured times of this model's nodes
    points    plans that were timed
    warnings  lines for the report
    """

    recipe: Recipe
    costs: tuple[Costs, ...]
    points: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()


def placed_by_measurement(inputs: Inputs) -> Measured:
    """Leave nodes in float where they are faster on this machine.

    Raises:
        OnnxqError: there are no samples to run, or no node may stay float for speed.
    """
    if not inputs.options.skip_slow_nodes:
        raise OnnxqError("--measure finds nodes to leave float, --all-int8 leaves none float: choose one")
    if not inputs.samples.calibration:
        raise DataError("--measure runs samples: give a folder with --calib")
    recipe = inputs.recipe()
    if not inputs.plan.nodes:  # LSTMs alone
        return Measured(recipe, inputs.costs)
    feeds = [check_feeds(sample, inputs.specs) for sample in spread(inputs.samples.calibration, SAMPLES)]
    shapes = planned_shapes(inputs.model, inputs.plan, feeds[0])
    timing, cpus = _TimingModels(inputs), inputs.target.costs
    # each node in float and in int8
    quantize, dequantize = _conversions()
    nodes = _node_ns(inputs, timing.model(recipe), feeds)
    base = cpus[0] if cpus else Costs({}, 8)
    costs = (replace(base, nodes=nodes, quantize=quantize, dequantize=dequantize),)
    # the plans that follow, each once
    plans: dict[str, tuple[str, ...]] = {
        "all int8": (),
        "as nodes were timed": place(inputs.plan, shapes, costs).floats,
    }
    if cpus:
        plans |= {"as the target's table says": place(inputs.plan, shapes, cpus).floats}
    plans = {
        next(name for name, same in plans.items() if same == floats): floats for floats in plans.values()
    }
    # each plan as a whole file
    float_ms, times, file_sizes = _time_files(inputs, timing, recipe, plans.values(), feeds)
    kept = _fastest(plans, times, float_ms)
    points = tuple(
        Point(name, None, ms / float_ms, size, name == kept)
        for name, ms, size in zip(plans, times, file_sizes, strict=True)
    )
    slow = tuple(inputs.plan.anchors) if kept is None else plans[kept]
    recipe, warnings = without_slow(recipe, slow, "on this machine")
    return Measured(recipe, costs, points, warnings)


def _time_files(
    inputs: Inputs,
    timing: "_TimingModels",
    recipe: Recipe,
    plans: Collection[Sequence[str]],
    feeds: Sequence[Feeds],
) -> tuple[float, list[float], list[float]]:
    """Time each plan's file; return the latency of float and of the files, ms, and their relative sizes."""
    with ScratchFolder() as folder:
        files = [folder / f"{i}.onnx" for i in range(len(plans))]
        for file, floats in zip(files, plans, strict=True):
            with writing_temporaries():
                save(timing.model(recipe.leaving(dict.fromkeys(floats, SLOWER))), file)
        float_ms, *times = medians_ms(
            [inputs.options.model, *files],
            feeds,
            threads=1,
            seconds=SECONDS * len(files),
            together=not inputs.large,
        )
        file_sizes = [file_bytes(file) / file_bytes(inputs.options.model) for file in files]
    return float_ms, times, file_sizes


def _fastest(plans: Mapping[str, Sequence[str]], times: Sequence[float], float_ms: float) -> str | None:
    """Return the fastest plan; None where float is as fast, because int8 then only costs accuracy."""
    limit = TIE * min(*times, float_ms)
    if float_ms <= limit:
        return None
    fast = [name for name, ms in zip(plans, times, strict=True) if ms <= limit]
    return max(fast, key=lambda name: len(plans[name]), default=None)


class _TimingModels:
    """Models as fast as the final file: ranges of a few samples, weights rounded to nearest."""

    def __init__(self, inputs: Inputs) -> None:
        plan = inputs.plan
        self.writer = inputs.writer()
        samples = spread(inputs.samples.calibration, SAMPLES)
        self.statistics = collect(
            inputs.model, plan.sources(), samples, "", Collecting(0, allow_nonfinite=True)
        )
        # a plan with more nodes in float names other tensors of a chain of views
        self.statistics.aliases |= {tensor.name: tensor.source for tensor in plan.tensors.values()}
        scales = {name: float(params.scale) for name, params in self._activations(plan).items()}
        self.weights = quantize_weights(
            plan, scales, {}, weight_options(inputs.options, inputs.target.saturates)
        )

    def _activations(self, plan: Plan) -> dict[str, QuantParams]:
        return activation_parameters(plan, self.statistics, Method.MINMAX, MethodOptions())

    def model(self, recipe: Recipe) -> ir.Model:
        """Return the model of a recipe with the same int8 nodes, or fewer."""
        parameters = make_parameters(recipe.plan, self._activations(recipe.plan), self.weights)
        return self.writer.write(recipe, parameters)


def _node_ns(inputs: Inputs, quantized: ir.Model, feeds: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """Measure each planned node in int8 and in float, ns; 0 where the runtime fuses it into another node."""
    both = [inputs.model, quantized]
    float_ms, int8_ms = (
        [kernel_ms([model], feeds)[0] for model in both] if inputs.large else kernel_ms(both, feeds)
    )
    float_ns, int8_ns = _claimed(inputs.model.graph, float_ms), _claimed(quantized.graph, int8_ms)
    return {
        name: (int8_ns.get(name, 0.0), float_ns.get(name, 0.0))
        for name in inputs.plan.nodes
        if name in float_ns or name in int8_ns
    }


def _claimed(nodes: Iterable[ir.Node], times: Mapping[str, float]) -> dict[str, float]:
    """Assign kernel times, ms, to nodes; return ns without the overhead of the profiler."""
    return {name: max(0.0, ms * 1e6 - PROFILING_NS) for name, ms in claimed_ms(nodes, times).items()}


def _conversions() -> tuple[Line, Line]:
    """Measure the time of a QuantizeLinear and of a DequantizeLinear on this machine."""
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
    quantized, copied, dequantized = (ir.Value(name=name) for name in ("quantized", "copied", "dequantized"))
    add_node(graph, "QuantizeLinear", [x, scale, zero], [quantized], name="q")
    add_node(graph, "Identity", [quantized], [copied], name="between")
    add_node(graph, "DequantizeLinear", [copied, scale, zero], [dequantized], name="dq")
    add_node(graph, "Neg", [dequantized], [y], name="end")
    return kernel_ms([model], [{"x": np.linspace(-2, 2, elements, dtype=np.float32)[None]}])
