"""Which of smoothing's multiplications are worth their time: those that the outputs do not miss are taken out again.

What a smoothed activation gains in its own layer does not tell. So each multiplication is left out alone, and the noise that
this puts on the outputs is measured; noise powers add up well enough to leave out many at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from onnxq.calibration.moments import LayerInput
from onnxq.graph.edit import tidy
from onnxq.inputs import Job
from onnxq.options import Technique
from onnxq.quantization.weights import layer_inputs
from onnxq.search.candidates import QUICK, Candidates, Choice
from onnxq.search.mixed_precision import grouped, noise_power

LOSS_DB = 0.3
"""What all that is left out may cost at the outputs."""

Links = frozenset[LayerInput]
Judge = Callable[[Links], float]
"""SQNR in dB of the outputs without some of the multiplications."""


def with_fewer_divisions(job: Job, candidates: Candidates, choice: Choice) -> tuple[Candidates, Choice]:
    """A smoothed form with the multiplications that count; what is no smoothed form stays as it is."""
    references, before, kept = candidates.references, choice.kept.sqnr_db, choice.kept
    if Technique.SMOOTHING not in candidates.variant.techniques or references is None or before is None:
        return candidates, choice
    few = range(min(QUICK, len(references.samples)))
    plain = candidates.others[0].variant
    layers, smoothed = layer_inputs(plain.plan), layer_inputs(candidates.variant.plan)
    takers: dict[LayerInput, list[str]] = {}
    for name, layer in layers.items():
        if smoothed[name] != layer:
            takers.setdefault(layer, []).append(name)

    def without(links: Links) -> Candidates:
        model = _undivided(
            candidates.variant.model, plain.model, [name for layer in links for name in takers[layer]]
        )
        return candidates.of(replace(candidates.variant, model=model, plan=job.replan(model)))

    def quick(links: Links) -> float:
        form = without(links)
        return references.inner_judged(form.model(form.variant.plan, kept), few).sqnr_db

    judged: dict[Links, tuple[Candidates, float]] = {}

    def judge(links: Links) -> float:
        form = without(links)
        judged[links] = form, form.judged(form.variant.plan, kept).sqnr_db
        return judged[links][1]

    idle = find_idle({layer: layer.size for layer in takers}, quick, judge, before)
    if not idle or len(idle) == len(takers):
        return candidates, choice
    fewer, found = judged[idle]
    plan = fewer.variant.plan
    parameters = fewer.parameters(plan, kept.method, kept.techniques)
    return fewer, replace(
        choice, kept=replace(kept, sqnr_db=found), model=fewer.variant.model, plan=plan, parameters=parameters
    )


def _undivided(smoothed: ir.Model, plain: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy whose named products take their activations as they are again, with the plain form's weights."""
    copy = smoothed.clone()
    nodes, originals = ({node.name: node for node in model.graph} for model in (copy, plain))
    for name in names:
        divided, weight = nodes[name].inputs[0], originals[name].inputs[1]
        multiplication = divided.producer() if divided is not None else None
        assert multiplication is not None
        assert weight is not None
        nodes[name].replace_input_with(0, multiplication.inputs[0])
        value = copy.graph.initializers.get(weight.name or "")
        if value is None:
            value = ir.Value(
                name=weight.name, shape=weight.shape, type=weight.type, const_value=weight.const_value
            )
            copy.graph.register_initializer(value)
        nodes[name].replace_input_with(1, value)
    tidy(copy)
    return copy


def find_idle(costs: Mapping[LayerInput, int], quick: Judge, judge: Judge, before_db: float) -> Links:
    """The multiplications that the outputs do not miss.

    Args:
        costs: of each, elements a position.
        quick: judges over few samples: it is asked once for each.
        judge: judges over all held-out samples.
        before_db: what `judge` says with all of them in place.
    """
    whole = noise_power(quick(frozenset()))
    lost = {unit: noise_power(quick(frozenset(unit))) - whole for unit in map(tuple, grouped(list(costs)))}
    left_out: list[LayerInput] = []
    allowed = whole * (noise_power(-LOSS_DB) - 1)
    for unit in sorted(lost, key=lambda unit: lost[unit] / sum(costs[layer] for layer in unit)):
        allowed -= lost[unit]
        if allowed < 0:
            break
        left_out += unit
    while left_out and judge(frozenset(left_out)) < before_db - LOSS_DB:
        left_out = left_out[: len(left_out) // 2]
    return frozenset(left_out)
