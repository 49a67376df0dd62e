"""Loss and gradients of a training form: one session per shape of its inputs."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.comparison.observation import Observation
from onnxq.finetuning.backward import append_gradients, measure
from onnxq.finetuning.loss import Point, append_loss, before_rounding
from onnxq.finetuning.tape import Tape
from onnxq.graph.edit import tidy
from onnxq.runtime.sessions import open_fake_quantized, run
from onnxq.types import Array, Feeds, Floats

MOST_SESSIONS = 8
"""Sessions for different shapes that are held at a time."""


@dataclass(frozen=True)
class Example:
    """One sample, or a batch along axis 0: feeds of the model, and the target of each point."""

    feeds: Feeds
    targets: Sequence[Floats]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of all arrays."""
        return tuple(array.shape for array in (*self.feeds.values(), *self.targets))

    @property
    def finite(self) -> bool:
        """Whether no target is infinite or NaN."""
        return all(np.isfinite(array).all() for array in self.targets)


def _without_overflow(gradient: Floats) -> Floats:
    """Put zero in place of infinite values and NaN, which would stay in the moments of all later steps."""
    return gradient if np.isfinite(gradient).all() else np.nan_to_num(gradient, nan=0, posinf=0, neginf=0)


def stacked(examples: Sequence[Example]) -> Example:
    """Join examples of equal shapes along axis 0."""
    return Example(
        {name: np.concatenate([each.feeds[name] for each in examples]) for name in examples[0].feeds},
        [np.concatenate(arrays) for arrays in zip(*(each.targets for each in examples), strict=True)],
    )


@dataclass(frozen=True, eq=False)
class _Opened:
    """A session with the names of its inputs and outputs, and the nodes behind which gradients end."""

    session: ort.InferenceSession
    targets: list[str]
    given: list[str]
    reached: list[str]
    outputs: list[str]
    frozen: Mapping[str, str]


@dataclass(eq=False)
class GradientGraph:
    """Loss and gradients of a training form.

    model        the training form's model
    trained      names of the inputs whose gradients are wanted
    observation  observed values of the model
    points       what the loss compares
    threads      threads of a session, 0 for the runtime's choice
    """

    model: ir.Model
    trained: frozenset[str]
    observation: Observation
    points: Sequence[Point]
    threads: int = 0

    def __post_init__(self) -> None:
        self._sessions: OrderedDict[object, _Opened] = OrderedDict()
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """Another process opens its own sessions."""
        return GradientGraph, (self.model, self.trained, self.observation, self.points, self.threads)

    def on(self, threads: int) -> "GradientGraph":
        """Return the same with another number of threads for each session."""
        return replace(self, threads=threads)

    def __call__(
        self, example: Example, batch: int, fed: Mapping[str, Floats]
    ) -> tuple[float, dict[str, Floats], Mapping[str, str]]:
        """Run an example; several threads may call.

        Returns:
            The loss, a mean over the samples of the example; the gradient of each value in `fed` that it
            depends on; nodes behind which gradients end, with the reason, by name.
        """
        opened = self._opened(example, batch, fed)
        feeds = example.feeds | dict(zip(opened.targets, example.targets, strict=True))
        feeds |= {name: fed[name] for name in opened.given}
        loss, *gradients = run(opened.session, feeds, "of a batch", opened.outputs)
        found = {
            name: _without_overflow(np.asarray(array, np.float32))
            for name, array in zip(opened.reached, gradients, strict=True)
        }
        return float(loss), found, opened.frozen

    def _opened(self, example: Example, batch: int, fed: Mapping[str, Floats]) -> _Opened:
        """Return the session for the shapes of an example, and for targets that are finite or not."""
        key = batch, example.shapes, example.finite
        with self._opening:
            if key not in self._sessions:
                self._sessions[key] = self._open(example, batch, fed)
                while len(self._sessions) > MOST_SESSIONS:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def _open(self, example: Example, batch: int, fed: Mapping[str, Floats]) -> _Opened:
        model = without_shapes(self.model.clone(), example.feeds)
        named = {value.name: value for node in model.graph for value in node.outputs}
        values = [
            before_rounding(self.observation.taps[point.tap].inner(model))
            if point.feature is None
            else named[point.feature]
            for point in self.points
        ]
        measured = measure(model, example.feeds | dict(fed))
        tape, nodes = Tape(model, measured.shapes, measured.known), list(model.graph)
        parameters = [value for value in model.graph.inputs if value.name in self.trained]
        loss, seeds, targets = append_loss(tape, self.points, values, batch, finite=example.finite)
        found, frozen = append_gradients(tape, nodes, seeds, parameters)
        outputs = [loss, *found.values()]
        model.graph.outputs.clear()
        for value in dict.fromkeys(outputs):
            model.graph.outputs.append(value)
        tidy(model)
        for value in [each for each in parameters if not each.uses()]:
            model.graph.inputs.remove(value)
        session = open_fake_quantized(model, threads=self.threads)
        return _Opened(
            session,
            [value.name or "" for value in targets],
            [value.name or "" for value in parameters if value.uses()],
            [value.name or "" for value in found],
            [value.name or "" for value in outputs],
            frozen,
        )


def without_shapes(model: ir.Model, feeds: Feeds) -> ir.Model:
    """Give inputs the shapes of feeds, and take away the stated shapes of inner values, in place."""
    for value in model.graph.inputs:
        if value.name in feeds:
            value.shape = ir.Shape(feeds[value.name].shape)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    return model


def is_stackable(one: Sequence[Array], other: Sequence[Array], both: Sequence[Array]) -> bool:
    """Tell whether the values of a batch of two are those of its samples alone, one behind the other."""
    for a, b, ab in zip(one, other, both, strict=True):
        if a.ndim == 0 or ab.shape != (len(a) + len(b), *a.shape[1:]) or a.shape[1:] != b.shape[1:]:
            return False
        if not np.allclose(ab, np.concatenate([a, b]), 1e-3, 1e-5):
            return False
    return True
