"""What is to be done: the normalized model, its plan, and the samples, part of them held out."""

import random
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import onnx_ir as ir

from onnxq.comparison.feedback import Feedback, chosen_sequences, find_feedback
from onnxq.cost.model import CPUS, Costs
from onnxq.cost.placement import REASON as SLOW
from onnxq.cost.placement import place, savings
from onnxq.data.checks import check_samples
from onnxq.data.preprocessing import read_forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError, ModelError
from onnxq.formats.lstm import WORTH as WORTH_LSTM
from onnxq.formats.lstm import LstmForm, dynamic_lstms
from onnxq.graph.edit import is_constant, nodes_of
from onnxq.graph.files import SINGLE_FILE_LIMIT, load, weight_bytes
from onnxq.graph.macs import WITH_MACS, ShapeByName, concrete_shapes
from onnxq.normalize.passes import normalize
from onnxq.options import Mode, QuantizeOptions
from onnxq.plan.operators import ALREADY_QUANTIZED
from onnxq.plan.plan import Plan, Selection, make_plan
from onnxq.runtime.inner_values import expose
from onnxq.runtime.sessions import InputSpec, model_inputs, open_exposed, open_session, run
from onnxq.runtime.weights_on_disk import move_to_disk
from onnxq.search.trade_off import Point
from onnxq.types import Feeds

HELD_OUT_SHARE, MOST_HELD_OUT_SHARE = 6, 3
"""One in so many samples is kept from calibration; of few samples as much as one in so many."""
HELD_OUT = 24
"""Samples to hold out if that takes no more than the larger share."""
UNSEEN_SHARE = 3
"""One in so many of these is kept from every choice too: the claim is made on what nothing was chosen by."""
CHANGING = "lies in a Loop or Scan whose values change their shape from iteration to iteration"


@dataclass
class Job:
    """What the stages hand on.

    specs  inputs of the model as it came
    large  whether two sessions side by side may not fit into memory
    costs  what nodes take on each of the target's CPUs, as far as that is known
    kept   nodes that stay float whatever the plan, with the reason
    aliases  tensors that views make of others, by name, before anything was given back
    lstms  LSTMs whose weights become int8, by name
    held_out  samples that nothing is made from and that candidates are compared on
    unseen  samples that nothing is made from or chosen by
    feedback  outputs that are the next sample's inputs
    run_time  products whose activations' ranges are found when they run
    order  place of each sample among all, by name
    few_rows  whether they see so few rows that fewer and larger operators pay
    half   whether products that stay float may have their weights stored in half precision
    scratch  folder that holds the weights of the model's forms, where they are many
    points  what was tried to reach a target that the user set
    """

    options: QuantizeOptions
    model: ir.Model
    plan: Plan
    specs: list[InputSpec]
    large: bool
    costs: tuple[Costs, ...]
    calibration: list[Sample] = field(default_factory=list)
    held_out: list[Sample] = field(default_factory=list)
    unseen: list[Sample] = field(default_factory=list)
    feedback: Feedback = field(default_factory=Feedback)
    kept: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    lstms: dict[str, LstmForm] = field(default_factory=dict)
    run_time: list[str] = field(default_factory=list)
    few_rows: bool = False
    order: dict[str, int] = field(default_factory=dict)
    half: bool = True
    scratch: Path | None = None
    points: list[Point] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> list[Sample]:
        """All samples, each once, in their order."""
        found = {sample.name: sample for sample in (*self.calibration, *self.held_out, *self.unseen)}
        return [found[name] for name in sorted(found, key=lambda name: self.order.get(name, 0))]

    @property
    def selection(self) -> Selection:
        """The user's choice of nodes."""
        return _selection(self.options)

    def wanted_lstms(self) -> list[ir.Node]:
        """LSTMs that are to get int8 weights: all that the user's choice allows, none, or those that are faster so."""
        chosen = self.options.dynamic_lstm
        unwanted = chosen is False or (
            chosen is None and self.options.standard
        )  # they are this runtime's operators
        every = chosen or self.options.mode is Mode.DYNAMIC
        found = [] if unwanted else dynamic_lstms(self.model, 0 if every else WORTH_LSTM)
        return [node for node in found if self.selection.refusal(node) is None]

    def move_to_disk(self, model: ir.Model) -> None:
        """Let the scratch folder hold the weights of a form of the model, in place, where they are many."""
        before, self.scratch = self.scratch, move_to_disk(model, self.scratch)
        if before is None and self.scratch is not None:
            weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)

    def replan(self, model: ir.Model, kept: Mapping[str, str] | None = None) -> Plan:
        """The plan for a form of the model, with more nodes kept float."""
        return make_plan(model, _selection(self.options), self.kept | dict(kept or {}))


