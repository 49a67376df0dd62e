"""Leave out the scalings of SmoothQuant to which the outputs are not sensitive.

The gain in the layer of a smoothed activation does not predict the gain at the outputs. So the noise of the
outputs is measured without each single scaling. Noise powers add up closely enough to leave out many at once.
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
MeasureSqnr = Callable[[Scalings], float]
"""SQNR of the outputs without some of the scalings, dB."""


def with_fewer_scalings(candidates: Candidates, choice: Choice) -> tuple[Candidates, Choice]:
    """Return a smoothed form without the scalings that the outputs do not need; other forms do not change."""
    references, before, kept = candidates.references, choice.kept.sqnr_db, choice.kept
    smoothed_form = Technique.SMOOTHING in candidates.variant.recipe.techniques
    if not smoothed_form or references is None or before is None:
        return candidates, choice
    few = range(min(candidates.settings.node_samples, len(references.names)))
    plain = candidates.others[0].variant
    layers, smoothed = layer_inputs(plain.plan), layer_inputs(candidates.variant.plan)
    consumers: dict[LayerInput, list[str]] = {}
    for name, layer in layers.items():
        if smoothed[name] != layer:
            consumers.setdefault(layer, []).append(name)

    def without(scalings: Scalings) -> tuple[Candidates, Choice]:
        names = [name for layer in scalings for name in consumers[layer]]
        model = _unscaled(candidates.variant.model, plain.model, names)
        form = replace(candidates.variant, recipe=candidates.variant.recipe.of_model(model))
        return candidates.of(form), replace(choice, recipe=choice.recipe.of_model(model))

    def measure_few(scalings: Scalings) -> float:
        form, found = without(scalings)
        return references.measure_before_softmax(form.model(found.recipe), few).sqnr_db

    measured: dict[Scalings, tuple[Candidates, Choice]] = {}

    def measure_all(scalings: Scalings) -> float:
        form, found = without(scalings)
        sqnr_db = form.measure(found.recipe).sqnr_db
        measured[scalings] = form, replace(found, kept=replace(kept, sqnr_db=sqnr_db))
        return sqnr_db

    costs = {layer: layer.size for layer in consumers}
    removable = find_removable(costs, measure_few, measure_all, before, candidates.settings)
    return measured[removable] if removable and len(removable) < len(consumers) else (candidates, choice)


def _unscaled(smoothed: ir.Model, plain: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy whose named products have unscaled activations and the plain form's weights again."""
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


def find_removable(
    costs: Mapping[LayerInput, int],
    measure_few: MeasureSqnr,
    measure_all: MeasureSqnr,
    before_db: float,
    settings: SearchSettings | None = None,
) -> Scalings:
    """Find the scalings that the outputs do not need.

    Args:
        costs: elements per position of each scaling.
        measure_few: measures on a few samples; called once for each scaling.
        measure_all: measures on all validation samples.
        before_db: SQNR that `measure_all` finds with all scalings.
        settings: thresholds.
    """
    settings = settings or SearchSettings()
    # noise added without each scaling
    noise = noise_power(measure_few(frozenset()))
    groups = map(tuple, grouped(list(costs)))
    added = {group: noise_power(measure_few(frozenset(group))) - noise for group in groups}
    # as many scalings as the allowed noise permits, least noise per cost first
    left_out: list[LayerInput] = []
    allowed = noise * (noise_power(-settings.max_scaling_loss_db) - 1)
    for group in sorted(added, key=lambda group: added[group] / sum(costs[layer] for layer in group)):
        allowed -= added[group]
        if allowed < 0:
            break
        left_out += group
    # half as many while the outputs lose too much
    while left_out and measure_all(frozenset(left_out)) < before_db - settings.max_scaling_loss_db:
        left_out = left_out[: len(left_out) // 2]
    return frozenset(left_out)
