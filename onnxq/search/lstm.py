"""LSTMs: their weights as int8, and which of them hold what they compute."""

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
from onnxq.inputs import Job
from onnxq.options import Effort, Target, Technique
from onnxq.quantization.weights import round_to_nearest
from onnxq.search.references import References
from onnxq.techniques.arithmetic import symmetric_scale
from onnxq.techniques.gptq import gptq_round, gptq_search
from onnxq.techniques.input_split import WIDER, Split, column_steps, digits, split_weight
from onnxq.techniques.lstm_gradients import gate_gradients, row_gradients
from onnxq.techniques.saturation import pair_safe_scales, round_pair_safe
from onnxq.types import Floats, Integers

HOLDS_DB = 22.0
"""Least SQNR of the outputs with the LSTMs' weights in int8: of the noise that 20 dB allow, two fifths are left to the rest."""
SAMPLES, DRAWS = 48, 4
"""Calibration samples from which the moments of their inputs are taken, and gradients of each where an input is divided."""
FELT_MEMORY = 16 << 20
"""Bytes of what the outputs feel of a direction's weights: rows of more share it."""
TOGETHER = 4
"""Of a batch, so many are looked at."""
ROWS = 8.0
"""Times as many rows of these as other layers take: mean squares of wide inputs need them."""
ROW_SCALES = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Multiples of a row's scale that are tried for an input that is divided."""
SHARED_SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The same for one scale of all of R, which is that of a few large weights: most gain by cutting these off."""
SHARED_DB = 0.5
"""What that may cost the outputs, of all LSTMs together: the kernel multiplies 4 hidden scales anew at each step, a seventh of its time."""
TOO_WIDE = "its inputs have a range that 8 bits a step cannot hold"


def quantized_lstms(job: Job, references: References | None) -> tuple[dict[str, LstmForm], dict[str, str]]:
    """The LSTMs whose int8 weights leave the outputs as they are, by name, and why others stay float.

    Those with the most weights come first: each has to leave the outputs within HOLDS_DB of float together with those before it.
    Where its input does not allow that, it is divided. Without references nothing is measured, and all are taken.
    """
    nodes = sorted(job.wanted_lstms(), key=lambda node: -lstm_weights(node))
    moments = _moments(job, nodes)
    safe = _pair_safe(job)
    forms: dict[str, LstmForm] = {}
    refused: dict[str, str] = {}
    for node in nodes:
        name = node.name or ""
        known = moments.get(name, (None, None))
        form, found = lstm_form(node, known, pair_safe=safe), math.inf
        if references is not None:
            found = _sqnr_db(job.model, forms | {name: form}, references)
            if found < HOLDS_DB and known[0] is not None and known[0].rows and _may_divide(job, known[0]):
                divided = _divided(job, form, node, known[0])
                reached = _sqnr_db(job.model, forms | {name: divided}, references)
                found, form = max((found, form), (reached, divided), key=lambda each: each[0])
        if found >= HOLDS_DB:
            forms[name] = form
        else:
            refused[name] = TOO_WIDE
    if references is not None and forms:
        _share_scales(job, forms, moments, references)
    return forms, refused


def _pair_safe(job: Job) -> bool:
    return job.options.target is Target.PORTABLE and Technique.NO_SATURATION not in job.options.without


def _may_divide(job: Job, known: Moments) -> bool:
    if 4 * (2 * known.low.shape[-1]) ** 2 > FELT_MEMORY:
        return False
    unwanted = Technique.SPLIT in job.options.without or Technique.GPTQ in job.options.without
    return not unwanted and opset_of(job.model) >= DIVIDING_OPSET


def _share_scales(
    job: Job,
    forms: dict[str, LstmForm],
    moments: Mapping[str, tuple[Moments, Moments]],
    references: References,
) -> None:
    """Give all rows of an R one scale where the outputs hardly miss it, in place."""
    least = _sqnr_db(job.model, forms, references) - SHARED_DB
    nodes = {node.name: node for node in job.wanted_lstms()}
    for name, form in list(forms.items()):
        second, weight = moments[name][1].raw() if name in moments else None, constant(nodes[name].inputs[2])
        if second is None or weight is None:
            continue
        largest = symmetric_scale(np.abs(weight).max(axis=(1, 2)))
        scales = np.repeat(largest[:, None], weight.shape[1], axis=1)
        stored, found = gptq_search(
            weight, second, scales, SHARED_SCALES, pair_safe=_pair_safe(job), shared=True
        )
        shared = replace(
            form, stored=(form.stored[0], stored), scales=(form.scales[0], np.ascontiguousarray(found[:, 0]))
        )
        if _sqnr_db(job.model, forms | {name: shared}, references) >= least:
            forms[name] = shared


def _sqnr_db(model: ir.Model, forms: Mapping[str, LstmForm], references: References) -> float:
    together = model.clone()
    quantize_lstms(together, forms)
    return references.inner_judged(together).sqnr_db


def _moments(job: Job, nodes: Sequence[ir.Node]) -> dict[str, tuple[Moments, Moments]]:
    """Moments of what LSTMs multiply W and R with, their input and their own output, by name."""
    samples: Sequence[Sample] = spread(job.calibration, SAMPLES)
    if not nodes or not samples:
        return {}
    names = Names(job.model)
    inputs = {node.name or "": _inputs(node, names) for node in nodes}
    second = job.options.effort is not Effort.FAST and Technique.GPTQ not in job.options.without
    found = collect_moments(
        job.model, [layer for pair in inputs.values() for layer in pair], samples, second=second, rows=ROWS
    )
    return {name: (found[x], found[h]) for name, (x, h) in inputs.items()}


def _inputs(node: ir.Node, names: Names) -> tuple[LayerInput, LayerInput]:
    x, output = node.inputs[0], node.outputs[0]
    w, r = (sizes(value) for value in node.inputs[1:3])
    assert x is not None
    assert w is not None
    assert r is not None
    if not output.name:  # left out where only the last state is used
        output.name, output.type = names.fresh(f"{node.name}_Y"), ir.TensorType(ir.DataType.FLOAT)
    return LayerInput(x.name or "", 1, w[-1]), LayerInput(output.name, r[0], r[-1])


def lstm_form(node: ir.Node, known: tuple[Moments | None, Moments | None], *, pair_safe: bool) -> LstmForm:
    """An LSTM's weights as integers, by the moments of what W and R are multiplied with."""
    arrays = [constant(value) for value in node.inputs[1:3]]
    (w, w_scales), (r, r_scales) = (
        _rounded(weight, moments, pair_safe=pair_safe)
        for weight, moments in zip(arrays, known, strict=True)
        if weight is not None
    )
    return LstmForm((w, r), (w_scales, r_scales))