def prepare(options: QuantizeOptions) -> Job:
    """Load, normalize, plan; find and split the samples.

    Raises:
        OnnxqError: the model or the data cannot be used, or there is nothing to quantize.
    """
    model = load(options.model)
    quantized = sum(node.op_type in ALREADY_QUANTIZED for node in nodes_of(model))
    specs = model_inputs(model)
    large = weight_bytes(model) > SINGLE_FILE_LIMIT
    given = [(node.name or "", node.op_type) for node in nodes_of(model)]
    model = normalize(model)
    _selection(options).check(given + [(node.name or "", node.op_type) for node in nodes_of(model)])
    static = options.mode is Mode.STATIC
    plan = make_plan(model, _selection(options)) if static else Plan()
    costs = CPUS.get(options.target, ())
    job = Job(options, model, plan, specs, large, costs)
    job.move_to_disk(model)
    if not static:
        if options.calib is not None:
            _split_samples(job, options)
        return job
    _check_plan(job, quantized)
    if quantized:
        job.warnings.append(
            f"the model is quantized already in {quantized} nodes: they pass through as they are"
        )
    if options.calib is None:
        if not options.stats:
            raise DataError("no calibration data: give a folder with --calib, or statistics with --stats")
        return job
    _split_samples(job, options)
    if _unobservable(job):
        job.plan = job.replan(model)
        _check_plan(job, quantized)
    if options.skip_slow_nodes and not options.measure:
        _give_back(job)
    return job


def _selection(options: QuantizeOptions) -> Selection:
    return Selection(options.include, options.exclude, options.op_types)


def _check_plan(job: Job, quantized: int) -> None:
    if job.wanted_lstms():
        return
    if not job.plan.anchors:
        open_session(job.options.model, optimize=False)  # what the runtime has against the model comes first
        raise ModelError(f"{job.options.model}: nothing to quantize: {_why_nothing(job.plan, quantized)}")


def _why_nothing(plan: Plan, quantized: int) -> str:
    if quantized:
        return f"it is quantized already ({quantized} integer nodes)"
    reasons = [
        f"{node.op_type} '{node.name}': {why}"
        for node, why in plan.floats.values()
        if node.op_type in ("Conv", "Gemm", "MatMul")
    ]
    return reasons[0] if reasons else "it has no Conv, MatMul or Gemm"


def _split_samples(job: Job, options: QuantizeOptions) -> None:
    assert options.calib is not None
    forms = read_forms(options.preprocess)
    found = open_samples(options.calib, job.specs, forms, options.samples)
    if len(job.model.graph.outputs) > 1 and len(job.specs) > 1:
        job.feedback = find_feedback(open_session(options.model), found, options.states)
    elif options.states:
        raise DataError(
            f"--state {options.states[0]}: the model has one input or one output: none of them is a state"
        )
    samples = chosen_sequences(found, job.feedback, options.samples)
    job.warnings += check_samples(samples, found, job.specs, forms)
    if len(samples) < min(options.samples, len(found)) or len(found) < options.samples:
        job.warnings.append(f"{len(samples)} samples found in {options.calib}, {options.samples} asked for")
    job.order = {sample.name: place for place, sample in enumerate(samples)}
    _hold_out(job, samples)
    if not job.held_out:
        job.held_out = samples[:1]
        job.warnings.append("too few samples to hold one out: the result is verified on calibration samples")


