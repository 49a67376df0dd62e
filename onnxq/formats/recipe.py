"""The recipe: all decisions that determine a quantized file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxq.formats.lstm import LstmForm
from onnxq.options import Method, Technique
from onnxq.plan.plan import Plan, Selection, make_plan
from onnxq.plan.reasons import FloatReason


@dataclass(frozen=True, eq=False)
class Recipe:
    """All decisions that determine a quantized file; `dataclasses.replace` makes another trial.

    model           form of the normalized model: plain, or rewritten by a transform
    plan            quantized nodes and tensors
    selection       the user's selection of nodes
    kept            nodes that stay float under every plan, with their reasons
    method          calibration method of the clipping ranges
    techniques      techniques that made the model's form and its weights
    run_time        products whose activation ranges are found at run time
    few_rows        whether these products see few rows, so that fused operators are faster
    lstms           LSTMs with int8 weights
    half_precision  whether products that stay float store their weights in half precision
    """

    model: ir.Model
    plan: Plan
    selection: Selection = field(default_factory=Selection)
    kept: Mapping[str, FloatReason] = field(default_factory=dict)
    method: str = Method.MSE
    techniques: tuple[str, ...] = ()
    run_time: tuple[str, ...] = ()
    few_rows: bool = False
    lstms: Mapping[str, LstmForm] = field(default_factory=dict)
    half_precision: bool = True

    def of_model(self, model: ir.Model) -> "Recipe":
        """Return the recipe for another form of the model, with a new plan."""
        return replace(self, model=model)._planned(self.kept)

    def keeping(self, floats: Mapping[str, FloatReason]) -> "Recipe":
        """Return the recipe with more nodes that stay float under every plan."""
        kept = {**self.kept, **floats}
        return replace(self, kept=kept)._planned(kept)

    def leaving(self, floats: Mapping[str, FloatReason]) -> "Recipe":
        """Return the recipe with more nodes in float in its plan alone; `kept` stays the same."""
        return self._planned({**self.kept, **floats})

    def finding(self, names: Collection[str]) -> "Recipe":
        """Return the recipe with more products whose activation ranges are found at run time."""
        together = tuple(dict.fromkeys((*self.run_time, *names)))
        return replace(self, run_time=together)._planned(self.kept)

    def _planned(self, kept: Mapping[str, FloatReason]) -> "Recipe":
        return replace(self, plan=make_plan(self.model, self.selection, kept, self.run_time))

    @property
    def all_techniques(self) -> tuple[str, ...]:
        """All techniques of the file, with run-time ranges and split LSTM inputs."""
        others = {
            Technique.RUN_TIME_RANGES: bool(self.run_time),
            Technique.SPLIT: any(form.split for form in self.lstms.values()),
        }
        return (*self.techniques, *(name for name, used in others.items() if used))
