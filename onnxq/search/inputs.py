"""The inputs of a quantization: options, the normalized model, its full plan, and the samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from onnxq.comparison.feedback import Feedback, chosen_sequences, find_feedback
from onnxq.cost.model import Costs
from onnxq.cost.target import TargetCpus, find_target
from onnxq.data.checks import check_samples
from onnxq.data.preprocessing import read_forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples
from onnxq.data.split import SplitSamples, split
from onnxq.errors import DataError, ModelError, NothingToQuantize
from onnxq.formats.compact import stated_types
from onnxq.formats.lstm import WORTH as LSTM_WEIGHTS
from onnxq.formats.lstm import dynamic_lstms
from onnxq.formats.recipe import Recipe
from onnxq.formats.writer import Writer
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import SINGLE_FILE_LIMIT, load, weight_bytes
from onnxq.graph.interface import Interface
from onnxq.graph.scratch import ScratchFolder
from onnxq.graph.shapes import infer_shapes, opset_of
from onnxq.normalize.agreement import Probe, faithful_form, make_probe, random_probe
from onnxq.normalize.opset import lift_opset
from onnxq.normalize.passes import normalize
from onnxq.options import ActivationType, Mode, QuantizeOptions
from onnxq.plan.finite_weights import check_weights
from onnxq.plan.operators import ALREADY_QUANTIZED
from onnxq.plan.plan import Plan, Selection, make_plan
from onnxq.plan.reasons import CHANGING_SHAPES, NO_WIDE_CLIP, FloatReason
from onnxq.plan.unseen import probes as find_probes
from onnxq.runtime.inner_values import expose
from onnxq.runtime.parallel import IN_PROCESS, Executor
from onnxq.runtime.sessions import InputSpec, model_inputs, open_exposed, open_session, run
from onnxq.runtime.weights_on_disk import move_to_disk
from onnxq.search.settings import SearchSettings

FURTHER = 10
"""Times `--samples` that verify a stateful model: those of one sequence depend on one another."""
WIDE_OPSET = 21
"""The first opset whose QuantizeLinear and DequantizeLinear have 16-bit types."""


class WeightStore:
    """A folder for the weights of large models; it is deleted together with this object."""

    def __init__(self) -> None:
        self._scratch: ScratchFolder | None = None

    @property
    def folder(self) -> Path | None:
        """The folder, None while no weights lie on disk."""
        return None if self._scratch is None else self._scratch.path

    def offload(self, model: ir.Model) -> None:
        """Move the weights of a large model to the folder, in place."""
        self._scratch = move_to_disk(model, self._scratch)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a quantization.

    options   options of the user
    model     normalized model, in its plain form
    plan      plan that quantizes every node that can be quantized
    kept      nodes whose values cannot be calibrated, with the reason
    specs     inputs of the original model
    interface the original's inputs, outputs and overridable initializers, the same in the written file
    large     whether two sessions side by side may not fit into memory
    target    CPUs that the file is made for
    costs     cost model of each of them, or of this machine if that was measured; empty where it is unknown
    samples   calibration, validation and unseen samples
    feedback  outputs that are inputs of the next sample
    settings  thresholds of the accuracy search
    store     weights of the model's forms on disk
    warnings  lines for the report
    probe     one run of the original, with which forms of the model are compared
    probes    values that tell which parts of the model run, as far as they can be observed
    stated    inner values whose types the original file states
    executor  where models run over samples and weights are rounded
    """

    options: QuantizeOptions
    model: ir.Model
    plan: Plan
    kept: dict[str, FloatReason]
    specs: list[InputSpec]
    interface: Interface
    large: bool
    target: TargetCpus
    costs: tuple[Costs, ...]
    samples: SplitSamples = field(default_factory=SplitSamples)
    feedback: Feedback = field(default_factory=Feedback)
    settings: SearchSettings = field(default_factory=SearchSettings)
    store: WeightStore = field(default_factory=WeightStore)
    warnings: tuple[str, ...] = ()
    probe: Probe | None = None
    probes: tuple[str, ...] = ()
    stated: frozenset[str] = frozenset()
    executor: Executor = IN_PROCESS

    @cached_property
    def selection(self) -> Selection:
        """The nodes that the user lets onnxq quantize."""
        return selection_of(self.options)

    def recipe(self) -> Recipe:
        """Return the recipe that quantizes every node of the plan."""
        return Recipe(self.model, self.plan, self.selection, self.kept)

    def writer(self) -> Writer:
        """Return a writer of the output format; large models keep no quantized embeddings in memory."""
        return Writer(self.options.format, self.options.standard, None if self.large else {})

    def wanted_lstms(self) -> list[ir.Node]:
        """Return the LSTMs that get int8 weights: all that the user selects, none, or the faster ones."""
        return _wanted_lstms(self.model, self.options)