def _hold_out(job: Job, samples: list[Sample]) -> None:
    """Divide the samples into those that calibrate, that choose, and that nothing sees; sequences of a stateful model stay whole."""
    starts = [
        i for i, sample in enumerate(samples) if not job.feedback.states or sample.name in job.feedback.starts
    ]
    parts = [samples[start:stop] for start, stop in pairwise([*starts, len(samples)])]
    count = max(
        len(parts) // HELD_OUT_SHARE,
        min(-(-HELD_OUT * len(parts) // max(1, len(samples))), len(parts) // MOST_HELD_OUT_SHARE),
    )
    kept = sorted(scattered(len(parts), count))
    unseen = set(kept[UNSEEN_SHARE - 1 :: UNSEEN_SHARE])
    if kept and not unseen and len(kept) > 1:
        unseen = {kept[-1]}
    for i, part in enumerate(parts):
        (job.unseen if i in unseen else job.held_out if i in kept else job.calibration).extend(part)


def scattered(of: int, count: int) -> set[int]:
    """One of each of `count` neighbourhoods, by chance but the same each time: data may repeat themselves with any period."""
    starts, chance = [of * i // max(count, 1) for i in range(count + 1)], random.Random(0)
    return {start + int((stop - start) * chance.random()) for start, stop in pairwise(starts)}


def _give_back(job: Job) -> None:
    """Leave float what the cost model expects to be faster so."""
    if job.costs:
        shapes = planned_shapes(job.model, job.plan, check_feeds(job.calibration[0], job.specs))
        floats = place(job.plan, shapes, job.costs).floats
        left = job.replan(job.model, dict.fromkeys(floats, SLOW))
        if floats and savings(left, shapes, job.costs).too_little:
            floats += tuple(left.nodes)
        leave_float(job, floats)


def leave_float(job: Job, names: Sequence[str]) -> None:
    """Plan anew with nodes float that are faster so."""
    if not names:
        return
    job.aliases = {tensor.name: tensor.source for tensor in job.plan.tensors.values()}
    job.kept |= dict.fromkeys(names, SLOW)
    job.plan = job.replan(job.model)
    if not job.plan.anchors:
        where = "on this machine" if job.options.measure else f"on the target's CPUs ({job.options.target})"
        job.warnings.append(
            f"nothing is expected to be faster on integers {where}: the model stays float, "
            "its weights in half precision; --all-int8 quantizes it all the same"
        )


def planned_shapes(model: ir.Model, plan: Plan, feeds: Feeds) -> ShapeByName:
    """Shapes of a model's values for one sample; of planned nodes and products, what inference cannot tell is seen in a run."""
    shapes = concrete_shapes(model, feeds)
    nodes = [planned.node for planned in plan.nodes.values()] + [
        node for node in model.graph if node.op_type in WITH_MACS
    ]
    values = [
        value
        for node in nodes
        for value in (*node.inputs[:2], *node.outputs)
        if value is not None and not is_constant(value)
    ]
    values += [planned.output for planned in plan.nodes.values()]
    unknown = [value.name for value in dict.fromkeys(values) if value.name and value.name not in shapes]
    if not unknown:
        return shapes
    exposed = expose(model, unknown)
    fetched = run(
        open_exposed(exposed.model), feeds, "a sample", [output for output, _ in exposed.outputs.values()]
    )
    seen = {
        name: list(array.shape[levels:])
        for (name, (_, levels)), array in zip(exposed.outputs.items(), fetched, strict=True)
    }
    return shapes | seen  # of a body, those of its last iteration


def _unobservable(job: Job) -> bool:
    """Find out, by trying, whether Loops and Scans can stack what their bodies compute; keep float those that cannot."""
    main = job.model.graph
    inside = {name for name, planned in job.plan.nodes.items() if planned.node.graph is not main}
    if not inside:
        return False
    exposed = expose(
        job.model, [name for name in job.plan.sources() if name not in {value.name for value in main.inputs}]
    )
    stacked = {name for name, (_, levels) in exposed.outputs.items() if levels}
    sample = job.calibration[0]
    feeds = check_feeds(sample, job.specs)
    try:
        run(open_exposed(exposed.model), feeds, sample.name)
    except ModelError:
        for name in inside:
            planned = job.plan.nodes[name]
            if stacked & {
                value.name for value in (*planned.node.inputs, planned.output) if value is not None
            }:
                job.kept[name] = CHANGING
    return bool(job.kept)
