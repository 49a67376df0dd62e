"""Leave out the scalings of SmoothQuant that the outputs do not miss.

The gain in a smoothed activation's own layer does not tell. So the noise is measured that the outputs get without each
scaling alone; noise powers add up well enough to leave out many at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from onnxq.calibration.moments import LayerInput
from onnxq.graph.edit import tidy
from onnxq.options import Technique
from onnxq.quantization.weights import layer_inputs
from onnxq.search.candidates import Candidates
from onnxq.search.mixed_precision import grouped, noise_power
from onnxq.search.settings import SearchSettings
from onnxq.search.trial import Choice

Scalings = frozenset[LayerInput]
Judge = Callable[[Scalings], float]
"""SQNR in dB of the outputs without some of the scalings."""


def with_fewer_scalings(candidates: Candidates, choice: Choice) -> tuple[Candidates, Choice]:
    """Return a smoothed form with the scalings that count; other forms stay as they are."""
    references, before, kept = candidates.references, choice.kept.sqnr_db, choice.kept
    smoothed_form = Technique.SMOOTHING in candidates.variant.recipe.techniques
    if not smoothed_form or references is None or before is None:
        return candidates, choice
    few = range(min(candidates.settings.quick, len(references.samples)))
    plain = candidates.others[0].variant
    layers, smoothed = layer_inputs(plain.plan), layer_inputs(candidates.variant.plan)
    takers: dict[LayerInput, list[str]] = {}
    for name, layer in layers.items():
        if smoothed[name] != layer:
            takers.setdefault(layer, []).append(name)

    def without(scalings: Scalings) -> tuple[Candidates, Choice]:
        names = [name for layer in scalings for name in takers[layer]]
        model = _unscaled(candidates.variant.model, plain.model, names)
        form = replace(candidates.variant, recipe=candidates.variant.recipe.of_model(model))
        return candidates.of(form), replace(choice, recipe=choice.recipe.of_model(model))

    def quick(scalings: Scalings) -> float:
        form, found = without(scalings)
        return references.inner_judged(form.model(found.recipe), few).sqnr_db

    judged: dict[Scalings, tuple[Candidates, Choice]] = {}

    def judge(scalings: Scalings) -> float:
        form, found = without(scalings)
        sqnr_db = form.judged(found.recipe).sqnr_db
        judged[scalings] = form, replace(found, kept=replace(kept, sqnr_db=sqnr_db))
        return sqnr_db

    idle = find_idle({layer: layer.size for layer in takers}, quick, judge, before, candidates.settings)
    return judged[idle] if idle and len(idle) < len(takers) else (candidates, choice)


def _unscaled(smoothed: ir.Model, plain: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy whose named products take unscaled activations and the plain form's weights again."""
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


def find_idle(
    costs: Mapping[LayerInput, int],
    quick: Judge,
    judge: Judge,
    before_db: float,
    settings: SearchSettings | None = None,
) -> Scalings:
    """Find the scalings that the outputs do not miss.

    Args:
        costs: elements per position of each scaling.
        quick: judges over few samples; asked once for each scaling.
        judge: judges over all validation samples.
        before_db: SQNR that `judge` finds with all scalings in place.
        settings: thresholds.
    """
    settings = settings or SearchSettings()
    whole = noise_power(quick(frozenset()))
    lost = {unit: noise_power(quick(frozenset(unit))) - whole for unit in map(tuple, grouped(list(costs)))}
    left_out: list[LayerInput] = []
    allowed = whole * (noise_power(-settings.scaling_db) - 1)
    for unit in sorted(lost, key=lambda unit: lost[unit] / sum(costs[layer] for layer in unit)):
        allowed -= lost[unit]
        if allowed < 0:
            break
        left_out += unit
    while left_out and judge(frozenset(left_out)) < before_db - settings.scaling_db:
        left_out = left_out[: len(left_out) // 2]
    return frozenset(left_out)