def selection_of(options: QuantizeOptions) -> Selection:
    """Return the nodes that the user lets onnxq quantize."""
    return Selection(options.include, options.exclude, options.op_types)


def prepare(
    options: QuantizeOptions, settings: SearchSettings | None = None, executor: Executor = IN_PROCESS
) -> Inputs:
    """Load, normalize and plan the model; find and split the samples.

    Args:
        options: options of the user.
        settings: thresholds of the accuracy search; by default those of the effort.
        executor: where models run over samples and weights are rounded.

    Raises:
        OnnxqError: the model or the data cannot be used, or there is nothing to quantize.
    """
    target = find_target(options.target)
    # the model and its plan
    model = load(options.model)
    specs, interface, stated = model_inputs(model), Interface.of(model), stated_types(model)
    large = weight_bytes(model) > SINGLE_FILE_LIMIT
    original = [(node.name or "", node.op_type) for node in nodes_of(model)]
    model = _with_wide_types(normalize(model), options)
    planning = _Planning.of(options, model)
    check_weights(model)
    planning.selection.check(original + [(node.name or "", node.op_type) for node in nodes_of(model)])
    plan = planning.plan(model)
    planning.store.offload(model)
    # the samples
    samples, feedback, warnings = _samples(planning, specs, outputs=len(model.graph.outputs))
    # the normalized model against the original
    probe = _probe(options, samples, specs)
    if probe is None:
        warnings.append(
            "the model runs on no random inputs: its normalized form was not compared with it; --calib helps"
        )
    else:
        model, plan = planning.faithful(model, plan, probe)
    # nodes whose values cannot be observed
    plan, kept, probes = planning.observable(model, plan, samples, specs)
    return Inputs(
        options=options,
        model=model,
        plan=plan,
        kept=kept,
        specs=specs,
        interface=interface.with_sizes_of(model),
        large=large,
        target=target,
        costs=target.costs,
        samples=samples,
        feedback=feedback,
        settings=settings or SearchSettings.of(options.effort),
        store=planning.store,
        warnings=(*target.notes, *warnings),
        probe=probe,
        probes=probes,
        stated=stated,
        executor=executor,
    )


