"""Products that calibration never saw get ranges at run time, other nodes stay float."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxq.calibration.sketch import NO_BINS, Measured, Sketch
from onnxq.calibration.statistics import Statistics
from onnxq.data.samples import check_feeds, spread
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import nodes_of
from onnxq.options import Format, QuantizeOptions, Technique
from onnxq.plan.plan import Plan, PlannedNode, PlannedTensor
from onnxq.plan.products import fits_run_time_ranges
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.plan.unseen import (
    SHAPES,
    bodies,
    body_values,
    data,
    everything,
    flat,
    joined_ranges,
    probes,
    ranges,
    reached,
    state_inputs,
)
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import open_exposed, run
from onnxq.search.candidates import Variant
from onnxq.search.inputs import Inputs, observable_probes

SEVERAL = 4
"""Runs of which a single one says little about a branch that it alone takes."""
PROBED = 32
"""Samples that tell which parts of a model run, in modes without calibrated ranges."""


@dataclass(frozen=True)
class Unseen:
    """Values of a model whose range no sample shows.

    origins  the cause by value
    own      tensors that no sample gives a value, or that are zero in all samples
    doubted  inputs that are the same in all samples, by value: their ranges hold for that value alone
    """

    origins: dict[ir.Value, str] = field(default_factory=dict)
    own: dict[ir.Value, str] = field(default_factory=dict)
    doubted: dict[ir.Value, str] = field(default_factory=dict)


def without_unseen(
    options: QuantizeOptions, variants: Sequence[Variant], statistics: Statistics
) -> tuple[list[Variant], list[str]]:
    """Return the forms planned without what calibration never saw, and warnings about the plain one."""
    changed, warnings = [], list[str]()
    for variant in variants:
        unseen = find_unseen(variant, statistics)
        values = reached(variant.model, flat(variant.model, unseen.origins), ranges) | unseen.own.keys()
        recipe = _planned_without(variant.recipe, values, at_run_time=allows_run_time_ranges(options))
        if variant is variants[0]:
            warnings += _warnings(variant.recipe, recipe, unseen, values)
        changed.append(variant if recipe is variant.recipe else replace(variant, recipe=recipe))
    return changed, warnings


def unseen_outputs(inputs: Inputs, plan: Plan) -> list[str]:
    """Return a warning where no sample reaches some of the planned products; for modes without ranges.

    Weights are rounded, and the file is verified, only for values that the samples show. An empty cache hides
    none: the keys and values of later steps are those that the model computes from the samples.
    """
    if not inputs.samples.calibration or not plan.nodes:
        return []
    model, seen = inputs.model, _probed(inputs)
    caches = {name for name in inputs.feedback.pairs if (sketch := seen.get(name)) and not sketch.batches}
    origins = _unseen_inputs(model, {name: each for name, each in seen.items() if name not in caches})
    for node in nodes_of(model):
        origins.update(_not_run(node, seen))
    behind = reached(model, origins, everything)
    products = [planned.node.inputs[0] for planned in plan.nodes.values()]
    if not any(value in behind for value in products):
        return []
    outputs = _outputs(model.graph.outputs, behind)
    return [
        f"calibration did not see all of the model ({_few(origins.values())}); "
        f"how far {outputs} will be from float there is not known: add such samples"
    ]


def _probed(inputs: Inputs) -> dict[str, Sketch | None]:
    """Return the ranges of the probes over samples, one by one until they show all parts of the model."""
    model, specs = inputs.model, inputs.specs
    samples = spread(inputs.samples.calibration, PROBED)
    names = observable_probes(model, samples[0], specs)
    given = {value.name for value in model.graph.inputs}
    inner = [name for name in names if name not in given]
    exposed = expose(model, inner) if inner else None
    session = open_exposed(exposed.model) if exposed is not None else None
    sketches = {name: Sketch() for name in names}
    for sample in samples:
        values = check_feeds(sample, specs)
        if exposed is not None and session is not None:
            outputs = [output for output, _ in exposed.outputs.values()]
            values = values | exposed.values(run(session, values, sample.name, outputs))
        for name, sketch in sketches.items():
            array = values[name]
            if array.size:
                sketch.add_range(Measured(float(array.min()), float(array.max()), array.size, NO_BINS))
        if all(sketch.minimum < sketch.maximum for sketch in sketches.values()):
            break
    return dict(sketches)


def _unseen_inputs(model: ir.Model, seen: Mapping[str, Sketch | None]) -> dict[ir.Value, str]:
    """Return the float inputs that have no values, or zeros alone."""
    found = {}
    for value in model.graph.inputs:
        sketch = seen.get(value.name or "")
        if sketch is None or value.dtype != ir.DataType.FLOAT or _gives_sizes_alone(value, sketch):
            continue
        if why := _why(sketch):
            found[value] = f"input '{value.name}' {why}"
    return found


def _gives_sizes_alone(value: ir.Value, sketch: Sketch) -> bool:
    """Tell whether the model never reads an input's values, only how many there are, and there are some."""
    users = [node.op_type for node, _ in value.uses()]
    return sketch.batches > 0 and bool(users) and SHAPES.issuperset(users)


