"""LSTMs: their weights as int8, and which of them hold what they compute."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxq.arithmetic import symmetric_scale
from onnxq.calibration.collect import collect_moments
from onnxq.calibration.moments import LayerInput, Moments
from onnxq.data.samples import spread
from onnxq.data.source import Sample
from onnxq.formats.lstm import LstmForm, lstm_weights, quantize_lstms
from onnxq.job import Job
from onnxq.model.edit import Names, constant, sizes
from onnxq.options import Effort, Target, Technique
from onnxq.references import References
from onnxq.schemes import Floats, Integers
from onnxq.techniques.gptq import gptq_round
from onnxq.techniques.saturation import pair_safe_scales, round_pair_safe
from onnxq.techniques.split import PIECES, split_input
from onnxq.weights import round_to_nearest

HOLDS_DB = 25.0
"""Least SQNR of the outputs with the LSTMs' weights in int8."""
SAMPLES = 48
"""Calibration samples from which the moments of their inputs are taken."""
PIECE_DB = 1.0
"""What one more piece of an input of too wide a range has to gain: its columns take a twentieth of the LSTM's time."""
TOO_WIDE = "its inputs have a range that 8 bits a step cannot hold"


def quantized_lstms(job: Job, references: References | None) -> tuple[dict[str, LstmForm], dict[str, str]]:
    """The LSTMs whose int8 weights leave the outputs as they are, by name, and why others stay float.

    Those with the most weights come first: each has to leave the outputs within HOLDS_DB of float together with those before it.
    Where its input does not allow that, it is divided, into as many pieces as each gain something. Without references nothing
    is measured, and all are taken.
    """
    nodes = sorted(job.wanted_lstms(), key=lambda node: -lstm_weights(node))
    moments = _moments(job, nodes)
    safe = job.options.target is Target.PORTABLE and Technique.NO_SATURATION not in job.options.without
    forms: dict[str, LstmForm] = {}
    refused: dict[str, str] = {}
    for node in nodes:
        name = node.name or ""
        known = moments.get(name, (None, None))
        form, found = lstm_form(node, known, pair_safe=safe), math.inf
        if references is not None:
            found = _sqnr_db(job.model, forms | {name: form}, references)
            if found < HOLDS_DB and known[0] is not None and known[0].rows and Technique.SPLIT not in job.options.without:
                for pieces in PIECES:
                    divided = _divided(form, node, known[0], pieces)
                    reached = _sqnr_db(job.model, forms | {name: divided}, references)
                    if reached >= found + PIECE_DB:
                        found, form = reached, divided
        if found >= HOLDS_DB:
            forms[name] = form
        else:
            refused[name] = TOO_WIDE
    return forms, refused


def _sqnr_db(model: ir.Model, forms: Mapping[str, LstmForm], references: References) -> float:
    together = model.clone()
    quantize_lstms(together, forms)
    return references.inner_sqnr_db(together, len(references.feeds))


def _moments(job: Job, nodes: Sequence[ir.Node]) -> dict[str, tuple[Moments, Moments]]:
    """Moments of what LSTMs multiply W and R with, their input and their own output, by name."""
    samples: Sequence[Sample] = spread(job.calibration, SAMPLES)
    if not nodes or not samples:
        return {}
    names = Names(job.model)
    inputs = {node.name or "": _inputs(node, names) for node in nodes}
    second = job.options.effort is not Effort.FAST and Technique.GPTQ not in job.options.without
    found = collect_moments(job.model, [layer for pair in inputs.values() for layer in pair], samples, second=second)
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
        _rounded(weight, moments, pair_safe=pair_safe) for weight, moments in zip(arrays, known, strict=True) if weight is not None
    )
    return LstmForm((w, r), (w_scales, r_scales))


def _divided(form: LstmForm, node: ir.Node, known: Moments, pieces: int) -> LstmForm:
    """The same with the input divided into so many pieces."""
    weight = constant(node.inputs[1])
    assert weight is not None
    split = split_input(weight, np.maximum(-known.low, known.high)[0], pieces)
    return LstmForm((split.stored, form.stored[1]), (split.scales, form.scales[1]), split)


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
            group = second[min(direction, len(second) - 1)]  # all directions share an input, each has its own output
            stored.append(gptq_round(rows[None], group[None].copy(), step[None], pair_safe=pair_safe)[0])
        scales.append(step)
    return np.stack(stored), np.stack(scales)