@dataclass(frozen=True, eq=False)
class _Planning:
    """Plans of the forms of one model.

    options    options of the user
    selection  nodes that the user lets onnxq quantize
    quantized  number of nodes that are quantized in the file already
    store      weights of the forms on disk
    """

    options: QuantizeOptions
    selection: Selection
    quantized: int
    store: WeightStore = field(default_factory=WeightStore)

    @staticmethod
    def of(options: QuantizeOptions, model: ir.Model) -> "_Planning":
        quantized = sum(node.op_type in ALREADY_QUANTIZED for node in nodes_of(model))
        return _Planning(options, selection_of(options), quantized)

    @property
    def static(self) -> bool:
        """Whether activations are quantized with calibrated ranges."""
        return self.options.mode == Mode.STATIC

    def plan(self, model: ir.Model, kept: Mapping[str, FloatReason] | None = None) -> Plan:
        """Return the plan of a form with some nodes in float; an empty one in modes without calibration.

        Raises:
            OnnxqError: there is nothing to quantize.
        """
        if not self.static:
            return Plan()
        plan = make_plan(model, self.selection, kept)
        _check_plan(model, plan, self.options, self.quantized)
        return plan

    def faithful(self, model: ir.Model, plan: Plan, probe: Probe) -> tuple[ir.Model, Plan]:
        """Return the model if it computes what the file does, else another form that does, with its plan."""
        form = faithful_form(self.options.model, model, probe)
        if form is model:
            return model, plan
        self.store.offload(form)
        return form, self.plan(form)

    def observable(
        self, model: ir.Model, plan: Plan, samples: SplitSamples, specs: list[InputSpec]
    ) -> tuple[Plan, dict[str, FloatReason], tuple[str, ...]]:
        """Return the plan without nodes that have no calibrated or wide form, these nodes, and the probes."""
        kept, probes = _without_wide_form(model, self.options), tuple[str, ...]()
        if self.static and self.options.calib is not None:
            sample = samples.calibration[0]
            probes = observable_probes(model, sample, specs)
            kept |= _unobservable(model, plan, sample, specs)
        return self.plan(model, kept) if kept else plan, kept, probes


def _samples(
    planning: _Planning, specs: list[InputSpec], outputs: int
) -> tuple[SplitSamples, Feedback, list[str]]:
    """Find and divide the samples, if the user gives any; return warnings, too."""
    options, warnings = planning.options, list[str]()
    if planning.static and planning.quantized:
        warnings.append(f"the model already has {planning.quantized} quantized nodes: they do not change")
    if planning.static and options.calib is None and not options.stats:
        raise DataError("no calibration data: give a folder with --calib, or statistics with --stats")
    if options.calib is None:
        return SplitSamples(), Feedback(), warnings
    samples, feedback, messages = _find_samples(options, specs, outputs)
    return samples, feedback, warnings + messages


def _with_wide_types(model: ir.Model, options: QuantizeOptions) -> ir.Model:
    """Return the model at the opset of the activations' type; unchanged where it has the type already.

    Raises:
        ModelError: onnx cannot convert the model.
    """
    if options.activation_type is ActivationType.UINT8 or opset_of(model) >= WIDE_OPSET:
        return model
    lifted = lift_opset(model, WIDE_OPSET)
    _check_wide_opset(lifted, options)
    infer_shapes(lifted)
    return lifted


def _check_wide_opset(model: ir.Model, options: QuantizeOptions) -> None:
    if opset_of(model) < WIDE_OPSET:
        raise ModelError(
            f"{options.model}: onnx cannot lift it to opset {WIDE_OPSET}, which --activation-type "
            f"{options.activation_type} needs: leave that out"
        )


def _without_wide_form(model: ir.Model, options: QuantizeOptions) -> dict[str, FloatReason]:
    """Return the nodes that stay float with 16-bit activations.

    Raises:
        ModelError: the form that computes the same as the file is of an opset without 16-bit activations.
    """
    if options.activation_type is ActivationType.UINT8:
        return {}
    _check_wide_opset(model, options)
    ramps = [node for node in nodes_of(model) if node.op_type == "HardSigmoid"]
    return dict.fromkeys((node.name or "" for node in ramps), NO_WIDE_CLIP)


def _probe(options: QuantizeOptions, samples: SplitSamples, specs: list[InputSpec]) -> Probe | None:
    """Run the original model on one sample, or on random inputs."""
    if samples.calibration:
        sample = samples.calibration[0]
        return make_probe(options.model, sample.name, check_feeds(sample, specs))
    return random_probe(options.model, specs)


def _wanted_lstms(model: ir.Model, options: QuantizeOptions) -> list[ir.Node]:
    chosen = options.dynamic_lstm
    if chosen is False or (chosen is None and options.standard):  # the operator belongs to this runtime
        return []
    every = chosen or options.mode == Mode.DYNAMIC
    selection = selection_of(options)
    found = dynamic_lstms(model, 0 if every else LSTM_WEIGHTS)
    return [node for node in found if selection.refusal(node) is None]


