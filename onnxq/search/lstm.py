"""LSTMs with int8 weights: rounding, split inputs, and the choice of LSTMs that keep the outputs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.batches import Measure, Part, Pass, observe
from onnxq.calibration.collect import MomentOptions, collect_moments
from onnxq.calibration.moments import LAYER_MEMORY, LayerInput, Moments
from onnxq.data.sample import Sample
from onnxq.data.samples import spread
from onnxq.formats.lstm import DIVIDING_OPSET, LstmForm, lstm_weights, quantize_lstms
from onnxq.graph.edit import Names, attribute, constant, input_at, sizes
from onnxq.graph.shapes import opset_of
from onnxq.options import Effort, Technique
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.quantization.weights import WeightOptions, round_to_nearest
from onnxq.search.inputs import Inputs
from onnxq.search.references import References
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.gptq import gptq_search
from onnxq.techniques.input_split import WIDER, Split, column_steps, digits, split_weight
from onnxq.techniques.lstm_gradients import gate_gradients, row_gradients
from onnxq.techniques.saturation import pair_safe_scales, round_pair_safe
from onnxq.transforms.registry import weight_options, weight_techniques
from onnxq.types import INT8, Floats, Integers

SAMPLES, DRAWS = 48, 4
"""Calibration samples for the moments of the operands; random gradients per sample for a split input."""
HESSIAN_MEMORY = 16 << 20
"""Bytes of the Hessians of one direction, at most; where they need more, several rows share one Hessian."""
MAX_SEQUENCES = 4
"""Number of sequences of a batch that are used, at most."""
ROWS = 8.0
"""Rows as a multiple of the rows that other layers need: mean squares of wide inputs need more."""
ROW_SCALES = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Multiples of a row's scale to try for a split input."""
SHARED_SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Multiples of one scale for all of R: the best one often saturates a few large weights."""
TOO_WIDE = FloatReason(Cause.ACCURACY, "the range of its inputs is too wide for 8 bits at each time step")

OperandMoments = tuple[Moments, Moments]
"""Moments of the operands of W and R."""


def quantized_lstms(
    inputs: Inputs, references: References | None
) -> tuple[dict[str, LstmForm], dict[str, FloatReason]]:
    """Quantize the weights of LSTMs where the outputs stay close to float.

    LSTMs with the most weights come first. With each further LSTM the outputs have to keep `min_lstm_db`. If
    the range of an LSTM's input is too wide for that, the input is split into a coarse and a fine 8-bit
    part. Without references nothing is measured, and all LSTMs are quantized.

    Returns:
        The quantized LSTMs by name, and the reasons of those that stay float.
    """
    nodes = sorted(inputs.wanted_lstms(), key=lambda node: -lstm_weights(node))
    moments = _moments(inputs, nodes)
    forms: dict[str, LstmForm] = {}
    refused: dict[str, FloatReason] = {}
    for node in nodes:
        name = node.name or ""
        form, sqnr_db = _best_form(inputs, node, moments.get(name), forms, references)
        if sqnr_db >= inputs.settings.min_lstm_db:
            forms[name] = form
        else:
            refused[name] = TOO_WIDE
    if references is not None and forms and Technique.GPTQ not in inputs.options.without:
        forms = _with_shared_scales(inputs, forms, moments, references)
    return forms, refused


def _best_form(
    inputs: Inputs,
    node: ir.Node,
    known: OperandMoments | None,
    others: Mapping[str, LstmForm],
    references: References | None,
) -> tuple[LstmForm, float]:
    """Return an LSTM's form, with a split input where that is needed, and the SQNR of the outputs in dB."""
    name = node.name or ""
    form = lstm_form(node, known or (None, None), _weight_options(inputs))
    if references is None:
        return form, math.inf
    sqnr_db = _sqnr_db(inputs.model, {**others, name: form}, references)
    if sqnr_db >= inputs.settings.min_lstm_db or known is None:
        return form, sqnr_db
    operand, _ = known
    if not operand.rows or not _may_split(inputs, operand):
        return form, sqnr_db
    split = _with_split_input(inputs, form, node, operand)
    split_db = _sqnr_db(inputs.model, {**others, name: split}, references)
    return (split, split_db) if split_db > sqnr_db else (form, sqnr_db)


def _weight_options(inputs: Inputs) -> WeightOptions:
    return weight_options(inputs.options, inputs.target.saturates, weight_techniques(inputs.options.without))


def _pair_safe(inputs: Inputs) -> bool:
    return _weight_options(inputs).saturates