def allows_run_time_ranges(options: QuantizeOptions) -> bool:
    """Whether the file may find ranges at run time."""
    return (
        options.format == Format.QDQ
        and not options.standard
        and Technique.RUN_TIME_RANGES not in options.without
    )


def find_unseen(variant: Variant, statistics: Statistics) -> Unseen:
    """Find the values whose range the statistics do not show."""
    model, unseen = variant.model, Unseen()
    seen = {value.name or "": statistics.sketches.get(value.name or "") for value in probes(model)}
    unseen.origins.update(_unseen_inputs(model, seen))
    for value in model.graph.inputs:
        sketch = seen.get(value.name or "")
        same = sketch is not None and sketch.minimum == sketch.maximum and sketch.seen > 1
        if sketch is None or not same or _gives_sizes_alone(value, sketch):
            continue
        if value not in unseen.origins:
            unseen.doubted[value] = f"input '{value.name}' is {sketch.minimum:g} in all samples"
    for node in nodes_of(model):
        unseen.origins.update(_not_run(node, seen))
    varying = reached(model, model.graph.inputs, data)
    for node in nodes_of(model):
        if node.op_type == "If":
            unseen.doubted.update(_taken_once(node, seen, statistics))
        if node.op_type == "Loop" and any(value in varying for value in node.inputs[:2]):
            unseen.doubted.update(_same_count(node, seen, statistics.samples))
    own = {}
    for tensor in variant.plan.tensors.values():
        sketch = statistics.sketch(tensor.name) if _calibrated(tensor) else None
        if sketch is not None and (why := _why(sketch)):
            own[tensor.value] = f"'{tensor.name}' {why}"
    if own:  # what does not depend on the samples is the same for all others
        unseen.own.update({value: why for value, why in own.items() if value in varying})
        empty = {v: why for v, why in unseen.own.items() if statistics.sketch(v.name or "").batches == 0}  # type: ignore[union-attr]
        unseen.origins.update({v: why for v, why in empty.items() if v not in unseen.origins})
    return unseen


def _calibrated(tensor: PlannedTensor) -> bool:
    return tensor.source == tensor.name and tensor.known is None and tensor.ramp is None


def _why(sketch: Sketch) -> str:
    """Return why a sketch shows no range, or an empty text."""
    if sketch.batches == 0:
        return "has no values in any sample"
    return "is zero in all samples" if sketch.minimum == sketch.maximum == 0 else ""


def _not_run(node: ir.Node, seen: Mapping[str, Sketch | None]) -> dict[ir.Value, str]:
    """Return the values of a node's bodies that no sample ran."""
    found: dict[ir.Value, str] = {}
    result = node.outputs[0].name if node.outputs else ""
    for name, body in bodies(node).items():
        if node.op_type == "If":
            sketch = seen.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
            taken = sketch is None or (sketch.maximum > 0 if name == "then_branch" else sketch.minimum <= 0)
            if not taken:
                why = f"no sample takes the {name.removesuffix('_branch')} branch of the If of '{result}'"
                found |= dict.fromkeys(body_values(node, body), why)
        elif node.op_type == "Loop":
            sketch = seen.get(body.inputs[0].name or "")
            if sketch is not None and sketch.batches == 0:
                why = f"the Loop of '{result}' has no iterations in any sample"
                found |= dict.fromkeys(body_values(node, body), why)
            elif sketch is not None and sketch.maximum == 0:
                why = f"the Loop of '{result}' has one iteration in all samples"
                found |= dict.fromkeys(state_inputs(node, body), why)
    return found


def _same_count(node: ir.Node, seen: Mapping[str, Sketch | None], samples: int) -> dict[ir.Value, str]:
    """Return the results of a Loop that has the same number of iterations, at least two, in all samples."""
    sketch = seen.get(bodies(node)["body"].inputs[0].name or "")
    if sketch is None or sketch.batches == 0:
        return {}
    count = int(sketch.maximum) + 1
    if count < 2 or sketch.seen != samples * count:
        return {}
    return dict.fromkeys(
        node.outputs, f"the Loop of '{node.outputs[0].name}' has {count} iterations in all samples"
    )


