"""A recipe: every decision that makes a quantized file out of a model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxq.formats.lstm import LstmForm
from onnxq.options import Method, Technique
from onnxq.plan.plan import Plan, Selection, make_plan
from onnxq.plan.reasons import FloatReason


@dataclass(frozen=True, eq=False)
class Recipe:
    """Every decision that makes a quantized file; a trial is another recipe made by `dataclasses.replace`.

    model           form of the normalized model: plain, or rewritten by a transform
    plan            its quantized nodes and tensors
    selection       nodes that the user lets onnxq quantize
    kept            nodes that stay float under every plan, with their reasons
    method          calibration method of the activations' ranges
    techniques      techniques that made the model's form and its weights
    run_time        products whose activation ranges are found at run time
    few_rows        whether these see so few rows that fused operators pay
    lstms           LSTMs with int8 weights
    half_precision  whether products that stay float store their weights in half precision
    """

    model: ir.Model
    plan: Plan
    selection: Selection = field(default_factory=Selection)
    kept: Mapping[str, FloatReason] = field(default_factory=dict)
    method: Method = Method.MSE
    techniques: tuple[str, ...] = ()
    run_time: tuple[str, ...] = ()
    few_rows: bool = False
    lstms: Mapping[str, LstmForm] = field(default_factory=dict)
    half_precision: bool = True

    def of_model(self, model: ir.Model) -> "Recipe":
        """Return the recipe for another form of the model, planned anew."""
        return replace(self, model=model)._planned(self.kept)

    def keeping(self, floats: Mapping[str, FloatReason]) -> "Recipe":
        """Return the recipe with more nodes that stay float under every plan."""
        kept = {**self.kept, **floats}
        return replace(self, kept=kept)._planned(kept)

    def leaving(self, floats: Mapping[str, FloatReason]) -> "Recipe":
        """Return the recipe with more nodes in float; a further call starts from this recipe's own `kept` again."""
        return self._planned({**self.kept, **floats})

    def finding(self, names: Collection[str]) -> "Recipe":
        """Return the recipe with more products whose activation ranges are found at run time."""
        together = tuple(dict.fromkeys((*self.run_time, *names)))
        return replace(self, run_time=together)._planned(self.kept)

    def _planned(self, kept: Mapping[str, FloatReason]) -> "Recipe":
        return replace(self, plan=make_plan(self.model, self.selection, kept, self.run_time))

    @property
    def all_techniques(self) -> tuple[str, ...]:
        """Techniques of the whole file: run-time ranges and split LSTM inputs, too."""
        beside = {
            Technique.RUN_TIME_RANGES: bool(self.run_time),
            Technique.SPLIT: any(form.split for form in self.lstms.values()),
        }
        return (*self.techniques, *(name for name, used in beside.items() if used))