def _may_split(inputs: Inputs, operand: Moments) -> bool:
    """Tell whether the user, the memory and the model's opset allow a split input."""
    if 4 * (2 * operand.low.shape[-1]) ** 2 > HESSIAN_MEMORY:
        return False
    unwanted = Technique.SPLIT in inputs.options.without or Technique.GPTQ in inputs.options.without
    return not unwanted and opset_of(inputs.model) >= DIVIDING_OPSET


def _with_shared_scales(
    inputs: Inputs,
    forms: Mapping[str, LstmForm],
    moments: Mapping[str, OperandMoments],
    references: References,
) -> dict[str, LstmForm]:
    """Give all rows of an R one scale where the outputs hardly change."""
    result = dict(forms)
    least_db = _sqnr_db(inputs.model, result, references) - inputs.settings.max_shared_scale_loss_db
    nodes = {node.name: node for node in inputs.wanted_lstms()}
    for name, form in forms.items():
        second = moments[name][1].raw() if name in moments else None
        weight = constant(nodes[name].inputs[2])
        if second is None or weight is None:
            continue
        largest = symmetric_scale(np.abs(weight).max(axis=(1, 2)))
        scales = np.repeat(largest[:, None], weight.shape[1], axis=1)
        stored, best = gptq_search(
            weight, second, scales, SHARED_SCALES, pair_safe=_pair_safe(inputs), shared=True
        )
        shared = replace(
            form,
            stored=(form.stored[0], stored),
            scales=(form.scales[0], np.ascontiguousarray(best[:, 0])),
        )
        if _sqnr_db(inputs.model, result | {name: shared}, references) >= least_db:
            result[name] = shared
    return result


def _sqnr_db(model: ir.Model, forms: Mapping[str, LstmForm], references: References) -> float:
    """Measure the SQNR of the outputs with these LSTMs, dB."""
    quantized = model.clone()
    quantize_lstms(quantized, forms)
    return references.measure_before_softmax(quantized).sqnr_db


def _moments(inputs: Inputs, nodes: Sequence[ir.Node]) -> dict[str, OperandMoments]:
    """Collect the moments of the operands of W and R, by name: the LSTM's input and its own output."""
    samples: Sequence[Sample] = spread(inputs.samples.calibration, SAMPLES)
    if not nodes or not samples:
        return {}
    names = Names(inputs.model)
    operands = {node.name or "": _operands(node, names) for node in nodes}
    options = _weight_options(inputs)
    wanted = options.round is not None and options.needs_moments
    second = wanted and inputs.options.effort is not Effort.FAST
    moments = collect_moments(
        inputs.model,
        [layer for pair in operands.values() for layer in pair],
        samples,
        MomentOptions(second, rows=ROWS),
        inputs.executor,
    )
    return {name: (moments[x], moments[h]) for name, (x, h) in operands.items()}


def _operands(node: ir.Node, names: Names) -> tuple[LayerInput, LayerInput]:
    x, output = node.inputs[0], node.outputs[0]
    w, r = (sizes(value) for value in node.inputs[1:3])
    assert x is not None
    assert w is not None
    assert r is not None
    if not output.name:  # missing where the model uses the last state alone
        output.name, output.type = names.fresh(f"{node.name}_Y"), ir.TensorType(ir.DataType.FLOAT)
    return LayerInput(x.name or "", 1, w[-1]), LayerInput(output.name, r[0], r[-1])


def lstm_form(
    node: ir.Node, known: tuple[Moments | None, Moments | None], options: WeightOptions
) -> LstmForm:
    """Round an LSTM's weights.

    Args:
        node: the LSTM.
        known: moments of the operands of W and R; None where they are unknown.
        options: rounding technique and target.
    """
    arrays = [constant(value) for value in node.inputs[1:3]]
    (w, w_scales), (r, r_scales) = (
        _rounded(weight, moments, options)
        for weight, moments in zip(arrays, known, strict=True)
        if weight is not None
    )
    return LstmForm((w, r), (w_scales, r_scales))