def _divided(job: Job, form: LstmForm, node: ir.Node, known: Moments) -> LstmForm:
    """The same with the input divided, its weights rounded by what the outputs feel of it."""
    weight = constant(node.inputs[1])
    assert weight is not None
    steps, signed = column_steps(weight, known.power()[0]), bool(known.low.min() < 0)
    wide = split_weight(weight, steps)
    stored, scales = [], []
    for rows, second in zip(wide, _felt(job, node, steps, signed=signed), strict=True):
        grouped = rows.reshape(len(second), -1, rows.shape[-1])
        plain = symmetric_scale(np.abs(grouped).max(axis=-1))
        rounded, found = gptq_search(grouped, second, plain, ROW_SCALES, pair_safe=_pair_safe(job))
        stored.append(np.pad(rounded.reshape(rows.shape), ((0, 0), (0, 2 * signed))))
        scales.append((found.reshape(-1) / (1 if signed else WIDER)).astype(np.float32))
    split = Split(steps, signed, np.stack(stored), np.stack(scales))
    return LstmForm((split.stored, form.stored[1]), (split.scales, form.scales[1]), split)


def _felt(job: Job, node: ir.Node, steps: Floats, *, signed: bool) -> list[Floats]:
    """What the outputs feel of errors in the digits' weights, [groups of rows, 2 K, 2 K] for each direction (see `recurrence`)."""
    w, r, b = (constant(input_at(node, index)) for index in (1, 2, 3))
    assert w is not None
    assert r is not None
    x = node.inputs[0]
    assert x is not None
    size = 2 * len(steps)
    groups = next(
        n for n in range(w.shape[1], 0, -1) if w.shape[1] % n == 0 and 4 * n * size**2 <= FELT_MEMORY
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

    observe(job.model, [x.name or ""], spread(job.calibration, SAMPLES), take, add, "LSTM")
    return sums


def _cropped(values: Floats, gates: int) -> Floats:
    """As much of an input [seq, batch, K] as fits into memory with its gradients: a few of a batch, the first steps of these."""
    few = values[:, :TOGETHER]
    return few[: max(1, LAYER_MEMORY // (4 * DRAWS * few.shape[1] * gates))]


def _rounded(weight: Floats, moments: Moments | None, *, pair_safe: bool) -> tuple[Integers, Floats]:
    """W or R [directions, 4 hidden, K] as int8 with scales [directions, 4 hidden], by the moments of what it is multiplied with."""
    second = moments.raw() if moments is not None else None
    stored, scales = [], []
    for direction, rows in enumerate(weight):
        step = symmetric_scale(np.abs(rows).max(axis=1))
        step = pair_safe_scales(rows, step) if pair_safe else step
        if second is None:
            stored.append(round_pair_safe(rows, step) if pair_safe else round_to_nearest(rows, step))
        else:
            group = second[
                min(direction, len(second) - 1)
            ]  # all directions share an input, each has its own output
            stored.append(gptq_round(rows[None], group[None].copy(), step[None], pair_safe=pair_safe)[0])
        scales.append(step)
    return np.stack(stored), np.stack(scales)