def _check_plan(model: ir.Model, plan: Plan, options: QuantizeOptions, quantized: int) -> None:
    if plan.anchors or _wanted_lstms(model, options):
        return
    open_session(options.model, optimize=False)  # the runtime's own error message comes first
    if quantized:
        why = f"it is quantized already ({quantized} integer nodes)"
    else:
        reasons = [
            f"{node.op_type} '{node.name}': {reason}"
            for node, reason in plan.floats.values()
            if node.op_type in ("Conv", "Gemm", "MatMul")
        ]
        why = reasons[0] if reasons else "it has no Conv, MatMul or Gemm"
    raise NothingToQuantize(f"{options.model}: nothing to quantize: {why}")


def _find_samples(
    options: QuantizeOptions, specs: list[InputSpec], outputs: int
) -> tuple[SplitSamples, Feedback, list[str]]:
    """Open and divide the samples of `--calib`; return warnings about them, too."""
    assert options.calib is not None
    forms, feedback = read_forms(options.preprocess), Feedback()
    found = open_samples(options.calib, specs, forms, options.samples, options.model)
    if outputs > 1 and len(specs) > 1:
        feedback = find_feedback(open_session(options.model), found, options.states)
    elif options.states:
        raise DataError(
            f"--state {options.states[0]}: the model has one input or one output: none of them is a state"
        )
    samples = chosen_sequences(found, feedback, options.samples)
    warnings = list(check_samples(samples, found, specs, forms))
    if len(samples) < min(options.samples, len(found)) or len(found) < options.samples:
        warnings.append(f"{len(samples)} samples found in {options.calib}, {options.samples} asked for")
    parts = split(samples, feedback.starts if feedback.states else None)
    parts = replace(parts, names=[sample.name for sample in found])
    if feedback.states:
        chosen = set(map(id, samples))
        more = chosen_sequences(found, feedback, FURTHER * options.samples)
        parts = replace(parts, further=[sample for sample in more if id(sample) not in chosen])
    if set(map(id, parts.validation)) <= set(map(id, parts.calibration)):
        warnings.append(
            "there are too few samples to hold one out: the result is verified on calibration samples"
        )
    return parts, feedback, warnings


def observable_probes(model: ir.Model, sample: Sample, specs: list[InputSpec]) -> tuple[str, ...]:
    """Return the names of the probes that a run of a sample gives; those of inputs alone where it fails."""
    given = {value.name for value in model.graph.inputs}
    # an input with a default gets no value from the samples
    overridable = set(model.graph.initializers)
    names = [value.name or "" for value in find_probes(model) if value.name not in overridable]
    inner = [name for name in names if name not in given]
    if inner:
        try:
            run(open_exposed(expose(model, inner).model), check_feeds(sample, specs), sample.name)
        except ModelError:
            return tuple(name for name in names if name in given)
    return tuple(names)


def _unobservable(
    model: ir.Model, plan: Plan, sample: Sample, specs: list[InputSpec]
) -> dict[str, FloatReason]:
    """Run the model to find the nodes in Loops and Scans whose values change shape between iterations."""
    main = model.graph
    inside = {name for name, planned in plan.nodes.items() if planned.node.graph is not main}
    if not inside:
        return {}
    given = {value.name for value in main.inputs}
    exposed = expose(model, [name for name in plan.sources() if name not in given])
    stacked = {name for name, (_, levels) in exposed.outputs.items() if levels}
    feeds = check_feeds(sample, specs)
    try:
        run(open_exposed(exposed.model), feeds, sample.name)
    except ModelError:
        return {
            name: CHANGING_SHAPES
            for name in sorted(inside, key=list(plan.nodes).index)
            if stacked & _values_around(plan, name)
        }
    return {}


def _values_around(plan: Plan, name: str) -> set[str | None]:
    planned = plan.nodes[name]
    return {value.name for value in (*planned.node.inputs, planned.output) if value is not None}