def _with_split_input(inputs: Inputs, form: LstmForm, node: ir.Node, known: Moments) -> LstmForm:
    """Return the form with its input split, W rounded by the Gauss-Newton Hessians of the outputs."""
    weight = constant(node.inputs[1])
    assert weight is not None
    steps, signed = column_steps(weight, known.power()[0]), bool(known.low.min() < 0)
    wide = split_weight(weight, steps)
    stored, scales = [], []
    for rows, second in zip(wide, _hessians(inputs, node, steps, signed=signed), strict=True):
        grouped = rows.reshape(len(second), -1, rows.shape[-1])
        plain = symmetric_scale(np.abs(grouped).max(axis=-1))
        rounded, found = gptq_search(grouped, second, plain, ROW_SCALES, pair_safe=_pair_safe(inputs))
        stored.append(np.pad(rounded.reshape(rows.shape), ((0, 0), (0, 2 * signed))))
        scales.append((found.reshape(-1) / (1 if signed else WIDER)).astype(np.float32))
    split = Split(steps, signed, np.stack(stored), np.stack(scales))
    return LstmForm((split.stored, form.stored[1]), (split.scales, form.scales[1]), split)


def _hessians(inputs: Inputs, node: ir.Node, steps: Floats, *, signed: bool) -> list[Floats]:
    """Return the Gauss-Newton Hessians of the outputs with respect to W of the split input.

    Each direction has one, [groups of rows, 2 K, 2 K]; see `lstm_gradients`.
    """
    w, r, b = (constant(input_at(node, index)) for index in (1, 2, 3))
    assert w is not None
    assert r is not None
    x = node.inputs[0]
    assert x is not None
    reverse = attribute(node, "direction", "forward") == "reverse"
    gradients = _Gradients(x.name or "", (w, r, b), steps, signed, reverse)
    size = 2 * len(steps)
    groups = next(
        n for n in range(w.shape[1], 0, -1) if w.shape[1] % n == 0 and 4 * n * size**2 <= HESSIAN_MEMORY
    )
    sums = [np.zeros((groups, size, size), np.float32) for _ in w]

    def add(found: list[Floats]) -> None:
        for total, each in zip(sums, found, strict=True):
            rows = each.reshape(len(each), groups, -1, size).swapaxes(0, 1).reshape(groups, -1, size)
            total += rows.swapaxes(1, 2) @ rows

    samples = spread(inputs.samples.calibration, SAMPLES)
    observe(inputs.model, Pass(samples, "LSTM", inputs.executor), gradients, add)
    return sums


@dataclass(frozen=True, eq=False)
class _Gradients(Measure[list[Floats]]):
    """Gradients of an LSTM's outputs with respect to the rows of W, for each direction.

    tensor   name of the LSTM's input
    weights  W, R and B; None without B
    steps    steps of the split input
    signed   whether the input is
    reverse  whether its only direction is
    """

    tensor: str
    weights: tuple[Floats, Floats, Floats | None]
    steps: Floats
    signed: bool
    reverse: bool

    def needs(self) -> Mapping[Hashable, Sequence[str]]:
        return {self.tensor: (self.tensor,)}

    def __call__(self, part: Part, position: int) -> list[Floats]:
        (w, r, b), found = self.weights, []
        values = _cropped(np.asarray(part.values[self.tensor], np.float32), w.shape[1])
        for direction in range(len(w)):
            turned = values[::-1] if self.reverse or direction == 1 else values
            weights = w[direction], r[direction], b[direction] if b is not None else None
            gates = gate_gradients(turned, weights, DRAWS, position)
            found.append(row_gradients(gates, digits(turned, self.steps, signed=self.signed)))
        return found


def _cropped(values: Floats, gates: int) -> Floats:
    """Crop an input [seq, batch, K] to a few sequences and time steps, to bound its gradients' memory."""
    few = values[:, :MAX_SEQUENCES]
    return few[: max(1, LAYER_MEMORY // (4 * DRAWS * few.shape[1] * gates))]


def _rounded(weight: Floats, moments: Moments | None, options: WeightOptions) -> tuple[Integers, Floats]:
    """Round W or R [directions, 4 hidden, K] to int8, with scales [directions, 4 hidden].

    The rounding technique uses the second moments of the operand; without them weights are rounded to
    nearest.
    """
    pair_safe = options.saturates
    second = moments.raw() if moments is not None else None
    stored, scales = [], []
    for direction, rows in enumerate(weight):
        scale = symmetric_scale(np.abs(rows).max(axis=1))
        scale = pair_safe_scales(rows, scale) if pair_safe else scale
        unknown = second is None and options.needs_moments
        if options.round is None or unknown:
            stored.append(round_pair_safe(rows, scale) if pair_safe else round_to_nearest(rows, scale))
        else:  # the directions share the input; each has its own output
            group = None if second is None else second[min(direction, len(second) - 1)][None].copy()
            stored.append(
                options.round(rows[None], group, scale[None], pair_safe=pair_safe, limit=INT8.high)[0]
            )
        scales.append(scale)
    return np.stack(stored), np.stack(scales)
