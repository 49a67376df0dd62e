"""The form to write where int8 is slower or larger, or loses boxes: float, with weights in half precision."""

from dataclasses import dataclass, replace
from typing import Literal

from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import nodes_of
from onnxq.graph.files import load
from onnxq.normalize.agreement import faithful_form
from onnxq.normalize.passes import normalize
from onnxq.plan.plan import Plan
from onnxq.plan.reasons import Cause, FloatReason
from onnxq.quantization.parameters import Parameters
from onnxq.search.inputs import Inputs
from onnxq.search.trial import Outcome


@dataclass(frozen=True)
class Shortfall:
    """Why an int8 file is not wanted.

    kind  "slower" or "larger" than float, "no better" in both, or with other boxes
    text  text for the report
    """

    kind: Literal["slower", "larger", "no better", "missing boxes"]
    text: str


def float_form(inputs: Inputs, outcome: Outcome, why: Shortfall) -> Outcome:
    """Return the outcome with every node in float.

    Args:
        inputs: options, model and samples.
        outcome: outcome of static mode.
        why: why its file is not wanted.
    """
    cause = Cause.ACCURACY if why.kind == "missing boxes" else Cause.SPEED
    reason = FloatReason(cause, why.text)
    recipe = inputs.recipe().keeping(dict.fromkeys(inputs.plan.nodes, reason))
    recipe = at_its_own_opset(inputs, recipe)
    choice = outcome.choice
    kept = replace(choice.kept, techniques=(), sqnr_db=None, noise=None, changes=None)
    choice = replace(choice, recipe=recipe, kept=kept, fallback=None)
    written = inputs.writer().write(recipe, Parameters())
    return replace(outcome, written=written, choice=choice, parameters=Parameters(), notes=())


def at_its_own_opset(inputs: Inputs, recipe: Recipe) -> Recipe:
    """Return the recipe of a model that stays float, at its original opset.

    At a higher opset the runtime fuses other nodes and may be slower.
    """
    model = normalize(load(inputs.options.model), lift=False)
    if inputs.probe is not None:
        model = faithful_form(inputs.options.model, model, inputs.probe)
    reasons = {name: why for name, (_, why) in recipe.plan.floats.items()}
    floats = {
        node.name or "": (node, reasons[node.name or ""]) for node in nodes_of(model) if node.name in reasons
    }
    return replace(recipe, model=model, plan=Plan(floats=floats))
