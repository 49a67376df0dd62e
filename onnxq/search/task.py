"""The task that a model is for: labelled samples and their metric."""

from dataclasses import dataclass, replace
from pathlib import Path

from onnxq.data.preprocessing import read_forms
from onnxq.errors import DataError
from onnxq.evaluation.evaluate import EvalOptions, evaluate, evaluated_samples
from onnxq.runtime.parallel import Executor
from onnxq.runtime.sessions import InputSpec


@dataclass(frozen=True)
class Task:
    """Labelled samples and their metric, for `--max-drop`."""

    data: Path
    options: EvalOptions

    def on(self, executor: Executor) -> "Task":
        """Return the task with models that run on an executor."""
        return replace(self, options=replace(self.options, cluster=executor))

    def check(self, model: Path, specs: list[InputSpec]) -> None:
        """Open the samples and their labels early, before the search starts.

        Raises:
            DataError: they cannot be read, or do not fit each other or the model.
        """
        evaluated_samples(model, self.data, specs, read_forms(self.options.preprocess), self.options)

    def drop(self, model: Path, other: Path) -> tuple[str, float]:
        """Return the metric's name and its drop from `model` to `other`.

        The drop is in percentage points for accuracy-like metrics, otherwise in the metric's unit.
        """
        report = evaluate(model, [other], self.data, replace(self.options, latency=False))
        if report.metric is None:
            raise DataError("--max-drop needs a metric: give --labels FILE, or --metric")
        return report.metric, report.scores[1].metrics[report.metric].drop or 0.0
