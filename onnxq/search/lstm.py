"""LSTMs with int8 weights: rounding, split inputs, and the choice of those that keep the outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxq.calibration.batches import Part, observe
from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LAYER_MEMORY, LayerInput, Moments
from onnxq.data.sample import Sample
from onnxq.data.samples import spread
from onnxq.formats.lstm import DIVIDING_OPSET, LstmForm, lstm_weights, quantize_lstms
from onnxq.graph.edit import Names, attribute, constant, input_at, sizes
from onnxq.graph.shapes import opset_of
from onnxq.options import Effort, Target, Technique
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.quantization.weights import WeightOptions, round_to_nearest
from onnxq.search.inputs import Inputs
from onnxq.search.references import References
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.gptq import gptq_search
from onnxq.techniques.input_split import WIDER, Split, column_steps, digits, split_weight
from onnxq.techniques.lstm_gradients import gate_gradients, row_gradients
from onnxq.techniques.saturation import pair_safe_scales, round_pair_safe
from onnxq.transforms.registry import weight_techniques, with_techniques
from onnxq.types import Floats, Integers

SAMPLES, DRAWS = 48, 4
"""Calibration samples for the moments of their inputs; random gradients per sample where an input is split."""
HESSIAN_MEMORY = 16 << 20
"""Bytes of the Hessians of one direction; where they need more, rows share one."""
TOGETHER = 4
"""Sequences of a batch that are used."""
ROWS = 8.0
"""Rows in units of what other layers need: mean squares of wide inputs take more."""
ROW_SCALES = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Multiples of a row's scale to try for a split input."""
SHARED_SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The same for one scale of all of R: most gain where it clips a few large weights."""
TOO_WIDE = FloatReason(Cause.ACCURACY, "its inputs have a range that 8 bits a step cannot hold")


def quantized_lstms(
    inputs: Inputs, references: References | None
) -> tuple[dict[str, LstmForm], dict[str, FloatReason]]:
    """Quantize the weights of LSTMs that leave the outputs close to float; give reasons for the others.

    LSTMs with the most weights come first. Each has to keep the outputs within `lstm_db` of float together with those before
    it. Where the range of its input does not allow that, the input is split. Without references nothing is measured, and
    all LSTMs are quantized.
    """
    nodes = sorted(inputs.wanted_lstms(), key=lambda node: -lstm_weights(node))
    moments = _moments(inputs, nodes)
    options, least = _weight_options(inputs), inputs.settings.lstm_db
    forms: dict[str, LstmForm] = {}
    refused: dict[str, FloatReason] = {}
    for node in nodes:
        name = node.name or ""
        known = moments.get(name, (None, None))
        form, found = lstm_form(node, known, options), math.inf
        if references is not None:
            found = _sqnr_db(inputs.model, forms | {name: form}, references)
            if found < least and known[0] is not None and known[0].rows and _may_split(inputs, known[0]):
                wide = _with_split_input(inputs, form, node, known[0])
                reached = _sqnr_db(inputs.model, forms | {name: wide}, references)
                found, form = max((found, form), (reached, wide), key=lambda each: each[0])
        if found >= least:
            forms[name] = form
        else:
            refused[name] = TOO_WIDE
    if references is not None and forms and Technique.GPTQ not in inputs.options.without:
        forms = _with_shared_scales(inputs, forms, moments, references)
    return forms, refused


def _weight_options(inputs: Inputs) -> WeightOptions:
    without = inputs.options.without
    safe = Technique.NO_SATURATION not in without
    plain = WeightOptions(target=inputs.options.target if safe else Target.VNNI)
    return with_techniques(plain, weight_techniques(without))


def _pair_safe(inputs: Inputs) -> bool:
    return _weight_options(inputs).target is Target.PORTABLE


def _may_split(inputs: Inputs, known: Moments) -> bool:
    if 4 * (2 * known.low.shape[-1]) ** 2 > HESSIAN_MEMORY:
        return False
    unwanted = Technique.SPLIT in inputs.options.without or Technique.GPTQ in inputs.options.without
    return not unwanted and opset_of(inputs.model) >= DIVIDING_OPSET


def _with_shared_scales(
    inputs: Inputs,
    forms: Mapping[str, LstmForm],
    moments: Mapping[str, tuple[Moments, Moments]],
    references: References,
) -> dict[str, LstmForm]:
    """Give all rows of an R one scale where the outputs hardly change by it."""
    found = dict(forms)
    least = _sqnr_db(inputs.model, found, references) - inputs.settings.shared_scale_db
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
        if _sqnr_db(inputs.model, found | {name: shared}, references) >= least:
            found[name] = shared
    return found


def _sqnr_db(model: ir.Model, forms: Mapping[str, LstmForm], references: References) -> float:
    together = model.clone()
    quantize_lstms(together, forms)
    return references.inner_judged(together).sqnr_db


def _moments(inputs: Inputs, nodes: Sequence[ir.Node]) -> dict[str, tuple[Moments, Moments]]:
    """Collect the moments of the operands of W and R, by name: the LSTM's input and its own output."""
    samples: Sequence[Sample] = spread(inputs.samples.calibration, SAMPLES)
    if not nodes or not samples:
        return {}
    names = Names(inputs.model)
    operands = {node.name or "": _operands(node, names) for node in nodes}
    options = _weight_options(inputs)
    wanted = options.round is not None and options.needs_moments
    second = wanted and inputs.options.effort is not Effort.FAST
    found = collect_moments(
        inputs.model,
        [layer for pair in operands.values() for layer in pair],
        samples,
        second=second,
        rows=ROWS,
    )
    return {name: (found[x], found[h]) for name, (x, h) in operands.items()}