def _taken_once(
    node: ir.Node, seen: Mapping[str, Sketch | None], statistics: Statistics
) -> dict[ir.Value, str]:
    """Return the values of an If's bodies that a single one of several runs computed."""
    condition = seen.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
    if condition is None or condition.batches < SEVERAL:
        return {}
    found: dict[ir.Value, str] = {}
    for name, body in bodies(node).items():
        inner = [value for each in body.all_nodes() for value in each.outputs]
        sketches = [statistics.sketches[value.name] for value in inner if value.name in statistics.sketches]
        if max((sketch.batches for sketch in sketches), default=0) == 1:
            why = (
                f"a single sample takes the {name.removesuffix('_branch')} branch of the If of "
                f"'{node.outputs[0].name}'"
            )
            found |= dict.fromkeys(body_values(node, body), why)
    return found


def _planned_without(recipe: Recipe, values: set[ir.Value], *, at_run_time: bool) -> Recipe:
    """Return the recipe in which no static kernel reads or makes the values."""
    while True:
        doubtful = {
            tensor.name
            for tensor in recipe.plan.tensors.values()
            if tensor.known is None and _source(recipe, tensor) in values
        }
        touched = [
            node for node in recipe.plan.nodes.values() if not node.run_time and _reads(node, doubtful)
        ] or [node for node in recipe.plan.nodes.values() if not node.run_time and _makes(node, doubtful)]
        if not touched:
            return recipe
        products = [node.name for node in touched if at_run_time and fits_run_time_ranges(node)]
        others = {node.name: _reason(node, doubtful) for node in touched if node.name not in products}
        recipe = recipe.finding(products).keeping(others)


def _source(recipe: Recipe, tensor: PlannedTensor) -> ir.Value:
    source = tensor.ramp.source if tensor.ramp is not None else tensor.source
    return recipe.plan.tensors[source].value


def _reads(node: PlannedNode, names: set[str]) -> list[str]:
    inputs = [node.node.inputs[index] for index in node.activations]
    return [value.name for value in inputs if value is not None and value.name in names]


def _makes(node: PlannedNode, names: set[str]) -> list[str]:
    return [value.name for value in (node.output, *node.node.outputs) if value.name in names]


def _reason(node: PlannedNode, names: set[str]) -> FloatReason:
    name = (_reads(node, names) or _makes(node, names))[0]
    return FloatReason(Cause.CALIBRATION, f"no sample shows the range of '{name}'")


def _warnings(before: Recipe, after: Recipe, unseen: Unseen, values: set[ir.Value]) -> list[str]:
    """Return a warning where unseen values changed the plan, or others reach what is quantized."""
    outputs = after.model.graph.outputs
    found = []
    changed = after is not before
    joined = reached(after.model, flat(after.model, [*unseen.origins, *unseen.own]), joined_ranges)
    if changed or _quantized(after, joined - values):
        behind = reached(after.model, [*unseen.origins, *unseen.own], everything)
        first = reached(after.model, unseen.origins, everything)
        causes = [
            *unseen.origins.values(),
            *(why for value, why in unseen.own.items() if value not in first),
        ]
        kept = [name for name in after.kept if name not in before.kept]
        done = [
            f"{what}: {_few(map(repr, names))}"
            for what, names in (("ranges found at run time", after.run_time), ("kept float", kept))
            if names
        ]
        found.append(
            f"calibration did not see all of the model ({_few(causes)})"
            + "".join(f"; {each}" for each in done)
            + f"; how far {_outputs(outputs, behind)} will be from float there is not known: add such samples"
        )
    if _quantized(after, reached(after.model, flat(after.model, unseen.doubted), joined_ranges)):
        behind = reached(after.model, unseen.doubted, everything)
        found.append(
            f"{_few(unseen.doubted.values())}: in other cases {_outputs(outputs, behind)} "
            "may be far from float: add such samples"
        )
    return found


def _quantized(recipe: Recipe, values: set[ir.Value]) -> bool:
    """Whether a static range of a plan is that of one of the values."""
    plan = recipe.plan
    names = {
        tensor.name for tensor in plan.tensors.values() if tensor.value in values and tensor.known is None
    }
    return bool(names) and any(_reads(node, names) for node in plan.nodes.values() if not node.run_time)


def _outputs(outputs: Sequence[ir.Value], behind: set[ir.Value]) -> str:
    return _few((f"output '{value.name}'" for value in outputs if value in behind), most=10) or "the outputs"


def _few(texts: Iterable[str], most: int = 3) -> str:
    found = list(dict.fromkeys(texts))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