def _operands(node: ir.Node, names: Names) -> tuple[LayerInput, LayerInput]:
    x, output = node.inputs[0], node.outputs[0]
    w, r = (sizes(value) for value in node.inputs[1:3])
    assert x is not None
    assert w is not None
    assert r is not None
    if not output.name:  # left out where only the last state is used
        output.name, output.type = names.fresh(f"{node.name}_Y"), ir.TensorType(ir.DataType.FLOAT)
    return LayerInput(x.name or "", 1, w[-1]), LayerInput(output.name, r[0], r[-1])


def lstm_form(
    node: ir.Node, known: tuple[Moments | None, Moments | None], options: WeightOptions
) -> LstmForm:
    """Round an LSTM's weights.

    Args:
        node: the LSTM.
        known: moments of the operands of W and R, where they are known.
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
    """Gauss-Newton Hessians of the outputs with respect to W of the split input.

    One [groups of rows, 2 K, 2 K] per direction; see `lstm_gradients`.
    """
    w, r, b = (constant(input_at(node, index)) for index in (1, 2, 3))
    assert w is not None
    assert r is not None
    x = node.inputs[0]
    assert x is not None
    size = 2 * len(steps)
    groups = next(
        n for n in range(w.shape[1], 0, -1) if w.shape[1] % n == 0 and 4 * n * size**2 <= HESSIAN_MEMORY
    )
    sums = [np.zeros((groups, size, size), np.float32) for _ in w]
    reverse = attribute(node, "direction", "forward") == "reverse"

    def take(part: Part, position: int) -> list[Floats]:
        values, found = _cropped(np.asarray(part.values[x.name or ""], np.float32), w.shape[1]), []
        for direction in range(len(w)):
            turned = values[::-1] if reverse or direction == 1 else values
            gates = gate_gradients(
                turned, (w[direction], r[direction], b[direction] if b is not None else None), DRAWS, position
            )
            found.append(row_gradients(gates, digits(turned, steps, signed=signed)))
        return found

    def add(found: list[Floats]) -> None:
        for total, each in zip(sums, found, strict=True):
            rows = each.reshape(len(each), groups, -1, size).swapaxes(0, 1).reshape(groups, -1, size)
            total += rows.swapaxes(1, 2) @ rows

    observe(inputs.model, [x.name or ""], spread(inputs.samples.calibration, SAMPLES), take, add, "LSTM")
    return sums


def _cropped(values: Floats, gates: int) -> Floats:
    """Crop an input [seq, batch, K] to what fits into memory with its gradients: a few sequences, their first steps."""
    few = values[:, :TOGETHER]
    return few[: max(1, LAYER_MEMORY // (4 * DRAWS * few.shape[1] * gates))]


def _rounded(weight: Floats, moments: Moments | None, options: WeightOptions) -> tuple[Integers, Floats]:
    """Round W or R [directions, 4 hidden, K] to int8, with scales [directions, 4 hidden].

    A technique that needs second moments of the operand gives way to rounding to nearest without them.
    """
    pair_safe = options.target is Target.PORTABLE
    second = moments.raw() if moments is not None else None
    stored, scales = [], []
    for direction, rows in enumerate(weight):
        step = symmetric_scale(np.abs(rows).max(axis=1))
        step = pair_safe_scales(rows, step) if pair_safe else step
        unknown = second is None and options.needs_moments
        if options.round is None or unknown:
            stored.append(round_pair_safe(rows, step) if pair_safe else round_to_nearest(rows, step))
        else:  # all directions share an input; each has its own output
            group = None if second is None else second[min(direction, len(second) - 1)][None].copy()
            stored.append(options.round(rows[None], group, step[None], pair_safe=pair_safe)[0])
        scales.append(step)
    return np.stack(stored), np.stack(scales)
